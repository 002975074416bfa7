"""Train FlexIP's two streams on a frozen Stable Diffusion UNet.

Source: FlexIP (arXiv 2504.07405): the base's own loss, the modality-aware gate of eq. 5, and
nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from comfy.ldm.modules.attention import CrossAttention
from torch import Tensor

from ..adapters.flexip_file import save_flexip
from ..adapters.flexip_settings import FlexIPSettings
from ..adapters.ip_tokens import Features
from ..inject.call import Site
from . import distributed
from .flexip_features import FeatureStore
from .flexip_rows import Drawn, Draws, Rows, draw_rows
from .flexip_streams import FlexIPStreams, project
from .loop import Loss, Milestone, Recipe, Training, train
from .unet_base import UNetBase

QUARTERS = 4
Shown = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Batch:
    """A process's share of a step's rows, on the device."""

    drawn: list[Drawn]
    latents: Tensor
    noise: Tensor
    levels: Tensor
    """(B,) places among the base's noise levels."""
    features: Features
    text: Tensor
    pooled: Tensor


def load_batch(store: FeatureStore, drawn: list[Drawn], base: UNetBase) -> Batch:
    """Read the features of these rows; what is dropped is a caption of nothing, or nobody."""
    pictures = [store.picture(one.row.picture) for one in drawn]
    photos = [store.picture(one.reference) for one in drawn]
    texts = [store.caption(one.row.caption if one.keeps_text else 0) for one in drawn]
    kept = torch.tensor([float(one.keeps_photo) for one in drawn])

    def stack(parts: list[dict[str, Tensor]], name: str) -> Tensor:
        return torch.stack([part[name] for part in parts])

    latents = stack(pictures, "latent")
    noise = [
        torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(one.noise))
        for one in drawn
    ]
    features: Features = {
        "context": (kept[:, None, None] * stack(photos, "context")).to(base.device),
        "pooled": (kept[:, None] * stack(photos, "pooled")).to(base.device),
    }
    return Batch(
        drawn,
        latents.to(base.device),
        torch.stack(noise).to(base.device),
        torch.tensor([int(one.level * base.levels) for one in drawn], device=base.device),
        features,
        stack(texts, "text").to(base.device),
        stack(texts, "pooled").to(base.device),
    )


def make_loss(
    base: UNetBase, streams: FlexIPStreams, store: FeatureStore, rows: Rows, draws: Draws
) -> Loss:
    """The base's loss on a step's rows, with both streams beside the text."""

    def loss(step: int, _: np.random.Generator) -> tuple[Tensor, Shown]:
        mine = distributed.share(draws.batch)
        first = distributed.rank() * mine
        batch = load_batch(store, draw_rows(rows, draws, step)[first : first + mine], base)
        errors, sizes = predict_errors(base, streams, batch)
        _check_finite(errors, batch)
        return errors.mean(), {**_split(errors, batch), **sizes}

    return loss


def predict_errors(base: UNetBase, streams: FlexIPStreams, batch: Batch) -> tuple[Tensor, Shown]:
    """(B,) squared errors, and how large each stream's attention is beside what asks it."""
    sigma = base.sigma(batch.levels)
    noisy = base.add_noise(batch.latents, batch.noise, sigma)
    tokens = streams.make_tokens(batch.features, batch.text)
    weights = gate_weights(streams, batch)
    ratios: dict[str, list[Tensor]] = {"P": [], "S": []}

    def inject(site: Site, attention: CrossAttention, image: Tensor) -> Tensor:
        added = streams.attend(site, attention, image, tokens, weights)
        for found, part in zip(ratios.values(), added, strict=True):
            found.append(_size(part) / _size(image))
        return project(attention, added[0] + added[1])

    out = base.predict(noisy, sigma, batch.text, batch.pooled, inject)
    target = base.target(batch.latents, noisy, sigma)
    sizes = {f"{name} / image": torch.stack(found).mean() for name, found in ratios.items()}
    return (out - target).square().mean((1, 2, 3)), sizes


