"""Import the face packages only when they are used, and say which one is missing."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

PIP_NAMES = {
    "cv2": "opencv-python",
    "insightface": "insightface",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "facexlib": "facexlib",
    "skimage": "scikit-image",
}
NO_PHOTO = "no photo can be encoded; saved identities still work"
EFFECTS = {
    "skimage": "the bundled face detector cannot be used; face model packs still work",
    "facexlib": "parsing cannot be used; set it to off in Load Face Analyser",
}
"""What the absence of a package disables. Of all others: NO_PHOTO."""
ADVICE = "install the pack's requirements.txt into ComfyUI's Python and restart"


def need(module: str) -> ModuleType:
    """Import `module`, for example "insightface.model_zoo".

    Raises RuntimeError when it, or something that it needs, is absent or broken; it names the
    package to install and what is disabled until then. A lazy import keeps one missing package
    from disabling the whole pack.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        package = PIP_NAMES.get(name, module)
        raise RuntimeError(
            f"the Python package {package!r} is needed for face analysis but could not be imported "
            f"({error}). Without it {EFFECTS.get(name, NO_PHOTO)}. To mend it, {ADVICE}"
        ) from error


def describe_missing() -> str:
    """One sentence on the packages that are not installed and what that disables; empty: none.

    Nothing is imported, so a package that is there but broken goes unnoticed until it is used.
    """
    effects: dict[str, list[str]] = {}
    for name, package in PIP_NAMES.items():
        if importlib.util.find_spec(name) is None:
            effects.setdefault(EFFECTS.get(name, NO_PHOTO), []).append(package)
    parts = [f"Without {', '.join(packages)} {effect}." for effect, packages in effects.items()]
    return " ".join([*parts, f"To mend it, {ADVICE}."]) if parts else ""
