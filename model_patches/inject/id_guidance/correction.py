"""From the gradient of a similarity to what is added to a prediction (EditIDv2, equation 11).

With dx/dt = v + β·g similarity rises only for g = -∇S, because t runs from 1 to 0. The same as a
change of the prediction is x0' = x0 + t·β·∇S. Raw gradients have no scale of their own, so ∇S is
divided by its own root mean square.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = 3.0
"""How far one number of a direction reaches, in its root mean squares."""
TINY = 1e-8


def similarity_gradient(
    latents: Tensor, embed: Callable[[Tensor], Tensor], wanted: Tensor
) -> tuple[Tensor, float]:
    """∇S with respect to latents (C, h, w), float32, and S itself.

    S is the mean cosine between embed(latents), (B, D), and wanted (D,). Works in inference mode.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = latents.detach().clone().requires_grad_()
        found = embed(leaf)
        reference = wanted.detach().to(found, copy=True)
        similarity = F.cosine_similarity(found, reference[None], dim=-1).mean()
        (gradient,) = torch.autograd.grad(similarity, leaf)
    return gradient.float(), float(similarity.detach())


def unit_direction(gradient: Tensor, numbers: int | None = None) -> Tensor:
    """∇S (C, h, w) / its root mean square, each number within ±LARGEST; zeros stay zeros.

    numbers: over how many of its numbers the mean is taken, the rest being 0; None: all.
    """
    mean = gradient.square().sum() / (numbers or gradient.numel())
    return (gradient / (mean.sqrt() + TINY)).clamp(-LARGEST, LARGEST)


def blur(gradient: Tensor, sigma: float) -> Tensor:
    """A Gaussian low-pass of (C, h, w); sigma in cells of the latent, 0 leaves it."""
    if sigma == 0.0:
        return gradient
    reach = math.ceil(3 * sigma)
    places = torch.arange(-reach, reach + 1, device=gradient.device, dtype=gradient.dtype)
    kernel = torch.exp(-0.5 * (places / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(gradient.shape[0], 1, 1, -1)
    count = gradient.shape[0]
    across = F.conv2d(gradient[None], kernel, padding=(0, reach), groups=count)
    return F.conv2d(across, kernel.mT, padding=(reach, 0), groups=count)[0]
