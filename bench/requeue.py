"""What is computed again when only a slider moves: the encoders must not be."""

import tempfile
import time
from argparse import Namespace
from pathlib import Path

import tiny
import torch
from flexid.mini.random_adapter import write_adapter, write_eva_clip
from flexid.model_patches.adapters.pulid_flux import load_adapter
from flexid.model_patches.encoders.eva_clip import load_eva_clip
from flexid.model_patches.face.face import Face
from flexid.model_patches.identity.encode import encode_identity, encoder_runs
from flexid.model_patches.inject.vfa import VFA, apply_vfa


def measure(options: Namespace) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        adapter = load_adapter(write_adapter(Path(folder) / "adapter.safetensors"))
        tower = load_eva_clip(write_eva_clip(Path(folder) / "tower.safetensors"))
        return _requeue(adapter, tower, tiny.flux())


def _requeue(adapter, tower, model) -> list[dict]:
    rows, before, face = [], _runs(), _face()
    for weight in (1.0, 0.8, 0.6):
        started = time.perf_counter()
        identity = encode_identity(adapter, tower, (face,)).identity
        encoded = time.perf_counter()
        patched = apply_vfa(model, adapter, identity, weight=weight)
        done, after = time.perf_counter(), _runs()
        anchor = patched.model_options["transformer_options"]["patches"][VFA][0]
        rows.append(
            {
                "weight": weight,
                "encoder runs": after - before,
                "encode ms": 1e3 * (encoded - started),
                "apply ms": 1e3 * (done - encoded),
                "folded": hex(id(anchor.positive.model))[-6:],
            }
        )
        before = after
    return rows


def _runs() -> int:
    runs = encoder_runs()
    return runs.vision.runs + runs.tokens.runs


def _face() -> Face:
    """A face made of noise: only its content's sameness matters here."""
    generator = torch.Generator().manual_seed(0)
    crop = torch.randint(0, 256, (512, 512, 3), generator=generator, dtype=torch.uint8)
    return Face(
        photo=0,
        photo_hash="bench",
        box=(0.0, 0.0, 512.0, 512.0),
        points=torch.zeros(5, 2),
        score=1.0,
        detector="bench",
        angles=(0.0, 0.0, 0.0),
        arcface_crop=crop[:112, :112],
        ffhq_crop=crop,
        labels=None,
        embedding=torch.randn(512, generator=generator),
        recogniser="bench",
    )
