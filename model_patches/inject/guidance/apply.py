"""Reference guidance: how much a model follows its reference pictures, and where and when.

Models such as Flux Kontext, FLUX.2 and Qwen-Image-Edit take reference pictures as extra tokens and
have no weight for them. Here the model predicts with and without its references:
v = v_without + w(t)·m ⊙ (v_with - v_without). With w = 1 nothing is changed and nothing costs more;
with w = 0 the model never sees the references. Every prompt that carries references is weighed,
the negative one too, so the guided result is linear in w under any guidance scale.

Both predictions run in one batch of ComfyUI's, on the denoised picture: at one x and sigma that is
affine in the velocity, and the shares sum to 1, so the sum is the same. The method `attention` does
it within one prediction (see attention.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import comfy.patcher_extension
from comfy.model_patcher import ModelPatcher

from ...gates.gate import OPEN, Gate
from ...gates.numbers import check_number
from ..region import Region
from ..run import KEY, register, with_payload
from .batch import TEXTS, TextWithout, add_texts, guide_batch
from .settings import (
    ALL,
    GUIDANCE,
    LABEL,
    LARGEST,
    LARGEST_EVERY,
    METHODS,
    MOST_REFERENCES,
    Method,
    ReferenceGuidance,
    Setting,
)
from .supported import TESTED, check_model

__all__ = ["ALL", "LABEL", "METHODS", "Guided", "apply_reference_guidance"]


@dataclass(frozen=True, eq=False)
class Guided:
    """What Apply Reference Guidance hands on."""

    model: ModelPatcher
    conditioning: list
    report: str


def apply_reference_guidance(
    model: ModelPatcher,
    conditioning: Sequence,
    *,
    weight: float = 1.0,
    gate: Gate = OPEN,
    region: Region | None = None,
    reference: int = ALL,
    without: Sequence | None = None,
    method: Method = "two predictions",
    every: int = 1,
) -> Guided:
    """A clone of the model that follows its reference pictures with a weight.

    weight in [0, 3]: 0 as if there were no reference, 1 the model as it is (and free), above 1
    holds on harder. region: where in the picture. reference: 1 to 4, or ALL. without: the same
    prompt encoded without pictures, one entry or as many as `conditioning` has, for models whose
    text encoder sees the pictures, too. method: two predictions, linear in the weight; or
    attention, one prediction, without region and without text. every: 1 to 8; above 1 the
    difference that the references make is predicted in every so many steps only, and reused in the
    others, which then cost one prediction. A later setting of the same reference replaces an
    earlier one.
    Raises ValueError when the model takes no references, or when a value does not fit.
    """
    check_number(f"The weight of {LABEL}", weight, 0.0, LARGEST)
    check_number("reference", reference, ALL, MOST_REFERENCES)
    check_number("every", every, 1, LARGEST_EVERY)
    check_model(model, LABEL, method == "attention")
    if method == "attention" and every != 1:
        raise ValueError(
            f"{LABEL} with method attention predicts once in each step, but every is {every}. "
            "Set every to 1, or method to two predictions."
        )
    if method == "attention" and not (region is None and without is None):
        raise ValueError(
            f"{LABEL} with method attention takes no mask and no conditioning without, got "
            f"{'a mask' if region is not None else 'without'}. Disconnect it, or set method to two "
            "predictions."
        )
    setting = Setting(weight, gate, region)
    texts = _with_texts(conditioning, without)
    patched = model.clone()
    earlier = _take_guidance(patched)
    settings = {**(earlier.settings if earlier else {}), reference: setting}
    if all(one.is_neutral for one in settings.values()):
        return Guided(patched, texts, _report(model, settings, method, every))
    if earlier and len(settings) > 1:
        _check_same("method", method, earlier.method)
        _check_same("every", every, earlier.every)
    content = sorted((number, one.content) for number, one in settings.items())
    digest = hashlib.sha256(repr((method, every, content)).encode()).hexdigest()
    register(patched, ReferenceGuidance(settings, method, every, digest))
    kinds = comfy.patcher_extension.WrappersMP
    for kind, wrapper in ((kinds.CALC_COND_BATCH, guide_batch), (kinds.OUTER_SAMPLE, add_texts)):
        if not patched.get_wrappers(kind, TEXTS):
            patched.add_wrapper_with_key(kind, TEXTS, wrapper)
    return Guided(patched, texts, _report(model, settings, method, every))


def _check_same(name: str, value: object, earlier: object) -> None:
    if value != earlier:
        raise ValueError(
            f"{LABEL} has {name} {value}, but an earlier one on this model has {earlier}. Set both "
            "to the same."
        )


def _take_guidance(patched: ModelPatcher) -> ReferenceGuidance | None:
    """What a clone already has; it leaves the clone's own patch list."""
    patches = patched.model_options["transformer_options"].get("patches", {})
    held = [one for one in patches.get(KEY, []) if one.kind == GUIDANCE]
    if not held:
        return None
    patches[KEY] = [one for one in patches[KEY] if one.kind != GUIDANCE]
    return held[0]


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


def _report(
    model: ModelPatcher, settings: Mapping[int, Setting], method: Method, every: int
) -> str:
    lines = []
    for number, one in sorted(settings.items()):
        name = f"reference {number}" if number else "every reference"
        facts = [f"weight {one.weight:g}"]
        if one.gate.factors:
            facts.append("times the gate")
        if one.region is not None:
            facts.append(f"on {one.region.mask.mean().item():.0%} of the picture")
        lines.append(f"{name}: {', '.join(facts)}")
    often = f", the difference predicted in one of {every} steps" if every > 1 else ""
    lines.append(f"method: {method}{often}")
    if (name := type(model.model).__name__) not in TESTED:
        lines.append(f"{name} is allowed, but has not been tested with this node")
    return "\n".join(lines)
