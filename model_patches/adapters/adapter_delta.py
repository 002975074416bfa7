"""Delta files: what a training changed in a PuLID-FLUX file, to be opened beside that file.

Under the file's own names a delta holds what is added to a tensor, or its two factors
`...lora_A.weight` (r, in) and `...lora_B.weight` (out, r), whose product is added. The metadata
name the file that it belongs to. Everything else is read from that file, so a delta opens like any
adapter file, and merges like one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..files.checks import check_finite, check_floating
from ..files.tensor_file import TensorFile, digest, read_weights

DELTA_KEY = "flexid.delta"
"""Metadata entry: JSON of the base file's name and digest."""
DOWN, UP = "lora_A.weight", "lora_B.weight"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_DIGEST = re.compile("[0-9a-f]{64}")


def state_base(name: str, base_digest: str) -> dict[str, str]:
    """The metadata of a delta to the file of this name and digest."""
    return {DELTA_KEY: json.dumps({"name": name, "digest": base_digest}, ensure_ascii=False)}


def complete_delta(file: TensorFile, wanted: str) -> TensorFile:
    """A delta with everything that it belongs to, in float32 where it changes something; any other
    file as it is.

    Raises FileNotFoundError when the file that it belongs to is not in the same folder, ValueError
    for a delta that does not fit it.
    """
    if DELTA_KEY not in file.metadata:
        return file
    name, base_digest = _read_base(file)
    path = _find_base(file.path, name, base_digest)
    base = complete_delta(read_weights(path, wanted), wanted)
    check_floating(file.tensors, file.path.name, wanted)
    check_finite(file.tensors, file.path.name, wanted)
    tensors = dict(base.tensors)
    for key, change in _changes(file).items():
        old = tensors.get(key)
        if old is None or old.shape != change.shape:
            found = "no such tensor" if old is None else f"one of {tuple(old.shape)}"
            raise ValueError(
                f"{file.path.name} changes {key} by {tuple(change.shape)} values; {path.name} has "
                f"{found}. The file is damaged: train or copy it again."
            )
        tensors[key] = old.float() + change
    notes = {key: text for key, text in file.metadata.items() if key != DELTA_KEY}
    return TensorFile(file.path, tensors, {**base.metadata, **notes})


def _changes(file: TensorFile) -> dict[str, Tensor]:
    """What is added, by the names of the base. Raises ValueError for half a product."""
    made: dict[str, Tensor] = {}
    for key, value in file.tensors.items():
        if key.endswith(f".{DOWN}"):
            stem = key.removesuffix(DOWN)
            made[f"{stem}weight"] = _multiply(file, stem)
        elif not key.endswith(f".{UP}"):
            made[key] = value.float()
        elif f"{key.removesuffix(UP)}{DOWN}" not in file.tensors:
            raise ValueError(f"{file.path.name} has {key} without its other half, {DOWN}.")
    return made


def _multiply(file: TensorFile, stem: str) -> Tensor:
    down, up = file.tensors[f"{stem}{DOWN}"], file.tensors.get(f"{stem}{UP}")
    if up is None or up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0]:
        found = "none" if up is None else tuple(up.shape)
        raise ValueError(
            f"{file.path.name}: {stem}{DOWN} is {tuple(down.shape)}, {UP} is {found}; expected "
            "(r, in) and (out, r). The file is damaged: train or copy it again."
        )
    return up.float() @ down.float()


def _read_base(file: TensorFile) -> tuple[str, str]:
    try:
        stated: object = json.loads(file.metadata[DELTA_KEY])
    except (ValueError, RecursionError):
        stated = None
    stated = stated if isinstance(stated, Mapping) else {}
    name, found = str(stated.get("name", ""))[:200], str(stated.get("digest", ""))
    if not name or not _DIGEST.fullmatch(found):
        raise ValueError(
            f"{file.path.name} is a delta, and its metadata ({DELTA_KEY}) do not name the file it "
            "belongs to and its digest. Train or copy it again."
        )
    return name, found


def _find_base(delta: Path, name: str, wanted: str) -> Path:
    """The file of that digest in the delta's folder, whatever its name is by now."""
    others = [p for p in delta.parent.iterdir() if p.suffix in SUFFIXES and p.is_file()]
    others = [p for p in others if p != delta]
    for path in sorted(others, key=lambda one: (one.name != name, one.name)):
        if digest(path) == wanted:
            return path
    there = next((path for path in others if path.name == name), None)
    found = f"{name} there has {digest(there)[:8]}" if there else f"there is no {name} either"
    raise FileNotFoundError(
        f"{delta.name} is a delta to {name} (digest {wanted[:8]}), and no file in {delta.parent} "
        f"has that digest; {found}. Put the file that it was trained from into the same folder."
    )


def difference(before: Tensor, after: Tensor) -> Tensor:
    """float32: what turns `before` into `after`."""
    return after.detach().to("cpu", torch.float32) - before.float()
