"""The trainer of identity adapters in the small world: exact at its edges, resumable, the same on
two processes, and its files open."""

import dataclasses
import json
import runpy
import shutil
from functools import cached_property, partial

import numpy as np
import pulid_training
import pytest
import torch
import training_steps
from flexid.mini import world
from flexid.mini.tiny_flux import flux_state
from flexid.mini.training.frozen_faces import read_recogniser
from flexid.mini.training.people_folder import write_people
from flexid.model_patches.adapters.merge_plan import Settings, plan_merge
from flexid.model_patches.adapters.pulid_flux import load_adapter, open_adapter_file
from flexid.model_patches.inject.pulid import cross_attention, layer_weights
from flexid.model_patches.training import (
    distributed,
    loop,
    precision,
    pulid_job,
    pulid_sheet,
)
from flexid.model_patches.training.data import read_data
from flexid.model_patches.training.data_problems import DataError
from flexid.model_patches.training.face_features import FeatureStore
from flexid.model_patches.training.flow import blend, clean
from flexid.model_patches.training.flux_encoders import encoders_of, prints_of
from flexid.model_patches.training.frozen_base import FrozenBase
from flexid.model_patches.training.pictures import read_picture
from flexid.model_patches.training.pulid_export import export
from flexid.model_patches.training.pulid_likeness import Likeness, LikenessPlan
from flexid.model_patches.training.pulid_open import (
    PulidFaces,
    check_base,
    make_likeness,
    open_recogniser,
)
from flexid.model_patches.training.pulid_recipe import Course, PulidLoss
from flexid.model_patches.training.pulid_rows import Draws, collect_rows, draw_rows
from flexid.model_patches.training.pulid_trained import SETS, TrainedAttention
from pack import ROOT
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from seeding import seeded_input

pytestmark = pytest.mark.comfy

CPU = torch.device("cpu")


class World:
    """A job with its rows, features and base, in float32. Twelve pictures: one may be held out."""

    def __init__(self, folder):
        self.job = pulid_training.job(folder, people=4)
        self.adapter = load_adapter(self.job.adapter)
        self.parent = open_adapter_file(self.job.adapter)
        self.data = collect_rows(read_data(self.job.data), self.job.data)
        prints = prints_of(self.job, self.adapter.encoder_digest)
        self.store = FeatureStore(self.job.work / "features", self.data, prints, self.job.size)
        encoders = encoders_of(self.job, partial(PulidFaces, self.adapter))
        self.store.fill_faces(encoders)
        self.store.fill_rest(encoders)
        self.base = FrozenBase(self.job.base, CPU, torch.float32)

    @cached_property
    def likeness(self):
        judge = open_recogniser(self.job.faces)
        return make_likeness(self.job, self.base.format, judge, self.store, self.data.rows, CPU)

    def layers(self, part="ca_all", **options):
        torch.manual_seed(0)
        return TrainedAttention(self.adapter, part, **options).place(CPU)

    def loss(self, layers, plan=None, draws=None, likeness=None, **course):
        course = Course("uniform", plan=plan or LikenessPlan(), **course)
        draws = draws or Draws(dropout=0.0)
        rows = self.data.rows
        return PulidLoss(self.base, layers, self.store, rows, draws, course, likeness)


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    """bfloat16 rounds parts of a batch differently, and this processor may not have it."""
    monkeypatch.setattr(precision, "prefers_bfloat16", lambda kind: False)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return World(tmp_path_factory.mktemp("pulid"))


def gradients(layers):
    return {name: value.grad.clone() for name, value in layers.named_parameters()}


