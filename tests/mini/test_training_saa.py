"""The adapter for Apply SAA: what it begins with, and that what is trained is what runs."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from flexid.mini import world
from flexid.mini.training import saa
from flexid.mini.training.adapter import Adapter, read_files, write_files
from flexid.mini.training.adapter_tokens import ANCHORS
from flexid.mini.training.data import SHOTS
from flexid.mini.training.options import Options, models
from flexid.model_patches.adapters.pulid_flux import load_adapter
from flexid.model_patches.inject.saa import apply_saa
from flexid.model_patches.inject.saa_people import make_person
from flexid.model_patches.training import loop
from flexid.model_patches.training.drawing import CFG, SCHEDULER, Conditioning, draw
from flexid.model_patches.training.frozen_base import FrozenBase
from flexid.model_patches.training.precision import autocast
from identities import identity_of
from identity_world import CPU, build

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = build(tmp_path_factory.mktemp("saa"))
    torch.manual_seed(1)
    write_files(Adapter(ANCHORS), models(folder))
    return folder


@pytest.fixture(scope="module")
def base(work):
    return FrozenBase(models(work) / world.FLUX, CPU, torch.float32)


def test_every_picture_is_its_own_reference():
    reference, target = saa.own_references(np.random.default_rng(0), 50, 4000)
    assert (reference == target).all()
    assert set(reference) == set(range(50 * SHOTS))


def test_it_begins_as_the_adapter_of_the_small_world(work, base):
    known, adapter = read_files(models(work), base.anchors), saa.begin(models(work), base.anchors)
    for part in ("tower", "encoder"):
        before, after = getattr(known, part).state_dict(), getattr(adapter, part).state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert adapter.blocks == tuple(base.anchors.all_blocks) and len(adapter.blocks) == 6
    for block, layer in zip(adapter.blocks, adapter.layers, strict=True):
        same = [
            torch.equal(layer.to_q.weight, known.layers[number].to_q.weight)
            for number, place in enumerate(known.blocks)
            if place == block
        ]
        assert same == ([True] if block[1] == 0 else [])


def test_what_is_trained_is_what_apply_saa_injects(work, base, tmp_path):
    """CFG included: the negative prompt gets what dropped identities get."""
    torch.manual_seed(2)
    begun = saa.begin(models(work), base.anchors)
    with torch.no_grad():
        for layer in begun.layers:
            layer.to_out.weight.mul_(10)
            layer.to_q.weight.mul_(4)
    for name in (world.EVA, world.SAA):
        (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / world.EVA).symlink_to(models(work) / world.EVA)
    saa.write_saa(begun, tmp_path / world.SAA)
    adapter, opened = saa.read_saa(tmp_path, base.anchors), load_adapter(tmp_path / world.SAA)
    assert opened.blocks == tuple(base.anchors.all_blocks)
    photo = torch.randn(1, 3, 112, 112), torch.randn(1, 512)
    with torch.no_grad():
        somebody, nobody = (adapter.tokens(*photo, torch.tensor([one])) for one in (True, False))
    tokens = {"pulid_flux": somebody}, {"pulid_flux": nobody}
    person = make_person(identity_of(*tokens, encoder=opened.encoder_digest))
    texts = [[torch.randn(1, 16, 64), {"pooled_output": torch.randn(1, 64)}] for _ in range(2)]
    made = tiny.sample(
        apply_saa(base.patcher, opened, [person]).model,
        steps=2,
        cfg=CFG,
        scheduler=SCHEDULER,
        positive=[texts[0]],
        negative=[texts[1]],
    )
    noise = torch.randn(made.shape, generator=torch.Generator().manual_seed(0))

    def drawn(injections):
        with torch.no_grad():
            said = [
                Conditioning(text, extra["pooled_output"], one)
                for (text, extra), one in zip(texts, injections, strict=True)
            ]
            return draw(base, noise, *said, steps=2)

    trained = drawn([adapter.injections(one) for one in (somebody, nobody)])
    torch.testing.assert_close(base.format.process_in(made), trained, atol=5e-3, rtol=5e-3)
    for layer in adapter.layers:
        layer.activate = replace(layer.activate, threshold=None)
    plain = drawn([adapter.injections(one) for one in (somebody, nobody)])
    alone = drawn([{}, {}])
    assert (trained - plain).norm() > 0.05 * alone.norm(), "the activation plays no part"
    assert (trained - alone).norm() > 0.05 * alone.norm()


def test_the_stage_trains_all_but_the_tower_and_says_where_it_anchors(work, monkeypatch):
    tower, seen = (models(work) / world.EVA).read_bytes(), {}

    def train(recipe, adapter, loss, folder, device):
        """One step's gradients, then the loop itself."""
        with autocast(CPU):
            value, shown = loss(0, np.random.default_rng(0))
        value.backward()
        quiet = {
            name for name, p in adapter.named_parameters() if p.grad is None or not p.grad.any()
        }
        seen.update(quiet=quiet, shown=set(shown), tower=set(adapter.tower.state_dict()))
        return loop.train(recipe, adapter, loss, folder, device)

    monkeypatch.setattr(saa, "train", train)
    saa.train_saa(work, CPU, Options(steps=2, batch=2))
    assert seen["quiet"] == {f"tower.{name}" for name in seen["tower"]}
    assert seen["shown"] == {"velocity"}, "nothing but the base's own loss"
    adapter, before = (load_adapter(models(work) / name) for name in (world.SAA, world.PULID))
    assert adapter.count == 6 and adapter.blocks == tuple(ANCHORS.all_blocks)
    assert before.count == 2 and before.blocks is None
    assert adapter.encoder_digest != before.encoder_digest
    assert (models(work) / world.EVA).read_bytes() == tower
