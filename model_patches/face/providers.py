"""Which onnxruntime execution provider runs the face models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .packages import need

# Widget name -> onnxruntime names, best first. "auto" walks them in this order.
PROVIDERS: dict[str, tuple[str, ...]] = {
    "CUDA": ("CUDAExecutionProvider",),
    "ROCM": ("ROCMExecutionProvider", "MIGraphXExecutionProvider"),
    "CoreML": ("CoreMLExecutionProvider",),
    "CPU": ("CPUExecutionProvider",),
}
CPU = "CPUExecutionProvider"


def resolve_providers(wanted: Sequence[str]) -> list[str]:
    """Widget names ("auto", "CUDA", "ROCM", "CoreML", "CPU") -> onnxruntime provider names.

    CPU is always added at the end for operators that the first one lacks. Raises ValueError for an
    unknown name, RuntimeError naming the available ones when this onnxruntime lacks the provider.
    """
    available = need("onnxruntime").get_available_providers()
    names: list[str] = []
    for name in wanted or ("auto",):
        names += _one(name, available)
    return list(dict.fromkeys([*names, CPU]))


def _one(name: str, available: Sequence[str]) -> list[str]:
    if name == "auto":
        known = [provider for group in PROVIDERS.values() for provider in group]
        return [provider for provider in known if provider in available][:1]
    if name not in PROVIDERS:
        raise ValueError(f"unknown provider {name!r}; choose auto, {', '.join(PROVIDERS)}")
    found = [provider for provider in PROVIDERS[name] if provider in available]
    if found:
        return found[:1]
    present = [key for key, group in PROVIDERS.items() if set(group) & set(available)]
    advice = (
        "replace onnxruntime by onnxruntime-gpu in ComfyUI's Python (never keep both)"
        if name == "CUDA"
        else f"install an onnxruntime built for {name}"
    )
    raise RuntimeError(
        f"provider {name} is not available; this onnxruntime offers: {', '.join(present)}. "
        f"Choose auto or one of those, or {advice}"
    )


def check_session(session: Any, wanted: Sequence[str], explicit: bool) -> str:
    """The provider that `session` really runs on, as a widget name.

    onnxruntime falls back to the CPU by itself when a listed provider fails to start (a missing
    cuDNN, say). Raises RuntimeError for that when the user asked for the provider by name.
    """
    active = session.get_providers()[0]
    if explicit and active != wanted[0]:
        raise RuntimeError(
            f"{wanted[0]} is listed by onnxruntime but could not start, only {active} did; its "
            "CUDA, cuDNN or driver libraries do not match. Fix them, or choose auto or CPU"
        )
    return next((key for key, group in PROVIDERS.items() if active in group), active)
