"""Anchoring, DynamicID's first stage: face encoder and attention learn to draw one person.

Source: DynamicID (arXiv 2503.06505), equation 4: the base's own loss, with the picture as its own
reference, so that face tokens carry what the face does as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from .face_features import FeatureStore
from .loop import Loss
from .pulid_rows import Drawn, Draws, Row, draw_rows
from .row_batches import (
    Batch,
    Loaded,
    Shown,
    by_quarter,
    join_rows,
    make_row_loss,
    root_mean_square,
)
from .saa_trained import TrainedSaa, predict_person
from .unet_base import UNetBase


def load_row(store: FeatureStore, one: Drawn) -> Loaded:
    """The features of a row; what is dropped is a caption of nothing, or nobody."""
    seen = store.face(one.reference) if one.keeps_photo else store.nobody
    return Loaded(
        store.latent(one.row.photo)["latent"],
        {"face": seen["embedding"], "patches": seen["patches"]},
        store.text(one.row.caption if one.keeps_text else 0),
    )


def predict_errors(
    base: UNetBase, saa: TrainedSaa, threshold: float, batch: Batch[Drawn]
) -> tuple[Tensor, Shown]:
    """(B,) squared errors of equation 4, and how large what faces add is beside the text."""
    sigma = base.sigmas_at([one.level for one in batch.drawn])
    noisy = base.add_noise(batch.latents, batch.noise, sigma)
    tokens = saa.make_tokens(batch.features)
    seen: list[tuple[Tensor, Tensor]] = []
    out = predict_person(base, saa, noisy, sigma, batch.text, tokens, threshold, seen)
    target = base.target(batch.latents, noisy, sigma)
    ratios = [root_mean_square(face) / root_mean_square(text) for face, text in seen]
    return (out - target).square().mean((1, 2, 3)), {"face / text": torch.stack(ratios).mean()}


def make_loss(
    base: UNetBase,
    saa: TrainedSaa,
    store: FeatureStore,
    rows: Sequence[Row],
    draws: Draws,
    threshold: float,
    part: int,
) -> Loss:
    """The mean over a step's rows, computed `part` at once; 0: all of the same sizes.

    Raises ValueError where the batch cannot be shared by the processes.
    """

    def load(drawn: list[Drawn]) -> list[Batch[Drawn]]:
        return join_rows(drawn, [load_row(store, one) for one in drawn], base.device, part)

    return make_row_loss(
        lambda step: draw_rows(rows, draws, step),
        load,
        partial(predict_errors, base, saa, threshold),
        show,
        lambda one: str(one.row.place),
        draws.batch,
        base.device,
    )


def show(errors: Tensor, drawn: list[Drawn]) -> Shown:
    """Means for the log; NaN where a step has none of a kind."""
    kept = torch.tensor([one.keeps_photo for one in drawn], device=errors.device)
    return {"with face": errors[kept].mean(), **by_quarter(errors, drawn)}
