"""CLIP's two halves as one value: pictures and texts as features of the same space.

ComfyUI loads them apart: a CLIP_VISION, and a CLIP whose text encoder is one of several parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_management
import numpy as np
import torch
from torch import Tensor

from ..evaluate.features import split_sentences
from ..evaluate.modes import COMPAT, CORRECTED, Mode
from ..evaluate.pixels import SIDE, clip_pixels, compat_clip_pixels
from .clip_vision import CLIP, check_vision, look, look_at_pixels

HALVES = ("clip_l", "clip_g", "clip_h")
"""Names of CLIP's text encoders inside ComfyUI's CLIP objects."""
ROOM = 75
"""Tokens of a text that CLIP reads, besides the one at its start and the one at its end."""
ADVICE = (
    "Open the text half of the same CLIP: clip_l.safetensors with CLIP-ViT-L-14, or the text "
    "encoder of SDXL with CLIP-ViT-bigG-14."
)


@dataclass(frozen=True, eq=False)
class ClipPair:
    """Build it with `pair_clip`, which checks that both halves fit."""

    vision: Any
    """comfy.clip_vision.ClipVisionModel."""
    clip: Any
    """comfy.sd.CLIP."""
    half: str
    """One of HALVES."""

    def embed_picture(self, rgb: np.ndarray, mode: Mode = CORRECTED) -> Tensor:
        """(H, W, 3) uint8 -> (1, D), not normalised.

        Pixels as OpenAI's code shows them to CLIP; compat: as IBench does. An encoder of another
        size than 224 pixels gets ComfyUI's own preprocessing.
        """
        if self.vision.image_size != SIDE:
            picture = torch.from_numpy(rgb).float()[None] / 255
            return look(self.vision, picture, self.vision.image_size).pooled
        pixels = (compat_clip_pixels if mode == COMPAT else clip_pixels)(rgb)
        return look_at_pixels(self.vision, pixels[None].to(self.vision.load_device)).pooled

    def embed_text(self, text: str) -> Tensor:
        """(1, D), not normalised; what is beyond 75 tokens is cut off, as by OpenAI's code.

        Words are not weighted: brackets are characters like any other.
        """
        return self._encode(self._tokenize(text)[:ROOM])

    def embed_sentences(self, text: str) -> Tensor:
        """(N, D) of a text's sentences, of 75 tokens each at most."""
        return torch.cat([self.embed_text(one) for one in split_sentences(text) or [text]])

    def is_cut(self, text: str) -> bool:
        """Whether a part of the text is beyond what CLIP reads."""
        return len(self._tokenize(text)) > ROOM

    def _tokenize(self, text: str) -> list[int]:
        """The text's own tokens, however many ComfyUI's chunks they fill."""
        special = self._encoder.special_tokens
        plain = text.replace("(", "\\(").replace(")", "\\)")
        found = []
        for chunk in self.clip.tokenize(plain)[self.half.removeprefix("clip_")]:
            ids = [token[0] for token in chunk][1:]
            found += ids[: ids.index(special["end"])]
        return found

    def _encode(self, ids: list[int]) -> Tensor:
        special = self._encoder.special_tokens
        padding = [special["pad"]] * (ROOM - len(ids))
        whole = [special["start"], *ids, special["end"], *padding]
        comfy.model_management.load_model_gpu(self.clip.patcher)
        device = self.clip.patcher.load_device
        self._encoder.set_clip_options({"projected_pooled": True, "execution_device": device})
        try:
            with torch.no_grad():
                return self._encoder([whole])[1].to("cpu", torch.float32)
        finally:
            self._encoder.reset_clip_options()

    @property
    def _encoder(self) -> Any:
        return getattr(self.clip.cond_stage_model, self.half)


def pair_clip(vision: Any, clip: Any) -> ClipPair:
    """Raises ValueError unless both give features of one width, and the text half its projection.

    Equal widths do not prove that both were trained together: that is the user's choice of files.
    """
    check_vision(vision, CLIP, "clip_vision")
    projection = getattr(vision.model, "visual_projection", None)
    if projection is None or not hasattr(projection, "weight"):
        raise ValueError(f"clip_vision has no projection, so no text compares with it. {ADVICE}")
    width = len(projection.weight)
    found = {
        name: getattr(clip.cond_stage_model, name).transformer.text_projection.weight
        for name in HALVES
        if getattr(clip.cond_stage_model, name, None) is not None
    }
    fitting = [name for name, weight in found.items() if len(weight) == width]
    if not fitting:
        widths = ", ".join(f"{name} of {len(weight)}" for name, weight in found.items())
        raise ValueError(
            f"clip_vision gives features of {width} numbers, and clip holds "
            f"{widths or 'no text encoder of CLIP'}; they have to be equal. {ADVICE}"
        )
    _check_projection(fitting[0], found[fitting[0]].detach().float())
    return ClipPair(vision, clip, fitting[0])


def _check_projection(name: str, weight: Tensor) -> None:
    """A file without a projection leaves memory as it was, or a matrix that changes nothing."""
    if not torch.isfinite(weight).all():
        state = "values that are not finite"
    elif not weight.any(1).all():
        state = "rows of zeros"
    elif torch.equal(weight, torch.eye(*weight.shape).to(weight)):
        state = "the unit matrix"
    else:
        return
    raise ValueError(
        f"clip holds {name} without its projection (text_projection.weight is {state}), so its "
        "features do not compare with pictures. Many checkpoints lack it: load the text encoder "
        f"from its own file, with Load CLIP. {ADVICE}"
    )
