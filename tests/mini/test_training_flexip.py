"""FlexIP on the small Flux: what it learns from, and that its files are read by the pack."""

import numpy as np
import pytest
import torch
from flexid.mini import random_adapter, world
from flexid.mini.training import flexip
from flexid.mini.training.adapter_diffusion import Examples
from flexid.mini.training.captions import captions_of
from flexid.mini.training.flexip import DRAWS, FlexIPLoss, make_streams
from flexid.mini.training.options import Options, curves, models
from flexid.model_patches.adapters.flexip_file import load_flexip
from flexid.model_patches.encoders.eva_clip import load_eva_clip
from flexid.model_patches.training.frozen_base import FrozenBase
from identity_world import CPU

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def work(people_work):
    path = models(people_work) / world.EVA
    path.parent.mkdir(parents=True, exist_ok=True)
    random_adapter.write_eva_clip(path, 5)
    return people_work


def make_loss(work, two=True, batch=8):
    base = FrozenBase(models(work) / world.FLUX, CPU, torch.float32)
    vision = load_eva_clip(models(work) / world.EVA)
    torch.manual_seed(1)
    streams = make_streams(base, vision.dims.width, vision.dims.output, two)
    examples = Examples(work, captions_of(work, CPU), CPU)
    return FlexIPLoss(streams, base, vision.patcher.model, examples, batch)


def test_the_plain_adapter_is_as_large_as_both_streams(work):
    sizes = [
        sum(p.numel() for p in make_loss(work, two).streams.parameters() if p.requires_grad)
        for two in (True, False)
    ]
    assert abs(sizes[0] / sizes[1] - 1) < 0.05


def test_stills_keep_more_of_the_photo_than_frames(work):
    loss, video = make_loss(work), np.arange(1000) % 2 == 1
    loss.batch = 1000
    weights = loss.weights(np.random.default_rng(0), video)
    torch.testing.assert_close(weights.sum(1), torch.ones(1000))
    stills, frames = weights[~video, 0], weights[video, 0]
    assert stills.min() >= DRAWS.alpha - DRAWS.spread and frames.max() <= 0.4
    assert torch.equal(make_loss(work, two=False).weights(None, video[:8]), torch.ones(8, 1))


def test_a_still_is_its_own_reference_and_a_frame_another_view(work, monkeypatch):
    loss, seen = make_loss(work, batch=64), {}
    look, targets = loss.look, loss.examples.targets
    monkeypatch.setattr(loss, "look", lambda rows, there: seen.update(r=rows) or look(rows, there))
    monkeypatch.setattr(loss.examples, "targets", lambda rows: seen.update(t=rows) or targets(rows))
    with torch.no_grad():
        loss(0, np.random.default_rng(3))
    same = seen["r"] == seen["t"]
    assert same[::2].all() and not same[1::2].any()
    assert (seen["r"] // 6 == seen["t"] // 6).all()


def test_nobody_is_zeros(work):
    found = make_loss(work).look(np.array([0, 1]), torch.tensor([True, False]))
    assert found["pooled"][0].any() and found["context"][0].any()
    assert not found["pooled"][1].any() and not found["context"][1].any()
    torch.testing.assert_close(found["pooled"][0, :512].norm(), torch.tensor(1.0))


@pytest.mark.parametrize("two", [True, False], ids=["flexip", "plain"])
def test_it_learns_and_its_file_is_read(work, two):
    train, name = (
        (flexip.train_flexip, world.FLEXIP) if two else (flexip.train_plain, world.FLEXIP_PLAIN)
    )
    train(work, CPU, Options(steps=3, batch=4))
    adapter = load_flexip(models(work) / name)
    assert adapter.has_personal is two and adapter.count == 6
    assert adapter.settings.notes["steps"] == "3"
    assert dict(adapter.settings.notes).get("alpha") == ("0.8" if two else None)
    values = [layer["to_kv.weight"][256:] for layer in adapter.preserve.layers]
    assert all(value.any() for value in values), "the values began at zero and were trained"
    assert (curves(work) / ("flexip.csv" if two else "flexip_plain.csv")).is_file()
