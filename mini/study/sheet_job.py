"""From painted files to the contact sheet: looks at every picture and writes the PNG."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...model_patches.face.analyser import load_analyser
from .. import world
from .judge import Seen, hits
from .judges import open_judges
from .prompts import Prompt, choose
from .sheet import Cell, Line, compose

Look = Callable[[Image.Image], Seen | None]


def make(manifest: Path) -> None:
    """`manifest` is what setup/contact.py writes. Raises ValueError for files that are missing."""
    wanted = json.loads(manifest.read_text(encoding="utf-8"))
    look = _make_looking(Path(wanted["models"]), wanted["embedding"])
    lines = []
    for entry in wanted["lines"]:
        (prompt,) = choose([entry["prompt"]])
        cells = [_cell(look, _open(path), prompt) for path in entry["pictures"]]
        lines.append(Line(prompt.text, wish(prompt), cells))
    words = (wanted[key] for key in ("title", "subtitle", "columns"))
    sheet = compose(*words, lines, _open(wanted["face"]), wanted["foot"])
    sheet.save(wanted["output"])


def _open(path: str) -> Image.Image:
    if not path or not Path(path).is_file():
        raise ValueError(f"the picture {path!r} is missing; the graph did not save it")
    with Image.open(path) as picture:
        return picture.convert("RGB")


def _make_looking(models: Path, embedding: Sequence[float] | None) -> Look:
    """What tells whom a picture shows; without an embedding to compare with, nothing does."""
    if embedding is None:
        return lambda picture: None
    analyser = load_analyser((models / world.RECOGNISER).parent, "auto", ["CPU"], None)
    judge = next(iter(open_judges(analyser, models).values()))
    return lambda picture: judge.look(np.array(picture), torch.tensor(embedding))


def _cell(look: Look, picture: Image.Image, prompt: Prompt) -> Cell:
    """A tick says that the person obeys the prompt: without a likeness to measure there is none."""
    seen = look(picture)
    if seen is None:
        return Cell(picture)
    told: dict[str, Any] = {name: hit for name, hit in hits(prompt, seen).items() if name != "edit"}
    return Cell(picture, seen.similarity, told)


def wish(prompt: Prompt) -> str:
    """What a prompt asks for, in a few words: "expression: happy"."""
    turned = {"yaw": ("left", "right"), "pitch": ("down", "up"), "tilt": ("tilted", "tilted")}
    poses = [turned[axis][degrees > 0] for axis, degrees in prompt.angles.items()]
    parts = {"expression": prompt.expression, "pose": " ".join(poses), "style": prompt.style}
    return ", ".join(f"{name}: {value}" for name, value in parts.items() if value)
