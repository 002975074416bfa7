"""Face parsing: labels each pixel as skin, eye, hair, background. BiSeNet, as PuLID uses it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ..files.public_files import PARSING_BISENET
from ..files.tensor_file import read_weights
from .packages import need

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

CLASSES = 19
WANTED = (
    f"{PARSING_BISENET.file} from {PARSING_BISENET.url}, in models/{PARSING_BISENET.folder} "
    "(parsing_parsenet.pth is a different network)"
)
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Parser:
    """BiSeNet in a ComfyUI model patcher, so that ComfyUI loads and offloads it."""

    patcher: ModelPatcher = field(repr=False)
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

    facexlib's own loader is not used: it downloads. Raises FileNotFoundError, or ValueError for a
    damaged file or one that holds something else. RuntimeError when facexlib is missing.
    """
    return Parser(load_patcher(path), f"bisenet ({path.name})")


def load_patcher(path: Path, disable_dynamic: bool = False) -> ModelPatcher:
    """BiSeNet alone, for ComfyUI to build it again from the file (second device, hooks)."""
    # Imported here, so that detecting faces works without ComfyUI.
    from ..files.modules import build

    tensors = {
        key: tensor.float() if tensor.is_floating_point() else tensor
        for key, tensor in read_weights(path, WANTED).tensors.items()
    }
    what = f"{path.name}, read as facexlib's BiSeNet,"
    return build(_make_bisenet, tensors, what, WANTED, (load_patcher, (path,)), disable_dynamic)


def _make_bisenet(
    operations: object, device: torch.device | str, dtype: torch.dtype | None = None
) -> nn.Module:
    """BiSeNet in float32: facexlib's class takes neither `operations` nor a `dtype`."""
    with torch.device(device):
        return need("facexlib.parsing.bisenet").BiSeNet(num_class=CLASSES)
