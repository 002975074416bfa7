"""Import the face packages only when they are used, and say which one is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

PIP_NAMES = {
    "cv2": "opencv-python",
    "skimage": "scikit-image",
    "insightface": "insightface",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "facexlib": "facexlib",
}


def need(module: str) -> ModuleType:
    """Import `module`, for example "insightface.model_zoo".

    Raises RuntimeError naming the package to install when it, or something that it needs, is
    absent or broken. A lazy import keeps one missing package from disabling the whole pack.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = PIP_NAMES.get(module.partition(".")[0], module)
        raise RuntimeError(
            f"the Python package {package!r} is needed for face analysis but could not be imported "
            f"({error}); install the pack's requirements.txt into ComfyUI's Python and restart"
        ) from error
