"""Where public files are, and where they belong: the model folders that ComfyUI names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .weight_file import WeightFile

Folders = Callable[[str], Sequence[str | Path]]
"""The folders behind a name such as "clip_vision", the preferred one first: what
`folder_paths.get_folder_paths` is, with the places that extra_model_paths.yaml adds."""

NAMES = ("pulid", "insightface", "facexlib", "flexid", "ipadapter", "dynamicid")
"""Model folders that ComfyUI does not know by itself."""


def find_file(row: WeightFile, folders: Folders) -> Path | None:
    """The file where a node would find it; None when it is nowhere.

    Only the name counts here. A face pack may be nested one level, as its archive unpacks.
    """
    return next((path for path in _candidates(row, folders) if path.is_file()), None)


def _candidates(row: WeightFile, folders: Folders) -> Iterator[Path]:
    name, _, below = row.folder.partition("/")
    for root in map(Path, folders(name)):
        folder = root / below
        yield folder / row.file
        if below:
            yield folder / folder.name / row.file
    for name in row.also:
        yield from (Path(root) / row.file for root in folders(name))


def target_of(row: WeightFile, folders: Folders) -> Path:
    """Where the file belongs: in the first folder that ComfyUI names.

    ComfyUI lists some old names before today's, models/unet before models/diffusion_models; of
    such neighbours the one with the folder's own name is taken.
    """
    name, _, below = row.folder.partition("/")
    roots = [Path(root) for root in folders(name)]
    today = roots[0].with_name(name)
    return (today if today in roots else roots[0]) / below / row.file


def is_intact(row: WeightFile, path: Path) -> bool:
    """Whether the file has the recorded size; also where none is recorded. Its hash is not read."""
    return row.bytes is None or path.stat().st_size == row.bytes
