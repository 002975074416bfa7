"""Adapter files beside the small world's own, which rows name: trained ones, and their merges."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .rows import Row

ENDING = ".safetensors"


def find_adapters(folder: Path | None) -> dict[str, Path]:
    """Name without ending -> file, of the adapter files in a folder; none without a folder."""
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob(f"*{ENDING}"))}


def check_adapters(rows: Iterable[Row], adapters: Mapping[str, Path]) -> None:
    """Raise ValueError for a row whose file is not there."""
    wanted = {row.adapter: row for row in rows if row.anchor == "adapter"}
    if missing := sorted(wanted.keys() - adapters):
        known = ", ".join(adapters) or "none"
        raise ValueError(
            f"the row {wanted[missing[0]].key} needs {missing[0]}{ENDING}; the known adapters are "
            f"{known}. Name the folder of the file by --ablation."
        )


def digest_name(name: str) -> str:
    """What a file is called among the digests of a store."""
    return f"adapters/{name}{ENDING}"


def adapter_digests(adapters: Mapping[str, Path]) -> dict[str, str]:
    """digest_name -> SHA-256."""
    return {
        digest_name(name): hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in adapters.items()
    }


def describe_adapters(adapters: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Name -> what the file says of how it was made, for an evaluation's document."""
    # Here, because whoever only names and digests files needs no ComfyUI.
    from ...model_patches.adapters.merge_plan import RECIPE_KEY
    from ...model_patches.files.header import peek
    from ...model_patches.training.pulid_export import TRAINING_KEY

    told = {}
    for name, path in adapters.items():
        header = peek(path)
        stated = header.metadata if header else {}
        notes = {"training": TRAINING_KEY, "merge": RECIPE_KEY}
        told[name] = {what: json.loads(stated[key]) for what, key in notes.items() if key in stated}
    return told
