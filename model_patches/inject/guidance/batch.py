"""How a batch of prompts is predicted under reference guidance: two wrappers of a sampling run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.sampler_helpers
from torch import Tensor

from ...gates.gate import Moment
from ..call import Run
from ..run import (
    KEY,
    ORIGINALS,
    RUN,
    PromptCarrier,
    injections_of,
    moments_of,
    payload_of,
    payloads_of,
)
from .attention import OVERRIDE, WeighKeys
from .levels import Share, Subset
from .settings import GUIDANCE, LABEL, MOST_REFERENCES, ReferenceGuidance
from .supported import check_prompts
from .twins import Entry, TextOf, TwinBook, count_references

TEXTS = "flexid_without"
"""Name under which a guider holds the texts that stand for prompts without references."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One call of ComfyUI's batching: lists of prompts, of which each is predicted for x."""

    executor: Any
    model: Any
    conds: list[list[Entry] | None]
    x: Tensor
    timestep: Tensor
    model_options: dict[str, Any]

    @property
    def options(self) -> dict[str, Any]:
        return self.model_options["transformer_options"]

    def predict(self, conds: list | None = None, **options: Any) -> list[Tensor]:
        """A prediction for each list, of other prompts or with more transformer_options."""
        given = self.model_options
        if options:
            given = {**given, "transformer_options": {**self.options, **options}}
        conds = self.conds if conds is None else conds
        return self.executor(self.model, conds, self.x, self.timestep, given)


def guide_batch(
    executor: Any,
    model: Any,
    conds: list[list[Entry] | None],
    x: Tensor,
    timestep: Tensor,
    model_options: dict[str, Any],
) -> list[Tensor]:
    """CALC_COND_BATCH wrapper: predictions with the weights of this moment."""
    batch = Batch(executor, model, conds, x, timestep, model_options)
    found = (one for one in injections_of(batch.options) if one.kind == GUIDANCE)
    guidance = next(found, None)
    if guidance is None:  # a later node has set every weight back to 1
        return batch.predict()
    run = batch.options.get(RUN) or Run()
    if GUIDANCE not in run.cache:
        check_prompts(model, conds, model_options, guidance.settings, LABEL)
        run.cache[GUIDANCE] = TwinBook(_text_finder(batch.options))
    sigma = timestep[0].item()
    schedule = batch.options.get("sample_sigmas")
    (moment,) = moments_of(run, model.model_sampling, [sigma], schedule)
    if guidance.method == "attention":
        return _weigh_attention(guidance, moment, run, batch)
    run.cache[GUIDANCE].begin(sigma)
    return _predict_subsets(guidance, moment, run, batch)


def _predict_subsets(
    guidance: ReferenceGuidance, moment: Moment, run: Run, batch: Batch
) -> list[Tensor]:
    """One list of prompts more for each subset of references that counts."""
    plan = _Plan(run.cache[GUIDANCE], list(batch.conds))
    for number, entries in enumerate(batch.conds):
        count = max(map(count_references, entries or ()), default=0)
        if count:
            plan.split(number, count, guidance.shares(count, moment, batch.x, run))
    if not plan.is_changed:
        return batch.predict()
    outputs = batch.predict(plan.lists, **{ORIGINALS: tuple(plan.originals)})
    return plan.combine(outputs, len(batch.conds))


def _weigh_attention(
    guidance: ReferenceGuidance, moment: Moment, run: Run, batch: Batch
) -> list[Tensor]:
    """One prediction, with weights inside the model's attention."""
    if all(guidance.weight(number, moment) == 1.0 for number in range(MOST_REFERENCES)):
        return batch.predict()
    previous = batch.options.get(OVERRIDE)
    weigh = WeighKeys(lambda number: guidance.weight(number, moment), previous)
    outputs = batch.predict(**{OVERRIDE: weigh})
    seen = GUIDANCE, "weighed"
    if not weigh.calls and seen not in run.cache:
        raise RuntimeError(
            f"{LABEL} weighs attention, but 0 attentions of {type(batch.model).__name__} say which "
            "keys are a reference's. Set method to two predictions."
        )
    run.cache[seen] = True
    return outputs


class _Plan:
    """Which lists of prompts are predicted, and what is made of the predictions."""

    def __init__(self, book: TwinBook, lists: list) -> None:
        self.book, self.lists = book, lists
        self.originals = list(range(len(lists)))
        """For each list the one that it stands for."""
        self.shares: dict[int, list[tuple[int, Share]]] = {}
        """List -> the lists that make up its result, the smallest subset last."""
        self.is_changed = False

    def split(self, number: int, count: int, shares: Mapping[Subset, Share]) -> None:
        """Originals come first in the batch: caches follow the first row."""
        entries = self.lists[number]
        places = []
        for position, (subset, share) in enumerate(shares.items()):
            twins = self.book.twins(entries, subset, len(subset) == count)
            self.is_changed |= any(
                twin["uuid"] != entry["uuid"] for twin, entry in zip(twins, entries, strict=True)
            )
            if position == 0:
                self.lists[number] = twins
                places.append((number, share))
            else:
                places.append((len(self.lists), share))
                self.lists.append(twins)
                self.originals.append(number)
        self.shares[number] = places

    def combine(self, outputs: Sequence[Tensor], count: int) -> list[Tensor]:
        """The shares of a list sum to 1: its last prediction, and what the others add to it."""
        results = list(outputs[:count])
        for number, places in self.shares.items():
            *others, (last, _) = places
            base = outputs[last]
            for place, share in others:
                base = base + (outputs[place] - outputs[last]) * share
            results[number] = base
        return results


@dataclass(frozen=True, eq=False)
class TextWithout:
    """A prompt's payload: the conditioning entry that stands for it without references."""

    entry: Sequence


def add_texts(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """OUTER_SAMPLE wrapper: hand the texts without references to the guider, so that the model
    encodes them like any other prompt."""
    guider = executor.class_obj
    prompts = [cond for conds in guider.conds.values() for cond in conds]
    texts = dict.fromkeys(filter(None, (payload_of(cond, GUIDANCE) for cond in prompts)))
    if texts:
        entries = comfy.sampler_helpers.convert_cond([text.entry for text in texts])
        guider.conds[TEXTS] = entries
        numbers = {text: number for number, text in enumerate(texts)}
        guider.model_options["transformer_options"][TEXTS] = guider, numbers
    return executor(*args, **kwargs)


def _text_finder(options: Mapping[str, Any]) -> TextOf:
    """Finds the text without references of an entry; the model has encoded it by now."""
    guider, numbers = options.get(TEXTS, (None, {}))

    def find(entry: Entry) -> Mapping[str, Any] | None:
        text = payload_of(entry, GUIDANCE)
        if text is None:
            return None
        held = guider.conds[TEXTS][numbers[text]]
        prompt = replace(
            entry["model_conds"][KEY].prompt,
            length=held["cross_attn"].shape[1],
            payloads=payloads_of(held),
        )
        return {**held["model_conds"], KEY: PromptCarrier(prompt)}

    return find
