"""Reference guidance: how much a model follows its reference pictures, and where and when.

Models such as Flux Kontext, FLUX.2 and Qwen-Image-Edit take reference pictures as extra tokens and
have no weight for them. Here the model predicts with and without its references:
v = v_without + w(t)·m ⊙ (v_with - v_without). With w = 1 nothing is changed and nothing costs more;
with w = 0 the model never sees the references. Every prompt that carries references is weighed,
the negative one too, so the guided result is linear in w under any guidance scale.

Both predictions run in one batch of ComfyUI's, on the denoised picture: at one x and sigma that is
affine in the velocity, and the shares sum to 1, so the sum is the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.patcher_extension
import comfy.sampler_helpers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..files.cache import tensor_key
from ..gates.gate import OPEN, Gate, Moment
from ..gates.numbers import check_number
from .call import Call, PromptRows, Run, Site, Term
from .levels import Share, Subset, level_fields, level_shares
from .reference_models import check_model, check_prompts
from .region import Region, region_of
from .run import (
    KEY,
    ORIGINALS,
    RUN,
    PromptCarrier,
    injections_of,
    moments_of,
    payload_of,
    payloads_of,
    register,
    with_payload,
)
from .twins import Entry, TextOf, TwinBook, count_references

GUIDANCE = "guidance"
LABEL = "Apply Reference Guidance"
ALL = 0
"""In place of a reference's number, from 1: all that have no setting of their own."""
MOST_REFERENCES = 4
LARGEST = 3.0
TEXTS = "flexid_without"
"""Name under which a guider holds the texts that stand for prompts without references."""
_EXACT = 1e-6


@dataclass(frozen=True, eq=False)
class Setting:
    """What one reference, or all of them, count."""

    weight: float
    gate: Gate
    region: Region | None

    @property
    def is_neutral(self) -> bool:
        return self.weight == 1.0 and not self.gate.factors and self.region is None

    @property
    def content(self) -> tuple:
        return self.weight, self.gate, self.region and tensor_key(self.region.mask)


NEUTRAL = Setting(1.0, OPEN, None)


@dataclass(frozen=True, eq=False)
class Guided:
    """What Apply Reference Guidance hands on."""

    model: ModelPatcher
    conditioning: list
    report: str


@dataclass(frozen=True, eq=False)
class ReferenceGuidance:
    """The settings of all references on one model: an Injection that acts on whole predictions."""

    settings: Mapping[int, Setting]
    order: str = ""
    sites: Sequence[Site] = ()

    kind = GUIDANCE
    label = LABEL

    def models(self) -> list[ModelPatcher]:
        return []

    def to(self, device_or_dtype: Any) -> ReferenceGuidance:
        return self

    def check_run(self, prompts: Sequence[PromptRows]) -> None:
        if not any(prompt.references for prompt in prompts):
            raise RuntimeError(
                f"{LABEL} is on this model, but 0 of the run's {len(prompts)} prompts carry a "
                "reference picture. Put Reference Latent (or the model's own edit node) before the "
                "sampler, or bypass this node."
            )

    def edit_text(self, call: Call, text: Tensor) -> Tensor:
        return text

    def terms(self, call: Call) -> list[Term]:
        """None; but a model call that was not guided must not pass for one that was."""
        if GUIDANCE not in call.run.cache:
            raise RuntimeError(
                f"{LABEL} is on this model, but the guider predicts past it: another node replaced "
                "ComfyUI's batching of prompts. Remove or bypass that node."
            )
        return []

    def setting(self, number: int) -> Setting:
        """Of the reference of that number, from 0."""
        return self.settings.get(number + 1, self.settings.get(ALL, NEUTRAL))

    def shares(self, count: int, moment: Moment, x: Tensor, run: Run) -> dict[Subset, Share]:
        """How much each subset of `count` references counts at this moment for a latent x."""
        settings = [self.setting(number) for number in range(count)]
        weights = tuple(_snap(one.gate.weight(moment, one.weight)) for one in settings)
        if all(one.region is None for one in settings):
            return level_shares(weights)
        key = (GUIDANCE, "fields", weights, tuple(x.shape), x.device)
        if key not in run.cache:
            fields = torch.stack(
                [_field(one, weight, x) for one, weight in zip(settings, weights, strict=True)]
            )
            run.cache[key] = {
                subset: share.to(x.device, torch.float32).reshape(_shape(share, x))
                for subset, share in level_fields(fields).items()
            }
        return run.cache[key]


def _snap(weight: float) -> float:
    """0 and 1 are exact, so that a gate's rounding costs no second prediction."""
    for end in (0.0, 1.0):
        if abs(weight - end) <= _EXACT:
            return end
    return weight


def _field(setting: Setting, weight: float, x: Tensor) -> Tensor:
    """(batch, h, w) weights of one reference."""
    batch, size = x.shape[0], tuple(x.shape[-2:])
    if setting.region is None:
        return torch.full((batch, *size), weight)
    return setting.region.on_latent(size, batch).expand(batch, *size) * weight


