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

    One that this onnxruntime lacks is left out; `describe_fallback` tells the user. CPU is always
    added at the end, for operators that the first one lacks. Raises ValueError for an unknown name.
    """
    available = need("onnxruntime").get_available_providers()
    names: list[str] = []
    for name in wanted or ("auto",):
        names += _find_provider(name, available)
    return list(dict.fromkeys([*names, CPU]))


def _find_provider(name: str, available: Sequence[str]) -> list[str]:
    if name != "auto" and name not in PROVIDERS:
        raise ValueError(f"unknown provider {name!r}; choose auto, {', '.join(PROVIDERS)}")
    groups = PROVIDERS.values() if name == "auto" else [PROVIDERS[name]]
    known = [provider for group in groups for provider in group]
    return [provider for provider in known if provider in available][:1]


def running_provider(session: Any) -> str:
    """The provider that `session` really runs on, as a widget name.

    onnxruntime itself falls back to the CPU when a listed provider fails to start.
    """
    active = session.get_providers()[0]
    return next((key for key, group in PROVIDERS.items() if active in group), active)


def describe_fallback(wanted: Sequence[str], running: Sequence[str]) -> str:
    """Why a provider that the user named does not run the models, and what to do; else empty.

    `running`: what they run on instead, as widget names.
    """
    missing = [name for name in wanted if name != "auto" and name not in running]
    if not missing or not running:
        return ""
    name, available = missing[0], need("onnxruntime").get_available_providers()
    instead = f"so {', '.join(dict.fromkeys(running))} runs the face models"
    if set(PROVIDERS[name]) & set(available):
        return (
            f"Provider: {name} is listed by onnxruntime but could not start, {instead}. Its "
            f"libraries or driver do not match this onnxruntime; fix them, or choose auto"
        )
    present = [key for key, group in PROVIDERS.items() if set(group) & set(available)]
    advice = (
        "replace onnxruntime by onnxruntime-gpu in ComfyUI's Python (never keep both)"
        if name == "CUDA"
        else f"install an onnxruntime built for {name}"
    )
    return (
        f"Provider: {name} is not available (this onnxruntime offers {', '.join(present)}), "
        f"{instead}. Choose auto, or {advice}"
    )
