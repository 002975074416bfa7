"""Trainings by one process and by several, compared weight by weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from unittest import mock

import torch
from flexid.model_patches.training import loop

LENGTH = 0.1
"""Of a step, over all weights."""


class _AlongGradient(torch.optim.SGD):
    def step(self, closure=None):
        weights = [one for group in self.param_groups for one in group["params"]]
        norm = torch.nn.utils.get_total_norm([one.grad for one in weights if one.grad is not None])
        for group in self.param_groups:
            group["lr"] = LENGTH / norm.item()
        return super().step(closure)


@contextmanager
def along_gradients() -> Iterator[None]:
    """Every step is the gradient itself, of a fixed length, computed on one thread.

    AdamW divides each value by its own size. Where a gradient is rounding error alone (a bias
    before a norm, a LoRA in its second step), that error becomes a step of the full size, and two
    processes, which add in another order, rightly differ. Threads change that order, too: layers
    that normalise nearly equal values, as in the small keypoint encoder, then differ by 1 %.
    """

    def descend(recipe, module, weights, matrices):
        return [_AlongGradient([{"params": list(weights), "share": 1.0}], lr=recipe.rate)]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with mock.patch.object(loop, "make_optimisers", descend):
            yield
    finally:
        torch.set_num_threads(threads)


def assert_alike(
    begun: Mapping[str, torch.Tensor],
    one: Mapping[str, torch.Tensor],
    other: Mapping[str, torch.Tensor],
) -> None:
    """Both went the same way from `begun`: each tensor to 1 % of its own way, and to one part in
    100,000 of the longest."""
    assert begun.keys() == one.keys() == other.keys()
    ways = {name: (value - begun[name]).abs().max().item() for name, value in one.items()}
    longest = max(ways.values())
    assert longest > 1e-3, "nothing was trained"
    for name, value in one.items():
        apart = (value - other[name]).abs().max().item()
        assert apart <= 0.01 * ways[name] + 1e-5 * longest, (name, apart, ways[name], longest)
