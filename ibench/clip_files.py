"""Which files hold CLIP ViT-L/14, IBench's judge of prompts: found by content, not by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..model_patches.encoders.clip_pair import ClipPair, pair_clip
from ..model_patches.files.header import Header, peek

WIDTH = 768
"""Numbers of ViT-L/14's features, and of the file's projections."""
PATCHES = (1024, 3, 14, 14)
VISION = ("visual_projection.weight", "vision_model.embeddings.patch_embedding.weight")
VISION_OPENAI = ("visual.proj", "visual.conv1.weight")
TEXT_PROJECTIONS = ("text_projection.weight", "text_projection")
TEXT_WORDS = ("text_model.embeddings.token_embedding.weight", "token_embedding.weight")
ADVICE = (
    "put CLIP ViT-L/14, whole or as its two halves, into models/clip_vision and "
    "models/text_encoders: model.safetensors of huggingface.co/openai/clip-vit-large-patch14 has "
    "both; the text half needs text_projection"
)


def find_pair(folders: Any) -> tuple[Path, Path] | None:
    """The files of the picture half and of the text half, which may be one; None without both."""
    vision = find_vision(folders)
    text = next(_matching(folders, ("text_encoders", "clip_vision"), reads_text), None)
    return (vision, text) if vision and text else None


def find_vision(folders: Any) -> Path | None:
    """The file of the picture half, which the aesthetic score needs alone."""
    return next(_matching(folders, ("clip_vision",), sees_pictures), None)


def _matching(
    folders: Any, names: tuple[str, ...], fits: Callable[[Header], bool]
) -> Iterator[Path]:
    for name in names:
        for file in folders.get_filename_list(name):
            path = Path(folders.get_full_path(name, file))
            header = peek(path)
            if header is not None and fits(header):
                yield path


def sees_pictures(header: Header) -> bool:
    """Whether the file holds ViT-L/14's picture half, with its projection."""
    shapes = header.shapes
    return any(
        WIDTH in shapes.get(projection, ()) and shapes.get(patches) == PATCHES
        for projection, patches in (VISION, VISION_OPENAI)
    )


def reads_text(header: Header) -> bool:
    """Whether the file holds its text half, with the projection that many files lack."""
    shapes = header.shapes
    return any(shapes.get(key) == (WIDTH, WIDTH) for key in TEXT_PROJECTIONS) and any(
        shapes.get(key, ())[1:] == (WIDTH,) for key in TEXT_WORDS
    )


def open_pair(vision: Path, text: Path) -> ClipPair:
    """By ComfyUI's own loaders. Raises ValueError for halves that do not fit."""
    import comfy.sd

    return pair_clip(open_vision(vision), comfy.sd.load_clip([str(text)]))


def open_vision(path: Path) -> Any:
    """The picture half, by ComfyUI's own loader."""
    import comfy.clip_vision

    return comfy.clip_vision.load(str(path))
