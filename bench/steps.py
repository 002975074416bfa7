"""Step time with VFA against the unpatched model, at Flux.1's width and 1024² tokens.

On a CPU with few blocks (the share of anchored blocks is that of the full model within 5 %), on a
GPU with all of them. Every configuration runs in every round, in turn, in one process.
"""

import contextlib
import math
import statistics
import time
from argparse import Namespace

import comfy.model_management
import comfy.patcher_extension
import comfy.sample
import tiny
import torch
from flexid.model_patches.adapters.pulid_flux import attention_shapes
from flexid.model_patches.identity.identity import Identity
from flexid.model_patches.inject.vfa import Step, apply_vfa
from torch.utils._python_dispatch import TorchDispatchMode

LATENT = (128, 128)
TEXT_TOKENS = 512
TOKENS, TOKEN_DIM, HEADS = 32, 2048, 16
SYNCS = {"_local_scalar_dense", "nonzero", "item"}


def measure(options: Namespace) -> list[dict]:
    gpu = torch.cuda.is_available()
    blocks = (options.double or (19 if gpu else 2), options.single or (38 if gpu else 4))
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[options.dtype]
    configurations = _configurations(_flux(blocks, dtype), blocks)
    times = {name: [] for name in configurations}
    _step_seconds(configurations["unpatched"])  # warm-up
    for _ in range(options.rounds):
        for name, patched in configurations.items():
            times[name].append(_step_seconds(patched))
    base = statistics.median(times["unpatched"])
    return [
        _row(name, patched, statistics.median(times[name]), base, blocks, options.dtype)
        for name, patched in configurations.items()
    ]


def _row(name, patched, step, base, blocks, dtype) -> dict:
    inside, syncs = _anatomy(patched)
    return {
        "configuration": name,
        "blocks": "+".join(map(str, blocks)),
        "dtype": dtype,
        "step s": step,
        "vs unpatched %": 100 * (step / base - 1),
        "inside anchors %": 100 * inside / base,
        "adapter MB": sum(m.model_size() for m in set(patched.model_patches_models())) / 1e6,
        "syncs inside anchors": syncs,
    }


def _flux(blocks: tuple[int, int], dtype: torch.dtype):
    """Random weights; only shapes and types matter to the clock."""
    size = {"hidden_size": 3072, "num_heads": 24, "context_in_dim": 4096, "vec_in_dim": 768}
    return tiny.flux(dtype, depth=blocks[0], depth_single_blocks=blocks[1], **size)


def _configurations(model, blocks: tuple[int, int]) -> dict:
    layers = math.ceil(blocks[0] / 2) + math.ceil(blocks[1] / 4)
    adapter = _adapter(layers)
    strips = [_strip(i, 4) for i in range(4)]
    halves = [_strip(i, 2) for i in range(2)]
    return {
        "unpatched": model,
        "weight 0": _apply(model, adapter, [None], strength=0.0),
        "1 identity": _apply(model, adapter, [None]),
        "2 masked": _apply(model, adapter, halves),
        "4 masked": _apply(model, adapter, strips),
        "2 unmasked": _apply(model, adapter, [None, None]),
    }


def _apply(model, adapter, masks: list, strength: float = 1.0):
    for seed, mask in enumerate(masks):
        tokens = torch.randn(1, TOKENS, TOKEN_DIM, generator=torch.Generator().manual_seed(seed))
        person = Identity({"pulid_flux": tokens}, {"pulid_flux": tokens})
        model = apply_vfa(model, adapter, person, mask=mask, strength=strength, negative="none")
    return model


def _strip(number: int, count: int) -> torch.Tensor:
    mask = torch.zeros(1, 1024, 1024)
    width = 1024 // count
    mask[:, :, number * width : (number + 1) * width] = 1
    return mask


def _adapter(layers: int):
    """All layers share one layer's tensors: only shapes and types matter here."""
    generator = torch.Generator().manual_seed(0)
    shapes = attention_shapes(1, 3072, TOKEN_DIM, 128 * HEADS)
    layer = {
        name.removeprefix("0."): (torch.randn(shape, generator=generator) * 0.02).bfloat16()
        for name, shape in shapes.items()
    }
    weights = {f"{i}.{name}": value for i in range(layers) for name, value in layer.items()}
    return tiny.adapter(cross_attention=weights, heads=HEADS, digest=f"bench-steps-{layers}")


def _run(model) -> None:
    """One step of stock sampling."""
    generator = torch.Generator().manual_seed(0)
    latent = torch.zeros(1, 16, *LATENT)
    noise = torch.randn(latent.shape, generator=generator)
    text = torch.randn(1, TEXT_TOKENS, 4096, generator=generator)
    prompt = [[text, {"pooled_output": torch.zeros(1, 768), "guidance": 3.5}]]
    comfy.sample.sample(
        model, noise, 1, 1.0, "euler", "simple", prompt, prompt, latent, disable_pbar=True
    )


@contextlib.contextmanager
def _clock(times: list[float]):
    """Append the seconds that the body takes, GPU work included."""
    _synchronise()
    started = time.perf_counter()
    yield
    _synchronise()
    times.append(time.perf_counter() - started)


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _step_seconds(model) -> float:
    """Seconds of the model call, our own wrapper included."""
    times = []

    def timed(executor, *args, **kwargs):
        with _clock(times):
            return executor(*args, **kwargs)

    watched = model.clone()
    kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    ours = watched.wrappers.pop(kind, {})
    watched.add_wrapper_with_key(kind, "bench", timed)
    for key, wrappers in ours.items():
        for wrapper in wrappers:
            watched.add_wrapper_with_key(kind, key, wrapper)
    _run(watched)
    return times[0]


class _Syncs(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.__name__.split(".")[0] in SYNCS
        return func(*args, **(kwargs or {}))


def _anatomy(model) -> tuple[float, int]:
    """Seconds that one step spends inside anchors, and the host-device syncs in there."""
    times, syncs = [], _Syncs()
    inject = Step.inject

    def watched(self, *args):
        with _clock(times), syncs:
            inject(self, *args)

    Step.inject = watched
    try:
        _run(model)
    finally:
        Step.inject = inject
    return sum(times), syncs.count
