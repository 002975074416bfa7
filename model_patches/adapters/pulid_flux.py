"""Open a PuLID-FLUX file: the identity encoder and the cross-attention layers it feeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import comfy.model_management
import comfy.model_patcher
import torch
from torch import Tensor

from ..files.checks import (
    MAX_HEAD,
    MIN_HEAD,
    Shapes,
    check_finite,
    check_floating,
    check_shapes,
    count_layers,
    shape_of,
    shapes_of,
)
from ..files.kinds import check_prefixes, require, select_part
from ..files.modules import build
from ..files.public_files import PULID_FLUX_091
from ..files.tensor_file import TensorFile, digest, read_weights, tensors_digest
from .adapter_delta import complete_delta
from .flux_lora import LORA, read_lora
from .idformer import IDFormer, IDFormerDims, idformer_dims

FAMILY = "pulid_flux"
NAME = "a PuLID adapter"
HEAD = 128
HEADS_KEY = "flexid.cross_attention_heads"
BLOCKS_KEY = "flexid.cross_attention_blocks"
"""Metadata entry of files that anchor elsewhere than PuLID's do: "double 0, double 1, single 3"."""
WANTED = f"{PULID_FLUX_091.file} from {PULID_FLUX_091.url}, in models/pulid"

Blocks = tuple[tuple[str, int], ...]
"""Kind and number of the block behind which each layer stands."""
_KINDS = {"double": "double_block", "single": "single_block"}

ENCODER = "pulid_encoder."
ATTENTION = "pulid_ca."


@dataclass(frozen=True, eq=False)
class IdentityAdapter:
    """A loaded adapter. ComfyUI owns the encoder's weights through `encoder`.

    The cross-attention stays as plain CPU tensors in the file's dtype (memory-mapped where the
    format allows): sampling uses projections folded per identity, not these.
    """

    family: str
    name: str
    """File name."""
    digest: str
    """Content digest of the file, see `tensor_file.digest`."""
    encoder_digest: str
    """Digest of the encoder's tensors alone: files that share an encoder (PuLID 0.9.0 and
    EditIDv2) share it, and identity tokens of one fit the other."""
    encoder: comfy.model_patcher.ModelPatcher
    """Holds an IDFormer."""
    cross_attention: Mapping[str, Tensor]
    """Keys "0.norm1.weight" ...: norm1 acts on identity tokens, norm2 on image tokens."""
    heads: int
    """Attention heads of each cross-attention layer."""
    path: Path | None = None
    """Where the file is; None for an adapter that was made in memory."""
    blocks: Blocks | None = None
    """Where its layers stand, for a file that says so; None: where PuLID's do."""
    lora: Mapping[str, Tensor] = field(default_factory=lambda: MappingProxyType({}))
    """Weight patches of the base model by ComfyUI's names (flux_lora.py); none in PuLID's files."""

    @property
    def patcher(self) -> comfy.model_patcher.ModelPatcher:
        """Where ComfyUI's caches look for a model's patcher."""
        return self.encoder

    @property
    def count(self) -> int:
        """Number of cross-attention layers."""
        return sum(key.endswith(".to_q.weight") for key in self.cross_attention)

    @property
    def dim(self) -> int:
        """Channels of the image tokens the layers act on."""
        return self.cross_attention["0.norm2.weight"].shape[0]

    @property
    def token_dim(self) -> int:
        """Channels of an identity token."""
        return self.cross_attention["0.norm1.weight"].shape[0]

    @property
    def tokens(self) -> int:
        """Identity tokens per encoded person."""
        return self.encoder.model.dims.queries


@dataclass(frozen=True, eq=False)
class AdapterFile:
    """A PuLID-FLUX file with the right tensors, which is not loaded. Its values are unread."""

    file: TensorFile
    heads: int
    digest: str
    encoder_digest: str
    blocks: Blocks | None
    """All three as in `IdentityAdapter`."""


class HasEncoder(Protocol):
    """A PuLID adapter for any kind of model."""

    @property
    def encoder(self) -> comfy.model_patcher.ModelPatcher: ...


