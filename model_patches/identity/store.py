"""Identities as files: one safetensors file each, readable without any encoder.

Version 2: per encoding "encoding.<family>.tokens", ".null" and ".extra.<name>"; "features.<name>";
the thumbnail as the bytes of a PNG in "thumbnail.png". Metadata: format, version, and as JSON the
encodings' encoder and recipe, and the provenance. Version 1 ("tokens.<family>",
"unconditional.<family>", no encoder) is still read.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from ..files.atomic import creating
from ..files.kinds import require
from ..files.tensor_file import TensorFile, read_weights
from .identity import Encoding, Identity, check_tokens

FORMAT = "identity"
VERSION = 2
WANTED = "a file written by the Save Identity node"
LARGEST_THUMBNAIL = 4096
"""Pixels a side; Save Identity writes 256 a side and person."""

_FORMAT_KEY = "flexid.format"
_VERSION_KEY = "flexid.version"
_ENCODINGS_KEY = "flexid.encodings"
_PROVENANCE_KEY = "flexid.provenance"
_THUMBNAIL = "thumbnail.png"
_READ_FEATURES = ("arcface",)
"""Features that a fusion reads. Files of version 1 hold 6 MB a photo that nothing reads."""


def save_identity(identity: Identity, path: str | Path, with_features: bool = True) -> Path:
    """Write the identity to `path`, whole or not at all. Returns the path.

    `with_features` False leaves out what some fusions read (2 KB a photo). Raises FileExistsError
    when there is a file already, OSError when the folder cannot be written.
    """
    described = {
        family: {"encoder": one.encoder, "recipe": dict(one.recipe)}
        for family, one in identity.encodings.items()
    }
    metadata = {
        _FORMAT_KEY: FORMAT,
        _VERSION_KEY: str(VERSION),
        _ENCODINGS_KEY: json.dumps(described, ensure_ascii=False),
        _PROVENANCE_KEY: json.dumps(dict(identity.provenance), ensure_ascii=False),
    }
    with creating(Path(path)) as part:
        safetensors.torch.save_file(_tensors(identity, with_features), part, metadata)
    return Path(path)


def save_numbered(
    identity: Identity, folder: str | Path, name: str, number: int, with_features: bool = True
) -> Path:
    """Save to folder/name_00001_.safetensors, with the first free number from `number` on.

    No file is overwritten, whoever else writes there at the same time. Returns the path. Raises
    OSError when the folder cannot be written.
    """
    while True:
        path = Path(folder) / f"{name}_{number:05}_.safetensors"
        try:
            return save_identity(identity, path, with_features)
        except FileExistsError:
            if not os.path.lexists(path):  # the folder itself is a file: no number is free
                raise
            number += 1


def load_identity(path: str | Path) -> Identity:
    """Read what `save_identity` wrote; tokens come back bit for bit.

    Raises FileNotFoundError, or ValueError for other files (named), newer formats, cut-short
    files, missing parts, and tokens or features that are misshapen or not finite.
    """
    file = read_weights(path, WANTED)
    version = _check_format(file)
    encodings = _read_version_1(file) if version == 1 else _read_encodings(file)
    features = {
        name: _check_feature(file, name, file.tensors[f"features.{name}"])
        for name in _READ_FEATURES
        if f"features.{name}" in file.tensors
    }
    return Identity(encodings, features, _decode_png(file), _strings(file, _PROVENANCE_KEY))


def _tensors(identity: Identity, with_features: bool) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for family, one in identity.encodings.items():
        prefix = f"encoding.{family}"
        tensors |= {f"{prefix}.tokens": one.tokens, f"{prefix}.null": one.null}
        tensors |= {f"{prefix}.extra.{name}": value for name, value in one.extra.items()}
    if with_features:
        tensors |= {f"features.{name}": value for name, value in identity.features.items()}
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    if identity.thumbnail is not None:
        copies[_THUMBNAIL] = _encode_png(identity.thumbnail)
    return copies


def _check_format(file: TensorFile) -> int:
    if file.metadata.get(_FORMAT_KEY) != FORMAT:
        require(file, (FORMAT,), WANTED)
        raise ValueError(
            f"{file.path.name} has identity tensors but not the metadata "
            f"{_FORMAT_KEY}={FORMAT}; another program rewrote it. Needed here: {WANTED}."
        )
    version = file.metadata.get(_VERSION_KEY, "")
    if not version.isdecimal() or not 1 <= int(version[:9]) <= VERSION:
        raise ValueError(
            f"{file.path.name} has identity format {version[:20] or 'unknown'}, this FlexID reads "
            f"1 to {VERSION}. Update FlexID, or save the identity again with this version."
        )
    return int(version)


def _read_encodings(file: TensorFile) -> dict[str, Encoding]:
    described = _json(file, _ENCODINGS_KEY)
    if not described:
        raise _explain_incomplete(file, "0 encodings in its metadata, expected at least 1")
    return {family: _read_encoding(file, family, facts) for family, facts in described.items()}


def _read_encoding(file: TensorFile, family: str, facts: Any) -> Encoding:
    prefix = f"encoding.{family}."
    held = {k[len(prefix) :]: t for k, t in file.tensors.items() if k.startswith(prefix)}
    missing = [name for name in ("tokens", "null") if name not in held]
    if missing or not isinstance(facts, Mapping) or not isinstance(facts.get("recipe"), Mapping):
        raise _explain_incomplete(file, f"{', '.join(missing) or 'recipe'} of {family} missing")
    return Encoding(
        family,
        str(facts.get("encoder", "")),
        _copy(file, f"{family} tokens", held["tokens"]),
        _copy(file, f"{family} null tokens", held["null"]),
        {k[6:]: t.clone() for k, t in held.items() if k.startswith("extra.")},
        {str(key): str(value) for key, value in facts["recipe"].items()},
    )


def _read_version_1(file: TensorFile) -> dict[str, Encoding]:
    tokens, null = (_group(file, prefix) for prefix in ("tokens.", "unconditional."))
    if not tokens or set(tokens) != set(null):
        raise _explain_incomplete(
            file,
            f"tokens for {sorted(tokens) or 'nothing'}, unconditional tokens for "
            f"{sorted(null) or 'nothing'}, expected the same families in both",
        )
    recipe = _strings(file, _PROVENANCE_KEY)
    return {
        family: Encoding(
            family,
            "",
            _copy(file, f"{family} tokens", tokens[family]),
            _copy(file, f"{family} null tokens", null[family]),
            recipe={k: v for k, v in recipe.items() if k.startswith("adapter")},
        )
        for family in tokens
    }


def _explain_incomplete(file: TensorFile, why: str) -> ValueError:
    return ValueError(
        f"{file.path.name} is an incomplete identity: {why}. Save the identity again."
    )


def _copy(file: TensorFile, name: str, tokens: Tensor) -> Tensor:
    """Checked, and a copy, so that the file can be replaced while the identity is in use."""
    return check_tokens(f"{file.path.name}: its {name}", tokens).clone()


def _check_feature(file: TensorFile, name: str, rows: Tensor) -> Tensor:
    if rows.ndim != 2 or not rows.is_floating_point() or not rows.isfinite().all():
        raise ValueError(
            f"{file.path.name} has features {name} of shape {tuple(rows.shape)} and type "
            f"{rows.dtype}, expected finite numbers (photos, channels). Encode the photos again."
        )
    return rows.float().clone()


def _group(file: TensorFile, prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: t for k, t in file.tensors.items() if k.startswith(prefix)}


def _json(file: TensorFile, key: str) -> dict[str, Any]:
    try:
        entries = json.loads(file.metadata.get(key, "{}"))
    except (ValueError, RecursionError) as error:
        raise _explain_unreadable(file, key) from error
    if not isinstance(entries, dict):
        raise _explain_unreadable(file, key)
    return entries


def _strings(file: TensorFile, key: str) -> dict[str, str]:
    return {str(name): str(value) for name, value in _json(file, key).items()}


def _explain_unreadable(file: TensorFile, key: str) -> ValueError:
    what = key.removeprefix("flexid.")
    return ValueError(
        f"{file.path.name} has unreadable {what} ({key} is not a JSON object). Save the identity "
        "again."
    )


def _encode_png(picture: Tensor) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(picture.cpu().numpy()).save(buffer, format="PNG")
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _decode_png(file: TensorFile) -> Tensor | None:
    if _THUMBNAIL not in file.tensors:
        return None
    try:
        with Image.open(io.BytesIO(file.tensors[_THUMBNAIL].numpy().tobytes())) as image:
            if max(image.size) <= LARGEST_THUMBNAIL:
                return torch.from_numpy(np.array(image.convert("RGB")))
            size = f"{image.size[0]}x{image.size[1]}"
    except (OSError, TypeError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{file.path.name} has an unreadable thumbnail. Save the identity again."
        ) from error
    raise ValueError(
        f"{file.path.name} has a thumbnail of {size} pixels, expected at most "
        f"{LARGEST_THUMBNAIL} a side. Save the identity again."
    )
