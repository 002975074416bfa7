"""Face parsing: which pixel is skin, eye, hair, background. BiSeNet, as PuLID uses it."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .packages import need

CLASSES = 19
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Parser:
    """BiSeNet in a ComfyUI model patcher, so that ComfyUI loads and offloads it."""

    patcher: object = field(repr=False)
    name: str

    def labels(self, crop: np.ndarray) -> Tensor:
        """(512, 512, 3) uint8 RGB FFHQ crop -> (512, 512) uint8 CelebAMask labels, 0..18."""
        management = need("comfy.model_management")
        management.load_models_gpu([self.patcher])
        pixels = parser_input(crop).to(self.patcher.load_device)
        with torch.no_grad():
            scores = self.patcher.model(pixels)[0]
        return scores[0].argmax(0).to(torch.uint8).cpu()


def parser_input(crop: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 RGB -> (1, 3, H, W) float32 with ImageNet mean and deviation."""
    pixels = torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1)[None].float() / 255
    mean = torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1)
    return (pixels - mean) / torch.tensor(IMAGE_STD).view(1, 3, 1, 1)


def load_parser(path: Path) -> Parser:
    """facexlib's BiSeNet with the weights in `path` (parsing_bisenet.pth).

    facexlib's own loader is not used: it downloads. Raises FileNotFoundError, or RuntimeError for
    a corrupt file or one that holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the face parsing file {path} does not exist")
    state = _read(path)
    model = need("facexlib.parsing.bisenet").BiSeNet(num_class=CLASSES)
    _check(path, state, model.state_dict())
    model.load_state_dict(state)
    model.eval().requires_grad_(False)
    management = need("comfy.model_management")
    patcher = need("comfy.model_patcher").CoreModelPatcher(
        model,
        load_device=management.get_torch_device(),
        offload_device=management.unet_offload_device(),
    )
    return Parser(patcher, f"bisenet ({path.name})")


def _read(path: Path) -> dict:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RuntimeError(
            f"{path} ({path.stat().st_size} bytes) is not a readable PyTorch weight file "
            f"({reason}); delete it and download parsing_bisenet.pth again"
        ) from error
    if not isinstance(state, dict):
        raise RuntimeError(
            f"{path} holds a {type(state).__name__}, expected the weights of BiSeNet; put "
            "parsing_bisenet.pth from facexlib there"
        )
    return state


def _check(path: Path, state: dict, expected: dict) -> None:
    different = [
        key
        for key, tensor in expected.items()
        if not isinstance(state.get(key), Tensor) or state[key].shape != tensor.shape
    ]
    if different or len(state) != len(expected):
        raise RuntimeError(
            f"{path} is not facexlib's BiSeNet: {len(different)} of its {len(expected)} tensors "
            f"are missing or of another shape, the file has {len(state)}; put parsing_bisenet.pth "
            "there (parsing_parsenet.pth is a different network)"
        )
