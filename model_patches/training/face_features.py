"""Faces, latents and texts of training data for adapters, made once and kept.

The encoders of each kind are opened only where something of that kind is missing: a run whose
features are all there needs none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..face.analyser import FaceAnalyser, load_analyser
from ..face.choose import IN_BOXES, IN_MASK, FaceChoice, rank
from ..face.detect import detect_everybody
from ..face.face import Face
from ..files.tensor_file import digest
from .data_problems import Problems
from .feature_files import Work, fill_files, key_of, read_features
from .pictures import Fit, as_image, bucket_of, cut, fit, picture_size, read_picture
from .pulid_rows import Photo, Rows

VERSION = "1"
"""Of what the files hold; another one makes them again."""
Made = Mapping[str, Tensor]


@dataclass(frozen=True)
class Prints:
    """Digests of what stands behind the features: other files make other features."""

    faces: str
    latents: str
    texts: str


@dataclass(frozen=True, eq=False)
class Encoders:
    """Opens the frozen models of each kind; called where features are missing."""

    faces: Callable[[], FaceMaker]
    vae: Callable[[], Any]
    """A comfy.sd.VAE."""
    clip: Callable[[], Any]
    """A comfy.sd.CLIP."""


class FaceEncoder(Protocol):
    """What an adapter reads of a face, without the rows' dimension, float16."""

    def of(self, face: Face, picture: Image.Image, name: str) -> Made:
        """picture: the whole photo; name: of its file, for messages."""
        ...

    def nobody(self) -> Made:
        """The same tensors for nobody."""
        ...


@dataclass(frozen=True, eq=False)
class FaceMaker:
    """Finds the face of a photo, and has it encoded."""

    analyser: FaceAnalyser
    encoder: FaceEncoder

    def of(self, photo: Photo) -> dict[str, Tensor]:
        """What the encoder makes, embedding (E,), points (5, 2) and box (4,) in pixels of the whole
        picture; `count` alone, 0, without a face."""
        picture = read_picture(photo.path)
        face = self._find(photo, picture)
        if face is None:
            return {"count": torch.zeros(1)}
        points = face.points if photo.points is None else torch.tensor(photo.points)
        return {
            "count": torch.ones(1),
            **self.encoder.of(face, picture, photo.path.name),
            "embedding": _need_embedding(face),
            "points": points.float(),
            "box": torch.tensor(face.box if photo.box is None else photo.box).float(),
        }

    def _find(self, photo: Photo, picture: Image.Image) -> Face | None:
        found = detect_everybody(self.analyser, as_image(picture))
        shown, order, mask = found.photos[0], FaceChoice().order, None
        if photo.box is not None:
            order = IN_BOXES
        elif photo.mask is not None:
            order, mask = IN_MASK, _read_mask(photo.mask)
        boxes = None if photo.box is None else [photo.box]
        ranked = rank(shown.detections, FaceChoice(order), picture.size, boxes, mask)
        # The faces come in the analyser's own order, not in that of the detections.
        return found.faces[shown.ranked.index(ranked[0])] if ranked else None


def open_analyser(folder: Path, wanted: str, parsing: Path | None = None) -> FaceAnalyser:
    """A face pack with a recogniser. wanted: the pack to advise. Raises ValueError without one."""
    analyser = load_analyser(folder, "auto", ["auto"], parsing)
    if analyser.recogniser is None:
        raise ValueError(
            f"{folder} has 0 recognisers, and identities are made from its embeddings. Name "
            f"{wanted}'s folder."
        )
    return analyser


def _need_embedding(face: Face) -> Tensor:
    if face.embedding is None:
        raise ValueError("the face pack has 0 recognisers, expected 1. Name antelopev2's folder.")
    return face.embedding.float()


def shrink(values: Tensor, name: str) -> Tensor:
    """float16. name: what they are of. Raises ValueError for values beyond it."""
    small = values.half()
    if not torch.isfinite(small).all():
        raise ValueError(
            f"the features of {name} reach {values.abs().max().item():g}, float16 ends at 65504. "
            "Look at that picture or caption, and at the encoder's file."
        )
    return small


def _read_mask(path: Path) -> Tensor:
    with Image.open(path) as opened:
        grey = np.array(opened.convert("L"))
    return torch.from_numpy(grey).float() / 255


