"""Counts what is computed again when only a slider moves: no encoder may run."""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from pathlib import Path

import torch
from flexid.mini import tiny_flux
from flexid.mini.random_adapter import write_adapter, write_eva_clip
from flexid.model_patches.adapters.pulid_flux import load_adapter
from flexid.model_patches.encoders.eva_clip import load_eva_clip
from flexid.model_patches.face.face import Face
from flexid.model_patches.identity.encode import encode_identity, encoder_runs
from flexid.model_patches.inject.vfa import apply_vfa

from .inside import folded_model
from .plan import Allowance, Plan, Row

WEIGHTS = (1.0, 0.8, 0.6)


class _Graph:
    """Encode a face and apply it, as a queued graph does."""

    def __init__(self, folder: Path) -> None:
        self.adapter = load_adapter(write_adapter(folder / "adapter.safetensors"))
        self.tower = load_eva_clip(write_eva_clip(folder / "tower.safetensors"))
        self.model = tiny_flux.flux()

    def queue(self, face: Face, weight: float) -> Row:
        before, started = _runs(), time.perf_counter()
        identity = encode_identity(self.adapter, self.tower, (face,)).identity
        encoded = time.perf_counter()
        patched = apply_vfa(self.model, self.adapter, identity, weight=weight)
        done = time.perf_counter()
        return {
            "weight": weight,
            "encoder runs": _runs() - before,
            "encode ms": 1e3 * (encoded - started),
            "apply ms": 1e3 * (done - encoded),
            "folded": hex(id(folded_model(patched)))[-6:],
        }


def prepare(options: Namespace, allowance: Allowance) -> Plan:
    with tempfile.TemporaryDirectory() as folder:
        graph = _Graph(Path(folder))
    started = time.perf_counter()
    graph.queue(_face(1), WEIGHTS[0])
    seconds = time.perf_counter() - started
    face = _face(0)
    what = f"one new photo, queued {len(WEIGHTS)} times with other weights"
    return Plan(seconds, what, lambda: [graph.queue(face, weight) for weight in WEIGHTS])


def _runs() -> int:
    runs = encoder_runs()
    return runs.vision.runs + runs.tokens.runs


def _face(seed: int) -> Face:
    """A face made of noise: only identical content matters here."""
    generator = torch.Generator().manual_seed(seed)
    crop = torch.randint(0, 256, (512, 512, 3), generator=generator, dtype=torch.uint8)
    return Face(
        photo=0,
        photo_hash=f"bench {seed}",
        box=(0.0, 0.0, 512.0, 512.0),
        points=torch.zeros(5, 2),
        score=1.0,
        detector="bench",
        angles=(0.0, 0.0, 0.0),
        ffhq_crop=crop,
        labels=None,
        embedding=torch.randn(512, generator=generator),
        recogniser="bench",
    )
