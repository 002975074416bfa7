"""Folded against unfolded cross-attention at Flux.1 shapes, one layer, float32, on the CPU."""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Callable

import torch
from flexid.mini import tiny_flux
from flexid.model_patches.adapters.pulid_flux import attention_shapes
from flexid.model_patches.inject.pulid import cross_attention, folded_for, layer_weights

from . import flux
from .clock import seconds_of
from .plan import Allowance, Plan, Row, choose

TOKEN_DIM, INNER, HEADS = 2048, 2048, 16
TOKENS = (32, 64, 128)
TRIED = 256
"""Image tokens of the trial: a layer's time is proportional to them."""


class _Layer:
    """One layer in both forms, for one number of identity tokens."""

    def __init__(self, stored: dict[str, torch.Tensor], tokens: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.identity = torch.randn(1, tokens, TOKEN_DIM, generator=generator)
        self.weights = layer_weights(stored, 0)
        adapter = tiny_flux.adapter(cross_attention=stored, heads=HEADS, digest=f"bench-{tokens}")
        self.folding = seconds_of(lambda: folded_for(adapter, self.identity, torch.float32))
        self.folded = folded_for(adapter, self.identity, torch.float32).model[0]

    def run_unfolded(self, image: torch.Tensor) -> torch.Tensor:
        return cross_attention(self.weights, HEADS, self.identity, image)

    def both(self, image: torch.Tensor) -> tuple[Callable[[], torch.Tensor], ...]:
        return lambda: self.run_unfolded(image), lambda: self.folded(image)


def prepare(options: Namespace, allowance: Allowance) -> Plan:
    stored = _weights(torch.Generator().manual_seed(0))
    layers = {tokens: _Layer(stored, tokens) for tokens in TOKENS}
    few = torch.randn(1, TRIED, flux.WIDTH)
    tried = [run for layer in layers.values() for run in layer.both(few)]
    for run in tried:
        run()
    seconds = sum(map(seconds_of, tried))

    def cost(size: flux.Size) -> float:
        return seconds * size.image / TRIED

    size, rounds = choose(flux.SIZES, cost, allowance.left(), options.rounds)

    def measure() -> list[Row]:
        image = torch.randn(1, size.image, flux.WIDTH, generator=torch.Generator().manual_seed(1))
        times = {tokens: ([], []) for tokens in TOKENS}
        for _ in allowance.rounds(rounds):
            for tokens, layer in layers.items():
                for taken, run in zip(times[tokens], layer.both(image), strict=True):
                    taken.append(seconds_of(run))
        return [_row(tokens, layers[tokens], image, *times[tokens]) for tokens in TOKENS]

    return Plan(rounds * cost(size), f"{rounds} rounds, {size.image} image tokens, fp32", measure)


def _row(
    tokens: int, layer: _Layer, image: torch.Tensor, unfolded: list[float], folded: list[float]
) -> Row:
    before, after = statistics.median(unfolded), statistics.median(folded)
    defined, result = (run() for run in layer.both(image))
    return {
        "identity tokens": tokens,
        "image tokens": image.shape[1],
        "rounds": len(folded),
        "unfolded s": before,
        "folded s": after,
        "speed-up": before / after,
        "relative error": float((result - defined).norm() / defined.norm()),
        "folding once s": layer.folding,
        "weights unfolded MB": sum(v.numel() for v in layer.weights.values()) * 4 / 1e6,
        "weights folded MB": sum(p.numel() for p in layer.folded.parameters()) * 4 / 1e6,
    }


def _weights(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """One layer: random matrices, plain norms. Keys start with the layer's number."""
    weights = {}
    for name, shape in attention_shapes(1, flux.WIDTH, TOKEN_DIM, INNER).items():
        if len(shape) > 1:
            weights[name] = torch.randn(shape, generator=generator) / shape[-1] ** 0.5
        else:
            weights[name] = torch.full(shape, 1.0 if name.endswith("weight") else 0.0)
    return weights
