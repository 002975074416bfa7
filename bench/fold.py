"""Folded against unfolded cross-attention at Flux.1 shapes, one layer, float32."""

import statistics
import time
from argparse import Namespace

import tiny
import torch
from flexid.model_patches.adapters.pulid_flux import attention_shapes
from flexid.model_patches.inject.attention import cross_attention, folded_for, layer_weights

DIM, TOKEN_DIM, INNER, HEADS = 3072, 2048, 2048, 16
IMAGE_TOKENS = 4096


def measure(options: Namespace) -> list[dict]:
    return [_measure(tokens, options.rounds) for tokens in (32, 64, 128)]


def _measure(tokens: int, rounds: int) -> dict:
    generator = torch.Generator().manual_seed(0)
    stored = _weights(generator)
    weights = layer_weights(stored, 0)
    identity = torch.randn(1, tokens, TOKEN_DIM, generator=generator)
    image = torch.randn(1, IMAGE_TOKENS, DIM, generator=generator)
    adapter = tiny.adapter(cross_attention=stored, heads=HEADS, digest=f"bench-{tokens}")
    started = time.perf_counter()
    layer = folded_for(adapter, identity, torch.float32).model[0]
    folding = time.perf_counter() - started
    unfolded, folded = [], []
    layer(image), cross_attention(weights, HEADS, identity, image)  # warm-up, not counted
    for _ in range(rounds):
        defined = _timed(lambda: cross_attention(weights, HEADS, identity, image), unfolded)
        result = _timed(lambda: layer(image), folded)
    before, after = statistics.median(unfolded), statistics.median(folded)
    return {
        "identity tokens": tokens,
        "unfolded s": before,
        "folded s": after,
        "speed-up": before / after,
        "relative error": float((result - defined).norm() / defined.norm()),
        "folding once s": folding,
        "weights unfolded MB": sum(v.numel() for v in weights.values()) * 4 / 1e6,
        "weights folded MB": sum(p.numel() for p in layer.parameters()) * 4 / 1e6,
    }


def _timed(run, times: list[float]) -> torch.Tensor:
    started = time.perf_counter()
    result = run()
    times.append(time.perf_counter() - started)
    return result


def _weights(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """One layer: random matrices, plain norms. Keys start with the layer's number."""
    weights = {}
    for name, shape in attention_shapes(1, DIM, TOKEN_DIM, INNER).items():
        if len(shape) > 1:
            weights[name] = torch.randn(shape, generator=generator) / shape[-1] ** 0.5
        else:
            weights[name] = torch.full(shape, 1.0 if name.endswith("weight") else 0.0)
    return weights
