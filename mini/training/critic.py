"""What keeps the projector obedient: a picture with its residual must say what the same picture
without it says. PuLID's alignment loss (arXiv 2404.16022), on expression, pose and style.

The critic that compares them is the recipe of the estimators with another seed. It is their twin:
what pleases it likely pleases them. The evaluation stands on others, see judge_estimators.py.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..estimators import FACE_SIDE, MARGIN, Estimator, Estimators, load_estimator
from ..portraits import EXPRESSIONS
from .drawing import Drawn
from .estimators import CRITIC, critic_file
from .options import curves

SHIFT, ZOOM = 0.04, 0.06
"""Jitter of both crops alike: deviation in sides of the box, and of the logarithm of its size."""
DEGREE_LOSS = 2.0
"""Weight of the angles' error, in units of DEGREES."""


class Critic:
    """Measures how much has changed apart from the identity."""

    def __init__(self, estimator: Estimator, device: torch.device) -> None:
        self.net: Estimators = estimator.net.to(device)

    def __call__(self, plain: Drawn, drawn: Drawn) -> Tensor:
        """Distance of `drawn` from `plain`, the same pictures without what is trained: divergence
        of expression and style, and the heads' angles. 0 where a face is missing."""
        both = plain.faces.there & drawn.faces.there
        if not both.any():
            return torch.zeros((), device=both.device)
        count = int(both.sum())
        shift = SHIFT * torch.randn(count, 2, device=both.device)
        zoom = (ZOOM * torch.randn(count, device=both.device)).exp()
        with torch.no_grad():
            mood, angles, style = self._read_faces(plain, both, shift, zoom)
        found_mood, found_angles, found_style = self._read_faces(drawn, both, shift, zoom)
        turned = F.smooth_l1_loss(found_angles, angles, beta=0.2)
        changed = _divergence(mood, found_mood) + _divergence(style, found_style)
        return changed + DEGREE_LOSS * turned

    def _read_faces(
        self, drawn: Drawn, rows: Tensor, shift: Tensor, zoom: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the expressions, angles, and logits of the styles."""
        pictures = drawn.pictures[rows].clamp(-1, 1)
        crops = face_crops(pictures, drawn.faces.boxes[rows], shift, zoom)
        face = self.net.face(crops).float()
        mood, angles = face[:, : len(EXPRESSIONS)], face[:, len(EXPRESSIONS) :]
        return mood, angles, self.net.style(pictures).float()


def _divergence(wanted: Tensor, found: Tensor) -> Tensor:
    """Of the chances behind two sets of logits (B, C)."""
    known, told = wanted.log_softmax(-1), found.log_softmax(-1)
    return F.kl_div(told, known, reduction="batchmean", log_target=True)


def face_crops(pictures: Tensor, boxes: Tensor, shift: Tensor, zoom: Tensor) -> Tensor:
    """mini/estimators.py's crops (B, 3, 80, 80), with gradients; shift (B, 2), zoom (B,)."""
    size = pictures.shape[-1]
    low, high = boxes[:, :2], boxes[:, 2:]
    longer = (high - low).amax(1).clamp(min=1)
    side = MARGIN * longer / zoom
    corner = (low + high - side[:, None]) / 2 + shift * longer[:, None]
    steps = torch.arange(FACE_SIDE, device=pictures.device) / FACE_SIDE
    places = corner[:, None] + steps[:, None] * side[:, None, None]
    # OpenCV's pixels lie at whole numbers.
    x, y = ((places + 0.5) / size * 2 - 1).unbind(-1)
    rows, columns = torch.broadcast_tensors(y[:, :, None], x[:, None])
    grid = torch.stack((columns, rows), dim=-1)
    return F.grid_sample(pictures.float(), grid, padding_mode="border", align_corners=False)


def open_critic(work: Path, device: torch.device) -> Critic:
    """Raises FileNotFoundError before it is trained."""
    path = critic_file(curves(work))
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Train it first: --only {CRITIC.name}.")
    return Critic(load_estimator(path), device)
