"""FaceCLIP's fuser: text and face tokens attend to each other; the text is returned.

Six stages of (cross-attention both ways, self-attention on text, a layer on the face), the feature
enhancer of Grounding DINO (arXiv 2303.05499). Only what reaches the text is built: a quarter of
the published parameters never does. Key names are the published ones after the file's prefix, with
the packed attention weights split by `live_tensors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..files.checks import Shapes, count_layers, shape_of

HEADS = 4
"""Of the cross-attention and of the attention on text."""
DEFORMABLE_HEADS, POINTS = 8, 4
_STAGES = "fuser.encoder."


@dataclass(frozen=True)
class FuserDims:
    """Sizes: text `width`, face token `face` width, `inner` cross-attention width, `stages`."""

    width: int
    face: int
    inner: int
    text_ffn: int
    face_ffn: int
    stages: int
    positions: int
    """Longest text."""
    deformable: bool
    """Whether the face layers sample neighbouring patches (FaceCLIP) or not (FaceT5)."""
    grid: int = 12


def fuser_dims(shapes: Shapes, what: str, wanted: str) -> FuserDims:
    """Read the sizes off the published tensors (keys without prefix). Raises ValueError."""

    def size(key: str, rank: int = 2) -> tuple[int, ...]:
        return shape_of(shapes, key, rank, what, wanted)

    width, face = size("face_patch_proj.weight")
    inner = size(f"{_STAGES}fusion_layers.0.attn.l_proj.weight")[0]
    stages = count_layers(shapes, f"{_STAGES}fusion_layers.", what, wanted)
    deformable = f"{_STAGES}layers.0.self_attn.sampling_offsets.weight" in shapes
    heads = DEFORMABLE_HEADS if deformable else HEADS
    if width % heads or inner % HEADS or stages < 2:
        raise ValueError(
            f"{what} has an unusable fuser: width {width} and {inner} for {heads} and {HEADS} "
            f"heads, {stages} stages (at least 2). Use {wanted}."
        )
    return FuserDims(
        width,
        face,
        inner,
        size(f"{_STAGES}text_layers.0.linear1.weight")[0],
        size(f"{_STAGES}layers.0.linear1.weight")[0],
        stages,
        size("positional_embedding", 2 if deformable else 3)[-2],
        deformable,
    )


def live_tensors(tensors: Mapping[str, Tensor], dims: FuserDims) -> dict[str, Tensor]:
    """The published tensors (keys without prefix) that reach the text, named as in `Fuser`.

    Packed projections are split: text needs query and key together and value apart, FaceT5's face
    layers only ever use the value.
    """
    wanted = Fuser(dims, nn, device="meta").state_dict()
    found = {}
    for key, tensor in tensors.items():
        for name, value in _unpack(key, tensor, dims):
            if name in wanted:
                found[name] = value
    return found


def _unpack(key: str, tensor: Tensor, dims: FuserDims) -> list[tuple[str, Tensor]]:
    stem, packed, kind = key.partition(".self_attn.in_proj_")
    if not packed or tensor.ndim == 0:
        return [(key, tensor)]
    stem += ".self_attn"
    value = (f"{stem}.v.{kind}", tensor[-dims.width :])
    return (
        [value]
        if ".text_layers." not in key
        else [(f"{stem}.qk.{kind}", tensor[: -dims.width]), value]
    )


class Fuser(nn.Module):
    """text (B, T, D), face tokens (B or 1, 144, C) -> fused text (B, T, D).

    FaceCLIP also reads the positions of its text tower and of its face encoder; FaceT5 brings its
    own for text and has none for the face. Rows never mix (the authors' code mixes them).
    """

    def __init__(self, dims: FuserDims, operations: Any = nn, **factory: Any) -> None:
        super().__init__()
        self.dims = dims
        width = dims.width
        shape = (dims.positions, width) if dims.deformable else (1, dims.positions, width)
        empty = torch.empty(shape, **factory)
        self.positional_embedding = nn.Parameter(empty, requires_grad=False)
        self.face_patch_proj = operations.Linear(dims.face, width, **factory)
        if dims.deformable:
            self.face_pos_proj = operations.Linear(dims.face, width, **factory)
            self.text_embed_proj = operations.Linear(width, width, **factory)
            self.text_pos_proj = operations.Linear(width, width, **factory)
        self.fuser = nn.ModuleDict({"encoder": _Stages(dims, operations, **factory)})

    def forward(self, text: Tensor, face: Tensor, face_positions: Tensor | None = None) -> Tensor:
        """face_positions (1, 144, C): the face encoder's, FaceCLIP only."""
        positions = self.positional_embedding.to(text).reshape(1, -1, self.dims.width)
        positions = positions[:, : text.shape[1]]
        face = self.face_patch_proj(face)
        place = None
        if self.dims.deformable:
            text, positions = self.text_embed_proj(text), self.text_pos_proj(positions)
            place = self.face_pos_proj(face_positions)
        face = face.expand(len(text), -1, -1)
        return self.fuser["encoder"](text, face, positions, place)


class _Stages(nn.Module):
    def __init__(self, dims: FuserDims, operations: Any, **factory: Any) -> None:
        super().__init__()
        last = dims.stages - 1
        make_face = _DeformableFace if dims.deformable else _PlainFace
        self.fusion_layers = nn.ModuleList(
            _Exchange(dims, index < last, operations, **factory) for index in range(dims.stages)
        )
        self.text_layers = nn.ModuleList(
            _Layer(
                dims.width,
                dims.text_ffn,
                _TextAttention(dims, operations, **factory),
                operations,
                **factory,
            )
            for _ in range(dims.stages)
        )
        self.layers = nn.ModuleList(
            _Layer(
                dims.width,
                dims.face_ffn,
                make_face(dims, operations, **factory),
                operations,
                **factory,
            )
            for _ in range(last)
        )

    def forward(self, text: Tensor, face: Tensor, positions: Tensor, place: Any) -> Tensor:
        for exchange, on_text, on_face in zip(
            self.fusion_layers, self.text_layers, [*self.layers, None], strict=True
        ):
            face, text = exchange(face, text)
            text = on_text(text, positions)
            if on_face is not None:
                face = on_face(face, place)
        return text


class _Exchange(nn.Module):
    """Cross-attention both ways. The residual starts from the normalised tensors."""

    def __init__(self, dims: FuserDims, to_face: bool, operations: Any, **factory: Any) -> None:
        super().__init__()
        width, inner = dims.width, dims.inner
        self.layer_norm_v = operations.LayerNorm(width, **factory)
        self.layer_norm_l = operations.LayerNorm(width, **factory)
        inward = ["v_proj", "l_proj", "values_v_proj", *(["values_l_proj"] if to_face else [])]
        outward = ["out_l_proj", *(["out_v_proj"] if to_face else [])]
        attn = {name: operations.Linear(width, inner, **factory) for name in inward}
        attn |= {name: operations.Linear(inner, width, **factory) for name in outward}
        self.attn = nn.ModuleDict(attn)
        for name in ["gamma_l", *(["gamma_v"] if to_face else [])]:
            empty = torch.empty(width, **factory)
            setattr(self, name, nn.Parameter(empty, requires_grad=False))

    def forward(self, face: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        face, text = self.layer_norm_v(face), self.layer_norm_l(text)
        keys_v, keys_l = (
            _split_heads(self.attn["v_proj"](face)),
            _split_heads(self.attn["l_proj"](text)),
        )
        seen = F.scaled_dot_product_attention(
            keys_l, keys_v, _split_heads(self.attn["values_v_proj"](face))
        )
        new_text = text + self.gamma_l.to(text) * self.attn["out_l_proj"](_join_heads(seen))
        if hasattr(self, "gamma_v"):
            values_l = _split_heads(self.attn["values_l_proj"](text))
            read = F.scaled_dot_product_attention(keys_v, keys_l, values_l)
            face = face + self.gamma_v.to(face) * self.attn["out_v_proj"](_join_heads(read))
        return face, new_text


class _Layer(nn.Module):
    """A post-norm transformer layer around any attention."""

    def __init__(
        self, width: int, ffn: int, attention: nn.Module, operations: Any, **factory: Any
    ) -> None:
        super().__init__()
        self.self_attn = attention
        self.norm1 = operations.LayerNorm(width, **factory)
        self.norm2 = operations.LayerNorm(width, **factory)
        self.linear1 = operations.Linear(width, ffn, **factory)
        self.linear2 = operations.Linear(ffn, width, **factory)

    def forward(self, x: Tensor, positions: Tensor | None) -> Tensor:
        x = self.norm1(x + self.self_attn(x, positions))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


class _TextAttention(nn.Module):
    """Full attention, padding included; positions count for query and key only."""

    def __init__(self, dims: FuserDims, operations: Any, **factory: Any) -> None:
        super().__init__()
        width = dims.width
        self.qk = operations.Linear(width, 2 * width, **factory)
        self.v = operations.Linear(width, width, **factory)
        self.out_proj = operations.Linear(width, width, **factory)

    def forward(self, text: Tensor, positions: Tensor) -> Tensor:
        q, k = self.qk(text + positions).chunk(2, dim=-1)
        out = F.scaled_dot_product_attention(
            _split_heads(q), _split_heads(k), _split_heads(self.v(text))
        )
        return self.out_proj(_join_heads(out))


class _PlainFace(nn.Module):
    """FaceT5's face layer for one face: its attention sees one token, so only values remain."""

    def __init__(self, dims: FuserDims, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.v = operations.Linear(dims.width, dims.width, **factory)
        self.out_proj = operations.Linear(dims.width, dims.width, **factory)

    def forward(self, face: Tensor, _: None) -> Tensor:
        return self.out_proj(self.v(face))


class _DeformableFace(nn.Module):
    """Each patch reads four points per head of the patch map, at learned offsets."""

    def __init__(self, dims: FuserDims, operations: Any, **factory: Any) -> None:
        super().__init__()
        width, points = dims.width, DEFORMABLE_HEADS * POINTS
        self.grid = dims.grid
        self.sampling_offsets = operations.Linear(width, 2 * points, **factory)
        self.attention_weights = operations.Linear(width, points, **factory)
        self.value_proj = operations.Linear(width, width, **factory)
        self.output_proj = operations.Linear(width, width, **factory)

    def forward(self, face: Tensor, place: Tensor) -> Tensor:
        rows, tokens, _ = face.shape
        query = face + place
        offsets = self.sampling_offsets(query).reshape(rows, tokens, DEFORMABLE_HEADS, POINTS, 2)
        weights = (
            self.attention_weights(query).unflatten(-1, (DEFORMABLE_HEADS, POINTS)).softmax(-1)
        )
        # (rows · heads, channels, 12, 12), sampled at (rows · heads, tokens, points)
        maps = self.value_proj(face).unflatten(-1, (DEFORMABLE_HEADS, -1)).permute(0, 2, 3, 1)
        maps = maps.flatten(0, 1).unflatten(-1, (self.grid, self.grid))
        where = (self._centres(face) + offsets) / self.grid * 2 - 1
        where = where.transpose(1, 2).flatten(0, 1)
        taken = F.grid_sample(maps, where.to(maps), padding_mode="zeros", align_corners=False)
        taken = (taken * weights.transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)
        return self.output_proj(taken.unflatten(0, (rows, -1)).flatten(1, 2).transpose(1, 2))

    def _centres(self, face: Tensor) -> Tensor:
        """(1, 144, 1, 1, 2): x, y of every patch's centre, in patches."""
        axis = torch.arange(self.grid, device=face.device, dtype=face.dtype) + 0.5
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        return torch.stack((x, y), dim=-1).reshape(1, -1, 1, 1, 2)


def _split_heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def _join_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)
