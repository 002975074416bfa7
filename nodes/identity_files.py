"""Where saved identities lie: combo labels, their files, and the prefix of a new file."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ..model_patches.files.header import best_first, is_kind

IDENTITIES = "identities"
PERSON = "person"
NO_IDENTITIES = (
    "none found. Save one with the Save Identity node, or put a file into "
    "models/flexid/identities or input/identities. Then press R."
)


def normalise_prefix(prefix: str) -> str:
    """The prefix as ComfyUI's numbering needs it: with "ann/" or "" it would always begin at 1."""
    plain = os.path.normpath(prefix)
    return PERSON if plain.strip() in ("", ".") else plain


def check_prefix(prefix: str) -> None:
    """Raise ValueError for a place outside of the output folder, before anything is encoded."""
    root = os.path.abspath(os.path.join(folder_paths.get_output_directory(), IDENTITIES))
    target = os.path.abspath(os.path.join(root, normalise_prefix(prefix)))
    if os.path.commonpath((root, target)) != root:
        raise ValueError(
            f"filename_prefix is {prefix!r}, which leads out of output/{IDENTITIES}. Give a name "
            "below it, such as family/ann."
        )


def identity_labels() -> list[str]:
    """Files below the three identity folders; those of input and output carry core's suffix.

    One that really is an identity stands first.
    """
    labels = [
        name
        for name in folder_paths.get_filename_list("flexid")
        if Path(name).parts[0] == IDENTITIES and name.endswith(".safetensors")
    ]
    folders = {
        "output": Path(folder_paths.get_output_directory()),
        "input": Path(folder_paths.get_input_directory()),
    }
    for kind, base in folders.items():
        files = (path.relative_to(base).as_posix() for path in base.glob(f"{IDENTITIES}/**/*"))
        labels += [f"{name} [{kind}]" for name in sorted(files) if name.endswith(".safetensors")]
    return best_first(labels, _find_identity, [is_kind("identity")]) or [NO_IDENTITIES]


def identity_path(label: str) -> str:
    """The file behind a label. Raises FileNotFoundError for one that is not listed."""
    if label == NO_IDENTITIES:
        raise FileNotFoundError(f"There is no identity to load: {NO_IDENTITIES}")
    if label not in identity_labels():  # older ComfyUI lets an annotated name leave its folder
        raise FileNotFoundError(
            f"{label!r} is not among the saved identities below output/identities, "
            "input/identities and models/flexid/identities. Press R and choose one."
        )
    return _find_identity(label)


def _find_identity(label: str) -> str:
    """Where a label points; nothing is checked."""
    if label.endswith(("[output]", "[input]")):
        return folder_paths.get_annotated_filepath(label)
    return folder_paths.get_full_path("flexid", label) or ""
