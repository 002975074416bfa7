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
    RUN,
    PromptCarrier,
    injections_of,
    moments_of,
    payload_of,
    payloads_of,
    with_originals,
)
from .attention import OVERRIDE, WeighKeys
from .levels import Share, Subset
from .reuse import Differences, Reuse, heaviest
from .settings import GUIDANCE, LABEL, MOST_REFERENCES, ReferenceGuidance
from .supported import check_prompts
from .twins import Entry, TextOf, TwinBook, count_references

TEXTS = "flexid_without"
"""Name under which a guider holds the texts that stand for prompts without references."""
KEPT = (GUIDANCE, "kept")
"""Name under which a run holds the differences of an earlier step."""


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

    def predict(
        self, conds: list | None = None, options: Mapping[str, Any] | None = None
    ) -> list[Tensor]:
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
    found = (one for one in injections_of(batch.options) if isinstance(one, ReferenceGuidance))
    guidance = next(found, None)
    if guidance is None:  # a later node has set every weight back to 1
        return batch.predict()
    run = batch.options.get(RUN) or Run()
    if GUIDANCE not in run.cache:
        check_prompts(model, conds, model_options, guidance.settings, LABEL)
        run.cache[GUIDANCE] = TwinBook(_text_finder(batch.options))
        run.cache[KEPT] = Reuse(guidance.every)
    sigma = timestep[0].item()
    schedule = batch.options.get("sample_sigmas")
    (moment,) = moments_of(run, model.model_sampling, [sigma], schedule)
    if guidance.method == "attention":
        return _weigh_attention(guidance, moment, run, batch)
    run.cache[GUIDANCE].clock.begin(sigma)
    return _predict_subsets(guidance, moment, run, batch)


def _predict_subsets(
    guidance: ReferenceGuidance, moment: Moment, run: Run, batch: Batch
) -> list[Tensor]:
    """One list of prompts more for each subset of references that counts."""
    book: TwinBook = run.cache[GUIDANCE]
    reuse: Reuse = run.cache[KEPT]
    plan = _Plan(book, list(batch.conds))
    fresh = []
    for number, entries in enumerate(batch.conds):
        count = max(map(count_references, entries or ()), default=0)
        if not (entries and count):
            continue
        shares = guidance.shares(count, moment, batch.x, run)
        kept = reuse.recall(entries, shares, batch.x, book.clock)
        if kept is not None:
            plan.take(number, count, shares, kept)
            continue
        plan.split(number, count, shares)
        if guidance.every > 1 and len(shares) > 1:
            fresh.append((number, entries))
    if not plan.is_changed:
        return batch.predict()
    outputs = batch.predict(plan.lists, with_originals(batch.options, plan.originals))
    for number, entries in fresh:
        reuse.keep(entries, plan.predicted(number, outputs), book.clock)
    return plan.combine(outputs, len(batch.conds), moment.sigma)


def _weigh_attention(
    guidance: ReferenceGuidance, moment: Moment, run: Run, batch: Batch
) -> list[Tensor]:
    """One prediction, with weights inside the model's attention."""
    if all(guidance.weight(number, moment) == 1.0 for number in range(MOST_REFERENCES)):
        return batch.predict()
    previous = batch.options.get(OVERRIDE)
    weigh = WeighKeys(lambda number: guidance.weight(number, moment), previous)
    outputs = batch.predict(options={OVERRIDE: weigh})
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
        self.places: dict[int, dict[Subset, int]] = {}
        """List -> the lists that make up its result, the smallest subset last."""
        self.shares: dict[int, Mapping[Subset, Share]] = {}
        self.kept: dict[int, Differences] = {}
        """List -> differences of an earlier step; such a list has one place."""
        self.is_changed = False

    def split(self, number: int, count: int, shares: Mapping[Subset, Share]) -> None:
        """Predict every subset. Originals come first in the batch: caches follow the first row."""
        entries = self.lists[number]
        self.shares[number], self.places[number] = shares, {}
        for position, subset in enumerate(shares):
            twins = self._twins(entries, subset, count)
            self.places[number][subset] = len(self.lists) if position else number
            if position:
                self.lists.append(twins)
                self.originals.append(number)
            else:
                self.lists[number] = twins

    def take(
        self, number: int, count: int, shares: Mapping[Subset, Share], kept: Differences
    ) -> None:
        """Predict the subset that counts most, and know the others from an earlier step."""
        subset = heaviest(shares)
        self.lists[number] = self._twins(self.lists[number], subset, count)
        self.shares[number], self.places[number] = shares, {subset: number}
        self.kept[number] = kept
        self.is_changed = True

    def _twins(self, entries: list[Entry], subset: Subset, count: int) -> list[Entry]:
        twins = self.book.twins(entries, subset, len(subset) == count)
        self.is_changed |= any(
            twin["uuid"] != entry["uuid"] for twin, entry in zip(twins, entries, strict=True)
        )
        return twins

    def predicted(self, number: int, outputs: Sequence[Tensor]) -> dict[Subset, Tensor]:
        """The predictions of a list that was split."""
        return {subset: outputs[place] for subset, place in self.places[number].items()}

    def combine(self, outputs: Sequence[Tensor], count: int, sigma: float) -> list[Tensor]:
        """The shares of a list sum to 1: its last prediction, and what the others add to it."""
        results = list(outputs[:count])
        for number, shares in self.shares.items():
            *others, last = shares
            predicted = self.predicted(number, outputs)
            if number in self.kept:
                added = {one: self.kept[number][one] * sigma for one in others}
                ((subset, base),) = predicted.items()
                base = base if subset == last else base - added[subset]
            else:
                base = predicted[last]
                added = {one: predicted[one] - base for one in others}
            for one in others:
                base = base + added[one] * shares[one]
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