def test_without_the_identity_loss_it_is_flow_matching_bit_for_bit(small):
    """Nothing is decoded, and nobody is asked who it is."""

    class Nobody(Likeness):
        def __init__(self):
            pass

        def __call__(self, *_):
            raise AssertionError("decoded")

    layers = small.layers()
    loss = small.loss(layers, LikenessPlan(0.0), likeness=Nobody(), part=2)
    value, shown = loss(0, None)
    value.backward()
    found = gradients(layers)
    plain = small.layers()
    (part,) = small.loss(plain, part=2).divide(draw_rows(small.data.rows, Draws(dropout=0.0), 0))
    noisy = part.latents + part.sigma[:, None, None, None] * (part.noise - part.latents)
    added = {
        place: lambda image, at=at: cross_attention(
            {key[2:]: plain.weight(key) for key in plain.keys if key[0] == str(at)},
            plain.heads,
            part.tokens,
            image,
        )
        for at, place in enumerate(small.base.anchors.blocks)
    }
    out = small.base.velocity(noisy, part.sigma, part.text, part.pooled, added)
    expected = (out - (part.noise - part.latents)).square().mean((1, 2, 3)).sum() / 2
    expected.backward()
    assert torch.equal(value, expected) and shown["alike"].isnan()
    assert all(torch.equal(grad, found[name]) for name, grad in gradients(plain).items())


def test_the_gradient_of_the_identity_loss_is_that_of_finite_differences(small):
    layers = small.layers()
    plan = LikenessPlan(3.0, until=1.0)
    loss = small.loss(layers, plan, likeness=small.likeness, part=2)
    (part,) = loss.divide(draw_rows(small.data.rows, Draws(dropout=0.0), 2))

    def alike():
        errors, cosines, total = loss.of_part(part)
        return total - errors.sum(), cosines

    value, cosines = alike()
    value.backward()
    expected = (plan.at(part.sigma) * (1 - cosines)).sum()
    torch.testing.assert_close(value.detach(), expected)
    grads = gradients(layers)
    norm = torch.stack([grad.norm() for grad in grads.values()]).norm()
    assert norm > 1e-4 and cosines.isfinite().all()
    step = 1e-3 / norm
    with torch.no_grad():
        ends = []
        for sign in (1, -2):
            for name, weight in layers.named_parameters():
                weight += sign * step * grads[name]
            ends.append(alike()[0])
    assert float(ends[0] - ends[1]) == pytest.approx(float(2 * step * norm**2), rel=0.01)


def test_parts_of_a_step_add_up_to_it(small):
    """One row at once, or all: the same loss and the same gradients."""
    found = []
    for part in (1, 4):
        layers = small.layers()
        draws = Draws(batch=4, dropout=0.0)
        loss = small.loss(layers, likeness=small.likeness, draws=draws, part=part)
        value, _ = loss(0, None)
        value.backward()
        found.append((value.detach(), gradients(layers)))
    torch.testing.assert_close(found[0][0], found[1][0])
    for name, grad in found[0][1].items():
        torch.testing.assert_close(grad, found[1][1][name], atol=1e-6, rtol=1e-3)


def test_checkpointing_changes_no_bit(small):
    found = []
    for checkpointing in (False, True):
        small.base.checkpointing = checkpointing
        layers = small.layers("lora")
        value, _ = small.loss(layers, likeness=small.likeness)(0, None)
        value.backward()
        found.append((value.detach(), gradients(layers)))
    small.base.checkpointing = False
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(grad, found[1][1][name]) for name, grad in found[0][1].items())


@pytest.mark.parametrize("part", SETS)
def test_training_begins_at_the_file(small, part):
    layers = small.layers(part)
    tokens, image = torch.randn(1, 16, 256), torch.randn(1, 8, small.adapter.dim)
    expected = cross_attention(
        layer_weights(small.adapter.cross_attention, 1), layers.heads, tokens, image
    )
    assert torch.equal(layers.attend(1, tokens, image), expected)
    trained = {name.rsplit("_", 1)[0] if part == "lora" else name for name in layers.values}
    wanted = {f"{layer}.{name}".replace(".", "_") for layer in range(2) for name in SETS[part]}
    assert trained == wanted


def test_some_layers_can_be_trained_alone(small):
    assert {key[0] for key in small.layers("ca_out", layers="1").keys} == {"1"}
    with pytest.raises(ValueError, match="names layer 5.*has the layers 0 to 1"):
        small.layers(layers="0-5")


