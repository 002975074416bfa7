"""Convolution blocks of the face networks: batch norm in training, folded away afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn


class ConvNorm(nn.Module):
    """Convolution, batch norm and, if wanted, ReLU. Keeps the size divided by `stride`.

    `normed=False` builds the folded form: the same convolution with a bias.
    """

    def __init__(
        self,
        narrow: int,
        wide: int,
        kernel: int = 3,
        stride: int = 1,
        dilation: int = 1,
        relu: bool = True,
        normed: bool = True,
    ) -> None:
        super().__init__()
        pad = dilation * (kernel // 2)
        self.conv = nn.Conv2d(narrow, wide, kernel, stride, pad, dilation, bias=not normed)
        self.norm = nn.BatchNorm2d(wide) if normed else None
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x) if self.norm is None else self.norm(self.conv(x))
        return x.relu() if self.relu else x

    def fold(self) -> None:
        """Take the norm's statistics and scale into the convolution."""
        if self.norm is not None:
            self.conv = _absorb_norm(self.conv, self.norm)
            self.norm = None


class Residual(nn.Module):
    """x + two 3x3 convolutions of x; the width stays."""

    def __init__(self, width: int, dilation: int = 1, normed: bool = True) -> None:
        super().__init__()
        self.first = ConvNorm(width, width, dilation=dilation, normed=normed)
        self.second = ConvNorm(width, width, relu=False, normed=normed)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.second(self.first(x))).relu()


class LinearNorm(nn.Module):
    """A linear layer whose outputs have mean 0 and deviation 1 over the data."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        self.linear = nn.Linear(narrow, wide)
        self.norm: nn.BatchNorm1d | None = nn.BatchNorm1d(wide, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return x if self.norm is None else self.norm(x.float())

    def fold(self) -> None:
        if self.norm is not None:
            self.linear = _absorb_norm(self.linear, self.norm)
            self.norm = None


@torch.no_grad()
def _absorb_norm(layer: nn.Module, norm: nn.modules.batchnorm._BatchNorm) -> nn.Module:
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = norm.bias if norm.bias is not None else torch.zeros_like(scale)
    before = layer.bias if layer.bias is not None else torch.zeros_like(scale)
    merged = copy.deepcopy(layer)
    merged.weight.mul_(scale.reshape(-1, *[1] * (layer.weight.ndim - 1)))
    merged.bias = nn.Parameter((before - norm.running_mean) * scale + shift)
    return merged


def fold_norms(module: nn.Module) -> nn.Module:
    """A copy without batch norms that computes what `module` does in evaluation mode."""
    copied = copy.deepcopy(module).eval()
    for part in copied.modules():
        if isinstance(part, (ConvNorm, LinearNorm)):
            part.fold()
    return copied


@torch.no_grad()
def recalibrate(module: nn.Module, forward: Callable[[int], object], batches: int) -> None:
    """Measure the batch norms' means and variances anew, over `forward(0)` ... (batches - 1).

    Averaged weights never saw the running statistics that training left behind: those belong to
    the last steps' weights. `forward` runs one batch through `module`, which comes back in
    evaluation mode.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    module.train()
    for batch in range(batches):
        forward(batch)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
    module.eval()
