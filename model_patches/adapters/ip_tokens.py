"""How public IP-Adapter files make picture tokens: one module for each variant.

Sources: IP-Adapter (arXiv 2308.06721) and its public FaceID files. Key names are those of the
files after `image_proj.`. Every module takes `Features` and returns tokens (B, N, width).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ..files.checks import Shapes, shape_of
from .resampler import Resampler, ResamplerDims, resampler_dims

Source = Literal["pooled", "patches", "face", "context"]
"""What is read: CLIP's projected class token (B, D); all tokens of CLIP's last layer but one
(B, T, D); the ArcFace embedding (B, 512), of any length; the features that a FlexIP file names
(B, T, D)."""

Features = dict[Source, Tensor]


@dataclass(frozen=True)
class Variant:
    """What a file turned out to be, and how to build its token maker."""

    name: str
    reads: dict[Source, int]
    """Channels of each source."""
    tokens: int
    """0: as many as the source has."""
    width: int
    """Channels of a token: the model's text width."""
    make: Callable[..., nn.Module]


class PooledTokens(nn.Module):
    """Base and light: one linear layer makes all tokens of CLIP's image embedding."""

    def __init__(
        self, clip: int, tokens: int, width: int, operations: Any = nn, **factory: Any
    ) -> None:
        super().__init__()
        self.width = width
        self.proj = operations.Linear(clip, tokens * width, **factory)
        self.norm = operations.LayerNorm(width, **factory)

    def forward(self, features: Features) -> Tensor:
        return self.norm(self.proj(features["pooled"]).unflatten(-1, (-1, self.width)))


class PatchTokens(nn.Module):
    """Full face: each of CLIP's tokens becomes one token."""

    def __init__(
        self, clip: int, hidden: int, width: int, operations: Any = nn, **factory: Any
    ) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            operations.Linear(clip, hidden, **factory),
            nn.GELU(),
            operations.Linear(hidden, width, **factory),
            operations.LayerNorm(width, **factory),
        )

    def forward(self, features: Features) -> Tensor:
        return self.proj(features["patches"])


class LatentTokens(Resampler):
    """Plus, plus-face, composition: learned queries read CLIP's tokens."""

    def forward(self, features: Features) -> Tensor:
        return super().forward(features["patches"])


class FaceTokens(nn.Module):
    """FaceID, FaceID-portrait: two linear layers make all tokens of the ArcFace embedding."""

    def __init__(
        self,
        face: int,
        hidden: int,
        tokens: int,
        width: int,
        operations: Any = nn,
        **factory: Any,
    ) -> None:
        super().__init__()
        self.width = width
        self.proj = nn.Sequential(
            operations.Linear(face, hidden, **factory),
            nn.GELU(),
            operations.Linear(hidden, tokens * width, **factory),
        )
        self.norm = operations.LayerNorm(width, **factory)

    def forward(self, features: Features) -> Tensor:
        face = F.normalize(features["face"], dim=-1)  # leaves zeros, nobody's face, as they are
        return self.norm(self.proj(face).unflatten(-1, (-1, self.width)))


class FacePlusTokens(FaceTokens):
    """FaceID-plus: the face tokens ask CLIP's tokens. Version 2 adds the answer to them."""

    def __init__(
        self,
        sizes: tuple[int, int, int, int],
        resampler: ResamplerDims,
        shortcut: float | None,
        operations: Any = nn,
        **factory: Any,
    ) -> None:
        super().__init__(*sizes, operations, **factory)
        self.perceiver_resampler = Resampler(resampler, operations, **factory)
        self.shortcut = shortcut
        """Weight of the answer beside the face tokens; None: the answer alone (version 1)."""

    def forward(self, features: Features) -> Tensor:
        tokens = super().forward(features)
        answer = self.perceiver_resampler(features["patches"], tokens)
        return answer if self.shortcut is None else tokens + self.shortcut * answer


def find_variant(shapes: Shapes, has_lora: bool, version: int, what: str, wanted: str) -> Variant:
    """Which public variant the `image_proj` tensors are. Raises ValueError when none.

    version: 1 or 2, of FaceID-plus, whose two versions have the same tensors.
    """

    def read(key: str) -> tuple[int, ...]:
        return shape_of(shapes, key, 2, what, wanted)

    if "latents" in shapes:
        dims = resampler_dims(shapes, what, wanted)
        make = partial(LatentTokens, dims)
        return Variant("plus", {"patches": dims.context}, dims.latents, dims.output, make)
    if "proj.weight" in shapes:
        rows, clip = read("proj.weight")
        width, tokens = _split_rows(shapes, "norm.weight", rows, what, wanted)
        make = partial(PooledTokens, clip, tokens, width)
        return Variant("base", {"pooled": clip}, tokens, width, make)
    hidden, entry = read("proj.0.weight")
    rows = read("proj.2.weight")[0]
    if "proj.3.weight" in shapes:
        make = partial(PatchTokens, entry, hidden, rows)
        return Variant("full-face", {"patches": entry}, 0, rows, make)
    width, tokens = _split_rows(shapes, "norm.weight", rows, what, wanted)
    sizes = (entry, hidden, tokens, width)
    prefix = "perceiver_resampler."
    inner = {key[len(prefix) :]: shape for key, shape in shapes.items() if key.startswith(prefix)}
    if not inner:
        name = "FaceID" if has_lora else "FaceID-portrait"
        return Variant(name, {"face": entry}, tokens, width, partial(FaceTokens, *sizes))
    dims = resampler_dims(inner, f"{what} ({prefix}*)", wanted)
    if dims.dim != width or dims.output != width:
        raise ValueError(
            f"{what} does not fit together: its face tokens have {width} channels, its resampler "
            f"works in {dims.dim} and makes {dims.output}. Use the unmodified {wanted}."
        )
    make = partial(FacePlusTokens, sizes, dims, None if version == 1 else 1.0)
    reads: dict[Source, int] = {"face": entry, "patches": dims.context}
    return Variant(f"FaceID-plus v{version}", reads, tokens, width, make)


def _split_rows(shapes: Shapes, norm: str, rows: int, what: str, wanted: str) -> tuple[int, int]:
    """Width of a token and number of tokens, of a layer that makes all tokens at once."""
    width = shape_of(shapes, norm, 1, what, wanted)[0]
    if rows % width:
        raise ValueError(
            f"{what} makes {rows} channels, expected whole tokens of {width}. Use the unmodified "
            f"{wanted}."
        )
    return width, rows // width