def test_who_is_dropped_becomes_nobody_and_what_is_said_nothing(small):
    loss = small.loss(small.layers(), part=3)
    one = draw_rows(small.data.rows, Draws(dropout=0.0), 0)[0]
    nobody = dataclasses.replace(one, keeps_photo=False)
    nothing = dataclasses.replace(one, keeps_text=False)
    kept, dropped, silent = (loss.divide([row])[0] for row in (one, nobody, nothing))
    assert torch.equal(dropped.tokens[0], small.store.nobody["tokens"])
    assert torch.equal(silent.text[0], small.store.text(0)["text"])
    assert torch.equal(kept.tokens[0], small.store.face(one.reference)["tokens"])
    assert not torch.equal(kept.tokens, dropped.tokens) and not torch.equal(kept.text, silent.text)
    assert one.reference != one.row.photo
    # And the tokens are those that the pack injects for nobody.
    from flexid.model_patches.identity.encode import encode_identity

    maker = encoders_of(small.job, partial(PulidFaces, small.adapter)).faces()
    photo = small.data.photos[0]
    face = maker._find(photo, read_picture(photo.path))
    null = encode_identity(small.adapter, maker.encoder.vision, [face]).identity.encodings[
        "pulid_flux"
    ]
    torch.testing.assert_close(small.store.nobody["tokens"], null.null[0], atol=5e-3, rtol=1e-3)


def test_errors_in_the_face_can_count_more(small):
    loss = small.loss(small.layers(), face_weight=2.0)
    (part, *_) = loss.divide(draw_rows(small.data.rows, Draws(dropout=0.0), 0))
    assert part.counts.min() == 1 and part.counts.max() == 3
    plain = small.loss(small.layers()).of_part(part)
    assert loss.of_part(part)[0] > plain[0] * 0 and part.counts.shape[-2:] == (16, 16)


def train(small, folder, steps=4, **options):
    job = dataclasses.replace(small.job, steps=steps, train="lora", rate=1e-3, **options)
    layers = small.layers("lora")
    draws = Draws(batch=2)
    loss = small.loss(layers, likeness=small.likeness, draws=draws)
    loop.train(job.recipe, layers, loss, folder, CPU)
    return layers


