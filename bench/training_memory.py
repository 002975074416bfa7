"""The memory that `start.py train identity-adapter` needs on a Flux.1, part by part.

Run with the environment's Python and COMFYUI_PATH set; it takes minutes. What autograd keeps is
measured at real width, on the CPU: of one block of each kind and one layer of the cross-attention.
The decoders' part is counted on tensors without content.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HIDDEN, HEADS, DOUBLES, SINGLES = 3072, 24, 19, 38
TOKENS, TOKEN_DIM, INNER, LAYERS = 32, 2048, 2048, 20
LATENT_CHANNELS = 16
MIB = 2**20


def kept_bytes(run: Callable[[], object], own: set[int]) -> int:
    """What autograd keeps of a run, each storage once; `own`: storages that are there anyway."""
    import torch

    seen: dict[int, int] = {}
    alive = []

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            seen[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(seen.values())


def storages(*tensors) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in tensors}


def count_block(kind: str, image: int, text: int) -> int:
    import comfy.ops
    import torch
    from comfy.ldm.flux.layers import DoubleStreamBlock, SingleStreamBlock
    from flexid.model_patches.training.flux_blocks import double_block, single_block

    made = {"dtype": torch.bfloat16, "operations": comfy.ops.disable_weight_init}
    rotation = torch.zeros(1, 1, image + text, 64, 2, 2)
    vec = torch.zeros(1, HIDDEN, dtype=torch.bfloat16)

    def tokens(count: int) -> torch.Tensor:
        return torch.zeros(1, count, HIDDEN, dtype=torch.bfloat16, requires_grad=True)

    if kind == "double":
        block = DoubleStreamBlock(HIDDEN, HEADS, mlp_ratio=4.0, qkv_bias=True, **made)
        inputs, run = (tokens(image), tokens(text)), double_block
    else:
        block = SingleStreamBlock(HIDDEN, HEADS, mlp_ratio=4.0, **made)
        inputs, run = (tokens(image + text),), single_block
    block.requires_grad_(False)
    own = storages(*block.parameters(), *inputs, rotation, vec)
    return kept_bytes(lambda: run(block, *inputs, vec, rotation), own)


def count_layer(image: int, trained: bool) -> int:
    """One cross-attention layer under autocast, on real tensors."""
    import torch
    from flexid.model_patches.inject.pulid import cross_attention

    shapes = {
        "norm1.weight": (TOKEN_DIM,), "norm1.bias": (TOKEN_DIM,),
        "norm2.weight": (HIDDEN,), "norm2.bias": (HIDDEN,),
        "to_q.weight": (INNER, HIDDEN), "to_kv.weight": (2 * INNER, TOKEN_DIM),
        "to_out.weight": (HIDDEN, INNER),
    }  # fmt: skip
    weights = {key: torch.zeros(shape, requires_grad=trained) for key, shape in shapes.items()}
    tokens = torch.zeros(1, TOKENS, TOKEN_DIM)
    picture = torch.zeros(1, image, HIDDEN, dtype=torch.bfloat16, requires_grad=True)
    own = storages(*weights.values(), tokens, picture)
    with torch.autocast("cpu", torch.bfloat16):
        return kept_bytes(lambda: cross_attention(weights, INNER // 128, tokens, picture), own)


def count_decoder(cells: int) -> int:
    """TAEF1's decoder on a square of latent cells, float32."""
    import torch
    from comfy.taesd.taesd import Decoder

    net = Decoder(latent_channels=LATENT_CHANNELS).to("meta").requires_grad_(False)
    latents = torch.zeros(1, LATENT_CHANNELS, cells, cells, device="meta", requires_grad=True)
    return kept_bytes(lambda: net(latents), storages(*net.parameters(), latents))


def count_vae(cells: int) -> int:
    """Flux's own decoder, float32."""
    import torch
    from comfy.ldm.modules.diffusionmodules.model import Decoder

    with torch.device("meta"):
        net = Decoder(
            ch=128, out_ch=3, ch_mult=(1, 2, 4, 4), num_res_blocks=2, attn_resolutions=[],
            in_channels=3, resolution=256, z_channels=LATENT_CHANNELS,
        ).requires_grad_(False)  # fmt: skip
    latents = torch.zeros(1, LATENT_CHANNELS, cells, cells, device="meta", requires_grad=True)
    return kept_bytes(lambda: net(latents), storages(*net.parameters(), latents))


def show(size: int, text: int) -> None:
    image = (size // 16) ** 2
    double, single = (count_block(kind, image, text) for kind in ("double", "single"))
    layer, thin = count_layer(image, True), count_layer(image, False)
    row = HIDDEN * 2 * (image + text)
    edges = (DOUBLES + SINGLES) * row
    sys.stdout.write(
        f"{size} px, {image} image and {text} text tokens, 1 row, MiB\n"
        f"  a double block keeps          {double / MIB:8.0f}\n"
        f"  a single block keeps          {single / MIB:8.0f}\n"
        f"  a trained layer keeps         {layer / MIB:8.0f}\n"
        f"  a layer in passing keeps      {thin / MIB:8.0f}\n"
        f"  all blocks and layers         "
        f"{(DOUBLES * double + SINGLES * single + LAYERS * layer) / MIB:8.0f}\n"
        f"  inputs of all blocks          {edges / MIB:8.0f}\n"
        f"  with checkpointing, at most   {(edges + max(double, single) + layer) / MIB:8.0f}\n"
    )


def main() -> None:
    bootstrap = runpy.run_path(str(ROOT / "setup" / "pack.py"))
    bootstrap["open_pack"]()
    bootstrap["open_comfyui"](cpu=True)
    for size, text in ((512, 512), (1024, 512)):
        show(size, text)
    for cells in (32, 64, 128):
        sys.stdout.write(
            f"{cells} x {cells} latent cells, MiB: TAEF1 {count_decoder(cells) / MIB:.0f}, "
            f"Flux's VAE {count_vae(cells) / MIB:.0f}\n"
        )


if __name__ == "__main__":
    main()