def load_adapter(path: str | Path) -> IdentityAdapter:
    """Open a PuLID-FLUX file of any size. Raises FileNotFoundError or ValueError.

    Every other kind of file is refused with what it is and what to use instead; missing, extra
    and misshapen tensors are counted and named.
    """
    file = _open_file(path)
    attention = _select(file, ATTENTION)
    heads = _check_attention(file, attention)
    check_finite(attention, f"{file.path.name} ({ATTENTION}*)", WANTED)
    encoder = _build_encoder(file, False)
    _check_fit(file, attention, encoder.model.dims)
    return IdentityAdapter(
        family=FAMILY,
        name=file.path.name,
        digest=digest(file.path),
        encoder_digest=tensors_digest(_select(file, ENCODER)),
        encoder=encoder,
        cross_attention=MappingProxyType(attention),
        heads=heads,
        path=file.path,
        blocks=_read_blocks(file, attention),
        lora=MappingProxyType(read_lora(file, WANTED)),
    )


def open_adapter_file(path: str | Path) -> AdapterFile:
    """Check a file as `load_adapter` does, but read no more than its digests need, and no module
    is built. That all values are finite is left to whoever reads them. Raises FileNotFoundError or
    ValueError."""
    file = _open_file(path)
    attention, encoder = _select(file, ATTENTION), _select(file, ENCODER)
    heads = _check_attention(file, attention)
    what = f"{file.path.name} ({ENCODER}*)"
    dims = idformer_dims(shapes_of(encoder), what, WANTED)
    check_floating(encoder, what, WANTED)
    expected = IDFormer(dims, device="meta").state_dict()
    check_shapes(shapes_of(encoder), shapes_of(expected), what, WANTED)
    _check_fit(file, attention, dims)
    blocks = _read_blocks(file, attention)
    return AdapterFile(file, heads, digest(file.path), tensors_digest(encoder), blocks)


def open_without_lora(path: str | Path) -> AdapterFile:
    """`open_adapter_file` for merges and trainings, which can make nothing of a LoRA for the base.

    Raises as it does, and ValueError for a file that holds one.
    """
    opened = open_adapter_file(path)
    if any(key.startswith(LORA) for key in opened.file.tensors):
        raise ValueError(
            f"{opened.file.path.name} holds a LoRA for the base model beside the adapter, which "
            f"can neither be merged nor trained on. Use {WANTED}."
        )
    return opened


