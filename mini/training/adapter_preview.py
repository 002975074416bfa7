"""Previews adapter and projector during training, run as a user would run them.

The last checkpoint is written as files; the pack's loaders, encoders and nodes' functions and
ComfyUI's sampler with CFG do the rest. A row per person: the reference, then for every prompt the
picture without and with the identity. With a trained detector, the recogniser's cosine below.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from ...model_patches.adapters.pulid_flux import load_adapter
from ...model_patches.encoders.eva_clip import load_eva_clip
from ...model_patches.encoders.faceclip import load_faceclip
from ...model_patches.face.align import arcface_crop, ffhq_crop
from ...model_patches.face.analyser import FaceAnalyser, load_analyser
from ...model_patches.face.face import Face
from ...model_patches.face.pixels import photo_hash
from ...model_patches.face.recogniser import Recogniser
from ...model_patches.identity.encode import encode_identity
from ...model_patches.inject.sip import Wording, apply_sip
from ...model_patches.inject.vfa import apply_vfa
from ...model_patches.sip.faceclip import FaceClipProjector
from ...model_patches.sip.projector import encode_sip
from .. import portraits, world
from ..study.judge import largest
from .adapter import write_files
from .adapter_drawn import load_trained
from .adapter_tokens import ANCHORS
from .base_preview import FIRST_SEED, Painter
from .data import SIZE
from .identity_inputs import recogniser_of
from .options import models
from .sip import write_face_t5
from .sip_diffusion import load_trained as load_projector

PROMPTS = (
    "a photo of a person with a big smile in a park",
    "a photo of a person looking to the left in a library",
    "a pencil sketch of an angry person",
)
PEOPLE = 6
ALPHA = 0.1
CAPTION = 15

Prepared = tuple[Any, list]
Prepare = Callable[[Face, str], Prepared]
"""(reference, prompt) -> MODEL and CONDITIONING with the identity."""


def preview_adapter(work: Path, out: Path, device: torch.device) -> None:
    """Apply VFA at weight 1, last checkpoint. FileNotFoundError before there is one."""
    adapter, stage = load_trained(work, ANCHORS)
    painter = _painter(work)
    with tempfile.TemporaryDirectory() as folder:
        write_files(adapter, Path(folder))
        opened = load_adapter(Path(folder) / world.PULID)
        vision = load_eva_clip(Path(folder) / world.EVA)

        def prepare(face: Face, prompt: str) -> Prepared:
            identity = encode_identity(opened, vision, [face]).identity
            return apply_vfa(painter.model, opened, identity), painter.encode(prompt)

        sheet(work, painter, prepare, f"VFA: {stage}").save(out)


def preview_sip(work: Path, out: Path, device: torch.device) -> None:
    """Apply SIP at its default α with the last checkpoint. Raises like `preview_adapter`."""
    painter = _painter(work)
    width = painter.model.get_model_object("diffusion_model").params.context_in_dim
    trained, step = load_projector(work, width)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(world.FACE_T5).name
        write_face_t5(trained, path)
        projector = FaceClipProjector(load_faceclip(path))

        def prepare(face: Face, prompt: str) -> Prepared:
            wording = Wording(painter.clip, prompt)
            edited = apply_sip(
                painter.encode(prompt),
                projector,
                encode_sip(projector, [face]),
                weight=ALPHA,
                wording=wording,
            )
            return painter.model, edited.conditioning

        sheet(work, painter, prepare, f"SIP {ALPHA}, step {step}").save(out)


def face_of(rgb: np.ndarray, points: np.ndarray, recogniser: Recogniser) -> Face:
    """A face (points in pixels) as Detect Faces would hand it on, without a parser."""
    small, large = arcface_crop(rgb, points), ffhq_crop(rgb, points)
    return Face(
        photo=0,
        photo_hash=photo_hash(rgb),
        box=(*points.min(0), *points.max(0)),
        points=torch.from_numpy(np.array(points, np.float32)),
        score=1.0,
        detector="the renderer",
        angles=(0.0, 0.0, 0.0),
        ffhq_crop=torch.from_numpy(large),
        labels=None,
        embedding=recogniser.embed(small),
        recogniser=recogniser.name,
    )


def references(recogniser: Recogniser) -> list[tuple[np.ndarray, Face]]:
    """Photos of people who are neither trained on nor held out, nearly from the front."""
    found = []
    for seed in range(FIRST_SEED, FIRST_SEED + PEOPLE):
        rng = np.random.default_rng(seed)
        view = portraits.shot(rng, style="photo", yaw=5.0, pitch=0.0, roll=0.0, light="soft")
        drawn = portraits.picture(rng, ((portraits.person(seed), view),))
        rendered = portraits.render(drawn, SIZE)
        points = np.array(rendered.faces[0].points)
        found.append((rendered.image, face_of(rendered.image, points, recogniser)))
    return found


def _painter(work: Path) -> Painter:
    files = [models(work) / name for name in (world.FLUX, world.T5, world.CLIP_L, world.VAE)]
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{missing[0]} is missing. Train it first: --only vae base.")
    return Painter(*files)


def _judge(work: Path) -> FaceAnalyser | None:
    """Detector and recogniser, once both are trained."""
    if not (models(work) / world.DETECTOR).is_file():
        return None
    return load_analyser((models(work) / world.DETECTOR).parent, "pack", ("CPU",), None)


def _measure(judge: FaceAnalyser | None, image: np.ndarray, face: Face) -> str:
    if judge is None:
        return ""
    best = largest(judge.detector.find(image))
    if best is None:
        return "no face"
    embedding = judge.recogniser.embed(arcface_crop(image, best.points))
    return f"{torch.cosine_similarity(embedding, face.embedding, dim=0):.2f}"


def sheet(work: Path, painter: Painter, prepare: Prepare, title: str) -> Image.Image:
    """The labelled grid."""
    judge = _judge(work)
    width, height = SIZE * (1 + 2 * len(PROMPTS)), SIZE + CAPTION
    page = Image.new("RGB", (width, CAPTION + PEOPLE * height), "white")
    draw = ImageDraw.Draw(page)
    draw.text((2, 2), title, fill="black")
    for column, text in enumerate(PROMPTS):
        draw.text((SIZE * (1 + 2 * column) + 2, 2), text, fill="black")
    for row, (photo, face) in enumerate(references(recogniser_of(work))):
        top = CAPTION + row * height
        page.paste(Image.fromarray(photo), (0, top))
        for column, text in enumerate(PROMPTS):
            plain = painter.model, painter.encode(text)
            for side, prepared in enumerate((plain, prepare(face, text))):
                image = painter.sample(*prepared, row)
                left = SIZE * (1 + 2 * column + side)
                page.paste(Image.fromarray(image), (left, top))
                label = f"{('prompt alone', 'with identity')[side]} {_measure(judge, image, face)}"
                draw.text((left + 2, top + SIZE + 2), label, fill="black")
    return page
