"""Checks on tensors before a model is built from them. Each one raises a ValueError.

Every message names `what` was read, the found and the expected value, and `wanted`: the right file
and its source.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]

MAX_LAYERS = 128
"""More layers than any supported model has; a file that states more is refused."""
MIN_HEAD, MAX_HEAD = 16, 256
"""Channels of an attention head: the range found in published models."""

_CHUNK = 1 << 20
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor as a plain tuple."""
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def check_shapes(found: Shapes, expected: Shapes, what: str, wanted: str) -> None:
    """Raise ValueError unless both name the same tensors with the same shapes.

    The message counts what is missing, foreign or misshapen and names the first of each.
    """
    missing = [key for key in expected if key not in found]
    foreign = [key for key in found if key not in expected]
    wrong = [
        f"{key} is {found[key]}, expected {shape}"
        for key, shape in expected.items()
        if key in found and tuple(found[key]) != tuple(shape)
    ]
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {len(expected)} tensors are missing ({_first(missing)})")
    if foreign:
        parts.append(f"{len(foreign)} tensors do not belong to it ({_first(foreign)})")
    if wrong:
        parts.append(f"{len(wrong)} tensors have another shape ({_first(wrong)})")
    if parts:
        raise ValueError(
            f"{what} is incomplete or altered: {'; '.join(parts)}. Use the unmodified {wanted}."
        )


def shape_of(shapes: Shapes, key: str, rank: int, what: str, wanted: str) -> tuple[int, ...]:
    """The shape of a tensor that dimensions are read from. Raises ValueError when unusable."""
    if key not in shapes:
        raise ValueError(
            f"{what} has no tensor {key}, from which its dimensions are read "
            f"({len(shapes)} others are there). Use the unmodified {wanted}."
        )
    shape = tuple(shapes[key])
    if len(shape) != rank or 0 in shape:
        raise ValueError(
            f"{what}: {key} has shape {shape}, expected {rank} dimensions, none of them 0. "
            f"Use the unmodified {wanted}."
        )
    return shape


def count_layers(keys: Iterable[str], prefix: str, what: str, wanted: str) -> int:
    """How many layers N the keys `prefix` + N + "." number; 0 when there is none.

    Raises ValueError unless the numbers are 0, 1, ... without gaps and at most MAX_LAYERS: the
    count decides how much is built, so it must not follow from a single large number.
    """
    tails = (key[len(prefix) :].split(".", 1)[0] for key in keys if key.startswith(prefix))
    found = {tail for tail in tails if tail.isdecimal()}
    count = len(found)
    if count > MAX_LAYERS:
        raise ValueError(
            f"{what} has {count} layers {prefix}*, expected at most {MAX_LAYERS}. "
            f"Use the unmodified {wanted}."
        )
    foreign = sorted(found - {str(index) for index in range(count)})
    if foreign:
        shown = _first([f"{prefix}{tail[:20]}" for tail in foreign])
        raise ValueError(
            f"{what} has {count} layers {prefix}*, but not numbered 0 to {count - 1}: it has "
            f"{shown}. Use the unmodified {wanted}."
        )
    return count


def check_floating(
    tensors: Mapping[str, Tensor], what: str, wanted: str, integers: Collection[str] = ()
) -> None:
    """Raise ValueError when a tensor is not floating point (quantised files, complex numbers).

    `integers` names those that may be integers, for example counters of batches.
    """
    bad = [
        f"{key} is {tensor.dtype}"
        for key, tensor in tensors.items()
        if tensor.is_complex() or not (tensor.is_floating_point() or key in integers)
    ]
    if bad:
        raise ValueError(
            f"{what} holds {len(bad)} tensors that are not floating point ({_first(bad)}); "
            f"quantised files are not supported. Use the 16- or 32-bit {wanted}."
        )


def check_finite(tensors: Mapping[str, Tensor], what: str, wanted: str) -> None:
    """Raise ValueError when a tensor holds NaN or infinite values; integers always pass.

    One bad number in a weight makes every picture black, without any error. The check reads all
    values once: about 0.2 s per GB that is in memory.
    """
    bad = [key for key, tensor in tensors.items() if not _is_finite(tensor)]
    if bad:
        raise ValueError(
            f"{what} has NaN or infinite values in {len(bad)} of {len(tensors)} tensors "
            f"({_first(bad)}), expected finite numbers only; every picture would be black. The "
            f"file is damaged or its training diverged. Use the unmodified {wanted}."
        )


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    flat = tensor.detach().reshape(-1)
    return all(map(_is_chunk_finite, flat.split(_CHUNK))) if flat.numel() else True


def _is_chunk_finite(values: Tensor) -> bool:
    """True when no value has all exponent bits set.

    The bits are compared as integers: five to fifteen times as fast as torch.isfinite on a CPU.
    """
    integer = _INTEGERS.get(values.dtype.itemsize)
    if integer is None:  # 8-bit floats do not agree on the bits of infinity and NaN
        return bool(values.float().isfinite().all())
    infinity = torch.tensor(float("inf"), dtype=values.dtype).view(integer)
    without_sign = values.view(integer) & torch.iinfo(integer).max
    return bool(without_sign.amax() < infinity)


def _first(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
