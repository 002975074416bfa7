"""Sample sheets of an identity adapter's training: people whom no step has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..adapters.pulid_flux import FAMILY, IdentityAdapter
from ..identity.identity import Encoding, Identity
from ..inject.vfa import apply_vfa
from .face_features import FeatureStore
from .pulid_rows import Row
from .sheets import Sampling, draw_picture, save_sheet, scale_to

STEPS, GUIDANCE = 20, 3.5
COLUMNS = ("reference", "picture", "without", "before", "trained")


@dataclass(frozen=True, eq=False)
class Studio:
    """What a sheet is sampled with."""

    model: ModelPatcher
    vae: Any
    store: FeatureStore
    before: IdentityAdapter
    rows: Sequence[Row]
    """One line of the sheet each."""
    seed: int = 0


def write_sheet(studio: Studio, trained: IdentityAdapter, sheet: Path) -> None:
    """Each line: the reference, the row's picture, and its caption drawn without identity, by the
    adapter that the training began with, and by the trained one. Raises OSError."""
    save_sheet([_draw_line(studio, trained, row) for row in studio.rows], COLUMNS, sheet)


def _draw_line(studio: Studio, trained: IdentityAdapter, row: Row) -> Tensor:
    """(h, 5 w, 3) in 0..1."""
    store, reference = studio.store, row.references[0]
    target = store.show(row.photo)
    photo = scale_to(store.show(reference), target)
    person = store.face(reference)["tokens"][None]
    without = _sample(studio, studio.model, row)
    drawn = []
    for adapter in (studio.before, trained):
        made = Encoding(FAMILY, adapter.encoder_digest, person, store.nobody["tokens"][None])
        patched = apply_vfa(studio.model, adapter, Identity({FAMILY: made}))
        drawn.append(_sample(studio, patched, row))
    return torch.cat([photo, target, without, *drawn], dim=1)


def _sample(studio: Studio, model: ModelPatcher, row: Row) -> Tensor:
    """(h, w, 3) in 0..1."""
    found = studio.store.text(row.caption)
    extra = {"pooled_output": found["pooled"][None], "guidance": GUIDANCE}
    prompt = [[found["text"][None], extra]]
    like, how = studio.store.latent(row.photo)["latent"], Sampling(STEPS, 1.0, "euler", "simple")
    return draw_picture(model, studio.vae, (prompt, prompt), like, how, studio.seed)
