"""Cost per step of a residual whose α follows the run, at Flux.1's width and real text lengths.

The step itself costs some 10^14 operations; the wrapper touches only the text. So the wrapper's own
seconds are measured, and set against an unpatched step of the same run.
"""

import statistics
import time
from argparse import Namespace

import comfy.patcher_extension
import steps
import tiny
import torch
from flexid.model_patches.gates.gate import Gate
from flexid.model_patches.gates.window import Window
from flexid.model_patches.identity.identity import Identity
from flexid.model_patches.inject import sip_residual
from flexid.model_patches.inject.sip import apply_sip
from flexid.model_patches.sip.projector import Direction

TOKENS = (256, 512)
WIDTH, POOLED = 4096, 768
STEPS = 4
GATE = Gate((Window(points=((0.0, 1.5), (1.0, 0.5))),))


class _Source:
    """δ of any size for nothing."""

    family = name = "bench"

    def __init__(self, tokens: int):
        self.digest = f"bench {tokens}"

    def direction(self, tokens, prompt) -> Direction:
        return Direction(torch.randn_like(prompt.states))


def measure(options: Namespace) -> list[dict]:
    gpu = torch.cuda.is_available()
    blocks = (options.double or (19 if gpu else 2), options.single or (38 if gpu else 4))
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[options.dtype]
    model = steps._flux(blocks, dtype)
    steps._step_seconds(model)  # warm-up
    step = statistics.median(steps._step_seconds(model) for _ in range(options.rounds))
    # Every block costs the same: a step of all 57 of them, from the few that fit.
    full = step * 57 / sum(blocks)
    return [_row(model, tokens, step, full, blocks, options) for tokens in TOKENS]


def _row(model, tokens: int, step: float, full: float, blocks, options: Namespace) -> dict:
    applied = _applied(model, tokens)
    seconds = statistics.median(
        value for _ in range(options.rounds) for value in _wrapper_seconds(applied)
    )
    return {
        "text tokens": tokens,
        "blocks": "+".join(map(str, blocks)),
        "dtype": options.dtype,
        "step s": step,
        "SIP s": seconds,
        "vs unpatched %": 100 * seconds / step,
        "vs 19+38 blocks %": 100 * seconds / full,
    }


def _applied(model, tokens: int):
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(1, tokens, WIDTH, generator=generator)
    prompt = [[text, {"pooled_output": torch.zeros(1, POOLED), "guidance": 3.5}]]
    person = Identity({"bench": torch.zeros(1, 1, 1)}, {})
    return apply_sip(prompt, _Source(tokens), person, gate=GATE, model=model)


def _wrapper_seconds(applied) -> list[float]:
    """Seconds of the wrapper alone, in each step but the first of a run of a small Flux.

    The text has its real size; the model behind the wrapper does not matter to it.
    """
    small = tiny.flux(context_in_dim=WIDTH, vec_in_dim=POOLED)
    watched = sip_residual.follow(small)
    inner, seconds = [], []

    def outside(executor, *args, **kwargs):
        started = _now()
        out = executor(*args, **kwargs)
        seconds.append(_now() - started - inner.pop())
        return out

    def inside(executor, *args, **kwargs):
        started = _now()
        out = executor(*args, **kwargs)
        inner.append(_now() - started)
        return out

    kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    ours = watched.wrappers.pop(kind)
    watched.add_wrapper_with_key(kind, "outside", outside)
    for key, wrappers in ours.items():
        for wrapper in wrappers:
            watched.add_wrapper_with_key(kind, key, wrapper)
    watched.add_wrapper_with_key(kind, "inside", inside)
    tiny.sample(watched, positive=applied.conditioning, negative=applied.conditioning, steps=STEPS)
    return seconds[1:]


def _now() -> float:
    steps._synchronise()
    return time.perf_counter()
