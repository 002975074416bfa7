"""Captions as FLUX reads them: tokens from the cache, encoded step by step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import comfy.sd
import numpy as np
import torch
from torch import Tensor

from ...model_patches.encoders.mini_text import load_mini_clip
from .. import world
from .data import Groups, Portraits
from .options import models
from .text_model import Tokens, tokenise, tokens


class Captions:
    """Encodes the captions of pictures with the trained text encoders, without gradients."""

    def __init__(self, clip: comfy.sd.CLIP, cut: Tokens, device: torch.device) -> None:
        self.cut, self.empty, self.device = cut, tokenise([""]), device
        parts = clip.cond_stage_model
        self.t5, self.clip_l = (
            part.transformer.requires_grad_(False).to(device, torch.float32)
            for part in (parts.t5xxl, parts.clip_l)
        )

    def __call__(
        self,
        rows: np.ndarray,
        dropped: np.ndarray,
        other: Tokens | None = None,
        chosen: np.ndarray | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Text (B, T, D) and pooled (B, V) of the pictures' captions, of "" where dropped.

        other: another caption of each picture, which is read where `chosen`."""
        t5, clip_l = self.cut.t5[rows], self.cut.clip_l[rows]
        if other is not None and chosen is not None:
            t5 = np.where(chosen[:, None], other.t5[rows], t5)
            clip_l = np.where(chosen[:, None], other.clip_l[rows], clip_l)
        t5 = np.where(dropped[:, None], self.empty.t5, t5)
        clip_l = np.where(dropped[:, None], self.empty.clip_l, clip_l)
        return self._encode(t5, clip_l)

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Text (N, T, D) and pooled (N, V) of other texts."""
        cut = tokenise(texts)
        return self._encode(cut.t5, cut.clip_l)

    @torch.no_grad()
    def _encode(self, t5: np.ndarray, clip_l: np.ndarray) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, enabled=False):
            text = self.t5(self._numbers(t5), None)[0]
            pooled = self.clip_l(self._numbers(clip_l))[3]
        return text.float(), pooled.float()

    def written_mask(self, rows: np.ndarray) -> Tensor:
        """(B, T) bool: words, neither the end nor padding; the pack's scope "content"."""
        return torch.from_numpy(self.cut.t5[rows] > self.empty.t5.max()).to(self.device)

    def _numbers(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).long().to(self.device)


def caption_tokens(work: Path, name: str) -> Tokens:
    """Of data/`name`, "singles" or "groups"; cached beside it."""
    captions = (Portraits if name == "singles" else Groups)(work).caption
    return tokens(captions, work / "data" / name / "tokens.npz")


def captions_of(work: Path, device: torch.device, name: str = "singles") -> Captions:
    """Those of data/`name`. Raises FileNotFoundError before the text encoders are trained."""
    files = [models(work) / file for file in (world.T5, world.CLIP_L)]
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing. Train it first: --only text.")
    return Captions(load_mini_clip(*files), caption_tokens(work, name), device)