def _shape(share: Tensor, x: Tensor) -> tuple[int, ...]:
    """(B, 1, h, w) for pictures; one more axis for latents with frames."""
    return (share.shape[0], 1, *[1] * (x.ndim - 4), *share.shape[-2:])


def guide_batch(
    executor: Any,
    model: Any,
    conds: list[list[Entry] | None],
    x: Tensor,
    timestep: Tensor,
    model_options: dict[str, Any],
) -> list[Tensor]:
    """CALC_COND_BATCH wrapper: one list of prompts more for each subset that counts."""
    options = model_options["transformer_options"]
    guidance = next((one for one in injections_of(options) if one.kind == GUIDANCE), None)
    if guidance is None:  # a later node set every weight back to 1
        return executor(model, conds, x, timestep, model_options)
    run = options.get(RUN) or Run()
    if GUIDANCE not in run.cache:
        check_prompts(model, conds, model_options, guidance.settings, LABEL)
        run.cache[GUIDANCE] = TwinBook(_text_finder(options))
    book: TwinBook = run.cache[GUIDANCE]
    sigma = timestep[0].item()
    book.begin(sigma)
    (moment,) = moments_of(run, model.model_sampling, [sigma], options.get("sample_sigmas"))
    plan = _Plan(book, list(conds))
    for number, entries in enumerate(conds):
        count = max(map(count_references, entries or ()), default=0)
        if count:
            plan.split(number, count, guidance.shares(count, moment, x, run))
    if not plan.is_changed:
        return executor(model, conds, x, timestep, model_options)
    options = {**options, ORIGINALS: tuple(plan.originals)}
    outputs = executor(
        model, plan.lists, x, timestep, {**model_options, "transformer_options": options}
    )
    return plan.combine(outputs, len(conds))


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


def apply_reference_guidance(
    model: ModelPatcher,
    conditioning: Sequence,
    *,
    weight: float = 1.0,
    gate: Gate = OPEN,
    mask: Tensor | None = None,
    reference: int = ALL,
    without: Sequence | None = None,
) -> Guided:
    """A clone of the model that follows its reference pictures with a weight.

    weight in [0, 3]: 0 as if there were no reference, 1 the model as it is (and free), above 1
    holds on harder. mask (H, W) or (B, H, W) in [0, 1]: where in the picture. reference: 1 to 4, or
    ALL. without: the same prompt encoded without pictures, one entry or as many as `conditioning`
    has, for models whose text encoder sees the pictures, too. A later setting of the same
    reference replaces an earlier one.
    Raises ValueError when the model takes no references, or when a value does not fit.
    """
    check_number(f"The weight of {LABEL}", weight, 0.0, LARGEST)
    check_number("reference", reference, ALL, MOST_REFERENCES)
    check_model(model, LABEL)
    setting = Setting(weight, gate, None if mask is None else region_of(mask))
    texts = _with_texts(conditioning, without)
    patched = model.clone()
    settings = {**_take_settings(patched), reference: setting}
    if all(one.is_neutral for one in settings.values()):
        return Guided(patched, texts, _report(settings))
    order = repr(sorted((number, one.content) for number, one in settings.items()))
    digest = hashlib.sha256(order.encode()).hexdigest()
    register(patched, ReferenceGuidance(settings, digest))
    kinds = comfy.patcher_extension.WrappersMP
    for kind, wrapper in ((kinds.CALC_COND_BATCH, guide_batch), (kinds.OUTER_SAMPLE, add_texts)):
        if not patched.get_wrappers(kind, TEXTS):
            patched.add_wrapper_with_key(kind, TEXTS, wrapper)
    return Guided(patched, texts, _report(settings))


def _take_settings(patched: ModelPatcher) -> Mapping[int, Setting]:
    """The settings that a clone already has; they leave the clone's own patch list."""
    patches = patched.model_options["transformer_options"].get("patches", {})
    held = [one for one in patches.get(KEY, []) if one.kind == GUIDANCE]
    if held:
        patches[KEY] = [one for one in patches[KEY] if one.kind != GUIDANCE]
    return held[0].settings if held else {}


def _with_texts(conditioning: Sequence, without: Sequence | None) -> list:
    if without is None:
        return list(conditioning)
    if len(without) not in (1, len(conditioning)):
        raise ValueError(
            f"without has {len(without)} prompts, conditioning has {len(conditioning)}; expected 1 "
            "or as many. Encode the same prompts without pictures."
        )
    texts = [TextWithout(entry) for entry in without]
    texts = texts * (len(conditioning) if len(texts) == 1 else 1)
    return [
        [entry[0], with_payload(entry[1], GUIDANCE, text)]
        for entry, text in zip(conditioning, texts, strict=True)
    ]


def _report(settings: Mapping[int, Setting]) -> str:
    lines = []
    for number, one in sorted(settings.items()):
        name = f"reference {number}" if number else "every reference"
        lines.append(f"{name}: weight {one.weight:g}" + (", masked" if one.region else ""))
    return "\n".join(lines)
