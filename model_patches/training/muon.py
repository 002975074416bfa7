"""Muon (Jordan et al. 2024) in the number format that the device computes fastest.

torch's own orthogonalises in bfloat16 whatever the processor. On one without bfloat16 units that
takes fifty times as long as float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .precision import prefers_bfloat16


class Muon(torch.optim.Muon):
    """torch.optim.Muon with the same options and state; checkpoints of one load into the other."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step of every matrix that has a gradient; closures are not supported."""
        if closure is not None:
            raise ValueError("Muon takes no closure here; compute the gradients before the step.")
        kinds = {p.device.type for group in self.param_groups for p in group["params"]}
        if all(prefers_bfloat16(kind) for kind in kinds):
            super().step()
            return
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step_matrix(weight, weight.grad, group)

    def _step_matrix(self, weight: Tensor, gradient: Tensor, group: dict) -> None:
        momentum = group["momentum"]
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer = state["momentum_buffer"]
        buffer.lerp_(gradient, 1 - momentum)
        update = gradient.lerp(buffer, momentum) if group["nesterov"] else buffer
        update = orthogonalise(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(update, alpha=-group["lr"] * _scale(group["adjust_lr_fn"], weight.shape))


def _scale(rule: str | None, shape: torch.Size) -> float:
    """What torch.optim.Muon multiplies the rate by, for each of its `adjust_lr_fn`."""
    rows, columns = shape
    if rule == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1.0, rows / columns))


def orthogonalise(
    matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """Newton-Schulz iteration towards U·Vᵀ of the matrix (rows, columns), in its own dtype.

    Singular values end between about 0.7 and 1.2, which is all that Muon needs.
    """
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