def test_a_resumed_run_gives_the_same_next_loss(small, tmp_path, monkeypatch):
    seen = []
    of_part = PulidLoss.of_part

    def watch(self, part):
        found = of_part(self, part)
        seen.append(found[2].item())
        return found

    monkeypatch.setattr(PulidLoss, "of_part", watch)
    whole = train(small, tmp_path / "whole")
    uninterrupted, calls = list(seen), []
    seen.clear()

    def interrupted(self, part):
        calls.append(part)
        if len(calls) == 6:  # the second row of the third step
            raise KeyboardInterrupt
        return watch(self, part)

    monkeypatch.setattr(PulidLoss, "of_part", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(small, tmp_path / "stopped")
    monkeypatch.setattr(PulidLoss, "of_part", watch)
    seen.clear()
    resumed = train(small, tmp_path / "stopped")
    assert seen == uninterrupted[4:]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_full_files_and_deltas_open_alike(small, tmp_path):
    folder = small.job.adapter.parent
    for part in ("ca_out", "lora"):
        layers = small.layers(part)
        with torch.no_grad():
            for value in layers.values.values():
                value += 0.01 * torch.randn_like(value)
        made = {}
        for kind in ("full", "delta"):
            place = tmp_path / part / kind
            place.mkdir(parents=True)
            (place / "renamed.safetensors").symlink_to(folder / small.job.adapter.name)
            path = place / "trained.safetensors"
            export(path, layers, small.parent, kind, torch.float32, {"run": "a"})
            made[kind] = load_adapter(path), path
        full, delta = (made[kind][0] for kind in ("full", "delta"))
        assert full.encoder_digest == delta.encoder_digest == small.adapter.encoder_digest
        for key, value in full.cross_attention.items():
            torch.testing.assert_close(delta.cross_attention[key].float(), value.float())
        assert any(
            not torch.equal(value.float(), small.adapter.cross_attention[key].float())
            for key, value in full.cross_attention.items()
        )
        sizes = [len(load_file(made[kind][1])) for kind in ("full", "delta")]
        assert sizes[1] == {"ca_out": 2, "lora": 12}[part] < sizes[0]
        path = made["delta"][1]
        plan = plan_merge([path, small.job.adapter], Settings("lerp", (0.5, 0.5)))
        assert len(plan.files) == 2 and plan.same_encoder
        (path.parent / "renamed.safetensors").unlink()
        with pytest.raises(
            FileNotFoundError, match=r"is a delta to flexid_mini_pulid.*same folder"
        ):
            load_adapter(path)


def test_a_whole_job_leaves_an_adapter_and_a_sheet(small, tmp_path, monkeypatch):
    monkeypatch.setattr(pulid_sheet, "STEPS", 1)
    out = tmp_path / "out.safetensors"
    job = dataclasses.replace(small.job, steps=1, sheet_rows=1, out=out)
    pulid_job.run_job(job, CPU)
    assert load_adapter(out).count == 2
    with safe_open(out, "pt") as file:
        notes = file.metadata()["flexid.training"]
    assert '"likeness": 0.1' in notes and '"step": 1' in notes and '"train": "ca_all"' in notes
    (sheet,) = (job.work / "sheets").iterdir()
    assert sheet.name == "0000001.png"
    with Image.open(sheet) as picture:
        assert picture.size == (5 * 128, 128 + 18)
    before = load_file(out)
    pulid_job.run_job(job, CPU)  # done: the same file again
    assert all(torch.equal(value, before[name]) for name, value in load_file(out).items())
    other = dataclasses.replace(job, train="ca_kv")
    with pytest.raises(ValueError, match="training with train 'ca_all', asked for is 'ca_kv'"):
        pulid_job.run_job(other, CPU)
    fresh = dataclasses.replace(job, work=tmp_path / "fresh")
    with pytest.raises(FileExistsError, match="this training did not write it"):
        pulid_job.run_job(fresh, CPU)


def test_what_does_not_fit_is_refused_before_it_is_read(small, tmp_path):
    base = tmp_path / "other.safetensors"
    save_file(flux_state(depth_single_blocks=8), base)
    with pytest.raises(ValueError, match="2 double and 8 single.*for 3 layers.*has 2 layers"):
        check_base(base, small.adapter)
    with pytest.raises(ValueError, match="is pulid_flux, a Flux.1 is needed"):
        check_base(small.job.adapter, small.adapter)
    base.write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="no weight file that can be trained beside"):
        check_base(base, small.adapter)
    job = dataclasses.replace(small.job, adapter=small.job.base, work=tmp_path / "work")
    with pytest.raises(ValueError, match="Flux base model"):
        pulid_job.run_job(job, CPU)
    with pytest.raises(ValueError, match=r"embeddings of cosine .* expected more than 0.95"):
        wrong = read_recogniser(world.WEIGHTS / world.RECOGNISER)
        for value in wrong.parameters():
            value.data = torch.randn_like(value) * value.std()
        make_likeness(small.job, small.base.format, wrong, small.store, small.data.rows, CPU)


def test_references_without_a_face_are_listed(small, tmp_path):
    source = small.job.data
    (tmp_path / "own").mkdir()
    for name in ("one", "copy"):
        shutil.copy(next(source.glob("*/*.png")), tmp_path / f"own/{name}.png")
    Image.new("RGB", (128, 128), "grey").save(tmp_path / "own/grey.png")
    rows = [
        {"id_image": "grey.png", "image": "one.png", "text": "x", "source": "own"},
        {"id_image": "copy.png", "image": "one.png", "text": "y", "source": "own"},
    ]
    path = tmp_path / "list.json"
    path.write_text("[" + ",\n".join(map(json.dumps, rows)) + "]")
    data = collect_rows(read_data(path), path)
    store = FeatureStore(
        tmp_path / "features", data, prints_of(small.job, small.adapter.encoder_digest), 128
    )
    with pytest.raises(DataError) as error:
        store.fill_faces(encoders_of(small.job, partial(PulidFaces, small.adapter)))
    assert "list.json:1: no face was found in 1 of 1 references (grey.png)" in str(error.value)
    assert "list.json:2: the reference is a copy of the picture" in str(error.value)


