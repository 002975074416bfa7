"""Train FlexIP's two streams on a frozen base, a Stable Diffusion UNet or a Flux.

Source: FlexIP (arXiv 2504.07405): the base's own loss, the modality-aware gate of eq. 5, and
nothing else. flexip_streams.py and flexip_flux.py compute the errors of the two kinds of base.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ..adapters.flexip_file import save_flexip
from ..adapters.flexip_settings import FlexIPSettings
from ..adapters.ip_tokens import Features
from .flexip_rows import Drawn, Draws, Rows, draw_rows
from .loop import Loss
from .row_batches import Batch, Errors, Loaded, Shown, by_quarter, join_rows, make_row_loss


class Store(Protocol):
    """Features of all pictures and captions, float32 on the CPU."""

    def latent(self, number: int) -> Tensor:
        """(C, h, w) of a picture, as the VAE encodes it."""
        ...

    def photo(self, number: int) -> Features:
        """What the adapter reads of a picture: context (N, D) and pooled (E,)."""
        ...

    def caption(self, number: int) -> Mapping[str, Tensor]:
        """text (T, c) and pooled (P,)."""
        ...


class Streams(Protocol):
    """What is trained: a FlexIPStreams or a FluxStreams."""

    @property
    def gates(self) -> nn.Parameter:
        """(2,) logits of α and β, with gradients where they are learned."""
        ...

    def tensors(self) -> Mapping[str, Tensor]:
        """By the keys of a FlexIP file."""
        ...


def load_batches(
    store: Store, drawn: list[Drawn], device: torch.device, part: int = 0
) -> list[Batch[Drawn]]:
    """The features of these rows; what is dropped is a caption of nothing, or nobody.

    part: rows of a batch at most; 0: any number of the same sizes.
    """
    return join_rows(drawn, [_load(store, one) for one in drawn], device, part)


def _load(store: Store, one: Drawn) -> Loaded:
    photo, kept = store.photo(one.reference), float(one.keeps_photo)
    caption = store.caption(one.row.caption if one.keeps_text else 0)
    features: Features = {name: kept * value for name, value in photo.items()}
    return Loaded(store.latent(one.row.picture), features, caption)


def make_loss(
    store: Store,
    rows: Rows,
    draws: Draws,
    device: torch.device,
    errors_of: Errors[Drawn],
    part: int = 0,
) -> Loss:
    """The base's loss on a step's rows, with both streams; part: as `load_batches` takes it.

    Raises ValueError where the batch cannot be shared by the processes.
    """
    return make_row_loss(
        lambda step: draw_rows(rows, draws, step),
        lambda drawn: load_batches(store, drawn, device, part),
        errors_of,
        _split,
        _describe,
        draws.batch,
        device,
    )


def gate_weights(streams: Streams, batch: Batch[Drawn]) -> Tensor:
    """(B, 2) γ and 1 - γ: drawn, or learned as one number for each modality."""
    if streams.gates.requires_grad:
        alpha, beta = torch.sigmoid(streams.gates)
        gamma = torch.stack([1 - beta if one.is_video else alpha for one in batch.drawn])
    else:
        gamma = torch.tensor([one.gamma for one in batch.drawn], device=batch.latents.device)
    return torch.stack((gamma, 1 - gamma), dim=1)


def learn_gates(streams: Streams, draws: Draws) -> None:
    """Begin with the drawn gates' middles, and give them gradients."""
    middles = torch.tensor([draws.alpha, draws.beta]).clamp(0.01, 0.99)
    streams.gates.data.copy_(torch.logit(middles))
    streams.gates.requires_grad_(True)


def _describe(one: Drawn) -> str:
    return f"line {one.row.line}" if one.row.line else f"picture {one.row.picture}"


def _split(errors: Tensor, drawn: list[Drawn]) -> Shown:
    """Means by modality and by quarter of the noise levels; NaN where the step has none."""
    video = torch.tensor([one.is_video for one in drawn], device=errors.device)
    return {
        "image": errors[~video].mean(),
        "video": errors[video].mean(),
        **by_quarter(errors, drawn),
    }


def notes_of(streams: Streams, draws: Draws, step: int, **more: str) -> dict[str, str]:
    """α, β, spread and steps, as strings."""
    alpha, beta, spread = draws.alpha, draws.beta, draws.spread
    if streams.gates.requires_grad:
        alpha, beta = torch.sigmoid(streams.gates.detach()).tolist()
        spread = 0.0
    numbers = {"alpha": f"{alpha:.4g}", "beta": f"{beta:.4g}", "spread": f"{spread:.4g}"}
    return {**numbers, "steps": str(step), **more}


def export(path: Path, streams: Streams, settings: FlexIPSettings) -> None:
    """Write the streams as a file of the pack's format, in 16 bits."""
    tensors = {key: value.half() for key, value in streams.tensors().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_flexip(path, tensors, settings)
