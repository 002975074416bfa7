"""FaceCLIP's own text towers (MetaCLIP, L and bigG): words and a face -> last states.

Not the towers of Stable Diffusion checkpoints: other weights, last layer, padding by token 0.
Key names are those of OpenCLIP. Source: github.com/bytedance/FaceCLIP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from comfy.sd1_clip import SDTokenizer
from torch import Tensor, nn

from ..files.checks import Shapes, count_layers, shape_of

HEAD = 64
LENGTH = 77
PREFIX = (1125, 539, 320, 1014, 2533, 269)
"""Photo of a id person."""
ID_PLACE = 4
"""Where "id" is once the start token is in front: its embedding is replaced by the face."""
START, END = 49406, 49407
BIG_G_WIDTH = 1280


@dataclass(frozen=True)
class TextDims:
    width: int
    depth: int
    mlp: int
    words: int
    quick: bool
    """QuickGELU (L) or GELU (bigG)."""


def text_dims(shapes: Shapes, what: str, wanted: str) -> TextDims:
    """Read the sizes off the tensors (keys without the file's prefix). Raises ValueError."""
    words, width = shape_of(shapes, "token_embedding.weight", 2, what, wanted)
    mlp = shape_of(shapes, "transformer.resblocks.0.mlp.c_fc.weight", 2, what, wanted)[0]
    if width % HEAD:
        raise ValueError(f"{what} has text of width {width}, not a multiple of {HEAD}. {wanted}")
    depth = count_layers(shapes, "transformer.resblocks.", what, wanted)
    return TextDims(width, depth, mlp, words, width < BIG_G_WIDTH)


class FaceText(nn.Module):
    """tokens (B, 77) and a face vector (1, 512) -> states (B, 77, D) after the last norm."""

    def __init__(self, dims: TextDims, face: int, operations: Any = nn, **factory: Any) -> None:
        super().__init__()
        width = dims.width
        self.token_embedding = operations.Embedding(dims.words, width, **factory)
        empty = torch.empty(LENGTH, width, **factory)
        self.positional_embedding = nn.Parameter(empty, requires_grad=False)
        blocks = [_Block(dims, operations, **factory) for _ in range(dims.depth)]
        self.transformer = nn.ModuleDict({"resblocks": nn.Sequential(*blocks)})
        self.ln_final = operations.LayerNorm(width, **factory)
        self.proj1 = operations.Linear(face, width, **factory)

    def forward(self, tokens: Tensor, face: Tensor) -> Tensor:
        x = self.token_embedding(tokens).to(face)
        x[:, ID_PLACE] = self.proj1(F.normalize(face, dim=-1))
        x = x + self.positional_embedding.to(x)
        return self.ln_final(self.transformer["resblocks"](x))


class _Block(nn.Module):
    def __init__(self, dims: TextDims, operations: Any, **factory: Any) -> None:
        super().__init__()
        width = dims.width
        self.quick, self.heads = dims.quick, width // HEAD
        self.ln_1 = operations.LayerNorm(width, **factory)
        self.ln_2 = operations.LayerNorm(width, **factory)
        self.attn = nn.ModuleDict(
            {
                "in_proj": operations.Linear(width, 3 * width, **factory),
                "out_proj": operations.Linear(width, width, **factory),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "c_fc": operations.Linear(width, dims.mlp, **factory),
                "c_proj": operations.Linear(dims.mlp, width, **factory),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        packed = self.attn["in_proj"](self.ln_1(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = packed.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn["out_proj"](seen.transpose(1, 2).flatten(2))
        hidden = self.mlp["c_fc"](self.ln_2(x))
        hidden = hidden * torch.sigmoid(1.702 * hidden) if self.quick else F.gelu(hidden)
        return x + self.mlp["c_proj"](hidden)


@cache
def _tokenizer() -> SDTokenizer:
    return SDTokenizer(pad_with_end=False)


def tokenize_prefixed(text: str) -> Tensor:
    """(chunks, 77) tokens of "Photo of a id person." and the text, chunk by chunk as ComfyUI cuts.

    The last words of a full chunk (six at most) find no room and are left out.
    """
    rows = []
    for chunk in _tokenizer().tokenize_with_weights(text, return_word_ids=True):
        words = [token for token, *_, word in chunk if word != 0 and isinstance(token, int)]
        kept: Sequence[int] = words[: LENGTH - 2 - len(PREFIX)]
        row = [START, *PREFIX, *kept, END]
        rows.append(row + [0] * (LENGTH - len(row)))
    return torch.tensor(rows)


def without_prefix(states: Tensor) -> Tensor:
    """(B, 77, D) of `prefixed` -> (1, B·77, D) in the places of the prompt's own tokens."""
    words = states[:, 1 + len(PREFIX) :]
    tail = torch.zeros_like(states[:, : len(PREFIX)])
    return torch.cat((states[:, :1], words, tail), dim=1).flatten(0, 1)[None]
