"""The adapter for Apply SAA: what it begins with, and that what is trained is what runs."""

from dataclasses import replace

import comfy.model_management
import numpy as np
import pytest
import tiny
import torch
from flexid.mini import world
from flexid.mini.portraits.shots import EXPRESSIONS
from flexid.mini.training import saa, saa_lora, saa_motion
from flexid.mini.training.adapter import ENCODER, TOKEN_DIM, Adapter, read_files, write_files
from flexid.mini.training.adapter_diffusion import Examples
from flexid.mini.training.adapter_tokens import ANCHORS
from flexid.mini.training.captions import captions_of
from flexid.mini.training.data import SHOTS, Portraits
from flexid.mini.training.identity_inputs import IdentityInputs
from flexid.mini.training.options import Options, models
from flexid.mini.training.text_model import tokens
from flexid.model_patches.adapters.pulid_flux import load_adapter
from flexid.model_patches.inject.saa import apply_saa
from flexid.model_patches.inject.saa_people import make_person
from flexid.model_patches.training import loop
from flexid.model_patches.training.drawing import CFG, SCHEDULER, Conditioning, draw
from flexid.model_patches.training.flux_lora import FluxLora, attention_shapes
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
    begun.lora = FluxLora(attention_shapes(base.net), 4)
    with torch.no_grad():
        for layer in begun.lora.layers:
            layer.up.weight.normal_(std=0.02)
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
    noise = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(0))

    def drawn(injections):
        with torch.no_grad():
            said = [
                Conditioning(text, extra["pooled_output"], one)
                for (text, extra), one in zip(texts, injections, strict=True)
            ]
            return draw(base, noise, *said, steps=2)

    bare = drawn([adapter.injections(one) for one in (somebody, nobody)])
    with adapter.beside(base):
        trained = drawn([adapter.injections(one) for one in (somebody, nobody)])
    assert (trained - bare).norm() > 0.05 * bare.norm(), "the LoRA plays no part"
    for layer in adapter.layers:
        layer.activate = replace(layer.activate, threshold=None)
    with adapter.beside(base):
        plain = drawn([adapter.injections(one) for one in (somebody, nobody)])
    alone = drawn([{}, {}])
    assert (trained - plain).norm() > 0.05 * alone.norm(), "the activation plays no part"
    assert (trained - alone).norm() > 0.05 * alone.norm()
    made = tiny.sample(
        apply_saa(base.patcher, opened, [person]).model,
        steps=2,
        cfg=CFG,
        scheduler=SCHEDULER,
        positive=[texts[0]],
        negative=[texts[1]],
    )
    comfy.model_management.unload_all_models()  # takes the LoRA out of the shared base
    torch.testing.assert_close(base.format.process_in(made), trained, atol=5e-3, rtol=5e-3)


def quiet_of(work, stage, name, run, monkeypatch):
    """Names of what gets no gradient in a first step of the stage, and what its curve shows."""
    seen = {}

    def train(recipe, module, loss, folder, device):
        """One step's gradients, then the loop itself."""
        with autocast(CPU):
            value, shown = loss(0, np.random.default_rng(0))
        value.backward()
        quiet = {n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()}
        seen.update(quiet=quiet, shown=set(shown), module=module)
        return loop.train(recipe, module, loss, folder, device)

    monkeypatch.setattr(stage, "train", train)
    getattr(stage, name)(work, CPU, run)
    return seen


def test_three_stages_make_the_file_and_leave_the_tower(work, monkeypatch):
    tower, run = (models(work) / world.EVA).read_bytes(), Options(steps=2, batch=3)
    first = quiet_of(work, saa, "train_saa", run, monkeypatch)
    names = set(first["module"].tower.state_dict())
    assert first["quiet"] == {f"tower.{name}" for name in names}
    assert first["shown"] == {"velocity"}, "nothing but the base's own loss"
    assert not (models(work) / world.SAA).exists()
    second = quiet_of(work, saa_motion, "train_motion", run, monkeypatch)
    frozen = {f"adapter.tower.{name}" for name in names}
    layers = {f"adapter.{n}" for n in first["module"].state_dict() if n.startswith("layers.")}
    assert second["quiet"] == frozen | layers
    third = quiet_of(work, saa_lora, "train_lora", run, monkeypatch)
    downs = {n for n, _ in third["module"].named_parameters() if n.endswith("down.weight")}
    assert third["quiet"] == frozen | downs, "up is zero at first, so down has no gradient yet"
    adapter, before = (load_adapter(models(work) / name) for name in (world.SAA, world.PULID))
    assert adapter.count == 6 and adapter.blocks == tuple(ANCHORS.all_blocks)
    assert before.count == 2 and before.blocks is None and not before.lora
    assert adapter.encoder_digest != before.encoder_digest
    assert len(adapter.lora) == 2 * (2 * 4 + 4 * 2)
    assert (models(work) / world.EVA).read_bytes() == tower


