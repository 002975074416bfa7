"""Face test builders: photos, a detector that knows its answer, and a small SCRFD in ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from flexid.model_patches.face.align import ARCFACE_112
from flexid.model_patches.face.analyser import FaceAnalyser
from flexid.model_patches.face.boxes import Detection

BLOB = 24
"""Side, in detector pixels, of the red square that the small SCRFD takes for a face."""
POINTS = np.array([(-0.8, -0.8), (0.8, -0.8), (0.0, 0.0), (-0.6, 0.9), (0.6, 0.9)])
"""Where it puts the five points, in strides of 8 pixels from the centre."""


@dataclass(frozen=True)
class FixedDetector:
    """Answers with the boxes given for the photo's width; no pixels are read."""

    boxes: dict[int, list[tuple[float, float, float, float]]]
    name: str = "fixed"
    tried: str = "nothing"

    def find(self, rgb: np.ndarray) -> list[Detection]:
        return [face_at(box) for box in self.boxes.get(rgb.shape[1], [])]


def face_at(box: tuple[float, float, float, float], score: float = 0.9) -> Detection:
    low, size = np.array(box[:2]), np.array([box[2] - box[0], box[3] - box[1]])
    points = low + (ARCFACE_112 / 112) * size
    return Detection(tuple(map(float, box)), points.astype(np.float32), score, "fixed")


def analyser(detector: object, recogniser: object = None, parser: object = None) -> FaceAnalyser:
    return FaceAnalyser(detector, recogniser, parser, "a test analyser")


def astronaut() -> torch.Tensor:
    """The public-domain portrait as an IMAGE (1, 512, 512, 3)."""
    from skimage import data

    return torch.from_numpy(data.astronaut())[None].float() / 255


def noise(width: int, height: int, channels: int = 3, photos: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(width * 31 + height)
    return torch.rand(photos, height, width, channels, generator=generator)


def red_squares(width: int, height: int, side: int, centres: list[tuple[int, int]]) -> np.ndarray:
    """(height, width, 3) uint8 grey with red squares."""
    photo = np.full((height, width, 3), 110, np.uint8)
    for x, y in centres:
        photo[y - side // 2 : y + side // 2, x - side // 2 : x + side // 2] = (255, 0, 0)
    return photo


def write_scrfd(path: Path, points: bool = True, side: int | None = None) -> None:
    """SCRFD's contract: three strides, two anchors, scores, boxes, and with `points` five points.

    It finds red squares of BLOB pixels, and gives each a box of 4 strides to every side.
    """
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights, outputs = [], [], []

    def output(name: str, width: int, source: str) -> None:
        weights.append(numpy_helper.from_array(np.array([-1, width]), f"{name}_shape"))
        nodes.append(helper.make_node("Transpose", [source], [f"{name}_t"], perm=[0, 2, 3, 1]))
        nodes.append(helper.make_node("Reshape", [f"{name}_t", f"{name}_shape"], [name]))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]))

    def conv(name: str, kernel: np.ndarray, bias: np.ndarray, stride: int, before: int) -> str:
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"{name}_w"))
        weights.append(numpy_helper.from_array(bias.astype(np.float32), f"{name}_b"))
        size = kernel.shape[2]
        after = size - stride - before
        nodes.append(
            helper.make_node(
                "Conv",
                ["input.1", f"{name}_w", f"{name}_b"],
                [f"{name}_c"],
                kernel_shape=[size, size],
                strides=[stride, stride],
                pads=[before, before, after, after],
            )
        )
        return f"{name}_c"

    scores, boxes, fives = [], [], []
    for stride in (8, 16, 32):
        seen = np.zeros((2, 3, BLOB, BLOB))
        if stride == 8:
            seen[0, 0], seen[0, 1] = 20 / BLOB**2, -20 / BLOB**2
            flow = conv(f"s{stride}", seen, np.array([-34.0, -50.0]), 8, BLOB // 2)
        else:
            flow = conv(
                f"s{stride}", np.zeros((2, 3, stride, stride)), np.full(2, -50.0), stride, 0
            )
        nodes.append(helper.make_node("Sigmoid", [flow], [f"score{stride}_c"]))
        scores.append((f"score{stride}", 1, f"score{stride}_c"))
        blank = np.zeros((8, 3, stride, stride))
        boxes.append((f"box{stride}", 4, conv(f"b{stride}", blank, np.full(8, 4.0), stride, 0)))
        blank = np.zeros((20, 3, stride, stride))
        five = np.tile(POINTS.reshape(-1), 2)
        fives.append((f"five{stride}", 10, conv(f"k{stride}", blank, five, stride, 0)))
    for name, width, source in [*scores, *boxes, *(fives if points else [])]:
        output(name, width, source)
    shape = [1, 3, side or "height", side or "width"]
    taken = [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "tiny_scrfd", taken, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())


def write_landmarker(path: Path, points: np.ndarray) -> None:
    """2d106det's contract: a crop of 192 pixels -> (1, 2N), x and y from -1 to 1 in the crop.

    It answers with the same points (N, 2) whatever it sees.
    """
    from onnx import TensorProto, helper, numpy_helper

    weights = [
        numpy_helper.from_array(np.zeros((3, points.size), np.float32), "kernel"),
        numpy_helper.from_array(points.reshape(-1).astype(np.float32), "points"),
    ]
    nodes = [
        helper.make_node("GlobalAveragePool", ["data"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "kernel", "points"], ["fc1"]),
    ]
    taken = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["None", 3, 192, 192])
    given = helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [1, points.size])
    graph = helper.make_graph(nodes, "tiny_landmarks", [taken], [given], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
