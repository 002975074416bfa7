"""A small autoencoder in TAESD's format whose weights are set by hand and seasoned at random.

Three of the 16 latent channels are the colours of 8x8 pixels, the others random features of the
picture. Decoding shows the colours, smoothly enlarged, with a texture out of the other channels;
encoding a photo and decoding it gives the blurred photo.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .seeded import Seeded

WIDTH = 64
LATENT = 16
COLOURS = 3
CONTRAST = 4.0
"""Latent units per unit of brightness."""
TEXTURE = 0.06
SCALE, SHIFT = 0.3611, 0.1159
"""FLUX.1's latent scale and shift: the sampler's space times SCALE, plus SHIFT, has unit size."""

BLOCKS = {
    "encoder": (1, 3, 4, 5, 7, 8, 9, 11, 12, 13),
    "decoder": (3, 4, 5, 8, 9, 10, 13, 14, 15, 18),
}
RESAMPLERS = {"encoder": (2, 6, 10), "decoder": (7, 12, 17)}
BLUR = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16

State = dict[str, Tensor]


def write_vae(path: Path, seed: int) -> None:
    """Write encoder and decoder as one file; ComfyUI's "Load VAE" opens it from models/vae."""
    state = vae_state(Seeded(seed))
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


def vae_state(draw: Seeded) -> State:
    """All tensors under TAESD's key names, float32."""
    state = {"vae_scale": torch.tensor(SCALE), "vae_shift": torch.tensor(SHIFT)}
    for half in ("encoder", "decoder"):
        for index in BLOCKS[half]:
            state |= _block(draw, f"taesd_{half}.{index}.conv")
        for index in RESAMPLERS[half]:
            name = f"taesd_{half}.{index}.weight"
            state[name] = _with_colours(draw.conv(name, WIDTH, WIDTH), range(COLOURS))
    return state | _ends(draw)


def _with_colours(weight: Tensor, columns: range, gain: float = 1.0) -> Tensor:
    """Let the first three rows carry the blurred colours and nothing else."""
    weight[:COLOURS] = 0
    for row, column in enumerate(columns):
        weight[row, column] = BLUR * gain
    return weight


def _block(draw: Seeded, name: str) -> State:
    """A residual block that leaves the colours alone."""
    state = {}
    for layer in (0, 2, 4):
        weight = draw.conv(f"{name}.{layer}", WIDTH, WIDTH, gain=0.7)
        if layer == 4:
            weight[:COLOURS] = 0
        state[f"{name}.{layer}.weight"] = weight
        state[f"{name}.{layer}.bias"] = torch.zeros(WIDTH)
    return state


def _ends(draw: Seeded) -> State:
    first, last = "taesd_encoder.0", "taesd_encoder.14"
    opening, closing = "taesd_decoder.1", "taesd_decoder.19"
    colours = range(COLOURS)
    into = draw.conv(last, LATENT, WIDTH)
    out = draw.conv(closing, COLOURS, WIDTH, gain=TEXTURE)
    out[:, :COLOURS] = 0
    for row in colours:
        out[row, row] = BLUR
    grey_in, grey_out = torch.zeros(LATENT), torch.zeros(WIDTH)
    grey_in[:COLOURS], grey_out[:COLOURS] = -0.5 * CONTRAST, 0.5
    return {
        f"{first}.weight": _with_colours(draw.conv(first, WIDTH, COLOURS), colours),
        f"{first}.bias": torch.zeros(WIDTH),
        f"{last}.weight": _with_colours(into, colours, CONTRAST),
        f"{last}.bias": grey_in,
        f"{opening}.weight": _with_colours(
            draw.conv(opening, WIDTH, LATENT), colours, 1 / CONTRAST
        ),
        f"{opening}.bias": grey_out,
        f"{closing}.weight": out,
        f"{closing}.bias": torch.zeros(COLOURS),
    }
