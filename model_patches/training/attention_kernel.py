"""Which attention kernel a device differentiates fastest."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def plain_attention(device: torch.device) -> AbstractContextManager:
    """On a CPU, attention as plain products: the fused kernel's backward pass is the slowest part
    of a step there. Elsewhere torch chooses."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
