"""Trains the small world's autoencoder, in TAESD's format and with ComfyUI's own module.

Faces matter most: more than half of the crops lie around one. For painting with a diffusion model,
latents are held near a linear code, the principal components of 8 x 8 pixels: loud ones that are
smooth over the picture, quiet ones that carry detail. Sixteen channels that are all equally loud
keep 60 % of their variance in a 2 x 2 mean, the linear code 84 %. Besides, the decoder sees latents
with some noise, and now and then halved in size, so that they look like a picture at every scale
(Skorokhodov et al. 2025, "Improving the Diffusability of Autoencoders").
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import comfy.latent_formats
import comfy.sd
import comfy.utils
import numpy as np
import torch
from comfy.taesd.taesd import TAESD
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from ...model_patches.training.export import write_safetensors
from ...model_patches.training.loop import Recipe, train
from ...model_patches.training.precision import autocast
from .. import portraits
from ..seeded import Seeded
from ..world import VAE as NAME
from .data import HELD_OUT, SIZE, Groups, Portraits, free_shot
from .options import Options, curves, models

CHANNELS = 16
RECIPE = Recipe("vae", steps=2600, rate=1e-3, warmup=100)
BATCH = 16
CROP = 64
WHOLE_EVERY = 8
"""One step in so many sees whole pictures, a quarter as many of them."""
HALF_EVERY = 10
GROUP_SHARE = 0.15
FACE_SHARE = 0.6
"""Of the crops, those that lie around a face."""
NOISE = 0.1
"""Standard deviation of the noise on latents: uniform between 0 and this, per picture."""
SLOPES = 1.0
ANCHOR = 0.15
"""Weight of the squared distance from the linear code."""
EVENNESS = 0.75
"""A channel's variance is its component's to this power: 1 for loud and quiet as they come, 0 for
all alike."""
PATCH = 8
FITTED = 1500
"""Pictures that the components come from."""
MEASURED = 64


@dataclass(frozen=True)
class Source:
    """Pictures uint8 (N, 128, 128, 3) and the centre of one face in each, (N, 2) x y in pixels."""

    images: np.ndarray
    faces: np.ndarray


def sources(work: Path) -> list[Source]:
    """Singles and groups; of a group, the first person."""
    singles, groups = Portraits(work), Groups(work)
    boxes = (singles.box, groups.box[:, 0])
    return [
        Source(part.images, (box[:, :2] + box[:, 2:]) / 2)
        for part, box in zip((singles, groups), boxes, strict=True)
    ]


def train_vae(work: Path, device: torch.device, options: Options) -> None:
    """Train, write the file below `models`, and measure it: `runs/vae.json`."""
    path = models(work) / NAME
    recipe = replace(RECIPE, steps=options.steps or RECIPE.steps)
    found = sources(work)
    module = build(recipe.seed).to(device, memory_format=torch.channels_last)
    code = linear_code(found[0].images).to(device)
    loss = Loss(module, code, found, options.batch or BATCH, device)
    train(recipe, module, loss, curves(work), device)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(module, [source.images for source in found], path, device)
    figures = measure(path, held_out_pictures(MEASURED))
    (curves(work) / "vae.json").write_text(json.dumps(figures, indent=1))


def build(seed: int) -> TAESD:
    """ComfyUI's module, every parameter set: it comes with uninitialised memory."""
    module, draw = TAESD(latent_channels=CHANNELS), Seeded(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("weight"):
                # ReLU halves the variance; blocks begin as the identity.
                gain = 0.0 if name.endswith("conv.4.weight") else 2**0.5
                parameter.copy_(draw.conv(name, *parameter.shape[:2], gain=gain))
            else:
                parameter.zero_()
        module.taesd_decoder[-1].bias.fill_(0.5)
        module.vae_scale.fill_(1.0)
    for fixed in (module.vae_scale, module.vae_shift):
        fixed.requires_grad_(False)
    return module


@torch.no_grad()
def linear_code(images: np.ndarray) -> nn.Conv2d:
    """uint8 (N, S, S, 3) -> pictures (B, 3, h, w) in 0..1 to codes (B, 16, h / 8, w / 8).

    The principal components of patches, over all channels of zero mean and unit variance.
    """
    chosen = np.array(images[:: max(1, len(images) // FITTED)])
    patches = nn.functional.unfold(to_tensor(chosen, torch.device("cpu")), PATCH, stride=PATCH)
    patches = patches.transpose(1, 2).flatten(0, 1).double()
    mean = patches.mean(0)
    variances, directions = torch.linalg.eigh((patches - mean).T.cov())
    variances, directions = variances.flip(0)[:CHANNELS], directions.flip(1)[:, :CHANNELS]
    directions = directions * directions.sum(0).sign()  # the solver's signs are arbitrary
    wanted = variances**EVENNESS
    rows = (directions * (wanted / wanted.mean() / variances).sqrt()).T
    code = nn.Conv2d(3, CHANNELS, PATCH, PATCH).requires_grad_(False)
    code.weight.copy_(rows.reshape(code.weight.shape))
    code.bias.copy_(-rows @ mean)
    return code


class Loss:
    """What the loop minimises: pixels, their slopes at three scales, and distance from `code`."""

    def __init__(
        self,
        module: TAESD,
        code: nn.Conv2d,
        found: list[Source],
        batch: int,
        device: torch.device,
    ) -> None:
        self.module, self.code, self.sources = module, code, found
        self.batch, self.device = batch, device

    def __call__(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        whole = step % WHOLE_EVERY == WHOLE_EVERY - 1
        x = self.draw(
            rng, SIZE if whole else CROP, max(1, self.batch // 4) if whole else self.batch
        )
        latent = self.module.taesd_encoder(x).float()
        level = torch.rand(len(x), 1, 1, 1, device=x.device) * NOISE
        seen, target = latent + torch.randn_like(latent) * level, x
        if step % HALF_EVERY == 1:
            seen, target = avg_pool2d(seen, 2), avg_pool2d(x, 2)
        back = self.module.taesd_decoder(seen).float()
        pixels, slopes = (back - target).abs().mean(), slope_error(back, target)
        added = (latent - self.code(x).float()).square().mean()
        total = pixels + SLOPES * slopes + ANCHOR * added
        shown = {"pixels": pixels, "slopes": slopes, "added": added}
        return total, {name: part.detach() for name, part in shown.items()}

    def draw(self, rng: np.random.Generator, size: int, count: int) -> Tensor:
        """(count, 3, size, size) between 0 and 1: crops at random places, most around a face."""
        crops = np.empty((count, size, size, 3), np.uint8)
        for crop in crops:
            source = self.sources[int(rng.random() < GROUP_SHARE)]
            row, corner = rng.integers(len(source.images)), rng.integers(SIZE - size + 1, size=2)
            if rng.random() < FACE_SHARE:
                middle = source.faces[row] + rng.uniform(-size / 4, size / 4, 2)
                corner = np.clip(middle - size / 2, 0, SIZE - size).astype(int)
            left, top = corner
            crop[:] = source.images[row, top : top + size, left : left + size]
        return to_tensor(crops, self.device)


def to_tensor(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 (N, height, width, 3) to float (N, 3, height, width) between 0 and 1."""
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255
    return pixels.contiguous(memory_format=torch.channels_last)


def slope_error(back: Tensor, target: Tensor) -> Tensor:
    """Mean difference of neighbouring pixels' differences, at full, half and quarter size."""
    error, total = back - target, back.new_zeros(())
    for _ in range(3):
        total = total + error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        error = avg_pool2d(error, 2)
    return total / 3


@torch.no_grad()
def write(module: TAESD, pictures: list[np.ndarray], path: Path, device: torch.device) -> None:
    """Save in half precision, scale and shift set so that a Flux sampler sees unit variance."""
    latent = torch.cat(
        [encode(module, np.array(s[:: max(1, len(s) // 500)]), device) for s in pictures]
    )
    flux = comfy.latent_formats.Flux()
    scale = latent.std() * flux.scale_factor
    module.vae_scale.copy_(scale)
    module.vae_shift.copy_(flux.shift_factor - latent.mean() / scale)
    state = {key: value.half() for key, value in module.state_dict().items()}
    for key in ("vae_scale", "vae_shift"):
        state[key] = state[key].float()
    write_safetensors(path, state, None)


@torch.no_grad()
def encode(module: nn.Module, images: np.ndarray, device: torch.device) -> Tensor:
    """The encoder's own output, float32 (N, 16, height / 8, width / 8)."""
    parts = []
    for start in range(0, len(images), 32):
        with autocast(device):
            part = module.taesd_encoder(to_tensor(images[start : start + 32], device))
        parts.append(part.float())
    return torch.cat(parts)


def held_out_pictures(count: int) -> np.ndarray:
    """Pictures of people that no recipe trains on, uint8 (count, 128, 128, 3)."""
    pictures = []
    for seed in range(HELD_OUT, HELD_OUT + count):
        rng = np.random.default_rng(seed)
        drawn = portraits.picture(rng, ((portraits.person(seed), free_shot(rng)),))
        pictures.append(portraits.render(drawn, SIZE).image)
    return np.stack(pictures)


def measure(path: Path, images: np.ndarray) -> dict[str, float]:
    """Through ComfyUI's own VAE: signal to noise, and the latents as a Flux sampler sees them."""
    state, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    vae = comfy.sd.VAE(sd=state, metadata=metadata)
    pixels = torch.from_numpy(images).float() / 255
    with torch.inference_mode():
        latent = vae.encode(pixels)
        error = (vae.decode(latent).cpu().float().clamp(0, 1) - pixels).square()
        seen = comfy.latent_formats.Flux().process_in(latent.cpu().float())
    per_picture = -10 * error.mean((1, 2, 3)).clamp_min(1e-8).log10()
    deviations = seen.std((0, 2, 3))
    return {
        "psnr": per_picture.mean().item(),
        "psnr worst": per_picture.min().item(),
        "latent mean": seen.mean().item(),
        "latent deviation": seen.std().item(),
        "smallest channel deviation": deviations.min().item(),
        "largest channel deviation": deviations.max().item(),
        "largest channel mean": seen.mean((0, 2, 3)).abs().max().item(),
        "largest value": seen.abs().max().item(),
    }
