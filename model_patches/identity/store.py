"""Identities as files: one safetensors file each, readable without any encoder.

Tensors "tokens.<family>", "unconditional.<family>", "features.<name>", and the thumbnail as the
bytes of a PNG in "thumbnail.png". Metadata: format, version, provenance as JSON.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from ..files.kinds import require
from ..files.tensor_file import TensorFile, read_weights
from .identity import Identity

FORMAT = "identity"
VERSION = 1
WANTED = "a file written by the Save Identity node"

_FORMAT_KEY = "flexid.format"
_VERSION_KEY = "flexid.version"
_PROVENANCE_KEY = "flexid.provenance"
_THUMBNAIL = "thumbnail.png"


def save_identity(identity: Identity, path: str | Path, with_features: bool = True) -> Path:
    """Write the identity to `path`, atomically: readers see the old file or the whole new one.

    Replaces an existing file; choosing a free name is the caller's part. `with_features` False
    leaves out the raw photo features (some 6 MB per photo), which only fusion and other adapters
    need. Returns the path. Raises OSError when the folder cannot be written.
    """
    path = Path(path)
    metadata = {
        _FORMAT_KEY: FORMAT,
        _VERSION_KEY: str(VERSION),
        _PROVENANCE_KEY: json.dumps(dict(identity.provenance), ensure_ascii=False),
    }
    _write(path, safetensors.torch.save(_tensors(identity, with_features), metadata))
    return path


def load_identity(path: str | Path) -> Identity:
    """Read what `save_identity` wrote; tokens come back bit for bit.

    Raises FileNotFoundError, or ValueError for other files (named), newer formats, cut-short
    files and missing parts.
    """
    file = read_weights(path, WANTED)
    _check_format(file)
    tokens = _group(file.tensors, "tokens.")
    unconditional = _group(file.tensors, "unconditional.")
    if not tokens or set(tokens) != set(unconditional):
        raise ValueError(
            f"{file.path.name} is an incomplete identity: tokens for {sorted(tokens) or 'nothing'}"
            f", unconditional tokens for {sorted(unconditional) or 'nothing'}, expected the same "
            "families in both. Save the identity again."
        )
    return Identity(
        tokens=tokens,
        unconditional=unconditional,
        features=_group(file.tensors, "features."),
        thumbnail=_decode_png(file),
        provenance=_provenance(file),
    )


def _tensors(identity: Identity, with_features: bool) -> dict[str, Tensor]:
    groups = {"tokens": identity.tokens, "unconditional": identity.unconditional}
    if with_features:
        groups["features"] = identity.features
    tensors = {
        f"{group}.{name}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for group, members in groups.items()
        for name, tensor in members.items()
    }
    if identity.thumbnail is not None:
        tensors[_THUMBNAIL] = _encode_png(identity.thumbnail)
    return tensors


def _write(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _check_format(file: TensorFile) -> None:
    if file.metadata.get(_FORMAT_KEY) != FORMAT:
        require(file, FORMAT, WANTED)
        raise ValueError(
            f"{file.path.name} has identity tensors but not the metadata "
            f"{_FORMAT_KEY}={FORMAT}; another program rewrote it. Needed here: {WANTED}."
        )
    version = file.metadata.get(_VERSION_KEY, "")
    if not version.isdecimal() or int(version) > VERSION:
        raise ValueError(
            f"{file.path.name} has identity format {version or 'unknown'}, this FlexID reads up "
            f"to {VERSION}. Update FlexID, or save the identity again with this version."
        )


def _group(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Copies, so that the file can be replaced while the identity is in use."""
    return {k[len(prefix) :]: t.clone() for k, t in tensors.items() if k.startswith(prefix)}


def _provenance(file: TensorFile) -> dict[str, str]:
    try:
        entries = json.loads(file.metadata.get(_PROVENANCE_KEY, "{}"))
        return {str(key): str(value) for key, value in entries.items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"{file.path.name} has unreadable provenance ({_PROVENANCE_KEY} is not a JSON "
            "object). Save the identity again."
        ) from error


def _encode_png(picture: Tensor) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(picture.cpu().numpy()).save(buffer, format="PNG")
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _decode_png(file: TensorFile) -> Tensor | None:
    if _THUMBNAIL not in file.tensors:
        return None
    try:
        with Image.open(io.BytesIO(file.tensors[_THUMBNAIL].numpy().tobytes())) as image:
            return torch.from_numpy(np.array(image.convert("RGB")))
    except OSError as error:
        raise ValueError(
            f"{file.path.name} has an unreadable thumbnail. Save the identity again."
        ) from error