def test_the_published_trainings_arithmetic(small, golden):
    """Golden: noise, target, error and the way back, for tokens as Flux packs latents."""
    vectors = load_file(golden / "editidv2_train.safetensors")
    latents = seeded_input("train.latent", (1, 16, 8, 8))
    noise, out = (
        seeded_input(f"train.{name}", (1, 16, 64)).reshape(1, 4, 4, 16, 2, 2)
        .permute(0, 3, 1, 4, 2, 5).reshape(1, 16, 8, 8)
        for name in ("noise", "model_pred")
    )  # fmt: skip

    def pack(values):
        return small.base.net.process_img(values)[0]

    torch.testing.assert_close(pack(latents), vectors["packed_latent"])
    for index in (0, 250, 500, 750, 999):
        sigma = vectors[f"t{index}.t"].float()
        noisy, wanted = blend(latents, noise, sigma)
        close = {"atol": 1e-6, "rtol": 0}
        torch.testing.assert_close(pack(noisy), vectors[f"t{index}.x_t"], **close)
        torch.testing.assert_close(pack(wanted), vectors["target"], **close)
        back = clean(noisy, out, sigma)
        torch.testing.assert_close(back, vectors[f"t{index}.pred_x0_latent"], **close)
    error = (out - wanted).square().mean()
    assert float(error) == pytest.approx(float(vectors["mse"]), rel=1e-6)


def test_the_ablations_six_trainings_differ_in_two_options(tmp_path):
    ablation = runpy.run_path(str(ROOT / "mini/ablate.py"))
    trainer = runpy.run_path(str(ROOT / "setup/train_identity_adapter.py"), run_name="script")
    (tmp_path / "people").mkdir()
    chosen = ablation["parse"](["--work", str(tmp_path)])
    assert chosen.people * chosen.shots == 3000
    jobs = [
        vars(trainer["parse"](ablation["words_of"](chosen, weight, reference)))
        for weight in ablation["WEIGHTS"]
        for reference in ablation["REFERENCES"]
    ]
    pairs = {(job["likeness"], job["reference"]) for job in jobs}
    assert pairs == {(weight, way) for weight in (0, 0.1, 0.5) for way in ("target", "other")}
    differing = {name for job in jobs for name in job if job[name] != jobs[0][name]}
    assert differing == {"likeness", "reference", "out", "work"}


def test_drawn_people_are_drawn_anew_until_one_is_kept(tmp_path):
    seen = []

    def every_second(image):
        seen.append(image)
        return len(seen) % 2 == 0

    write_people(tmp_path, [700_000], 2, 64, every_second)
    files = sorted(tmp_path.glob("*/*"))
    assert len(seen) == 4 and [path.suffix for path in files] == [".png", ".txt"] * 2
    with Image.open(files[0]) as shown:
        assert np.array_equal(np.array(shown), seen[1])
    with pytest.raises(ValueError, match="none of 100 drawings was kept"):
        write_people(tmp_path / "none", [700_000], 1, 16, lambda _: False)


def train_briefly(folder):
    """The layers after two steps. Features are made by the first process, for all."""
    worlds = []
    distributed.by_first(lambda: worlds.append(World(folder)))
    with training_steps.along_gradients():
        return train(worlds[0] if worlds else World(folder), folder / "run", steps=2)


def test_two_processes_train_like_one(small, tmp_path, trained_by_two):
    begun = small.layers("lora").state_dict()
    with training_steps.along_gradients():
        one = train(small, tmp_path / "one", steps=2).state_dict()
    training_steps.assert_alike(begun, one, trained_by_two["test_pulid_training"])
