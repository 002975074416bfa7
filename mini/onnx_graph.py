"""Write small networks as ONNX files, the same bytes each time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatchmethod
from pathlib import Path

import numpy as np
from torch import nn

from .conv_layers import ConvNorm, LinearNorm, Residual

OPSET = 11
IR_VERSION = 6
"""Old on purpose: every onnxruntime that insightface accepts reads them."""


class Graph:
    """A graph under construction; flows are named by strings.

    Weights are stored as float16 and cast where they are used; onnxruntime does that once, when
    it loads the file.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list = []
        self.weights: list = []
        self.inputs: list = []
        self.outputs: list = []
        self.stored: dict[nn.Parameter, str] = {}

    def input(self, name: str, shape: Sequence[int | str]) -> str:
        self.inputs.append(_value(name, shape))
        return name

    def output(self, flow: str, name: str, shape: Sequence[int | str]) -> None:
        self.nodes.append(_helper().make_node("Identity", [flow], [name], f"Identity_{name}"))
        self.outputs.append(_value(name, shape))

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Add a node; its output."""
        flow = f"f{len(self.nodes)}"
        # insightface takes early nodes named Sub and Mul for built-in scaling, hence the prefix.
        name = f"Node_{len(self.nodes)}_{kind}"
        self.nodes.append(_helper().make_node(kind, list(inputs), [flow], name, **attributes))
        return flow

    def constant(self, values: np.ndarray) -> str:
        """Stored as it is: integers, and what must keep its precision."""
        from onnx import numpy_helper

        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def weight(self, values: nn.Parameter) -> str:
        """Stored once, however many layers share it."""
        if values not in self.stored:
            small = values.detach().float().cpu().numpy().astype(np.float16)
            self.stored[values] = self.op("Cast", self.constant(small), to=1)
        return self.stored[values]

    def write(self, path: Path) -> None:
        from onnx import checker

        helper = _helper()
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, self.weights)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
        checker.check_model(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(model.SerializeToString(deterministic=True))

    @singledispatchmethod
    def add(self, module: nn.Module, flow: str) -> str:
        """Append what the folded `module` computes from `flow`; its output."""
        raise TypeError(f"no ONNX form is known for {type(module).__name__}; add one to Graph")

    @add.register
    def _(self, module: nn.Sequential, flow: str) -> str:
        for part in module:
            flow = self.add(part, flow)
        return flow

    @add.register
    def _(self, module: nn.Conv2d, flow: str) -> str:
        pads = [*module.padding, *module.padding]
        shape = {"kernel_shape": list(module.kernel_size), "strides": list(module.stride)}
        shape |= {"pads": pads, "dilations": list(module.dilation)}
        return self.op("Conv", flow, self.weight(module.weight), self.weight(module.bias), **shape)

    @add.register
    def _(self, module: ConvNorm, flow: str) -> str:
        _check_folded(module)
        flow = self.add(module.conv, flow)
        return self.op("Relu", flow) if module.relu else flow

    @add.register
    def _(self, module: Residual, flow: str) -> str:
        changed = self.add(module.second, self.add(module.first, flow))
        return self.op("Relu", self.op("Add", flow, changed))

    @add.register
    def _(self, module: nn.Flatten, flow: str) -> str:
        return self.op("Flatten", flow, axis=1)

    @add.register
    def _(self, module: LinearNorm, flow: str) -> str:
        _check_folded(module)
        matrix, bias = self.weight(module.linear.weight), self.weight(module.linear.bias)
        return self.op("Gemm", flow, matrix, bias, transB=1)


def _check_folded(module: ConvNorm | LinearNorm) -> None:
    if module.norm is not None:
        raise ValueError("the network still has batch norms; write fold_norms(network)")


def _value(name: str, shape: Sequence[int | str]):
    return _helper().make_tensor_value_info(name, 1, list(shape))


def _helper():
    from onnx import helper

    return helper
