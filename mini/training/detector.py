"""The detector: where faces are, in SCRFD's ONNX contract with five points (Guo et al. 2021)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate, smooth_l1_loss

from ...model_patches.training.loop import Recipe, train
from ..conv_layers import ConvNorm, Residual, fold_norms, recalibrate
from ..onnx_graph import Graph
from ..world import DETECTOR
from .faces_anchors import ANCHORS, IGNORED, POSITIVE, SIDES, STRIDES, box_overlap, targets
from .faces_canvas import canvas
from .faces_pictures import Ahead, Pictures, to_input
from .options import Options, curves, models

DIVISOR = 128.0
WIDTH = 64
PER_ANCHOR = (1, 4, 10)
RECIPE = Recipe("detector", steps=2200, rate=2e-3, warmup=200, decay=0.02, seed=12)
BATCH = 16
SIDE = 320
"""Of the input, fixed: a 128 px picture enlarged further would show nothing more, and faces
twice as large would need a network that sees twice as far."""
BOX, POINTS = 1.0, 2.0
"""Weights of the losses beside the score's."""
RARE = 0.01
"""Score that an untrained detector gives every anchor."""
CALIBRATION = 30

Targets = tuple[Tensor, Tensor, Tensor]


class Detector(nn.Module):
    """(N, 3, H, W) RGB, (x - 127.5) / 128, H and W multiples of 32 -> scores, boxes, points.

    Each (N, A, 1 | 4 | 10), A running over strides, rows, columns and the two anchors; scores
    are logits, distances in strides.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 32, kernel=7, stride=4)
        self.stages = nn.ModuleList(
            nn.Sequential(ConvNorm(narrow, wide, stride=2), Residual(wide, dilation))
            for narrow, wide, dilation in ((32, 32, 1), (32, 64, 1), (64, 64, 2))
        )
        self.lateral = nn.ModuleList(ConvNorm(wide, WIDTH, kernel=1) for wide in (32, 64, 64))
        self.shared = ConvNorm(WIDTH, WIDTH)
        self.heads = nn.ModuleList(_head(sides, s) for sides, s in zip(SIDES, STRIDES, strict=True))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        flow, levels = self.stem(x), []
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            flow = stage(flow)
            levels.append(lateral(flow))
        merged = levels.pop()
        answers = [self.heads[-1](self.shared(merged))]
        for level, head in zip(reversed(levels), reversed(self.heads[:-1]), strict=True):
            merged = level + interpolate(merged, scale_factor=2.0, mode="nearest")
            answers.insert(0, head(self.shared(merged)))
        parts = [_per_anchor(answer) for answer in answers]
        return tuple(torch.cat(kind, 1) for kind in zip(*parts, strict=True))


def _head(sides: tuple[int, int], stride: int) -> nn.Conv2d:
    """All answers of one stride; it starts from no face, of the anchor's own side."""
    head = nn.Conv2d(WIDTH, ANCHORS * sum(PER_ANCHOR), 1)
    with torch.no_grad():
        head.weight.mul_(0.1)
        head.bias.zero_()
        head.bias[:ANCHORS] = -float(np.log(1 / RARE - 1))
        boxes = torch.tensor(sides).repeat_interleave(4) / 2 / stride
        head.bias[ANCHORS : ANCHORS * 5] = boxes
    return head


def _per_anchor(answer: Tensor) -> list[Tensor]:
    """(N, 30, H, W), kind by kind and anchor by anchor -> (N, H * W * 2, 1 | 4 | 10)."""
    kinds = answer.float().split([ANCHORS * size for size in PER_ANCHOR], 1)
    count = len(answer)
    return [
        kind.permute(0, 2, 3, 1).reshape(count, -1, size)
        for kind, size in zip(kinds, PER_ANCHOR, strict=True)
    ]


def detection_loss(found: tuple[Tensor, ...], wanted: Targets) -> dict[str, Tensor]:
    """Focal loss of the scores, generalised overlap of the boxes, and distance of the points.

    found: (N, A, 1 | 4 | 10); wanted: (N, A), (N, A, 4), (N, A, 10), see faces_anchors.targets.
    """
    logits, boxes, points = found[0].squeeze(-1), found[1], found[2]
    score, box, point = wanted
    positive = score == POSITIVE
    count = positive.sum().clamp(min=1)
    asked = (score != IGNORED).float()
    truth = score.clamp(min=0)
    surprise = (truth - logits.sigmoid()).abs().square()
    each = binary_cross_entropy_with_logits(logits, truth, reduction="none")
    side = _side(box[positive])
    distance = smooth_l1_loss(
        points[positive] / side, point[positive] / side, beta=0.05, reduction="sum"
    )
    return {
        "score": (each * surprise * asked).sum() / count,
        "box": (1 - box_overlap(boxes[positive], box[positive])).sum() / count,
        "points": distance / count,
    }


