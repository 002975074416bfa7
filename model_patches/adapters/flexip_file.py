"""FlexIP files, the pack's own format: one safetensors.

`preserve.detail.*`, `preserve.overall.*` and `personal.*` are resamplers. Version 1, for every
cross-attention of a UNet: `blocks.<kind>.<block>.<depth>.<stream>.to_k.weight` and `.to_v.weight`.
Version 2, for blocks of a Flux: see flexip_flux.py. The metadata are those of flexip_settings.py.
The paper (arXiv 2504.07405) published no file.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

import comfy.model_patcher
from torch import Tensor

from ..files.atomic import replacing
from ..files.checks import Shapes, check_finite, check_floating
from ..files.kinds import require
from ..files.modules import build
from ..files.stream import write_streamed
from ..files.tensor_file import TensorFile, digest, read_weights, tensors_digest
from .flexip import CHUNK, FAMILY, Block, FlexIPAdapter, FlexIPMaker, FluxStream, Stream
from .flexip_flux import read_flux_streams
from .flexip_settings import FlexIPSettings, read_settings, settings_of
from .ip_tokens import Source
from .resampler import ResamplerDims, resampler_dims

WANTED = "FlexIP file as its trainer exported it, in models/flexid"

_DETAIL, _OVERALL, _PERSONAL = "preserve.detail.", "preserve.overall.", "personal."
_BLOCKS, _NULL = "blocks.", "null.preserve"
_KINDS = ("input", "output", "middle")


def load_flexip(path: str | Path) -> FlexIPAdapter:
    """Open a FlexIP file. Raises FileNotFoundError or ValueError.

    Sizes are read from the tensors; missing and misshapen ones are counted and named, and the
    metadata must agree. Tensors of unknown names are left out with a line in the log.
    """
    file = _open_file(path)
    settings = read_settings(file)
    dims = _read_dims(file, settings)
    detail, overall, personal = dims
    maker = _select(file, _DETAIL, _OVERALL, _PERSONAL)
    own = personal is not None and settings.needs_personal_layers
    if settings.on_flux:
        widths = {"preserve": detail.output}
        widths |= {} if personal is None else {"personal": personal.output}
        blocks = _select(file, _BLOCKS)
        what = f"{file.path.name} ({_BLOCKS}*)"
        preserve, stream = read_flux_streams(blocks, widths, settings.heads, what, WANTED)
    else:
        preserve = _read_stream(file, "preserve", detail.output)
        stream = _read_stream(file, "personal", detail.output) if own else None
    _check_together(file, settings, dims, preserve, stream)
    check_finite(_select(file, _NULL), f"{file.path.name} ({_NULL})", WANTED)
    reads: dict[Source, int] = {"context": detail.context}
    if overall is not None:
        reads["pooled"] = overall.query
    return FlexIPAdapter(
        name=file.path.name,
        digest=digest(file.path),
        encoder_digest=tensors_digest(_select(file, _DETAIL, _OVERALL)),
        variant="FlexIP" if personal is not None else "FlexIP, preservation only",
        settings=settings,
        encoder=_build_maker(file, maker, dims, settings.text_tokens, False),
        reads=MappingProxyType(reads),
        tokens=_count_tokens(dims),
        width=detail.output,
        preserve=preserve,
        personal=stream,
        null=file.tensors.get(_NULL),
    )


def load_maker(path: str | Path, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """The token makers alone, for ComfyUI to rebuild them from the file (second device, hooks)."""
    file = _open_file(path)
    settings = read_settings(file)
    maker = _select(file, _DETAIL, _OVERALL, _PERSONAL)
    dims = _read_dims(file, settings)
    return _build_maker(file, maker, dims, settings.text_tokens, disable_dynamic)


def save_flexip(path: Path, tensors: Mapping[str, Tensor], settings: FlexIPSettings) -> None:
    """Write a FlexIP file, whole or not at all; the same contents are the same bytes. Raises
    OSError."""
    layout = {name: (value.dtype, tuple(value.shape)) for name, value in tensors.items()}
    with replacing(path) as temporary:
        metadata = dict(sorted(settings_of(settings).items()))
        write_streamed(temporary, layout, lambda name: tensors[name].cpu(), metadata)


def _open_file(path: str | Path) -> TensorFile:
    file = read_weights(path, WANTED)
    require(file, (FAMILY,), WANTED)
    known = (_DETAIL, _OVERALL, _PERSONAL, _BLOCKS)
    foreign = [key for key in file.tensors if not key.startswith(known) and key != _NULL]
    if foreign:
        names = ", ".join(foreign[:3])
        logging.warning(f"{file.path.name}: {len(foreign)} unknown tensors are left out ({names}).")
    return file


def _select(file: TensorFile, *prefixes: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in file.tensors.items() if key.startswith(prefixes)}


def _strip(tensors: Mapping[str, Tensor], prefix: str) -> Shapes:
    return {key[len(prefix) :]: tuple(t.shape) for key, t in tensors.items()}


def _read_dims(
    file: TensorFile, settings: FlexIPSettings
) -> tuple[ResamplerDims, ResamplerDims | None, ResamplerDims | None]:
    """Sizes of the detail, overall and personal resamplers."""
    found = []
    for prefix in (_DETAIL, _OVERALL, _PERSONAL):
        shapes = _strip(_select(file, prefix), prefix)
        what = f"{file.path.name} ({prefix}*)"
        needed = prefix == _DETAIL
        present = resampler_dims(shapes, what, WANTED, settings.head_dim) if shapes else None
        if needed and (present is None or not present.latents):
            raise ValueError(
                f"{what} has no learned queries (latents). Use the unmodified {WANTED}."
            )
        if present is not None and not needed and not present.query:
            raise ValueError(
                f"{what} has no tensor proj_query.weight. Use the unmodified {WANTED}."
            )
        found.append(present)
    return tuple(found)


def _count_tokens(dims: tuple) -> int:
    detail, overall, _ = dims
    return detail.latents + (overall.spread if overall else 0)


def _build_maker(
    file: TensorFile,
    tensors: Mapping[str, Tensor],
    dims: tuple,
    chunk: int,
    disable_dynamic: bool,
) -> comfy.model_patcher.ModelPatcher:
    make = partial(FlexIPMaker, *dims, chunk=chunk)
    rebuild = (load_maker, (file.path,))
    return build(make, tensors, file.path.name, WANTED, rebuild, disable_dynamic)


def _read_stream(file: TensorFile, name: str, width: int) -> Stream:
    """The keys and values of one stream, with the blocks that the keys name."""
    middle = f".{name}."
    held = {
        key.removeprefix(_BLOCKS): tensor
        for key, tensor in file.tensors.items()
        if key.startswith(_BLOCKS) and middle in key
    }
    what = f"{file.path.name} ({_BLOCKS}*{middle}*)"
    check_floating(held, what, WANTED)
    check_finite(held, what, WANTED)
    blocks = sorted({key.split(middle)[0] for key in held})
    names = [f"{block}{middle}{part}.weight" for block in blocks for part in ("to_k", "to_v")]
    bad = [name for name in names if name not in held or held[name].ndim != 2]
    bad += [name for name in names if name in held and held[name].shape[-1] != width]
    bad += [name for name in held if name not in names]
    if bad or not blocks:
        raise ValueError(
            f"{what} has {len(bad)} missing or misshapen tensors of {len(names)} "
            f"({', '.join(bad[:3]) or 'none is there'}), expected to_k and to_v of {width} "
            f"channels for each block. Use the unmodified {WANTED}."
        )
    return Stream(
        tuple(held[f"{block}{middle}to_k.weight"] for block in blocks),
        tuple(held[f"{block}{middle}to_v.weight"] for block in blocks),
        tuple(_read_block(block, what) for block in blocks),
    )


def _read_block(text: str, what: str) -> Block:
    kind, *numbers = text.split(".")
    if kind not in _KINDS or len(numbers) != 2 or not all(n.isdecimal() for n in numbers):
        raise ValueError(
            f"{what} names a block {text[:40]!r}, expected input, middle or output, the block and "
            f"the transformer block, such as input.1.0. Use the unmodified {WANTED}."
        )
    return kind, int(numbers[0][:6]), int(numbers[1][:6])


def _check_together(
    file: TensorFile,
    settings: FlexIPSettings,
    dims: tuple,
    preserve: Stream | FluxStream,
    personal: Stream | FluxStream | None,
) -> None:
    """The parts of one file must fit each other."""
    detail, overall, asked = dims
    problems = []
    if asked is not None and overall is None:
        problems.append("personal is there without preserve.overall, expected both")
    if overall is not None and (overall.context, overall.output) != (detail.context, detail.output):
        problems.append(
            f"preserve.overall reads {overall.context} and makes {overall.output} channels, "
            f"preserve.detail {detail.context} and {detail.output}"
        )
    text = asked.query if asked is not None and settings.on_flux else detail.output
    if asked is not None and (asked.query, asked.output) != (text, text):
        problems.append(
            f"personal takes {asked.query} and makes {asked.output} channels, expected the text's "
            f"{text}"
        )
    if overall is not None and asked is not None and asked.context != overall.query:
        problems.append(
            f"personal reads a class token of {asked.context} channels, preserve.overall one of "
            f"{overall.query}"
        )
    if personal is not None and personal.blocks != preserve.blocks:
        counts = [len(one.blocks or ()) for one in (personal, preserve)]
        problems.append(f"personal has {counts[0]} blocks, preserve {counts[1]}")
    tokens, null = _count_tokens(dims), file.tensors.get(_NULL)
    if settings.fusion == "tokens" and tokens != CHUNK:
        problems.append(f"fusion=tokens with {tokens} preservation tokens, expected {CHUNK}")
    if null is not None and tuple(null.shape) != (1, tokens, detail.output):
        problems.append(f"{_NULL} is {tuple(null.shape)}, expected {(1, tokens, detail.output)}")
    if problems:
        raise ValueError(
            f"{file.path.name} does not fit together: {'; '.join(problems)}. Use the "
            f"unmodified {WANTED}."
        )
