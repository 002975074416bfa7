"""Cost per step of a residual whose α follows the run, at Flux.1's width and real text lengths.

The step itself costs some 10^14 operations; the wrapper touches only the text. So the wrapper's own
seconds are measured, and set against an unpatched step of the same run.
"""

from __future__ import annotations

import statistics
from argparse import Namespace

import torch
from flexid.model_patches.gates.gate import Gate
from flexid.model_patches.gates.window import Window
from flexid.model_patches.identity.identity import Encoding, Identity
from flexid.model_patches.inject.sip import apply_sip
from flexid.model_patches.sip.projector import Direction, Prompt

from . import flux
from .clock import seconds_of
from .inside import residual_seconds
from .plan import Allowance, Plan, Row, choose

TOKENS = (256, 512)
STEPS = 4
GATE = Gate((Window(points=((0.0, 1.5), (1.0, 0.5))),))


class _Source:
    """δ of any size for nothing."""

    family = name = encoder_digest = "bench"

    def __init__(self, tokens: int) -> None:
        self.digest = f"bench {tokens}"

    def direction(self, tokens: torch.Tensor, prompt: Prompt) -> Direction:
        return Direction(torch.randn_like(prompt.states))


def prepare(options: Namespace, allowance: Allowance) -> Plan:
    blocks = flux.blocks_of(options)
    model = flux.open_flux(blocks, options.dtype)
    flux.sample_step(model, flux.WARM_UP)
    tried = flux.step_seconds(model, flux.TRIED)
    prompts = {tokens: _apply_residual(model, tokens) for tokens in TOKENS}
    residual_seconds(prompts[TOKENS[0]], STEPS)  # opens the model
    wrapped = seconds_of(lambda: [residual_seconds(one, STEPS) for one in prompts.values()])

    def cost(size: flux.Size) -> float:
        return tried * size.work / flux.TRIED.work + wrapped

    size, rounds = choose(flux.sizes(), cost, allowance.left(), options.rounds)
    shape = {"blocks": "+".join(map(str, blocks)), "dtype": flux.NAMES[options.dtype]}

    def measure() -> list[Row]:
        steps, inside = [], {tokens: [] for tokens in TOKENS}
        for _ in allowance.rounds(rounds):
            steps.append(flux.step_seconds(model, size))
            for tokens, prompt in prompts.items():
                inside[tokens] += residual_seconds(prompt, STEPS)
        step = statistics.median(steps)
        found = {"image tokens": size.image, **shape, "rounds": len(steps), "step s": step}
        # All blocks of a kind cost the same, and a double one as much as a single one.
        full = step * (flux.DOUBLES + flux.SINGLES) / sum(blocks)
        return [_row(tokens, statistics.median(inside[tokens]), found, full) for tokens in TOKENS]

    what = f"{rounds} rounds, {size}, {shape['blocks']} blocks, {shape['dtype']}"
    return Plan(rounds * cost(size), what, measure)


def _row(tokens: int, seconds: float, found: Row, full: float) -> Row:
    return {
        "prompt tokens": tokens,
        **found,
        "SIP s": seconds,
        "vs this step %": 100 * seconds / found["step s"],
        "vs 19+38 blocks, computed %": 100 * seconds / full,
    }


def _apply_residual(model, tokens: int) -> list:
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(1, tokens, flux.TEXT_WIDTH, generator=generator)
    prompt = [[text, {"pooled_output": torch.zeros(1, flux.POOLED), "guidance": 3.5}]]
    nothing = torch.zeros(1, 1, 1)
    person = Identity({"bench": Encoding("bench", "bench", nothing, nothing)})
    return apply_sip(prompt, _Source(tokens), person, gate=GATE, model=model).conditioning
