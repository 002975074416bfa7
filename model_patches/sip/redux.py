"""The visual variant of SIP, by FLUX.1 Redux: picture tokens appended to the text.

Redux is the one public projector whose tokens Flux reads natively. They carry pose, light and
background besides the face, which is what SIP means to avoid: hence a node of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..encoders.whiten import head_picture
from ..face.face import Face


@dataclass(frozen=True, eq=False)
class Appended:
    """A conditioning with picture tokens behind its text, and what was done."""

    conditioning: list
    report: str


MASK, MASK_SIZE = "attention_mask", "attention_mask_img_shape"


def apply_visual_sip(
    conditioning: Sequence,
    style_model: Any,
    vision: Any,
    faces: Sequence[Face],
    *,
    weight: float = 0.1,
    side: int = 3,
) -> Appended:
    """A copy of a Flux conditioning with side² tokens of the heads appended.

    weight is the weight of all of them together in attention, in units of one text token
    (0: nothing is appended). Several faces are averaged. Raises ValueError for no
    face, a weight below 0, or a style model of another width.
    """
    if not faces:
        raise ValueError("0 faces to look at, expected at least 1. Connect Detect Faces.")
    if not 0.0 <= weight < math.inf:
        raise ValueError(f"α is {weight}, expected 0 or a positive number such as 0.1.")
    if weight == 0.0:
        copies = [[text, extra.copy()] for text, extra in conditioning]
        return Appended(copies, "α is 0: nothing was appended.")
    tokens = torch.stack([_tokens(style_model, vision, face, side) for face in faces]).mean(0)
    bias = math.log(weight / side**2)
    return Appended(
        [_append_tokens(entry, tokens, bias) for entry in conditioning],
        f"Redux: {side}x{side} tokens of {len(faces)} face(s) behind the text, attention bias "
        f"{bias:.2f} (α {weight:g}). Carries pose, light and background too.",
    )


def _tokens(style_model: Any, vision: Any, face: Face, side: int) -> Tensor:
    """(1, side², D): the style model's grid of tokens, averaged down."""
    seen = style_model.get_cond(vision.encode_image(head_picture(face), crop=True))
    seen = seen.detach().float().cpu()
    grid = math.isqrt(seen.shape[1])
    if grid * grid != seen.shape[1] or grid < side:
        raise ValueError(
            f"The style model made {seen.shape[1]} tokens, expected a square grid of at least "
            f"{side}x{side}. Load flux1-redux-dev.safetensors and sigclip_vision_patch14_384."
        )
    pooled = F.adaptive_avg_pool2d(seen.transpose(1, 2).unflatten(2, (grid, grid)), side)
    return pooled.flatten(2).transpose(1, 2)


def _append_tokens(entry: Sequence, tokens: Tensor, bias: float) -> list:
    text, extra = entry[0], entry[1].copy()
    if text.shape[-1] != tokens.shape[-1]:
        raise ValueError(
            f"The style model's tokens are {tokens.shape[-1]} wide, the prompt's text is "
            f"{text.shape[-1]} wide. Redux works with Flux.1 only; use Apply SIP elsewhere."
        )
    added = tokens.expand(len(text), -1, -1).to(text)
    size = extra.get(MASK_SIZE, (1, 1))
    extra[MASK] = _grow_mask(extra.get(MASK), text, tokens.shape[1], size[0] * size[1], bias)
    extra[MASK_SIZE] = size
    return [torch.cat((text, added), dim=1), extra]


def _grow_mask(mask: Tensor | None, text: Tensor, count: int, picture: int, bias: float) -> Tensor:
    """The additive attention mask (B, T + count + picture, same) with the new columns biased."""
    length = text.shape[1]
    old = torch.zeros(len(text), length + picture, length + picture)
    if mask is not None:
        old = old + (mask.float().log() if mask.dtype == torch.bool else mask.float())
    places = torch.cat((torch.arange(length), torch.arange(picture) + length + count))
    grown = torch.zeros(len(text), length + count + picture, length + count + picture)
    grown[:, places[:, None], places] = old
    grown[:, places, length : length + count] = bias
    return grown.to(text.device, torch.float16)
