"""A random FlexIP file for the small Flux, in the pack's format: it knows no faces, but loads and
changes a picture. Same arguments, same bytes."""

from __future__ import annotations

from pathlib import Path

from ..model_patches.adapters.flexip_settings import EVA, FLUX, FlexIPSettings, settings_of
from ..model_patches.files.stream import write_streamed
from .random_adapter import ARCFACE, Shapes, fill, linear, norm, perceiver_layer
from .random_text import T5_CONFIG

DIM, LATENTS, TOKENS = 64, 8, 96


def write_flexip(
    path: str | Path,
    seed: int = 0,
    hidden: int = 256,
    double_blocks: int = 2,
    single_blocks: int = 4,
    text: int = T5_CONFIG["d_model"],
    vision: int = 128,
    pooled: int = 768,
    strength: float = 0.3,
) -> Path:
    """Both streams after every block of a Flux of width `hidden`.

    vision and pooled: widths of the tower that it reads. strength: scale of what it adds.
    """
    face = ARCFACE + pooled
    parts = {
        "preserve.detail": {**_resampler(vision, TOKENS), "latents": (1, LATENTS, DIM)},
        "preserve.overall": {**_resampler(vision, TOKENS), **_asking(face)},
        "personal": {**_resampler(face, text), **_asking(text)},
    }
    blocks = [f"double.{number}" for number in range(double_blocks)]
    blocks += [f"single.{number}" for number in range(single_blocks)]
    parts |= {f"blocks.{block}": _layers(hidden, text) for block in blocks}
    shapes = {f"{part}.{key}": shape for part, held in parts.items() for key, shape in held.items()}
    tensors = fill(shapes, seed)
    for key, tensor in tensors.items():
        if key.endswith(".to_out.weight") and key.startswith("blocks."):
            tensor *= strength
    settings = FlexIPSettings(
        base=FLUX,
        context=EVA,
        cls="face_and_pooled",
        text_tokens=0,
        heads=hidden // 128,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    halves = {key: tensor.half() for key, tensor in tensors.items()}
    layout = {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in halves.items()}
    write_streamed(path, layout, halves.__getitem__, settings_of(settings))
    return path


def _resampler(context: int, output: int) -> Shapes:
    return {
        **linear("proj_in", DIM, context),
        **perceiver_layer("layers.0", DIM),
        **linear("proj_out", output, DIM),
        **norm("norm_out", output),
    }


def _asking(width: int) -> Shapes:
    return {**linear("proj_query", DIM, width), **norm("norm_query", DIM)}


def _layers(hidden: int, text: int) -> Shapes:
    shapes: Shapes = {
        **norm("norm2", hidden),
        "to_q.weight": (hidden, hidden),
        "to_out.weight": (hidden, hidden),
    }
    for stream, width in (("preserve", TOKENS), ("personal", text)):
        shapes |= {**norm(f"{stream}.norm1", width), f"{stream}.to_kv.weight": (2 * hidden, width)}
    return shapes