def _side(distances: Tensor) -> Tensor:
    left, top, right, bottom = distances.unbind(-1)
    return ((left + right) * (top + bottom)).clamp(min=1e-6).sqrt()[:, None]


def canvases(
    rng: np.random.Generator, pictures: Pictures, count: int, size: int
) -> tuple[np.ndarray, ...]:
    """Canvases (count, size, size, 3) uint8 and the targets of their anchors."""
    drawn = [canvas(rng, pictures, size) for _ in range(count)]
    wanted = [targets(faces, size) for _, faces in drawn]
    parts = zip(*wanted, strict=True)
    return np.stack([image for image, _ in drawn]), *(np.stack(part) for part in parts)


def train_detector(work: Path, device: torch.device, options: Options) -> None:
    """Train and write the ONNX file under work/models.

    Raises FileNotFoundError before the data is drawn.
    """
    recipe = replace(RECIPE, steps=options.steps or RECIPE.steps)
    batch = options.batch or BATCH
    pictures = Pictures(work)
    torch.manual_seed(recipe.seed)
    model = Detector().to(device, memory_format=torch.channels_last)

    def make(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        return canvases(rng, pictures, batch, SIDE)

    with Ahead(make, recipe.seed, recipe.steps) as batches:

        def loss(step: int, _: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
            images, *wanted = batches(step)
            found = model(to_input(images, DIVISOR, device))
            parts = detection_loss(found, [torch.from_numpy(part).to(device) for part in wanted])
            whole = parts["score"] + BOX * parts["box"] + POINTS * parts["points"]
            return whole, {name: part.detach() for name, part in parts.items()}

        train(recipe, model, loss, curves(work), device)

    def forward(number: int) -> None:
        images = make(np.random.default_rng((recipe.seed, 1, number)))[0]
        model(to_input(images, DIVISOR, device))

    recalibrate(model, forward, CALIBRATION)
    write_detector(model, models(work) / DETECTOR)


def write_detector(model: Detector, path: Path) -> None:
    """Write the ONNX file."""
    graph_of(fold_norms(model).cpu()).write(path)


def graph_of(net: Detector) -> Graph:
    """Of the folded network: nine outputs, kind by kind and stride by stride, as SCRFD's."""
    graph = Graph("flexid_mini_detector")
    flow = graph.add(net.stem, graph.input("input.1", (1, 3, SIDE, SIDE)))
    levels = []
    for stage, lateral in zip(net.stages, net.lateral, strict=True):
        flow = graph.add(stage, flow)
        levels.append(graph.add(lateral, flow))
    twice = graph.constant(np.array((1, 1, 2, 2), np.float32))
    answers = {}
    merged = levels[-1]
    for index in reversed(range(len(STRIDES))):
        if index + 1 < len(STRIDES):
            region = graph.constant(np.zeros(0, np.float32))
            larger = graph.op("Resize", merged, region, twice, mode="nearest", **NEAREST)
            merged = graph.op("Add", levels[index], larger)
        answers[STRIDES[index]] = graph.add(net.heads[index], graph.add(net.shared, merged))
    _outputs(graph, answers)
    return graph


NEAREST = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def _outputs(graph: Graph, answers: dict[int, str]) -> None:
    ends = np.cumsum([ANCHORS * size for size in PER_ANCHOR]).tolist()
    channels = graph.constant(np.array([1], np.int64))
    kinds = zip(("score", "bbox", "kps"), PER_ANCHOR, [0, *ends], ends, strict=False)
    for name, size, start, end in kinds:
        first, last = (graph.constant(np.array([edge], np.int64)) for edge in (start, end))
        rows = graph.constant(np.array([-1, size], np.int64))
        for stride in STRIDES:
            part = graph.op("Slice", answers[stride], first, last, channels)
            part = graph.op("Transpose", part, perm=[0, 2, 3, 1])
            part = graph.op("Reshape", part, rows)
            part = graph.op("Sigmoid", part) if name == "score" else part
            graph.output(part, f"{name}_{stride}", (ANCHORS * (SIDE // stride) ** 2, size))