class FeatureStore:
    """All features of a training's data, in a folder."""

    def __init__(
        self,
        folder: Path,
        data: Rows,
        prints: Prints,
        side: int,
        shape: Callable[[int, int, int], tuple[int, int]] = bucket_of,
    ) -> None:
        """side: pictures have about side x side pixels; shape: width and height of a picture, and
        the side -> width and height that it is trained in."""
        self.data, self.side, self.shape = data, side, shape
        self._fits: dict[int, Fit] = {}
        contents = {path: digest(path) for photo in data.photos for path in _files(photo)}
        facts = [
            (contents[photo.path], photo.box, photo.points, photo.mask and contents[photo.mask])
            for photo in data.photos
        ]
        self.contents = [fact[0] for fact in facts]
        self.faces = [folder / "faces" / _name(prints.faces, *fact) for fact in facts]
        self._nobody = folder / "faces" / _name(prints.faces, "nobody")
        self.latents = [
            folder / "latents" / _name(prints.latents, side, fact[0], fact[3]) for fact in facts
        ]
        self.texts = [folder / "texts" / _name(prints.texts, text) for text in data.captions]

    def fill_faces(self, encoders: Encoders) -> None:
        """Make what is missing. Raises DataError, which lists references without a face."""
        makers = _Lazy(encoders.faces)
        jobs: list[Work] = [
            (path, lambda photo=photo: makers.open().of(photo))
            for path, photo in zip(self.faces, self.data.photos, strict=True)
        ]
        jobs.append((self._nobody, lambda: makers.open().encoder.nobody()))
        fill_files(jobs, "photos", None, "faces")
        self._check_faces()

    def fill_rest(self, encoders: Encoders) -> None:
        """Latents of the pictures that are drawn, and texts."""
        vae, clip = _Lazy(encoders.vae), _Lazy(encoders.clip)
        drawn = sorted({row.photo for row in self.data.rows})
        latents: list[Work] = [
            (self.latents[number], lambda number=number: self._encode_picture(vae.open(), number))
            for number in drawn
        ]
        texts: list[Work] = [
            (path, lambda text=text: _encode_text(clip.open(), text))
            for path, text in zip(self.texts, self.data.captions, strict=True)
        ]
        fill_files(latents, "pictures", None, "latents")
        fill_files(texts, "captions", None, "texts")

    def _check_faces(self) -> None:
        problems = Problems(self.data.source)
        shows = [bool(read_features(path)["count"]) for path in self.faces]
        for row in self.data.rows:
            bad = [self.data.photos[one].path.name for one in row.references if not shows[one]]
            if bad:
                problems.add(
                    row.place,
                    f"no face was found in {len(bad)} of {len(row.references)} references "
                    f"({bad[0]}). Replace or remove it, or name the box of the face.",
                )
            same = {self.contents[one] for one in row.references} == {self.contents[row.photo]}
            if same and row.references != (row.photo,):
                problems.add(
                    row.place,
                    "the reference is a copy of the picture, another photo is needed. Replace it.",
                )
        problems.raise_if_any()

    def face(self, number: int) -> dict[str, Tensor]:
        """As `FaceMaker.of` makes it, float32."""
        return read_features(self.faces[number])

    def latent(self, number: int) -> dict[str, Tensor]:
        """latent (16, h, w) as the VAE encodes it; mask (1, h, w) where the photo has one."""
        return read_features(self.latents[number])

    def text(self, number: int) -> dict[str, Tensor]:
        """text (T, D) and pooled (V,)."""
        return read_features(self.texts[number])

    @cached_property
    def nobody(self) -> dict[str, Tensor]:
        """What the encoder makes of nobody, float32."""
        return read_features(self._nobody)

    def show(self, number: int) -> Tensor:
        """(h, w, 3) in 0..1: a photo as it is trained on."""
        return cut(read_picture(self.data.photos[number].path), self.where(number))[0]

    def where(self, number: int) -> Fit:
        """How a photo is scaled and cut."""
        if number not in self._fits:
            size = picture_size(self.data.photos[number].path)
            self._fits[number] = fit(*size, self.shape(*size, self.side))
        return self._fits[number]

    def _encode_picture(self, vae: Any, number: int) -> dict[str, Tensor]:
        photo, where = self.data.photos[number], self.where(number)
        with torch.no_grad():
            latent = vae.encode(cut(read_picture(photo.path), where))[0]
        made = {"latent": shrink(latent.float(), photo.path.name)}
        if photo.mask is not None:
            with Image.open(photo.mask) as opened:
                shown = cut(opened.convert("L"), where).movedim(-1, 1)
            small = torch.nn.functional.adaptive_avg_pool2d(shown, latent.shape[-2:])
            made["mask"] = small[0].half()
        return made


def _encode_text(clip: Any, caption: str) -> dict[str, Tensor]:
    with torch.no_grad():
        text, pooled = clip.encode_from_tokens(clip.tokenize(caption), return_pooled=True)
    what = f"the caption {caption[:40]!r}"
    return {"text": shrink(text[0].float(), what), "pooled": shrink(pooled[0].float(), what)}


class _Lazy:
    """Opens something at the first use."""

    def __init__(self, open_it: Callable[[], Any]) -> None:
        self._open_it, self._found = open_it, None

    def open(self) -> Any:
        if self._found is None:
            self._found = self._open_it()
        return self._found


def _files(photo: Photo) -> list[Path]:
    return [photo.path, *([photo.mask] if photo.mask else [])]


def _name(*facts: object) -> str:
    return f"{key_of(VERSION, *facts)}.safetensors"
