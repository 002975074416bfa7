"""What a merge of PuLID-FLUX files is made of: the settings, the files that fit, the recipe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .merge_rules import Method, is_compat, linear_coefficients, shares_of
from .merge_scope import Part, Scope, parts_of
from .pulid_flux import ATTENTION, BLOCKS_KEY, AdapterFile, open_without_lora, state_blocks

RECIPE_KEY = "flexid.merge"
TYPES: dict[str, torch.dtype | None] = {
    "auto": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
"""auto: that of the files which a tensor is made of; float32 where they differ."""

_VERSION = 1
_LONGEST_RECIPE = 16 << 10


@dataclass(frozen=True)
class Settings:
    """How to merge. weights: one for each file, None for equal ones; see `merge_rules.shares_of`.

    dtype: a key of TYPES. Raises ValueError for an unknown one.
    """

    method: Method = "lerp"
    weights: tuple[float, ...] | None = None
    normalise: bool = True
    scope: Scope = Scope()
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if self.dtype not in TYPES:
            raise ValueError(f"dtype is {self.dtype!r}, expected one of {', '.join(TYPES)}.")


@dataclass(frozen=True, eq=False)
class Plan:
    """Files that fit each other, and what is made of them. sources[0] is the reference: base, or
    the first file again. Everything outside the scope is copied from it."""

    settings: Settings
    shares: Sequence[float]
    sources: Sequence[AdapterFile]
    based: bool
    """Whether a base is connected."""
    same_encoder: bool

    @property
    def reference(self) -> AdapterFile:
        return self.sources[0]

    @property
    def files(self) -> Sequence[AdapterFile]:
        return self.sources[1:]

    @property
    def recipe(self) -> str:
        """As JSON: the same for the same files, method, weights and scope."""
        settings, scope = self.settings, self.settings.scope
        recipe = {
            "version": _VERSION,
            "method": settings.method,
            "files": [
                {**_name(file), "weight": share}
                for file, share in zip(self.files, self.shares, strict=True)
            ],
            "base": _name(self.reference) if self.based else None,
            "encoder": scope.encoder,
            "layers": scope.layers.strip(),
            "paths": scope.paths.strip(),
            "dtype": settings.dtype,
        }
        return json.dumps(recipe, ensure_ascii=False)

    @property
    def measured(self) -> list[int]:
        """Numbers, from 1, of the files that are not the reference: whose drift is measured."""
        return [i for i, file in enumerate(self.files, 1) if file is not self.reference]

    def coefficients(self) -> list[float]:
        """Of every source where a merge is a sum; for slerp those that are not 0 count."""
        return linear_coefficients(self.settings.method, self.shares)

    def dtype_of(self, key: str) -> torch.dtype:
        """The number type of a tensor of the new file. An encoder that is copied keeps its own, so
        that identities which it made still fit."""
        tensors = [source.file.tensors[key] for source in self.sources]
        parts = parts_of(key, tensors[0].numel())
        held = [self.holds(part) for part in parts]
        if parts[0].layer is None and not held[0]:
            return tensors[0].dtype
        wanted = TYPES[self.settings.dtype]
        if wanted is not None:
            return wanted
        if is_compat(self.settings.method):
            return tensors[0].dtype
        used = {t.dtype for t, c in zip(tensors, self.coefficients(), strict=True) if c != 0}
        found = (used if any(held) else set()) | (set() if all(held) else {tensors[0].dtype})
        return found.pop() if len(found) == 1 else torch.float32

    def holds(self, part: Part) -> bool:
        """Whether a part is merged. Equal encoders are copied."""
        return not self.copies(part) and self.settings.scope.holds(part)

    def copies(self, part: Part) -> bool:
        """Whether it is of an encoder that all files share. The published tool does not look: it
        rounds an average of equal values, and adds them up."""
        if is_compat(self.settings.method) and self.settings.scope.encoder == "merge":
            return False
        return part.layer is None and self.same_encoder


def plan_merge(
    paths: Sequence[str | Path], settings: Settings, base: str | Path | None = None
) -> Plan:
    """Open the files and check all that can be checked unread.

    Raises FileNotFoundError or ValueError: a file that is no PuLID adapter for Flux, other tensors,
    shapes or heads than the first one's, other encoders where `scope.encoder` wants equal ones,
    weights that do not fit, nothing but one and the same file.
    """
    shares = shares_of(
        settings.method, settings.weights, len(paths), settings.normalise, base is not None
    )
    if base is not None and is_compat(settings.method):
        raise ValueError(
            f"base is connected, and {settings.method} has none: it repeats a tool for two files. "
            "Disconnect base, or choose task_arithmetic."
        )
    files = [open_without_lora(path) for path in paths]
    reference = files[0] if base is None else open_without_lora(base)
    for file in files:
        _check_fit(reference, file)
    queries = [key for key in reference.file.tensors if key.endswith(".to_q.weight")]
    count = sum(key.startswith(ATTENTION) for key in queries)
    settings.scope.check_layers(count, reference.file.path.name)
    if len({file.digest for file in (reference, *files)}) == 1:
        raise ValueError(
            f"All files are the same, {reference.file.path.name} (digest {reference.digest[:8]}), "
            "and their merge would be that file. Choose another one in one of the loaders."
        )
    same = len({file.encoder_digest for file in (reference, *files)}) == 1
    if not same and settings.scope.encoder == "equal":
        raise ValueError(_explain_encoders(reference, files))
    return Plan(settings, shares, (reference, *files), base is not None, same)


def _check_fit(reference: AdapterFile, other: AdapterFile) -> None:
    """Raise ValueError unless both have the same tensors, shapes, heads and blocks."""
    ours, theirs = reference.file.shapes, other.file.shapes
    name, its = reference.file.path.name, other.file.path.name
    missing, foreign = sorted(ours.keys() - theirs), sorted(theirs.keys() - ours)
    wrong = [key for key in ours if key in theirs and ours[key] != theirs[key]]
    problems = []
    if missing:
        problems.append(f"it lacks {len(missing)} of {len(ours)} tensors ({missing[0]})")
    if foreign:
        problems.append(f"it has {len(foreign)} that are not in the other ({foreign[0]})")
    if wrong:
        key = wrong[0]
        problems.append(
            f"{len(wrong)} have another shape ({key} is {theirs[key]}, expected {ours[key]})"
        )
    if reference.heads != other.heads:
        problems.append(f"it has {other.heads} heads, expected {reference.heads}")
    if reference.blocks != other.blocks:
        places = [state_blocks(one.blocks).get(BLOCKS_KEY, "PuLID's") for one in (other, reference)]
        problems.append(f"its layers stand behind other blocks ({places[0]}; not {places[1]})")
    if problems:
        raise ValueError(
            f"{its} cannot be merged with {name}: {'; '.join(problems)}. Merge files that were "
            "trained from one another."
        )


def _explain_encoders(reference: AdapterFile, files: Sequence[AdapterFile]) -> str:
    name = reference.file.path.name
    other = next(file for file in files if file.encoder_digest != reference.encoder_digest)
    return (
        f"{name} and {other.file.path.name} have different encoders (digests "
        f"{reference.encoder_digest[:8]} and {other.encoder_digest[:8]}), so their layers read "
        f"different tokens. Merge files with one encoder, or set encoder to first (that of {name}) "
        "or merge."
    )


def _name(file: AdapterFile) -> dict[str, object]:
    """A file in the recipe, with its own recipe where it is a merge itself."""
    facts: dict[str, object] = {"name": file.file.path.name, "digest": file.digest}
    text = file.file.metadata.get(RECIPE_KEY, "")
    if not text or len(text) > _LONGEST_RECIPE:
        return facts
    try:
        return {**facts, "recipe": json.loads(text)}
    except (ValueError, RecursionError):
        return facts