def test_a_motion_has_a_direction_of_its_own_in_which_tokens_did_not_differ():
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(128, TOKEN_DIM, generator=generator)
    tokens = torch.randn(40, ENCODER.queries, 128, generator=generator) @ mixed
    reader = saa_motion.Reader(3)
    reader.choose_directions(tokens)
    square = reader.directions.T @ reader.directions
    torch.testing.assert_close(square, torch.eye(len(square)), atol=1e-4, rtol=0)
    told, *_ = reader(tokens)
    assert told.shape == (40, len(EXPRESSIONS) + 2) and told.std(0).max() < 0.05
    moved, *_ = reader(tokens + 9 * reader.directions[:, 4])
    change = (moved - told).mean(0)
    assert change.argmax() == 4 and change[4] > 5 * change.abs().sum() - 5 * change[4] > 0


def test_the_truth_of_a_picture_is_no_error(work):
    truth = saa_motion.Truth(Portraits(work), IdentityInputs(work), CPU)
    rows = np.arange(12)
    data = truth.data
    wanted = torch.zeros(12, len(EXPRESSIONS) + 2) - 1 / len(EXPRESSIONS)
    wanted[range(12), np.array(data.expression[rows])] += 1
    wanted[:, -2:] = torch.from_numpy(np.array(data.angles[rows]))[:, :2] / torch.tensor([30, 15.0])
    people = np.array(data.person[rows])
    read = saa_motion.SIZE * wanted, truth.vectors[people], 3 * truth.centres[people]
    error, shown = truth.errors(read, rows)
    assert error < 1e-5 and shown["expression"] == 1
    turned = (saa_motion.SIZE * wanted).flip(0), *read[1:]
    assert truth.errors(turned, rows)[0] > 1


def test_the_teacher_reads_the_words_that_are_hidden_and_has_no_lora(work, base):
    saa.train_saa(work, CPU, Options(steps=1, batch=2))
    teacher = saa.load_first(work, base.anchors).requires_grad_(False).eval()
    examples = Examples(work, captions_of(work, CPU), CPU)
    taught = saa_motion.Taught(saa.load_first(work, base.anchors), examples.data.vectors.shape[1])
    taught.adapter.lora = FluxLora(attention_shapes(base.net), 2)

    def apart(captions):
        loss = saa_lora.LoraLoss(taught, teacher, base, examples, captions, 8, 10)
        with torch.no_grad():
            torch.manual_seed(0)
            return loss(0, np.random.default_rng(0))[1]["apart"]

    said = examples.captions.cut
    assert apart(said) == 0, "the same words, the same weights, a LoRA of zeros"
    silent = tokens([""] * len(examples.data), work / "silent.npz")
    assert apart(silent) > 0
    with torch.no_grad():
        for layer in taught.adapter.lora.layers:
            layer.up.weight.normal_(std=0.1)
    assert apart(said) > 0


def test_attention_is_plain_at_first_and_then_in_every_other_step(work, base):
    taught = saa_motion.Taught(saa.SaaAdapter(base.anchors), 3)
    loss = object.__new__(saa_lora.LoraLoss)
    loss.taught, loss.teacher = taught, saa.SaaAdapter(base.anchors)
    loss.steps, loss.activate = 10, saa.activation()
    plain = []
    for step in range(10):
        loss.choose_attention(step)
        layers = (*loss.taught.adapter.layers, *loss.teacher.layers)
        assert len({layer.activate is None for layer in layers}) == 1
        plain.append(layers[0].activate is None)
    assert plain == [True] * 6 + [True, False, True, False]