def load_encoder(
    path: str | Path, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """The IDFormer alone, for ComfyUI to rebuild it from the file (second device, hooks)."""
    return _build_encoder(_open_file(path), disable_dynamic)


def encode_tokens(
    adapter: HasEncoder,
    condition: Tensor,
    hidden: Tensor,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Run an adapter's encoder in float32; arguments as in `IDFormer`. Returns CPU float32 tokens.

    weights: for an IDFormer only.
    """
    patcher = adapter.encoder
    activations = 24 * 4 * hidden[:, 0].numel()
    comfy.model_management.load_models_gpu([patcher], memory_required=activations)
    device = patcher.load_device
    with torch.no_grad():
        inputs = (condition.to(device, torch.float32), hidden.to(device, torch.float32))
        tokens = patcher.model(*inputs, *(() if weights is None else (weights,)))
    return tokens.cpu()


def _open_file(path: str | Path) -> TensorFile:
    file = read_weights(path, WANTED)
    require(file, (FAMILY,), WANTED)
    file = complete_delta(file, WANTED)
    check_prefixes(file, (ENCODER, ATTENTION, LORA), f"{NAME} for Flux", WANTED)
    return file


def _select(file: TensorFile, prefix: str) -> dict[str, Tensor]:
    return select_part(file, (prefix,), NAME, WANTED)


def _build_encoder(file: TensorFile, disable_dynamic: bool) -> comfy.model_patcher.ModelPatcher:
    tensors = _select(file, ENCODER)
    what = f"{file.path.name} ({ENCODER}*)"
    dims = idformer_dims(shapes_of(tensors), what, WANTED)
    rebuild = (load_encoder, (file.path,))
    return build(partial(IDFormer, dims), tensors, what, WANTED, rebuild, disable_dynamic)


def attention_shapes(count: int, dim: int, token_dim: int, inner: int) -> Shapes:
    """The tensors of `count` cross-attention layers (keys without `pulid_ca.`)."""
    layer = {
        "norm1.weight": (token_dim,),
        "norm1.bias": (token_dim,),
        "norm2.weight": (dim,),
        "norm2.bias": (dim,),
        "to_q.weight": (inner, dim),
        "to_kv.weight": (2 * inner, token_dim),
        "to_out.weight": (dim, inner),
    }
    return {f"{index}.{key}": shape for index in range(count) for key, shape in layer.items()}


def _check_attention(file: TensorFile, attention: Mapping[str, Tensor]) -> int:
    """Strict match of the cross-attention tensors; returns the number of heads."""
    what = f"{file.path.name} ({ATTENTION}*)"
    check_floating(attention, what, WANTED)
    shapes = shapes_of(attention)
    inner, dim = shape_of(shapes, "0.to_q.weight", 2, what, WANTED)
    token_dim = shape_of(shapes, "0.to_kv.weight", 2, what, WANTED)[1]
    count = count_layers(shapes, "", what, WANTED)
    check_shapes(shapes, attention_shapes(count, dim, token_dim, inner), what, WANTED)
    return _read_heads(file, inner, what)


def _read_heads(file: TensorFile, inner: int, what: str) -> int:
    """Heads as the metadata states them, else of the published width. Raises ValueError."""
    text = file.metadata.get(HEADS_KEY, str(inner // HEAD))
    heads = int(text) if re.fullmatch(r"[1-9][0-9]{0,4}", text) else 0
    if heads == 0 or inner % heads or not MIN_HEAD <= inner // heads <= MAX_HEAD:
        raise ValueError(
            f"{what} has attention width {inner} and {text[:20]} heads; expected a multiple of "
            f"{HEAD}, or in the metadata {HEADS_KEY!r} a number that divides it into heads of "
            f"{MIN_HEAD} to {MAX_HEAD} channels. Use the unmodified {WANTED}."
        )
    return heads


def state_blocks(blocks: Blocks | None) -> dict[str, str]:
    """The metadata of a file whose layers stand behind these blocks; none for PuLID's places."""
    if blocks is None:
        return {}
    words = {kind: word for word, kind in _KINDS.items()}
    return {BLOCKS_KEY: ", ".join(f"{words[kind]} {number}" for kind, number in blocks)}


def _read_blocks(file: TensorFile, attention: Mapping[str, Tensor]) -> Blocks | None:
    """Where the layers stand, as the metadata say. Raises ValueError for what is no such list."""
    text = file.metadata.get(BLOCKS_KEY)
    if text is None:
        return None
    found = [re.fullmatch(r"(double|single) (0|[1-9][0-9]{0,3})", one) for one in text.split(", ")]
    blocks = tuple((_KINDS[one[1]], int(one[2])) for one in found if one)
    count = count_layers(shapes_of(attention), "", file.path.name, WANTED)
    if not len(found) == len(blocks) == len(set(blocks)) == count:
        raise ValueError(
            f"{file.path.name} has {count} cross-attention layers, and its metadata "
            f"({BLOCKS_KEY}) say {text[:80]!r}; expected {count} different blocks such as 'double "
            "0, single 3'. Copy or train the file again."
        )
    return blocks


def _check_fit(file: TensorFile, attention: Mapping[str, Tensor], dims: IDFormerDims) -> None:
    token_dim = attention["0.to_kv.weight"].shape[1]
    if token_dim != dims.output:
        raise ValueError(
            f"{file.path.name} does not fit together: its encoder makes tokens of "
            f"{dims.output} channels, its cross-attention takes {token_dim}. "
            f"Use the unmodified {WANTED}."
        )
