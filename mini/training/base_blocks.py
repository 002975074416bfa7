"""FLUX's blocks in training: compiled, if asked for, and watched in the middle.

Compiled blocks are nearly twice as fast on a CPU, after a minute of compiling. They need a C++
compiler (a CUDA device: Triton). The results are the same but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Replacement = Callable[[dict, dict], dict]


class Blocks:
    """`options` are `transformer_options` for `flux`: it runs its blocks through these.

    After each run `seen` holds the picture's tokens (B, L, D) as they leave single block `watched`.
    """

    def __init__(self, flux: nn.Module, watched: int, fast: bool) -> None:
        self.compile = torch.compile if fast else _keep_tensor
        self.seen: Tensor | None = None
        replaced: dict[tuple[str, int], Replacement] = {}
        for index, block in enumerate(flux.double_blocks):
            replaced["double_block", index] = self._double(block)
        for index, block in enumerate(flux.single_blocks):
            replaced["single_block", index] = self._single(block, index == watched)
        self.options = {"patches_replace": {"dit": replaced}}

    def _double(self, block: nn.Module) -> Replacement:
        def forward(img: Tensor, txt: Tensor, vec: Tensor, pe: Tensor) -> tuple[Tensor, Tensor]:
            # The copies are made inside: a compiled block may keep its inputs for the gradient,
            # and ComfyUI's blocks add to theirs in place.
            return block(img.clone(), txt.clone(), vec, pe)

        run = self.compile(forward)

        def replacement(given: dict, _: dict) -> dict:
            img, txt = run(given["img"], given["txt"], given["vec"], given["pe"])
            return {"img": img, "txt": txt}

        return replacement

    def _single(self, block: nn.Module, watched: bool) -> Replacement:
        def forward(x: Tensor, vec: Tensor, pe: Tensor) -> Tensor:
            return block(x.clone(), vec, pe)

        run = self.compile(forward)

        def replacement(given: dict, _: dict) -> dict:
            out = run(given["img"], given["vec"], given["pe"])
            if watched:
                self.seen = out[:, given["transformer_options"]["img_slice"][0] :]
            return {"img": out}

        return replacement


def _keep_tensor(run: Callable) -> Callable:
    return run
