"""Which number format a device multiplies matrices in fastest. Needs nothing but torch.

The processor's flags do not tell: without AVX512-BF16 or AMX a bfloat16 product takes up to fifty
times as long as a float32 one, with AVX512-BF16 alone it depends on the library. So the products
that training is made of are timed, once per process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch

SIDE = 192
"""Matrices of this size fit a core's cache and still take longer than a call's overhead."""
REPEATS = 5
CLEARLY = 1.25
"""How many times as fast bfloat16 must be: it costs precision, and a near tie would be decided
by chance, differently in two runs on one machine."""


def fastest_dtype(device: torch.device | str) -> torch.dtype:
    """bfloat16 where the device computes it clearly faster than float32, otherwise float32."""
    kind = torch.device(device).type
    return torch.bfloat16 if prefers_bfloat16(kind) else torch.float32


def autocast(device: torch.device | str) -> torch.autocast:
    """Autocast to `fastest_dtype`; switched off where that is float32."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=prefers_bfloat16(kind))


@cache
def prefers_bfloat16(kind: str) -> bool:
    """For a device type such as "cpu": measured there, asked of the driver on CUDA."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    with _one_thread():
        return _product_seconds(torch.float32) > CLEARLY * _product_seconds(torch.bfloat16)


@contextmanager
def _one_thread() -> Iterator[None]:
    """On a busy machine, threads that wait for each other take a hundred times as long as the
    product itself, and only the format whose kernel uses several would pay for it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _product_seconds(dtype: torch.dtype) -> float:
    """A plain product and a linear layer's: different kernels, and training needs both."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(SIDE, SIDE, generator=generator).to(dtype) for _ in range(2))
    with torch.inference_mode():
        return sum(
            _shortest(run)
            for run in (lambda: left @ right, lambda: torch.nn.functional.linear(left, right))
        )


def _shortest(run: Callable[[], object]) -> float:
    run()  # the first call sets the kernel up
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)
