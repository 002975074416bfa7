"""Sample sheets of DynamicID's second stage: people whom no step has seen, made to do what they do
on another picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..adapters.dynamicid import DynamicIDAdapter
from ..adapters.imr import Motion, edit_tokens, load_editor
from ..face.landmark_image import landmark_image
from .face_features import FeatureStore
from .imr_features import motions_of
from .imr_people import Subject
from .imr_recipe import PROMPT_PLACE
from .saa_sheet import Painter
from .sheets import save_sheet

COLUMNS = ("source", "target", "target's tokens", "predicted tokens")


def write_sheet(
    painter: Painter,
    adapter: DynamicIDAdapter,
    store: FeatureStore,
    points: Mapping[int, Tensor],
    subjects: Sequence[Subject],
    files: tuple[Path, Path],
    sheet: Path,
) -> None:
    """Each line: a source, a target, and what is drawn with the target's tokens and with those that
    the two files predict of the source's. Raises OSError."""
    editor = load_editor(*files)
    nobody = store.nobody["tokens"][None]
    texts = store.text(PROMPT_PLACE)["text"], store.text(0)["text"]
    lines = []
    for subject in subjects:
        source, target = subject.shots[0], subject.shots[-1]
        words = motions_of(store, (source, target))
        motions = [
            Motion(landmark_image(points[number]), one)
            for number, one in zip((source, target), words, strict=True)
        ]
        own, wanted = (store.face(number)["tokens"][None] for number in (source, target))
        predicted = edit_tokens(editor, own, motions[0], motions[1:])
        like = store.latent(target)["latent"]
        drawn = [
            painter.paint(adapter, (tokens, nobody), texts, like) for tokens in (wanted, predicted)
        ]
        lines.append(torch.cat([store.show(source), store.show(target), *drawn], dim=1))
    save_sheet(lines, COLUMNS, sheet)
