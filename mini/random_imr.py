"""Random files of motion editing for the tokens of a random adapter, in the formats of the trained
ones. Same arguments, same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..model_patches.adapters.imr_nets import KeypointEncoder, Reconfigurator
from ..model_patches.adapters.imr_settings import metadata_of
from ..model_patches.files.stream import write_streamed
from ..model_patches.training.export import write_safetensors
from ..model_patches.training.imr_trained import kernels_of
from .imr_layout import DIMS, WIDTHS, settings_for


def write_imr(path: Path, seed: int, adapter: Path, text_encoder: str) -> None:
    """The reconfigurator. adapter: the file whose tokens it edits, seen from the models folder that
    `path` lies in; text_encoder: name of the CLIP-L file."""
    stated = metadata_of(settings_for(path.parents[1] / adapter, text_encoder))
    tensors = _halves(_draw(seed, Reconfigurator, DIMS))
    layout = {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in tensors.items()}
    # Streamed: the plain writer puts several entries of metadata in random order.
    write_streamed(path, layout, tensors.__getitem__, stated)


def write_key_points(path: Path, seed: int) -> None:
    """The keypoint encoder."""
    kernels = kernels_of(WIDTHS, DIMS.landmarks)
    write_safetensors(path, _halves(_draw(seed, KeypointEncoder, kernels)), None)


def _draw(seed: int, kind: Callable[..., nn.Module], sizes: object) -> nn.Module:
    """As PyTorch initialises it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(sizes)


def _halves(module: nn.Module) -> dict[str, Tensor]:
    """Counters stay whole numbers."""
    return {
        key: tensor.half() if tensor.is_floating_point() else tensor
        for key, tensor in module.state_dict().items()
    }
