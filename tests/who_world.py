"""Pictures whose faces are flat colours, and a recogniser that reads colours."""

from __future__ import annotations

import dynamicid_world
import tiny_faces
import torch
from flexid.model_patches.face.analyser import FaceAnalyser
from flexid.model_patches.identity.identity import Identity
from torch import Tensor

COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}
SIZE = 300, 200
"""Width and height of a picture."""
LEFT, RIGHT = (20, 20, 100, 120), (200, 40, 280, 140)


def analyser(*boxes: tuple[float, float, float, float]) -> FaceAnalyser:
    """Finds faces in these boxes, and knows them by their colour."""
    found = tiny_faces.FixedDetector({SIZE[0]: list(boxes)})
    return tiny_faces.analyser(found, dynamicid_world.ColourRecogniser())


def picture(**faces: tuple[int, int, int, int]) -> Tensor:
    """(1, H, W, 3) black with faces of these colours in these boxes."""
    image = torch.zeros(1, SIZE[1], SIZE[0], 3)
    for colour, (x0, y0, x1, y1) in faces.items():
        image[:, y0:y1, x0:x1] = torch.tensor(COLOURS[colour])
    return image


def person(colour: str) -> Identity:
    means = torch.tensor(COLOURS[colour]) * 255
    return Identity(features={"arcface": means.repeat(171)[None, :512]})
