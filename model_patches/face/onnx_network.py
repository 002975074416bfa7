"""A recogniser's ONNX file as a torch module, so that its answer has a gradient.

onnxruntime runs the same file, but gives no gradients. The graph is walked once: what depends on
weights alone is computed then, and every other node becomes a step. Operations that are not known
are refused by name, and the module must answer as onnxruntime does before anybody gets it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .onnx_operations import OPERATIONS, Run, make_operation, unknown_operations
from .pack import describe_broken
from .packages import need

ADVICE = "Use antelopev2's glintr100.onnx or buffalo_l's w600k_r50.onnx"


@dataclass(frozen=True)
class _Step:
    run: Run
    inputs: tuple[str, ...]
    output: str


class OnnxNetwork(nn.Module):
    """A graph with one input and one output; weights are float32 parameters without gradients."""

    def __init__(
        self, taken: str, given: str, steps: list[_Step], weights: dict[str, Tensor]
    ) -> None:
        super().__init__()
        self.taken, self.given, self.steps = taken, given, steps
        self.numbers = {name: number for number, name in enumerate(weights)}
        self.weights = nn.ParameterList(
            nn.Parameter(value, requires_grad=False) for value in weights.values()
        )

    def forward(self, x: Tensor) -> Tensor:
        flows = {self.taken: x}
        for step in self.steps:
            values = [
                flows[name] if name in flows else self.weights[self.numbers[name]]
                for name in step.inputs
            ]
            flows[step.output] = step.run(*values)
        return flows[self.given]


def read_network(path: Path) -> OnnxNetwork:
    """The network of an ONNX file.

    Raises ValueError for operations or attributes that are not known, for another number of inputs
    or outputs than one, and for weights outside of the file; RuntimeError when it is no ONNX file.
    """
    onnx = need("onnx")
    decode = need("google.protobuf.message")
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except (decode.DecodeError, ValueError, OSError) as error:
        raise RuntimeError(describe_broken(path, f"it cannot be parsed ({error})")) from error
    unknown = unknown_operations([node.op_type for node in graph.node])
    if unknown:
        raise ValueError(
            f"the recogniser {path} holds the operations {', '.join(unknown)}, of which no "
            f"gradient can be taken here; expected only {', '.join(OPERATIONS)}. {ADVICE}"
        )
    weights = _read_weights(graph, path)
    inputs = [value.name for value in graph.input if value.name not in weights]
    outputs = [value.name for value in graph.output]
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(
            f"the recogniser {path} has {len(inputs)} inputs and {len(outputs)} outputs, expected "
            f"1 and 1. {ADVICE}"
        )
    steps = _walk(graph, weights, inputs[0], path)
    read = {name for step in steps for name in step.inputs}
    kept = {name: value for name, value in weights.items() if name in read}
    return OnnxNetwork(inputs[0], outputs[0], steps, kept)


def _read_weights(graph: Any, path: Path) -> dict[str, Tensor]:
    """Initialisers as float32; whole numbers as they are."""
    helper = need("onnx.numpy_helper")
    weights = {}
    for tensor in graph.initializer:
        if tensor.external_data:
            raise ValueError(
                f"the recogniser {path} keeps the weight {tensor.name} in another file, expected "
                f"all of them in one. {ADVICE}"
            )
        value = torch.from_numpy(np.array(helper.to_array(tensor)))
        weights[tensor.name] = value.float() if value.is_floating_point() else value
    return weights


def _walk(graph: Any, weights: dict[str, Tensor], taken: str, path: Path) -> list[_Step]:
    """The nodes that depend on the input; `weights` gains what the others compute."""
    helper = need("onnx.helper")
    steps, flows = [], {taken}
    for number, node in enumerate(graph.node):
        stated = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        run = make_operation(node.op_type, node.name or str(number), stated)
        inputs = tuple(name for name in node.input if name)
        missing = [name for name in inputs if name not in flows and name not in weights]
        if missing:
            raise ValueError(
                f"the recogniser {path}: {node.op_type} {node.name!r} reads {missing[0]!r}, which "
                f"no node before it gives. {ADVICE}"
            )
        if any(name in flows for name in inputs):
            steps.append(_Step(run, inputs, node.output[0]))
            flows.add(node.output[0])
        else:
            weights[node.output[0]] = run(*(weights[name] for name in inputs))
    return steps


def check_same_answer(network: Tensor, runtime: Tensor, path: Path) -> None:
    """Raise RuntimeError unless both (D,) embeddings of one crop point the same way."""
    found = float(F.cosine_similarity(network.double(), runtime.double(), dim=0))
    if not found >= 0.9999:
        raise RuntimeError(
            f"the recogniser {path} answers differently in torch than in onnxruntime: the cosine "
            f"is {found:.4f}, expected at least 0.9999. {ADVICE}"
        )