def _size(tensor: Tensor) -> Tensor:
    return tensor.detach().float().square().mean().sqrt()


def gate_weights(streams: FlexIPStreams, batch: Batch) -> Tensor:
    """(B, 2) γ and 1 - γ: drawn, or learned as one number for each modality."""
    if streams.gates.requires_grad:
        alpha, beta = torch.sigmoid(streams.gates)
        gamma = torch.stack([1 - beta if one.is_video else alpha for one in batch.drawn])
    else:
        gamma = torch.tensor([one.gamma for one in batch.drawn], device=batch.latents.device)
    return torch.stack((gamma, 1 - gamma), dim=1)


def learn_gates(streams: FlexIPStreams, draws: Draws) -> None:
    """Begin with the drawn gates' middles, and give them gradients."""
    middles = torch.tensor([draws.alpha, draws.beta]).clamp(0.01, 0.99)
    streams.gates.data.copy_(torch.logit(middles))
    streams.gates.requires_grad_(True)


def _check_finite(errors: Tensor, batch: Batch) -> None:
    for error, one in zip(errors.tolist(), batch.drawn, strict=True):
        if not math.isfinite(error):
            where = f"line {one.row.line}" if one.row.line else f"picture {one.row.picture}"
            raise FloatingPointError(
                f"the loss of the row of {where} is {error} at noise level {one.level:.3f}. Look "
                "at that picture, or lower the rate."
            )


def _split(errors: Tensor, batch: Batch) -> Shown:
    """Means by modality and by quarter of the noise levels; NaN where the step has none."""
    video = torch.tensor([one.is_video for one in batch.drawn], device=errors.device)
    quarter = torch.tensor([int(one.level * QUARTERS) for one in batch.drawn], device=errors.device)
    masks = {"image": ~video, "video": video}
    masks |= {f"quarter {number + 1}": quarter == number for number in range(QUARTERS)}
    found = errors.detach()
    return {name: found[mask].mean() for name, mask in masks.items()}


def settings_for(
    base: str, streams: FlexIPStreams, context: str, context_size: int, notes: Mapping[str, str]
) -> FlexIPSettings:
    """What a file of these streams states."""
    return FlexIPSettings(
        base=base,
        head_dim=streams.widths.head,
        context=context,
        context_size=context_size,
        notes=notes,
    )


def notes_of(streams: FlexIPStreams, draws: Draws, step: int, **more: str) -> dict[str, str]:
    """α, β, spread and steps, as strings."""
    alpha, beta, spread = draws.alpha, draws.beta, draws.spread
    if streams.gates.requires_grad:
        alpha, beta = torch.sigmoid(streams.gates.detach()).tolist()
        spread = 0.0
    numbers = {"alpha": f"{alpha:.4g}", "beta": f"{beta:.4g}", "spread": f"{spread:.4g}"}
    return {**numbers, "steps": str(step), **more}


def export(path: Path, streams: FlexIPStreams, settings: FlexIPSettings) -> None:
    """Write the streams as a file of the pack's format, in 16 bits."""
    tensors = {key: value.half() for key, value in streams.tensors().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_flexip(path, tensors, settings)


def train_flexip(
    recipe: Recipe,
    base: UNetBase,
    streams: FlexIPStreams,
    store: FeatureStore,
    rows: Rows,
    draws: Draws,
    folder: Path,
    milestone: Milestone | None = None,
) -> FlexIPStreams:
    """Train from the checkpoint in `folder`, if there is one; the averaged weights come back.

    Raises as `loop.train`, and ValueError where the batch cannot be shared by the processes.
    """
    distributed.share(draws.batch)
    loss = make_loss(base, streams.to(base.device), store, rows, draws)
    train(recipe, streams, loss, folder, base.device, milestone)
    return streams


def every(steps: int, then: Milestone) -> Milestone:
    """Call `then` after each so many steps, in the first process while the others wait."""

    def milestone(run: Training) -> None:
        if steps and run.step % steps == 0:
            distributed.by_first(lambda: then(run))

    return milestone
