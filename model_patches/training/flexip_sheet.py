"""Sample sheets of a FlexIP training: people that no step has seen, over the whole slider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.sample
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image, ImageDraw
from torch import Tensor

from ..adapters.flexip import FAMILY, FlexIPAdapter, make_tokens
from ..adapters.flexip_file import load_flexip
from ..files.atomic import replacing
from ..identity.identity import Encoding, Identity
from ..inject.flexip import apply_flexip
from .flexip_features import FeatureStore, read_square
from .flexip_rows import Row

BALANCES = (0.0, 0.25, 0.5, 0.75, 1.0)
STEPS, CFG, SAMPLER, SCHEDULER = 20, 7.5, "ddim", "ddim_uniform"
MARGIN = 18
"""Pixels of the line with the balance, above the pictures."""


@dataclass(frozen=True, eq=False)
class Studio:
    """What a sheet is sampled with."""

    model: ModelPatcher
    vae: Any
    store: FeatureStore
    rows: Sequence[Row]
    """One line of the sheet each."""
    size: int
    """Pixels a side."""
    seed: int = 0


def write_sheet(studio: Studio, adapter_file: Path, sheet: Path) -> None:
    """Each line: the reference, then the row's caption at every balance. Raises OSError."""
    adapter = load_flexip(adapter_file)
    lines = []
    for row in studio.rows:
        reference = row.references[0] if row.references else row.picture
        photo = read_square(studio.store.rows.pictures[reference], studio.size)[0]
        person = encode(adapter, studio.store.picture(reference))
        drawn = [_sample(studio, adapter, person, row, value) for value in BALANCES]
        lines.append(torch.cat([photo, *drawn], dim=1))
    sheet.parent.mkdir(parents=True, exist_ok=True)
    with replacing(sheet) as temporary:
        _label(torch.cat(lines), studio.size).save(temporary, format="PNG")


def encode(adapter: FlexIPAdapter, features: dict[str, Tensor]) -> Identity:
    """Somebody, from stored features."""
    seen = {name: features[name][None] for name in ("context", "pooled")}
    tokens = make_tokens(adapter, {"context": seen["context"], "pooled": seen["pooled"]})
    nobody = {"context": 0 * seen["context"], "pooled": 0 * seen["pooled"]}
    null = make_tokens(adapter, {"context": nobody["context"], "pooled": nobody["pooled"]})
    extra = {"pooled": seen["pooled"]} if adapter.has_personal else {}
    made = Encoding(FAMILY, adapter.encoder_digest, tokens, null, extra)
    return Identity({FAMILY: made})


def _sample(
    studio: Studio, adapter: FlexIPAdapter, person: Identity, row: Row, value: float
) -> Tensor:
    """(size, size, 3) in [0, 1]."""
    positive, negative = (_prompt(studio.store, number) for number in (row.caption, 0))
    done = apply_flexip(studio.model, positive, negative, adapter, person, value=value)
    latent = torch.zeros_like(studio.store.picture(row.picture)["latent"])[None]
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(studio.seed))
    with torch.no_grad():
        out = comfy.sample.sample(
            done.model, noise, STEPS, CFG, SAMPLER, SCHEDULER, done.positive, done.negative,
            latent, disable_pbar=True, seed=studio.seed,
        )  # fmt: skip
        return studio.vae.decode(out)[0].cpu().float().clamp(0, 1)


def _prompt(store: FeatureStore, number: int) -> list:
    found = store.caption(number)
    return [[found["text"][None], {"pooled_output": found["pooled"][None]}]]


def _label(pixels: Tensor, size: int) -> Image.Image:
    picture = Image.fromarray((255 * pixels).round().to(torch.uint8).numpy())
    sheet = Image.new("RGB", (picture.width, picture.height + MARGIN), "white")
    sheet.paste(picture, (0, MARGIN))
    pen = ImageDraw.Draw(sheet)
    for place, name in enumerate(["reference", *(f"balance {value:g}" for value in BALANCES)]):
        pen.text((place * size + 4, 3), name, fill="black")
    return sheet
