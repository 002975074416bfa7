"""Flux's two kinds of block once more, out of place, so that a frozen Flux passes gradients on.

ComfyUI's own blocks add to their input, which autograd refuses. These run ComfyUI's modules and
take the blocks' places through `patches_replace`; nothing is assigned to the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from comfy.ldm.flux.layers import DoubleStreamBlock, SelfAttention, SingleStreamBlock
from comfy.ldm.flux.model import Flux
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Inject = Callable[[Tensor], Tensor]
"""Image tokens (B, L, D) after a block -> what to add to them."""
Injections = Mapping[tuple[str, int], Inject]
"""By the block's place."""


def _modulate_norm(x: Tensor, norm: nn.Module, mod: Any) -> Tensor:
    return torch.addcmul(mod.shift, norm(x), 1 + mod.scale)


def _heads(qkv: Tensor, heads: int) -> Tensor:
    """(B, T, 3 · H · D) -> (3, B, H, T, D)."""
    return qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)


def _rotate_heads(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotary positions; rotation (1, 1, T, D/2, 2, 2), pairs of x are neighbours."""
    pairs = x.unflatten(-1, (-1, 2))
    rotation = rotation.to(x.dtype)
    out = rotation[..., 0] * pairs[..., :1] + rotation[..., 1] * pairs[..., 1:]
    return out.flatten(-2)


FEW = 1024
"""Up to so many tokens, attention that is written out is faster on a CPU than the fused kernel."""


def _attend(q: Tensor, k: Tensor, v: Tensor, rotation: Tensor) -> Tensor:
    """Over many tokens fused: the scores of 4,608 would take 1 GB in each block of a Flux.1."""
    q, k = _rotate_heads(q, rotation), _rotate_heads(k, rotation)
    if q.shape[2] > FEW:
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def _qkv(attention: SelfAttention, x: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = _heads(attention.qkv(x), heads)
    q, k = attention.norm(q, k, v)
    return q, k, v


def double_block(
    block: DoubleStreamBlock, img: Tensor, txt: Tensor, vec: Tensor, pe: Tensor
) -> tuple[Tensor, Tensor]:
    """comfy.ldm.flux.layers.DoubleStreamBlock."""
    (img1, img2), (txt1, txt2) = block.img_mod(vec), block.txt_mod(vec)
    seen = _qkv(block.txt_attn, _modulate_norm(txt, block.txt_norm1, txt1), block.num_heads)
    mine = _qkv(block.img_attn, _modulate_norm(img, block.img_norm1, img1), block.num_heads)
    q, k, v = (torch.cat(pair, dim=2) for pair in zip(seen, mine, strict=True))
    told, shown = _attend(q, k, v, pe).split((txt.shape[1], img.shape[1]), dim=1)
    img = img + img1.gate * block.img_attn.proj(shown)
    img = img + img2.gate * block.img_mlp(_modulate_norm(img, block.img_norm2, img2))
    txt = txt + txt1.gate * block.txt_attn.proj(told)
    txt = txt + txt2.gate * block.txt_mlp(_modulate_norm(txt, block.txt_norm2, txt2))
    return img, txt


def single_block(block: SingleStreamBlock, x: Tensor, vec: Tensor, pe: Tensor) -> Tensor:
    """comfy.ldm.flux.layers.SingleStreamBlock."""
    modulation: Any = block.modulation  # None in Flux.2 alone
    mod, _ = modulation(vec)
    both = block.linear1(_modulate_norm(x, block.pre_norm, mod))
    qkv, mlp = both.split((3 * block.hidden_size, block.mlp_hidden_dim_first), dim=-1)
    q, k, v = _heads(qkv, block.num_heads)
    q, k = block.norm(q, k, v)
    attended = _attend(q, k, v, pe)
    return x + mod.gate * block.linear2(torch.cat((attended, block.mlp_act(mlp)), dim=2))


Run = Callable[..., Any]
"""A block's function with the block bound to it."""


def bound(flux: Flux, fast: bool) -> dict[tuple[str, int], Run]:
    """Every block of `flux` by its place; `fast` compiles them, which needs a C++ compiler."""
    kinds = {
        "double_block": (double_block, flux.double_blocks),
        "single_block": (single_block, flux.single_blocks),
    }
    made = {
        (kind, number): partial(run, block)
        for kind, (run, blocks) in kinds.items()
        for number, block in enumerate(blocks)
    }
    # Each shape has its own code: the general one is slower.
    return {
        place: torch.compile(run, dynamic=False) if fast else run for place, run in made.items()
    }


def replacements(
    runs: dict[tuple[str, int], Run], injections: Injections, checkpointing: bool = False
) -> dict:
    """`patches_replace` entries for every block; some are followed by an injection.

    checkpointing: a block and its injection keep their inputs alone, and are computed once more
    when their gradients are.
    """
    wrap = {"double_block": _double, "single_block": _single}
    again = _checkpoint if checkpointing else _run_once
    return {place: wrap[place[0]](run, injections.get(place), again) for place, run in runs.items()}


Again = Callable[..., Any]
"""(function, its arguments) -> its results."""


def _run_once(run: Run, *arguments: Any) -> Any:
    return run(*arguments)


def _checkpoint(run: Run, *arguments: Any) -> Any:
    # Nothing in a block is random.
    return checkpoint(run, *arguments, use_reentrant=False, preserve_rng_state=False)


def _double(block: Run, inject: Inject | None, again: Again) -> Callable[[dict, dict], dict]:
    def add(img: Tensor, txt: Tensor, vec: Any, pe: Tensor) -> tuple[Tensor, Tensor]:
        img, txt = block(img, txt, vec, pe)
        return (img if inject is None else img + inject(img).to(img.dtype)), txt

    def run(args: dict, _: dict) -> dict:
        img, txt = again(add, args["img"], args["txt"], args["vec"], args["pe"])
        return {"img": img, "txt": txt}

    return run


def _single(block: Run, inject: Inject | None, again: Again) -> Callable[[dict, dict], dict]:
    def add(sequence: Tensor, vec: Any, pe: Tensor, start: int) -> Tensor:
        sequence = block(sequence, vec, pe)
        if inject is None:
            return sequence
        text, image = sequence[:, :start], sequence[:, start:]
        return torch.cat((text, image + inject(image).to(image.dtype)), dim=1)

    def run(args: dict, _: dict) -> dict:
        start = 0 if inject is None else args["transformer_options"]["img_slice"][0]
        return {"img": again(add, args["img"], args["vec"], args["pe"], start)}

    return run
