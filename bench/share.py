"""The anchors' share of a Flux.1 step, timed on single blocks: quick enough for a CPU.

One double block, one single block and one folded cross-attention at Flux.1's width are timed in
turn; a full step has 19, 38 and 20 of them per identity. People by Apply SAA share one attention.
"""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Callable

import comfy.ldm.flux.layers as layers
import comfy.model_management
import comfy.ops
import torch
from flexid.model_patches.inject.attention import FoldedAttention, JoinedAttention
from flexid.model_patches.inject.saa_activation import Activate, Layout, Shares

from . import flux
from .clock import seconds_of
from .plan import Allowance, Plan, Row, choose

HEADS, TOKENS, ANCHORS = 16, 32, 20
IDENTITIES = {"1": 1, "2 halves": 2, "4 quarters": 4}
PEOPLE = {"2 people by SAA": 2, "3 people by SAA": 3}

Work = dict[str, Callable[[], object]]


def prepare(options: Namespace, allowance: Allowance) -> Plan:
    modules = _Modules(options.dtype)
    tried = modules.work(flux.TRIED)
    for run in tried.values():
        run()
    seconds = sum(map(seconds_of, tried.values()))

    def cost(size: flux.Size) -> float:
        return seconds * size.work / flux.TRIED.work

    size, rounds = choose(flux.sizes(), cost, allowance.left(), options.rounds)

    def measure() -> list[Row]:
        work = modules.work(size)
        times: dict[str, list[float]] = {name: [] for name in work}
        for _ in allowance.rounds(rounds):
            for name, run in work.items():
                times[name].append(seconds_of(run))
        medians = {name: statistics.median(taken) for name, taken in times.items()}
        found = size.columns() | {"dtype": flux.NAMES[options.dtype]}
        return _rows(medians, found | {"rounds": len(times["1"])})

    what = f"{rounds} rounds, {size}, one block of each kind, {flux.NAMES[options.dtype]}"
    return Plan(rounds * cost(size), what, measure)


def _rows(seconds: dict[str, float], found: Row) -> list[Row]:
    blocks = {name: seconds[name] for name in ("double block", "single block")}
    step = flux.DOUBLES * blocks["double block"] + flux.SINGLES * blocks["single block"]
    return [
        {
            "identities": name,
            **found,
            **{f"{block} s": taken for block, taken in blocks.items()},
            "anchor s": seconds[name],
            "20 anchors of 19+38 blocks %": 100 * ANCHORS * seconds[name] / step,
        }
        for name in (*IDENTITIES, *PEOPLE)
    ]


class _Modules:
    """One block of each kind and four anchors, on the device that ComfyUI would sample on."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.made = {"dtype": dtype, "device": comfy.model_management.get_torch_device()}
        ops = self.made | {"operations": comfy.ops.disable_weight_init}
        shape = (flux.WIDTH, flux.HEADS, 4.0)
        self.double = _fill_weights(layers.DoubleStreamBlock(*shape, qkv_bias=True, **ops))
        self.single = _fill_weights(layers.SingleStreamBlock(*shape, **ops))
        self.anchors = [
            _fill_weights(FoldedAttention(flux.WIDTH, HEADS, TOKENS, **ops)) for _ in range(4)
        ]

    def work(self, size: flux.Size) -> Work:
        image, text = (torch.randn(1, n, flux.WIDTH, **self.made) for n in (size.image, size.text))
        vec = torch.randn(1, flux.WIDTH, **self.made)
        both = torch.cat((text, image), 1)
        turn = torch.eye(2, device=self.made["device"])
        pe = turn.expand(1, 1, size.image + size.text, flux.WIDTH // flux.HEADS // 2, 2, 2)
        blocks: Work = {
            "double block": lambda: self.double(
                img=image.clone(), txt=text.clone(), vec=vec, pe=pe
            ),
            "single block": lambda: self.single(both.clone(), vec=vec, pe=pe),
        }
        anchors: Work = {
            name: lambda parts=parts: self._anchor(image, parts)
            for name, parts in IDENTITIES.items()
        }
        people: Work = {}
        for name, count in PEOPLE.items():
            activate = Activate(Shares(1.0), self._strips(size.image, count), 0.3)
            joined = JoinedAttention(self.anchors[:count])
            people[name] = lambda joined=joined, activate=activate: image.add_(
                joined(image, 1.0, activate), alpha=0.0
            )
        return blocks | anchors | people

    def _strips(self, tokens: int, count: int) -> Layout:
        """People in equal parts of the picture, with layout control, which costs most."""
        device = self.made["device"]
        owner = torch.arange(tokens, device=device) * count // tokens
        allowed = torch.nn.functional.one_hot(owner, count).float()
        bias = allowed.repeat_interleave(TOKENS, dim=-1).log()[None]
        inside = torch.ones(1, tokens, device=device)
        return Layout(inside, 2.0 * inside, bias)

    def _anchor(self, image: torch.Tensor, parts: int) -> None:
        """As an injection does it: gather the covered tokens, attend, add."""
        if parts == 1:
            image.add_(self.anchors[0](image), alpha=0.0)
            return
        for part in range(parts):
            index = torch.arange(part, image.shape[1], parts, device=image.device)
            residual = self.anchors[part](image.index_select(1, index))
            image.index_add_(1, index, residual, alpha=0.0)


def _fill_weights(module: torch.nn.Module) -> torch.nn.Module:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return module
