"""DynamicID's reconfigurator and keypoint encoder while they are trained, and their files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.imr import MotionEditor
from ..adapters.imr_nets import HEAD, UNITS, ImrDims, KeypointEncoder, Reconfigurator, as_seen
from ..adapters.imr_settings import ImrSettings, metadata_of
from .export import TRAINING_KEY, write_safetensors

WIDTHS = (16, 32, 64, 128, 256, 512, 512)
"""Channels of the keypoint encoder's blocks, as published."""


class TrainedImr(nn.Module):
    """Both networks, with gradients."""

    def __init__(self, dims: ImrDims, widths: Sequence[int] = WIDTHS) -> None:
        """widths: of the keypoint encoder's blocks. Raises ValueError for heads that do not fit."""
        super().__init__()
        if dims.inner % HEAD:
            raise ValueError(
                f"The reconfigurator would have attention of {dims.inner} channels, expected a "
                f"multiple of {HEAD}. Choose another width."
            )
        self.reconfigurator = Reconfigurator(dims)
        self.keypoints = KeypointEncoder(kernels_of(widths, dims.landmarks))

    @property
    def dims(self) -> ImrDims:
        return self.reconfigurator.dims

    def forward(self, tokens: Tensor, pictures: Tensor, words: Tensor) -> Tensor:
        """Equations 5 and 6: tokens (1, N, width) of a face, pictures (1 + T, 96, 96) uint8 of
        landmarks and words (1 + T, text), of the source and then of T targets -> (T, N, width).

        While it trains, the keypoint encoder normalises over these 1 + T pictures.
        """
        fused = self.reconfigurator.fuse(self.keypoints(as_seen(pictures)), words)
        return self.reconfigurator(tokens, fused[:1], fused[1:])

    def begin_with(self, editor: MotionEditor) -> None:
        """Take over the weights of files. Raises ValueError where their sizes differ."""
        theirs = {"reconfigurator": editor.reconfigurator, "keypoints": editor.keypoints}
        for part, patcher in theirs.items():
            module, state = getattr(self, part), patcher.model.state_dict()
            own = module.state_dict()
            wrong = sorted(
                key
                for key in own.keys() | state.keys()
                if key not in own or key not in state or own[key].shape != state[key].shape
            )
            if wrong:
                shapes = [
                    tuple(one[wrong[0]].shape) if wrong[0] in one else None for one in (state, own)
                ]
                raise ValueError(
                    f"{len(wrong)} tensors of the {part} of '{editor.name}' do not fit, first "
                    f"{wrong[0]}: {shapes[0]}, expected {shapes[1]}. Give the options of sizes "
                    "that the files were trained with."
                )
            module.load_state_dict(state)


def published_dims(width: int, dim: int = 1024, depth: int = 1, motion: int = 4) -> ImrDims:
    """The published sizes for face tokens and text of `width` channels; arguments change them."""
    return ImrDims(
        width=width,
        dim=dim,
        inner=dim,
        hidden=4 * dim,
        depth=depth,
        landmarks=width,
        text=width,
        motion=motion,
        fused=dim,
    )


def kernels_of(widths: Sequence[int], last: int) -> list[list[tuple[int, int, int]]]:
    """(before, after, kernel) of every unit: the published ones for blocks of these widths.

    last: channels that the last unit makes.
    """
    kernels, before = [], 1
    for block, (units, width) in enumerate(zip(UNITS, widths, strict=True)):
        found = []
        for unit in range(units):
            is_last = (block, unit) == (len(UNITS) - 1, UNITS[-1] - 1)
            after = last if is_last else width
            found.append((before, after, 7 if block == 0 else 1 if is_last else 3))
            before = after
        kernels.append(found)
    return kernels


def export_imr(
    path: Path,
    keypoints: Path,
    net: TrainedImr,
    dtype: torch.dtype,
    notes: Mapping[str, Any],
    settings: ImrSettings | None = None,
) -> None:
    """Write both files under the published keys, in `dtype`, the notes in their metadata.

    settings: whose tokens they are for; None: DynamicID's. Counters of BatchNorm stay whole
    numbers. Raises OSError.
    """
    trained = {TRAINING_KEY: json.dumps(dict(notes), ensure_ascii=False)}
    own = metadata_of(settings) if settings else {}
    parts = ((path, net.reconfigurator, own), (keypoints, net.keypoints, {}))
    for place, module, stated in parts:
        tensors = {
            key: value.to(dtype) if value.is_floating_point() else value
            for key, value in module.state_dict().items()
        }
        write_safetensors(place, tensors, None, {**stated, **trained})
