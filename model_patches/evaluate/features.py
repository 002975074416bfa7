"""Figures on encoders' features: prompt alignment, picture likeness, aesthetics."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from .modes import COMPAT, CORRECTED, Mode, check_mode

AESTHETIC_FILE = "sa_0_4_vit_l_14_linear.pth"
"""LAION's linear head: `weight` (1, 768) and `bias` (1,)."""
AESTHETIC_ADVICE = f"{AESTHETIC_FILE} of github.com/LAION-AI/aesthetic-predictor"
IQA_TEXTS = ("Good photo.", "Bad photo.")
"""Of CLIP-IQA's quality."""
IQA_SCALE = 100.0
"""CLIP's own factor of cosines."""
SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|(?<=[。！？；])\s*|\n+")


def clip_similarity(one: Tensor, other: Tensor) -> Tensor:
    """Cosines (B,) of features (B, D) and (B, D) or (1, D): ClipI, ClipT, DINO, FGIS, DINO-I.

    Raises ValueError for shapes that do not fit, or a feature that is 0 or not finite.
    """
    return (_unit(one) * _unit(other, one)).sum(-1)


def clip_text(
    images: Tensor, texts: Tensor, mode: Mode = CORRECTED, truncate: bool = True
) -> Tensor:
    """ClipT (B,) of image features (B, D) and text features (B, D) or (1, D).

    compat without truncation: the published code then leaves the text's length in, so that values
    above 1 come out.
    """
    check_mode(mode)
    if mode == COMPAT and not truncate:
        return (_unit(images) * texts.double()).sum(-1)
    return clip_similarity(images, texts)


def sentence_alignment(image: Tensor, sentences: Tensor) -> tuple[float, float]:
    """Greatest and mean cosine of an image feature (D,) to its prompt's sentences (N, D).

    For prompts longer than the 77 tokens that CLIP reads.
    """
    found = clip_similarity(sentences, image[None])
    return float(found.max()), float(found.mean())


def split_sentences(prompt: str) -> list[str]:
    """The sentences of an English or Chinese prompt, without empty ones."""
    return [part.strip() for part in SENTENCE_END.split(prompt) if part.strip(" .!?;。！？；")]


def aesthetic(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """LAION's linear head: CLIP ViT-L/14 features (B, 768) -> scores (B,) from about 1 to 10.

    IBench prints their mean divided by 10: `compat_aesthetic`.
    """
    if weight.shape != (1, features.shape[-1]) or bias.shape != (1,):
        raise ValueError(
            f"expected a head of shapes (1, {features.shape[-1]}) and (1,), got "
            f"{tuple(weight.shape)} and {tuple(bias.shape)}; use {AESTHETIC_FILE} with "
            "CLIP ViT-L/14"
        )
    return F.linear(_unit(features), weight.double(), bias.double())[:, 0]


def clip_iqa(images: Tensor, good: Tensor, bad: Tensor) -> Tensor:
    """CLIP-IQA (Wang et al., arXiv 2207.12396): image features (B, D) -> shares (B,) from 0 to 1.

    The softmax of both cosines, at CLIP's scale. good, bad: features (1, D) of IQA_TEXTS by the
    same CLIP. The authors take a ResNet-50 without its positions; other CLIPs have other figures.
    """
    ahead = clip_similarity(images, good) - clip_similarity(images, bad)
    return (IQA_SCALE * ahead).sigmoid()


def compat_aesthetic(scores: Sequence[float]) -> float:
    """IBench's Aesthetic of many pictures: the flat mean, divided by 10."""
    return sum(scores) / len(scores) / 10 if scores else float("nan")


def _unit(features: Tensor, like: Tensor | None = None) -> Tensor:
    fits = like is None or (
        features.shape[-1:] == like.shape[-1:] and len(features) in (1, len(like))
    )
    if features.ndim != 2 or not fits:
        beside = "" if like is None else f" beside {tuple(like.shape)}"
        raise ValueError(
            f"expected features (pictures, channels), got {tuple(features.shape)}{beside}; use one "
            "encoder for both"
        )
    features = features.double()
    lengths = features.norm(dim=-1, keepdim=True)
    if not (lengths.isfinite() & (lengths > 0)).all():
        raise ValueError("a feature is 0 or not finite, as of a picture with NaN; paint it again")
    return features / lengths
