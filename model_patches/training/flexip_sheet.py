"""Sample sheets of a FlexIP training: people that no step has seen, over the whole slider."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..adapters.flexip import FAMILY, FlexIPAdapter, make_tokens
from ..adapters.flexip_file import load_flexip
from ..adapters.ip_tokens import Features
from ..identity.identity import Encoding, Identity
from ..inject.flexip import apply_flexip
from .flexip_recipe import Store
from .flexip_rows import Row
from .sheets import Sampling, draw_picture, save_sheet, scale_to

BALANCES = (0.0, 0.25, 0.5, 0.75, 1.0)
NAMES = ("reference", *(f"balance {value:g}" for value in BALANCES))


@dataclass(frozen=True, eq=False)
class Studio:
    """What a sheet is sampled with."""

    model: ModelPatcher
    vae: Any
    store: Store
    show: Callable[[int], Tensor]
    """Number of a picture -> (h, w, 3) in [0, 1], as it is trained on."""
    rows: Sequence[Row]
    """One line of the sheet each."""
    how: Sampling
    seed: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What the base reads beside each prompt's text: a Flux's guidance."""


def write_sheet(studio: Studio, adapter_file: Path, sheet: Path) -> None:
    """Each line: the reference, then the row's caption at every balance. Raises OSError."""
    adapter = load_flexip(adapter_file)
    lines = []
    for row in studio.rows:
        reference = row.references[0] if row.references else row.picture
        person = encode(adapter, studio.store.photo(reference))
        drawn = [_draw(studio, adapter, person, row, value) for value in BALANCES]
        photo = scale_to(studio.show(reference), drawn[0])
        lines.append(torch.cat([photo, *drawn], dim=1))
    save_sheet(lines, NAMES, sheet)


def encode(adapter: FlexIPAdapter, features: Features) -> Identity:
    """Somebody, from stored features."""
    seen: Features = {"context": features["context"][None], "pooled": features["pooled"][None]}
    nobody: Features = {name: torch.zeros_like(value) for name, value in seen.items()}
    extra = {"pooled": seen["pooled"]} if adapter.has_personal else {}
    tokens, null = make_tokens(adapter, seen), make_tokens(adapter, nobody)
    made = Encoding(FAMILY, adapter.encoder_digest, tokens, null, extra)
    return Identity({FAMILY: made})


def _draw(
    studio: Studio, adapter: FlexIPAdapter, person: Identity, row: Row, value: float
) -> Tensor:
    positive, negative = (_prompt(studio, number) for number in (row.caption, 0))
    done = apply_flexip(studio.model, positive, negative, adapter, person, value=value)
    prompts, like = (done.positive, done.negative), studio.store.latent(row.picture)
    return draw_picture(done.model, studio.vae, prompts, like, studio.how, studio.seed)


def _prompt(studio: Studio, number: int) -> list:
    found = studio.store.caption(number)
    return [[found["text"][None], {"pooled_output": found["pooled"][None], **studio.extra}]]
