"""What the anchors' arithmetic is of a Flux.1 step, from single blocks: quick enough for a CPU.

One double block, one single block and one folded cross-attention at Flux.1's width and 1024²
tokens are timed in turn; a full step has 19, 38 and 20 of them per identity.
"""

import statistics
import time
from argparse import Namespace

import comfy.ldm.flux.layers as layers
import comfy.ops
import torch
from flexid.model_patches.inject.attention import FoldedAttention

DIM, FLUX_HEADS, IMAGE, TEXT = 3072, 24, 4096, 512
HEADS, TOKENS = 16, 32
DOUBLES, SINGLES, ANCHORS = 19, 38, 20


def measure(options: Namespace) -> list[dict]:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[options.dtype]
    work = _work(dtype)
    times = {name: [] for name in work}
    for _ in range(options.rounds + 1):
        for name, run in work.items():
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
    seconds = {name: statistics.median(taken[1:]) for name, taken in times.items()}
    step = DOUBLES * seconds["double block"] + SINGLES * seconds["single block"]
    return [
        {
            "identities": label,
            "dtype": options.dtype,
            "double block s": seconds["double block"],
            "single block s": seconds["single block"],
            "anchor s": seconds[label],
            "of a full step %": 100 * ANCHORS * seconds[label] / step,
        }
        for label in ("1", "2 halves", "4 quarters")
    ]


def _work(dtype: torch.dtype) -> dict:
    ops = {"dtype": dtype, "device": "cpu", "operations": comfy.ops.disable_weight_init}
    double = _filled(layers.DoubleStreamBlock(DIM, FLUX_HEADS, 4.0, qkv_bias=True, **ops))
    single = _filled(layers.SingleStreamBlock(DIM, FLUX_HEADS, 4.0, **ops))
    anchors = [_filled(FoldedAttention(DIM, HEADS, TOKENS, **ops)) for _ in range(4)]
    image, text = (torch.randn(1, n, DIM).to(dtype) for n in (IMAGE, TEXT))
    vec = torch.randn(1, DIM).to(dtype)
    both = torch.cat((text, image), 1)
    pe = torch.eye(2).expand(1, 1, IMAGE + TEXT, DIM // FLUX_HEADS // 2, 2, 2)

    def anchored(parts: int) -> None:
        """As Step.inject does it: gather the covered tokens, attend, add."""
        for part in range(parts):
            index = torch.arange(part, IMAGE, parts)
            tokens = image if parts == 1 else image.index_select(1, index)
            residual = anchors[part](tokens)
            if parts == 1:
                image.add_(residual, alpha=0.0)
            else:
                image.index_add_(1, index, residual, alpha=0.0)

    return {
        "double block": lambda: double(img=image.clone(), txt=text.clone(), vec=vec, pe=pe),
        "single block": lambda: single(both.clone(), vec=vec, pe=pe),
        "1": lambda: anchored(1),
        "2 halves": lambda: anchored(2),
        "4 quarters": lambda: anchored(4),
    }


def _filled(module: torch.nn.Module) -> torch.nn.Module:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return module
