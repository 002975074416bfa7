"""What DynamicID's second stage reads of every picture: face tokens, landmarks, words, a latent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..adapters.dynamicid import DynamicIDAdapter, make_face_tokens
from ..encoders.clip_vision import CLIP_SIZE, look_at_nothing, look_by_pillow
from ..evaluate.expression import score_expression
from ..face.analyser import FaceAnalyser
from ..face.face import Face
from ..face.landmark_image import FRAME, SIDE, landmark_image
from ..face.mesh import MeshFinder, mesh_in
from ..identity.motion import see_motion
from ..identity.motion_words import EXPRESSIONS, write_words
from .face_features import FeatureStore, Made
from .imr_people import People, Shot
from .pictures import pixels_of
from .pulid_rows import Photo, Row, Rows

PROMPT = "portrait, cinematic photo, film, professional, 4k, highly detailed"
"""Of all pictures, as published: words of a face are for the reconfigurator alone."""
NAMES = {"disgust": "disgusted", "fear": "afraid", "surprise": "surprised"}
"""Of the classes of evaluate/expression.py those that the authors call another way."""


class ImrFaces:
    """Face tokens by a trained SAA file, and what the face does: a FaceEncoder."""

    def __init__(
        self,
        adapter: DynamicIDAdapter,
        finder: MeshFinder | None,
        vision: Any,
        analyser: FaceAnalyser,
    ) -> None:
        """finder: names expressions; None: nobody does."""
        self.adapter, self.finder = adapter, finder
        self.vision, self.analyser = vision, analyser

    def of(self, face: Face, picture: Image.Image, name: str) -> Made:
        """tokens (4, width) and angles (3,); landmarks (106, 2) in the frame of 512 pixels, where
        the analyser finds them; expression (), a place in EXPRESSIONS, where it is named."""
        pixels = pixels_of(picture)
        if face.embedding is None:
            raise ValueError(f"The face of {name} has 0 embeddings, expected 1. Name buffalo_l.")
        patches = look_by_pillow(self.vision, pixels).patches
        made = {
            "tokens": make_face_tokens(self.adapter, face.embedding.float()[None], patches)[0],
            "angles": torch.tensor(face.angles),
        }
        if self.analyser.landmarks is not None:
            made["landmarks"] = see_motion(self.analyser, pixels.numpy(), face).framed
        named = self._name_expression(pixels.numpy(), face)
        if named is not None:
            made["expression"] = torch.tensor(EXPRESSIONS.index(named))
        return made

    def nobody(self) -> Made:
        """tokens (4, width) of nobody."""
        patches = look_at_nothing(self.vision, CLIP_SIZE).patches
        embedding = torch.zeros(1, self.adapter.face)
        return {"tokens": make_face_tokens(self.adapter, embedding, patches)[0]}

    def _name_expression(self, rgb: np.ndarray, face: Face) -> str | None:
        mesh = None if self.finder is None else mesh_in(face.box, self.finder.find(rgb))
        if mesh is None:
            return None
        scores = score_expression(mesh.blendshapes)
        best = max(scores, key=lambda name: scores[name])
        return NAMES.get(best, best)


def photos_of(people: People) -> Rows:
    """All pictures as the feature store takes them, with no captions yet."""
    photos = tuple(Photo(shot.path) for shot in people.shots)
    rows = tuple(Row(number, (), 0, 0, shot.place) for number, shot in enumerate(people.shots))
    return Rows(rows, photos, ("",), people.source)


def words_of(shots: Sequence[Shot], faces: Sequence[Mapping[str, Tensor]]) -> list[str]:
    """The face prompt of each picture: its own words, or those of its estimated expression and
    view, by the rule of the authors' code. "" for a picture without a face."""
    return [shot.words or _estimate(face) for shot, face in zip(shots, faces, strict=True)]


def _estimate(face: Mapping[str, Tensor]) -> str:
    if "angles" not in face:
        return ""
    yaw, pitch, roll = face["angles"].tolist()
    named = face.get("expression")
    expression = None if named is None else EXPRESSIONS[int(named)]
    return write_words(expression, (yaw, pitch, roll))


def with_words(data: Rows, words: Sequence[str]) -> Rows:
    """The same pictures with their words as captions, and the prompt of all before them."""
    captions = {"": 0, PROMPT: 1}
    rows = tuple(
        replace(row, caption=captions.setdefault(text, len(captions)))
        for row, text in zip(data.rows, words, strict=True)
    )
    return replace(data, rows=rows, captions=tuple(captions))


def find_points(shot: Shot, face: Mapping[str, Tensor]) -> Tensor:
    """(K, 2) landmarks in the frame of 512 pixels: those of the picture that draws them, else the
    detected ones."""
    if shot.landmarks is None:
        return face["landmarks"]
    with Image.open(shot.landmarks) as opened:
        drawn = np.array(opened.convert("L"))
    rows, columns = np.nonzero(drawn > 127)
    # In the middle of their pixels, so that the same picture is drawn of them again.
    return (torch.from_numpy(np.column_stack((columns, rows))).float() + 0.5) * (FRAME / SIDE)


def draw_landmarks(points: Tensor, spread: float, rng: np.random.Generator) -> Tensor:
    """(96, 96) uint8 of landmarks that are moved by so many pixels of the frame of 512."""
    moved = torch.from_numpy(rng.normal(scale=spread, size=tuple(points.shape))).float()
    return landmark_image(points + moved)


def is_usable(shot: Shot, face: Mapping[str, Tensor]) -> bool:
    """Whether the picture shows a face whose landmarks are known."""
    return bool(face["count"]) and (shot.landmarks is not None or "landmarks" in face)


def motions_of(store: FeatureStore, numbers: Sequence[int]) -> Tensor:
    """(R, text) pooled words of these pictures."""
    return torch.stack([store.text(store.data.rows[n].caption)["pooled"] for n in numbers])
