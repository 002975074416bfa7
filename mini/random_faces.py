"""A small recogniser in insightface's ONNX contract, with seeded random weights.

It stands in for ArcFace where no file may be downloaded. Nothing is trained: a fixed random
convolutional network maps equal crops to equal embeddings and different faces to different ones,
which is all that the demo and the tests need from it. It knows nothing about persons.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

SIDE = 112
EMBEDDING = 512
CHANNELS = (3, 16, 24, 32, 32)
GRID = 3
NORM = 20.0
"""Length of a typical embedding; ArcFace's raw ones are about as long."""


def write_recogniser(path: Path, seed: int) -> None:
    """Write the ONNX file: (N, 3, 112, 112) in -1..1 -> (N, 512). Same seed, same bytes.

    The input is normalised per picture and channel and every layer is odd (tanh, no bias), so
    that embeddings scatter around zero instead of around one common direction.
    """
    from onnx import TensorProto, checker, helper

    random = np.random.Generator(np.random.PCG64(seed))
    nodes, weights = [], []
    flow = _add_norm(helper, nodes, weights)
    for layer, (narrow, wide) in enumerate(zip(CHANNELS[:-1], CHANNELS[1:], strict=True)):
        scale = np.float32(1.5 / np.sqrt(narrow * 9))
        kernel = random.standard_normal((wide, narrow, 3, 3), np.float32) * scale
        weights.append(_tensor(helper, f"kernel{layer}", kernel))
        conv = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
        inputs = [flow, f"kernel{layer}"]
        nodes.append(helper.make_node("Conv", inputs, [f"c{layer}"], f"Conv_{layer}", **conv))
        flow = f"t{layer}"
        nodes.append(helper.make_node("Tanh", [f"c{layer}"], [flow], f"Tanh_{layer}"))
    _head(helper, nodes, weights, flow, random)
    shape = ["batch", 3, SIDE, SIDE]
    graph = helper.make_graph(
        nodes,
        "random_recogniser",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", EMBEDDING])],
        weights,
    )
    # Old versions on purpose: every onnxruntime that insightface accepts can read them.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _add_norm(helper, nodes: list, weights: list) -> str:
    weights.append(_tensor(helper, "ones", np.ones(3, np.float32)))
    weights.append(_tensor(helper, "zeros", np.zeros(3, np.float32)))
    inputs = ["input.1", "ones", "zeros"]
    # The name matters: insightface takes early nodes named Sub and Mul for built-in scaling.
    nodes.append(helper.make_node("InstanceNormalization", inputs, ["n"], "Norm", epsilon=1e-3))
    return "n"


def _head(helper, nodes: list, weights: list, flow: str, random: np.random.Generator) -> None:
    """7x7 features -> averages on a 3x3 grid -> 512 values."""
    pool = {"kernel_shape": [3, 3], "strides": [2, 2]}
    nodes.append(helper.make_node("AveragePool", [flow], ["pooled"], "Pool", **pool))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"], "Flatten", axis=1))
    width = CHANNELS[-1] * GRID * GRID
    # Pooled tanh features are about 0.25 in size.
    scale = np.float32(NORM / (0.25 * np.sqrt(EMBEDDING * width)))
    matrix = random.standard_normal((width, EMBEDDING), np.float32) * scale
    weights.append(_tensor(helper, "matrix", matrix))
    nodes.append(helper.make_node("Gemm", ["flat", "matrix"], ["embedding"], "Gemm"))


def _tensor(helper, name: str, values: np.ndarray):
    from onnx import numpy_helper

    return numpy_helper.from_array(values.astype(np.float32), name)
