"""Merge PuLID-FLUX files into a new one (EditIDv2, eq. 12), tensor by tensor.

Of every file one tensor at a time is read, so the memory does not grow with the files. What is
merged is computed in float64 and rounded once; files are summed in the order of their digests, so
that their order in a graph changes no bit of a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..files.atomic import creating
from ..files.checks import shapes_of
from ..files.header import peek
from ..files.stream import count_bytes, require_space, write_streamed
from .merge_drift import Drift
from .merge_plan import RECIPE_KEY, Plan, Settings, plan_merge
from .merge_rules import (
    CHUNK,
    add_up,
    compat,
    is_compat,
    slerp_coefficients,
)
from .merge_scope import Part, parts_of
from .pulid import PulidAdapter
from .pulid_flux import HEADS_KEY, IdentityAdapter

_STEM = 60

Watch = Callable[[int, int], None]
"""Told of the bytes written and of all bytes, before each tensor; it may raise to interrupt."""


@dataclass(frozen=True, eq=False)
class Merged:
    """The file that holds the merge, and what it is, in words."""

    path: Path
    report: str


def write_merge(plan: Plan, target: str | Path, watch: Watch | None = None) -> Merged:
    """Write `target`, beside it first; nothing is ever overwritten.

    Raises FileExistsError, OSError (also when the disk has no room, before anything is written),
    ValueError: the target is one of the files, or values are not finite.
    """
    target = Path(target)
    for source in plan.sources:
        if target.exists() and target.samefile(source.file.path):
            raise ValueError(
                f"{target.name} is one of the files that are merged, and they are kept as they "
                "are. Choose another name for the new file."
            )
    first = plan.reference.file
    layout = {key: (plan.dtype_of(key), shape) for key, shape in shapes_of(first.tensors).items()}
    total = count_bytes(layout)
    require_space(target.parent, total)
    drift = Drift([*(f"file {number}" for number in plan.measured), "merged"])
    done = 0

    def make(key: str) -> Tensor:
        nonlocal done
        if watch is not None:
            watch(done, total)
        tensor = merge_tensor(plan, key, layout[key][0], drift)
        done += tensor.numel() * tensor.element_size()
        return tensor

    with creating(target) as temporary:
        write_streamed(temporary, layout, make, _describe(plan))
    if watch is not None:
        watch(total, total)
    return Merged(target, _report(plan, target, drift))


def merge_into(
    plan: Plan, folder: str | Path, name: str = "", watch: Watch | None = None
) -> Merged:
    """Write into a folder under a name without ending, or find the same merge there.

    A file of that name with the same recipe is the result; another one is never touched. An empty
    name is made of the files' names, and a number is added until it is free. Raises as
    `write_merge`.
    """
    stem = Path(name.strip()).name.removesuffix(".safetensors")
    number, start = 1, stem or _name_after(plan)
    while True:
        path = Path(folder) / f"{start if number == 1 else f'{start}_{number}'}.safetensors"
        if not path.exists():
            return write_merge(plan, path, watch)
        header = peek(path)
        if header is not None and header.metadata.get(RECIPE_KEY) == plan.recipe:
            return Merged(path, f"{path.name} holds this merge already; it was not written again.")
        if stem:
            return write_merge(plan, path, watch)  # raises: the name is taken
        number += 1


def merge_loaded(
    adapters: Sequence[PulidAdapter],
    settings: Settings,
    folder: str | Path,
    name: str = "",
    base: PulidAdapter | None = None,
    watch: Watch | None = None,
) -> Merged:
    """`merge_into` for loaded adapters, of whose files the merge is made.

    Raises as it does, and as `plan_loaded`.
    """
    plan = plan_loaded(adapters, settings, base)
    return merge_into(plan, folder, name, watch)


def plan_loaded(
    adapters: Sequence[PulidAdapter], settings: Settings, base: PulidAdapter | None = None
) -> Plan:
    """`plan_merge` for loaded adapters, of their files.

    Raises as it does, and ValueError for an adapter that is not for Flux, that came from no file,
    or whose file was changed since it was loaded.
    """
    paths = [_path_of(adapter) for adapter in adapters]
    plan = plan_merge(paths, settings, None if base is None else _path_of(base))
    loaded = [*adapters, *([] if base is None else [base])]
    opened = [*plan.files, *([] if base is None else [plan.reference])]
    for adapter, file in zip(loaded, opened, strict=True):
        if adapter.digest != file.digest:
            raise ValueError(
                f"{adapter.name} was changed after it was loaded (digest {adapter.digest[:8]}, now "
                f"{file.digest[:8]}). Load it again: press R, and queue once more."
            )
    return plan


def _path_of(adapter: PulidAdapter) -> Path:
    if not isinstance(adapter, IdentityAdapter):
        raise ValueError(
            f"'{adapter.name}' is a PuLID file for SDXL; those for Flux are merged here. Connect "
            "Load Identity Adapter with a PuLID file for Flux."
        )
    if adapter.path is None:
        raise ValueError(
            f"'{adapter.name}' came from no file, and files are merged. Connect Load Identity "
            "Adapter."
        )
    return adapter.path


def merge_tensor(plan: Plan, key: str, dtype: torch.dtype, drift: Drift) -> Tensor:
    """One tensor of the new file, in memory; `drift` learns how far it and the files moved.

    Raises ValueError for values that are not finite, and for opposite tensors under slerp.
    """
    tensors = [source.file.tensors[key].reshape(-1) for source in plan.sources]
    result = torch.empty(tensors[0].numel(), dtype=dtype)
    for part in parts_of(key, result.numel()):
        spans = [tensor[part.start : part.stop] for tensor in tensors]
        target = result[part.start : part.stop]
        held = plan.holds(part)
        coefficients = _coefficients(plan, key, spans) if held else []
        for start in range(0, len(target), CHUNK):
            chunks = [span[start : start + CHUNK] for span in spans]
            into = target[start : start + CHUNK]
            into.copy_(_merge_chunk(plan, chunks, coefficients) if held else chunks[0])
            _measure(plan, key, part, chunks, into, drift)
    return result.reshape(plan.reference.file.tensors[key].shape)


def _coefficients(plan: Plan, key: str, spans: Sequence[Tensor]) -> list[float]:
    if plan.settings.method != "slerp":
        return plan.coefficients()
    try:
        return [0.0, *slerp_coefficients(spans[1], spans[2], plan.shares)]
    except ValueError as error:
        names = " and ".join(file.file.path.name for file in plan.files)
        raise ValueError(f"{key} of {names} cannot be merged by slerp: {error}") from error


def _merge_chunk(plan: Plan, chunks: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    if is_compat(plan.settings.method):
        return compat(plan.settings.method, chunks[1], chunks[2], plan.shares[1])
    order = sorted(range(len(chunks)), key=lambda i: plan.sources[i].digest)
    return add_up([chunks[i] for i in order], [coefficients[i] for i in order])


def _measure(
    plan: Plan, key: str, part: Part, chunks: Sequence[Tensor], merged: Tensor, drift: Drift
) -> None:
    """Add to the drift; raise ValueError for values that are not finite."""
    reference = chunks[0]
    copied = plan.copies(part)
    unchanged = copied and merged.dtype == reference.dtype
    others = [reference if copied else chunks[number] for number in plan.measured]
    finite = drift.add(part, reference, [*others, reference if unchanged else merged])
    if all(finite):
        return
    read = [plan.reference, *(plan.sources[number] for number in plan.measured)]
    bad = finite.index(False)
    if bad < len(read):
        raise ValueError(
            f"{read[bad].file.path.name} has NaN or infinite values in {key}, expected finite "
            "numbers only. The file is damaged or its training diverged. Leave it out."
        )
    raise ValueError(
        f"Merged values of {key} are beyond what {merged.dtype} can hold. Choose smaller weights, "
        "or another dtype."
    )


def _describe(plan: Plan) -> Mapping[str, str]:
    """The reference's metadata, with the recipe. Heads are stated where a file states them."""
    stated = {k: v for source in plan.sources for k, v in source.file.metadata.items()}
    heads = {HEADS_KEY: stated[HEADS_KEY]} if HEADS_KEY in stated else {}
    return {**plan.reference.file.metadata, **heads, RECIPE_KEY: plan.recipe}


def _name_after(plan: Plan) -> str:
    stems = "_".join(file.file.path.stem for file in plan.files)
    return f"{plan.settings.method}_{stems}"[:_STEM]


def _report(plan: Plan, target: Path, drift: Drift) -> str:
    settings, scope = plan.settings, plan.settings.scope
    reference = plan.reference.file.path.name
    lines = [f"{target.name}: {settings.method} of {len(plan.files)} files"]
    lines += [
        f"file {number}: {file.file.path.name}, weight {share:.4g}"
        for number, (file, share) in enumerate(zip(plan.files, plan.shares, strict=True), 1)
    ]
    if plan.based:
        lines.append(f"base: {reference}")
    encoder = "merged" if scope.encoder == "merge" else f"that of {reference}"
    if plan.copies(Part(0, 0, None, "")):
        encoder = "the same in all files, copied"
    lines.append(f"encoder: {encoder}")
    lines.append(f"layers {scope.layers.strip()}, paths {scope.paths.strip()}")
    lines.append(f"Change from {reference}, relative and as cosine:")
    return "\n".join(lines + drift.table())
