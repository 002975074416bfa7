"""A small autoencoder in TAESD's format whose weights are set by hand and seasoned at random.

Three of the 16 latent channels are the colours of 8x8 pixels, the others random features of the
picture. Decoding shows the colours, smoothly enlarged, with a texture out of the other channels;
encoding a photo and decoding it gives the blurred photo. Inside, a colour is its distance from
grey in two channels, one for either sign, because the blocks end in a ReLU.
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
SIGNED = 2 * COLOURS
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
POINT = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
SPLIT = torch.cat([torch.eye(COLOURS), -torch.eye(COLOURS)])
JOIN = SPLIT.T

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
            state[name] = _carry(draw.conv(name, WIDTH, WIDTH), torch.eye(SIGNED))
    return state | _ends(draw)


def _carry(weight: Tensor, colours: Tensor, kernel: Tensor = BLUR) -> Tensor:
    """Let the first outputs be `colours` (rows, columns) of the first inputs, and nothing else."""
    rows, columns = colours.shape
    weight[:rows] = 0
    weight[:rows, :columns] = colours[:, :, None, None] * kernel
    return weight


def _block(draw: Seeded, name: str) -> State:
    """A residual block that leaves the colours alone."""
    state = {}
    for layer in (0, 2, 4):
        weight = draw.conv(f"{name}.{layer}", WIDTH, WIDTH, gain=0.7)
        if layer == 4:
            weight[:SIGNED] = 0
        state[f"{name}.{layer}.weight"] = weight
        state[f"{name}.{layer}.bias"] = torch.zeros(WIDTH)
    return state


def _ends(draw: Seeded) -> State:
    """The first and last convolution of either half, with grey as the zero point inside."""
    first, last = "taesd_encoder.0", "taesd_encoder.14"
    opening, closing = "taesd_decoder.1", "taesd_decoder.19"
    features = draw.conv(closing, COLOURS, WIDTH, gain=TEXTURE)
    features[:, :SIGNED] = JOIN[:, :, None, None] * BLUR
    from_grey = torch.zeros(WIDTH)
    from_grey[:SIGNED] = SPLIT.sum(1) * -0.5
    return {
        f"{first}.weight": _carry(draw.conv(first, WIDTH, COLOURS), SPLIT, POINT),
        f"{first}.bias": from_grey,
        f"{last}.weight": _carry(draw.conv(last, LATENT, WIDTH), JOIN * CONTRAST),
        f"{last}.bias": torch.zeros(LATENT),
        f"{opening}.weight": _carry(draw.conv(opening, WIDTH, LATENT), SPLIT / CONTRAST),
        f"{opening}.bias": torch.zeros(WIDTH),
        f"{closing}.weight": features,
        f"{closing}.bias": torch.full((COLOURS,), 0.5),
    }
