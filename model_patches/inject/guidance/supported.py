"""Which models take reference pictures as latents, and which runs cannot be guided by them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from comfy.model_patcher import ModelPatcher

from .twins import METHOD, Entry, count_references

TESTED = ("Flux", "Flux2", "QwenImage", "Krea2", "Omnigen2")
"""Classes of ComfyUI's models that the tests sample with references."""

_VIDEO = "takes references as extra frames, which have no weight of their own"
REFUSED = {
    "Chroma": "drops reference latents unread",
    "HiDreamO1": "builds its references into the prompt's tokens, which cannot be taken out again",
    "TripoSplat": "builds its 3D object from the reference",
    "WAN21": _VIDEO,
    "MiniMaxH3": _VIDEO,
    "LTXV": _VIDEO,
    "LTXAV": _VIDEO,
    "SDXL": "takes no reference latents",
    "SDXLRefiner": "takes no reference latents",
    "SD21UNCLIP": "takes no reference latents",
    "SD3": "takes no reference latents",
    "HiDream": "takes no reference latents",
}
"""Class -> why its references cannot be weighed; for classes that are derived from it as well."""

UNANNOUNCED = ("Omnigen2", "JoyImage", "Lumina2")
"""Classes that do not say which of their keys are a reference's."""

_CACHE = "KV_Attn_Input"
"""What core's Flux KV Cache puts on a model's attention."""


def check_model(model: ModelPatcher, label: str, by_attention: bool) -> None:
    """Raise ValueError for a model whose references cannot be weighed, or not in its attention."""
    names = [parent.__name__ for parent in type(model.model).__mro__]
    reason = next((REFUSED[name] for name in names if name in REFUSED), None)
    if names[0] == "BaseModel":
        reason = "takes no reference latents"
    if reason is not None:
        raise ValueError(
            f"{label} needs a model that takes reference pictures, got {names[0]}, which {reason}. "
            f"Load Flux Kontext, FLUX.2, Qwen-Image-Edit, Krea 2 or OmniGen2, or bypass this node."
        )
    if by_attention and any(name in UNANNOUNCED for name in names):
        raise ValueError(
            f"{label}: {names[0]} does not say which of its keys are a reference's, so method "
            "attention cannot weigh them. Set method to two predictions."
        )


def check_prompts(
    model: Any,
    conds: Sequence[Sequence[Entry] | None],
    model_options: Mapping[str, Any],
    numbers: Iterable[int],
    label: str,
) -> None:
    """Raise RuntimeError before a run's first prediction when it cannot be guided.

    conds: lists of prompts as the model gets them. numbers: the references with a setting of their
    own, from 1; 0 is all of them.
    """
    name = type(model).__name__
    entries = [entry for prompts in conds for entry in prompts or ()]
    count = max(map(count_references, entries), default=0)
    if not count:
        raise RuntimeError(
            f"{label}: the prompts carry reference pictures, but 0 reach {name}: this model does "
            "not read them. Load a model that does, or bypass this node."
        )
    if max(numbers, default=0) > count:
        raise RuntimeError(
            f"{label} has a weight for reference {max(numbers)}, but the prompts carry {count}. "
            "Choose a number up to that, or add a reference."
        )
    default = getattr(model.diffusion_model, "default_ref_method", "")
    methods = [METHOD in entry["model_conds"] for entry in entries if count_references(entry)]
    if default is None and not all(methods):
        raise RuntimeError(
            f"{label}: {name} ignores references without a method, and {methods.count(False)} of "
            f"{len(methods)} prompts with references have none. Put "
            "Edit Model Reference Method behind them and choose one, for example index."
        )
    if model_options.get("context_handler") is not None:
        raise RuntimeError(
            f"{label} does not work with context windows: a window does not say which part of the "
            "picture it is. Remove the context window node, or bypass this node."
        )
    _check_cache(model_options, numbers, label)


def _check_cache(model_options: Mapping[str, Any], numbers: Iterable[int], label: str) -> None:
    """Flux KV Cache remembers all references together, so some of them alone would be wrong."""
    patches = model_options["transformer_options"].get("patches", {}).get("attn1_patch", ())
    if any(numbers) and any(type(one).__name__ == _CACHE for one in patches):
        raise RuntimeError(
            f"{label} weighs single references, but Flux KV Cache on this model remembers them "
            "only all together. Remove Flux KV Cache, or set reference to all."
        )
