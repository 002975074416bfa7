"""Prompts that see fewer of their reference pictures than the ones they come from.

A prompt is an entry of ComfyUI's conds: a dict of options with `model_conds`, which holds what
reaches the model. A twin is a copy with fewer references, or with another text. Caches such as
EasyCache tell prompts apart by `uuid`, so a twin has one of its own, the same in every step; after
steps without it, it gets a new one, because what was remembered of it is out of date.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.conds

from .levels import Subset

LATENTS = "ref_latents"
METHOD = "ref_latents_method"
COMPANIONS = ("ref_contexts", "siglip_feats")
"""Lists beside the latents, one item for each reference and perhaps more behind."""

Entry = dict[str, Any]
TextOf = Callable[[Entry], Mapping[str, Any] | None]
"""Entry -> the model_conds of the text that stands for it where it sees no reference, if any."""


def count_references(entry: Entry) -> int:
    """How many reference latents reach the model with this prompt."""
    held = entry.get("model_conds", {}).get(LATENTS)
    return 0 if held is None else len(held.cond)


@dataclass
class Clock:
    """Where in a run a prediction is made."""

    step: int = 0
    passes: int = 0
    """Passes over the picture that have begun: one more whenever sigma rises."""
    sigma: float = 0.0

    def begin(self, sigma: float) -> None:
        """Several batches with one sigma belong to one step."""
        if sigma != self.sigma:
            self.passes += sigma > self.sigma
            self.step, self.sigma = self.step + 1, sigma


@dataclass
class TwinBook:
    """The twins of one run, and when each was last predicted."""

    text_of: TextOf
    clock: Clock = field(default_factory=Clock)
    seen: dict[tuple, tuple[int, int]] = field(default_factory=dict)
    """(uuid, subset) -> the last step with it, and how often it came back after a gap."""

    def twins(self, entries: Sequence[Entry], subset: Subset, whole: bool) -> list[Entry]:
        """The same prompts with the references of `subset` only; whole: those are all there are."""
        return [self._twin(entry, subset, whole) for entry in entries]

    def _twin(self, entry: Entry, subset: Subset, whole: bool) -> Entry:
        name = self._name(entry["uuid"], subset, whole)
        named = {**entry, "uuid": name}
        count = count_references(entry)
        kept = sorted(number for number in subset if number < count)
        if len(kept) < count:
            text = None if kept else self.text_of(entry)
            conds = entry["model_conds"] if text is None else text
            named["model_conds"] = keep_references(conds, kept, count)
        return named

    def _name(self, original: uuid.UUID, subset: Subset, whole: bool) -> uuid.UUID:
        key = original, subset
        last, gaps = self.seen.get(key, (self.clock.step, 0))
        gaps += last < self.clock.step - 1
        self.seen[key] = self.clock.step, gaps
        if whole and not gaps:
            return original
        return uuid.uuid5(original, f"{sorted(subset)} {gaps}")


def keep_references(conds: Mapping[str, Any], kept: Sequence[int], count: int) -> dict[str, Any]:
    """model_conds with the references of these numbers out of `count`."""
    left = {name: value for name, value in conds.items() if name not in (LATENTS, *COMPANIONS)}
    if not kept:
        left.pop(METHOD, None)
        return left
    for name in (LATENTS, *COMPANIONS):
        if name in conds:
            items = conds[name].cond
            rest = range(count, len(items))
            left[name] = comfy.conds.CONDList([items[number] for number in (*kept, *rest)])
    return left
