"""Combo lists of model files: plain names, several folders, never an empty list."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import folder_paths

from ..model_patches.files import places
from ..model_patches.files.header import best_first, is_kind
from ..model_patches.files.public_files import where_to_get
from ..model_patches.files.weight_file import WeightFile


def register_folders() -> None:
    """Make the pack's folders below models/ known to ComfyUI.

    extra_model_paths.yaml may add places under the same names.
    """
    for name in places.NAMES:
        folder_paths.add_model_folder_path(name, str(Path(folder_paths.models_dir) / name))


@dataclass(frozen=True)
class ModelFiles:
    """Files of `folders` (ComfyUI's folder names, searched in order) with one of `extensions`.

    Labels are plain file names, so that workflows and the missing-model dialog match them; a name
    found again in a later folder gets that folder in brackets. A file whose content is of one of
    `kinds` (keys of kinds.KINDS, the most wanted first) stands first, so that a new node has it;
    then come names containing `favourite`. `wanted` is the public file that an empty list tells
    about.
    """

    folders: tuple[str, ...]
    extensions: tuple[str, ...]
    favourite: str
    wanted: WeightFile
    kinds: tuple[str, ...]

    @property
    def advice(self) -> str:
        """The only entry of an empty list: which file to put where."""
        return f"none found. {where_to_get([self.wanted])} Then press R."

    def labels(self) -> list[str]:
        """What the combo shows; never empty."""
        found = self._find_files()
        names = sorted(found, key=lambda name: (self.favourite not in name.lower(), name))
        return best_first(names, found.__getitem__, map(is_kind, self.kinds)) or [self.advice]

    def path(self, label: str) -> Path:
        """The file behind a label. Raises FileNotFoundError that says where to get one."""
        found = self._find_files()
        if label in found:
            return found[label]
        if label == self.advice:
            raise FileNotFoundError(f"There is no file to load: {self.advice}")
        raise FileNotFoundError(
            f"{label!r} is not among the {len(found)} files in models/"
            f"{', models/'.join(self.folders)}. {where_to_get([self.wanted])}"
        )

    def _find_files(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for folder in self.folders:
            for name in folder_paths.get_filename_list(folder):
                if not name.lower().endswith(self.extensions):
                    continue
                path = Path(folder_paths.get_full_path_or_raise(folder, name))
                if path not in found.values():
                    found[f"{name} [{folder}]" if name in found else name] = path
        return found
