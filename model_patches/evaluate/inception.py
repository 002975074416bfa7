"""The network behind FID and KID: Inception v3 as TensorFlow's authors published it in 2015.

torchvision builds the layers; four kinds of block differ from its own in how they pool. The
weights are the user's: `INCEPTION_FILE`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.inception import (
    Inception3,
    InceptionA,
    InceptionC,
    InceptionE,
)

from .networks import fill_network

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_ADVICE = (
    f"{INCEPTION_FILE} of github.com/mseitzer/pytorch-fid, release fid_weights: the features that "
    "all published values of FID stand on"
)
CLASSES, FEATURES = 1008, 2048
SIDE = 299
UNUSED = ("AuxLogits.", "fc.")


def _pool(x: Tensor) -> Tensor:
    """TensorFlow's mean over a window counts no padding."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(InceptionA):
    """35 pixels a side."""

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(_pool(x))], 1)


class BlockC(InceptionC):
    """17 pixels a side."""

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_2(self.branch7x7dbl_1(x))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(self.branch7x7dbl_3(twice)))
        return torch.cat([self.branch1x1(x), seven, twice, self.branch_pool(_pool(x))], 1)


class BlockE(InceptionE):
    """8 pixels a side; the last one takes the greatest value of a window, not the mean."""

    def __init__(self, channels: int, greatest: bool = False) -> None:
        super().__init__(channels)
        self.greatest = greatest

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        three = torch.cat([self.branch3x3_2a(three), self.branch3x3_2b(three)], 1)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        twice = torch.cat([self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)], 1)
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.greatest else _pool(x)
        return torch.cat([self.branch1x1(x), three, twice, self.branch_pool(pooled)], 1)


class Inception(Inception3):
    """(B, 3, 299, 299) in -1..1 -> (B, 2048) features."""

    def __init__(self) -> None:
        super().__init__(CLASSES, aux_logits=False, transform_input=False, init_weights=False)
        self.Mixed_5b, self.Mixed_5c = BlockA(192, 32), BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6b, self.Mixed_6c = BlockC(768, 128), BlockC(768, 160)
        self.Mixed_6d, self.Mixed_6e = BlockC(768, 160), BlockC(768, 192)
        self.Mixed_7b, self.Mixed_7c = BlockE(1280), BlockE(2048, greatest=True)
        del self.fc
        self.fc = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(x)[0]


def build_inception(state: Mapping[str, Tensor]) -> Inception:
    """From the tensors of INCEPTION_FILE. Raises ValueError for other keys or shapes."""
    with torch.device("meta"):
        net = Inception()
    used = {key: value for key, value in state.items() if not key.startswith(UNUSED)}
    fill_network(net, used, INCEPTION_FILE)
    return net


def inception_pixels(picture: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 RGB -> (3, 299, 299) in -1..1, as pytorch-fid scales: without antialiasing.

    The picture's shape is not kept.
    """
    values = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
    scaled = F.interpolate(values, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return 2 * scaled[0] - 1


@torch.no_grad()
def inception_features(net: Inception, picture: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 RGB -> (2048,), on the CPU."""
    device = next(net.parameters()).device
    return net(inception_pixels(picture)[None].to(device))[0].float().cpu()
