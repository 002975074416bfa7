"""The work folder of a training: one run, of one set of files."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files.atomic import replacing
from . import distributed


def open_run(folder: Path, checkpoint: Path, facts: Mapping[str, Any]) -> str:
    """The id of the run in the work folder, a new one where there is none.

    facts: what must stay the same when a run goes on. Raises ValueError where the folder holds a
    run of other facts, or a checkpoint that says nothing of them.
    """
    path = folder / "run.json"
    distributed.by_first(lambda: _begin_run(path, checkpoint, facts))
    stored = json.loads(path.read_text(encoding="utf-8"))
    before = stored["facts"]
    for name in {**facts, **before}:
        if facts.get(name) != before.get(name):
            raise ValueError(
                f"{folder} holds a training with {name} {before.get(name)!r}, asked for is "
                f"{facts.get(name)!r}. Name another --work folder, or the same options."
            )
    return stored["run"]


def _begin_run(path: Path, checkpoint: Path, facts: Mapping[str, Any]) -> None:
    if path.exists():
        return
    if checkpoint.exists():
        raise ValueError(f"{checkpoint} is there without {path.name}. Name another --work folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        text = json.dumps({"run": uuid.uuid4().hex, "facts": facts}, indent=1, ensure_ascii=False)
        temporary.write_text(text, encoding="utf-8")


def check_free(path: Path, run: str, written_by: object) -> None:
    """Raise FileExistsError where `path` holds something that the run of that id did not write.

    written_by: the id of the run that the file itself states.
    """
    if path.exists() and written_by != run:
        raise FileExistsError(
            f"{path} exists already, and this training did not write it; nothing is overwritten. "
            "Choose another name for --out, or move that file away first."
        )
