"""The published networks that IBench judges with, as torchvision builds them.

Their weights are the user's: `FER_FILE` and `POSE_FILE` say which files fit.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torchvision.transforms.functional as tf
from PIL import Image
from torch import Tensor, nn
from torchvision.models import vgg19_bn
from torchvision.models.resnet import Bottleneck, ResNet

from .expression import CLASSES
from .modes import COMPAT, CORRECTED, Mode, check_mode
from .pose import BINS, decode_bins

FER_FILE = "PrivateTest_model.t7"
"""Of Facial-Expression-Recognition.Pytorch: VGG19, key `net`, taught on FER2013."""
FER_ADVICE = (
    f"{FER_FILE} of github.com/WuJie1010/Facial-Expression-Recognition.Pytorch (FER2013_VGG19)"
)
POSE_FILE = "hopenet_robust_alpha1.pkl"
"""Of deep-head-pose: ResNet-50 with three heads, taught on 300W-LP."""
POSE_ADVICE = f"{POSE_FILE} of github.com/natanielruiz/deep-head-pose"
CROP, SMALL = 44, 48
"""Pixels: what the expression network sees, and the pictures it was taught on."""
LARGE = 224
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class ExpressionNet(nn.Module):
    """VGG19 with batch norm and one layer on top: (B, 3, 44, 44) in 0..1 -> (B, 7) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.features = vgg19_bn(weights=None, init_weights=False).features
        self.classifier = nn.Linear(512, len(CLASSES))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.classifier(self.features(pixels).flatten(1))


class PoseNet(ResNet):
    """Hopenet, a ResNet-50: (B, 3, 224, 224) -> logits (B, 66) of yaw, pitch and roll."""

    def __init__(self) -> None:
        super().__init__(Bottleneck, [3, 4, 6, 3])
        del self.fc
        self.fc_yaw, self.fc_pitch, self.fc_roll = (nn.Linear(2048, BINS) for _ in range(3))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(pixels))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.avgpool(x).flatten(1)
        return self.fc_yaw(x), self.fc_pitch(x), self.fc_roll(x)


def build_expression_net(state: Mapping[str, Tensor]) -> ExpressionNet:
    """From the tensors of `FER_FILE`, where `net.` stands before each; what else it tells of its
    training is not read. Raises ValueError for other keys or shapes."""
    with torch.device("meta"):
        net = ExpressionNet()
    inner = {key[4:]: value for key, value in state.items() if key.startswith("net.")}
    fill_network(net, inner or state, FER_FILE)
    return net


def build_pose_net(state: Mapping[str, Tensor]) -> PoseNet:
    """From the tensors of `POSE_FILE`. Its head `fc_finetune` is never read."""
    with torch.device("meta"):
        net = PoseNet()
    used = {key: value for key, value in state.items() if not key.startswith("fc_finetune")}
    fill_network(net, used, POSE_FILE)
    return net


def fill_network(net: nn.Module, state: Mapping[str, Tensor], file: str) -> None:
    """Give a network without memory its tensors. Counters of batches may be absent: none reads."""
    own = net.state_dict()
    counters = {key: torch.tensor(0) for key in own if key.endswith("num_batches_tracked")}
    whole = {**counters, **state}
    wanted = {key: tuple(value.shape) for key, value in own.items()}
    found = {key: tuple(value.shape) for key, value in whole.items()}
    wrong = sorted(key for key, _ in wanted.items() ^ found.items())
    if wrong:
        raise ValueError(
            f"these are not the tensors of {file}: {wrong[0]} has the shape "
            f"{found.get(wrong[0], 'nothing')}, expected {wanted.get(wrong[0], 'nothing')}; get "
            "the published file"
        )
    copies = {k: v.float() if v.is_floating_point() else v for k, v in whole.items()}
    net.load_state_dict(copies, assign=True)
    net.eval().requires_grad_(False)


def ten_crops(face: np.ndarray, mode: Mode = CORRECTED) -> Tensor:
    """(H, W, 3) uint8 RGB -> (10, 3, 44, 44) in 0..1: corners, middle, and all mirrored.

    corrected: the face as the network was taught, 48x48 grey. compat: patches of 44 pixels of the
    face at its own size, whatever they show. Raises ValueError there for a face below 44 pixels.
    """
    check_mode(mode)
    picture = Image.fromarray(face)
    if mode == CORRECTED:
        small = picture.resize((SMALL, SMALL), Image.Resampling.BILINEAR)
        picture = small.convert("L").convert("RGB")
    if min(picture.size) < CROP:
        raise ValueError(
            f"the face has {picture.size[0]}x{picture.size[1]} pixels, the network needs {CROP} on "
            "each side; use the corrected mode, which scales the face"
        )
    return torch.stack(tf.ten_crop(tf.to_tensor(picture), [CROP, CROP]))


@torch.no_grad()
def expression_logits(net: ExpressionNet, face: np.ndarray, mode: Mode = CORRECTED) -> Tensor:
    """A face (H, W, 3) uint8 RGB -> (10, 7) logits of its crops, on the CPU.

    Raises ValueError in compat mode for a face below 44 pixels.
    """
    crops = ten_crops(face, mode).to(next(net.parameters()).device)
    return net(crops).float().cpu()


def pose_pixels(picture: np.ndarray, box: tuple[int, int, int, int] | None = None) -> Tensor:
    """(H, W, 3) uint8 RGB -> (3, 224, 224) for Hopenet.

    box: x0, y0, x1, y1, of the face; what lies outside the picture is black. None: all of it.
    """
    image = Image.fromarray(picture)
    if box is not None:
        image = image.crop(box)
    shorter = min(image.size)
    width, height = (LARGE * side // shorter for side in image.size)
    seen = tf.to_tensor(image.resize((width, height), Image.Resampling.BILINEAR))
    return tf.normalize(tf.center_crop(seen, [LARGE, LARGE]), MEAN, STD)


def grow_box(
    box: tuple[float, float, float, float], mode: Mode = CORRECTED
) -> tuple[int, int, int, int]:
    """The face's box with a margin: 25 % of its sides; compat: 30 pixels."""
    check_mode(mode)
    x0, y0, x1, y1 = box
    across, down = (30, 30) if mode == COMPAT else (0.25 * (x1 - x0), 0.25 * (y1 - y0))
    return round(x0 - across), round(y0 - down), round(x1 + across), round(y1 + down)


def pose_angles(net: PoseNet, pixels: Tensor, mode: Mode = CORRECTED) -> Tensor:
    """(B, 3, 224, 224) -> (B, 3) yaw, pitch, roll in degrees."""
    return torch.stack([decode_bins(one, mode) for one in net(pixels)], -1)
