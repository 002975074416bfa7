"""The operations of recognisers' ONNX files in torch, as the ONNX specification defines them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Run = Callable[..., Tensor]
"""What a node computes from its inputs, in their order."""
FLOATS = (1, 10, 11, 16)
"""ONNX's numbers of float32, float16, float64 and bfloat16."""
UNREAD = "kernel_shape", "momentum", "consumed_inputs"
"""Attributes that repeat what the inputs say, or that matter in training alone."""


class Attributes:
    """What a node states; every attribute has to be asked for."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = {name: value for name, value in values.items() if name not in UNREAD}

    def take(self, name: str, default: Any) -> Any:
        value = self.values.pop(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def expect(self, name: str, *allowed: Any) -> None:
        """The first value is what an absent attribute means. Raises ValueError for others."""
        value = self.take(name, allowed[0])
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}, expected {' or '.join(map(repr, allowed))}")

    def finish(self) -> None:
        if self.values:
            raise ValueError(f"it states {', '.join(sorted(self.values))}, expected nothing more")


def _conv(stated: Attributes) -> Run:
    stated.expect("auto_pad", "NOTSET", "VALID")
    strides, dilations = (tuple(stated.take(name, (1, 1))) for name in ("strides", "dilations"))
    top, left, bottom, right = stated.take("pads", (0, 0, 0, 0))
    groups = stated.take("group", 1)
    even = (top, left) == (bottom, right)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not even:
            x = F.pad(x, (left, right, top, bottom))
        pads = (top, left) if even else 0
        return F.conv2d(x, weight, bias, strides, pads, dilations, groups)

    return run


def _batch_norm(stated: Attributes) -> Run:
    stated.expect("training_mode", 0)
    stated.expect("spatial", 1)
    epsilon = stated.take("epsilon", 1e-5)
    return lambda x, scale, bias, mean, variance: F.batch_norm(
        x, mean, variance, scale, bias, False, 0.0, epsilon
    )


def _prelu(stated: Attributes) -> Run:
    def run(x: Tensor, slope: Tensor) -> Tensor:
        if slope.ndim == x.ndim - 1 and slope.shape[0] == slope.numel():  # one for each channel
            return F.prelu(x, slope.flatten())
        return x.clamp(min=0) + slope * x.clamp(max=0)

    return run


def _flatten(stated: Attributes) -> Run:
    axis = stated.take("axis", 1)
    return lambda x: x.reshape(math.prod(x.shape[:axis]), -1)


def _gemm(stated: Attributes) -> Run:
    alpha, beta = stated.take("alpha", 1.0), stated.take("beta", 1.0)
    turn_a, turn_b = stated.take("transA", 0), stated.take("transB", 0)

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        product = (a.T if turn_a else a) @ (b.T if turn_b else b)
        product = product if alpha == 1.0 else alpha * product
        return product if c is None else product + (c if beta == 1.0 else beta * c)

    return run


def _cast(stated: Attributes) -> Run:
    """Every number here is float32: a cast between floats changes the type of weights alone."""
    stated.expect("to", *FLOATS)
    return lambda x: x.float()


def _leave(stated: Attributes) -> Run:
    return lambda x: x


def _dropout(stated: Attributes) -> Run:
    """Nothing is dropped outside of training."""
    stated.take("ratio", 0.5)
    return lambda x, *_: x


def _plain(run: Run) -> Callable[[Attributes], Run]:
    return lambda stated: run


OPERATIONS: Mapping[str, Callable[[Attributes], Run]] = {
    "Add": _plain(torch.add),
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Conv": _conv,
    "Div": _plain(torch.div),
    "Dropout": _dropout,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "Identity": _leave,
    "MatMul": _plain(torch.matmul),
    "Mul": _plain(torch.mul),
    "PRelu": _prelu,
    "Relu": _plain(torch.relu),
    "Sub": _plain(torch.sub),
}


def unknown_operations(kinds: Sequence[str]) -> list[str]:
    """Those that are not among OPERATIONS, each once, in order."""
    return [kind for kind in dict.fromkeys(kinds) if kind not in OPERATIONS]


def make_operation(kind: str, name: str, stated: Mapping[str, Any]) -> Run:
    """One node in torch. Raises ValueError for attributes that it cannot follow."""
    attributes = Attributes(stated)
    try:
        run = OPERATIONS[kind](attributes)
        attributes.finish()
    except ValueError as error:
        raise ValueError(f"the {kind} {name!r} cannot be followed: {error}") from None
    return run
