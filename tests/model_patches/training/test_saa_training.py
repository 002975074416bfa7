"""DynamicID's first stage on a small SD 1.5: what is trained is what runs, and a run resumes."""

import json
from dataclasses import replace

import dynamicid_training
import flexip_training
import pytest
import tiny_faces
import tiny_unet
import torch
from flexid.model_patches.adapters.dynamicid import FAMILY, load_dynamicid, make_face_tokens
from flexid.model_patches.identity.identity import Encoding, Identity
from flexid.model_patches.inject.saa import apply_saa
from flexid.model_patches.inject.saa_activation import activation
from flexid.model_patches.inject.saa_people import Person
from flexid.model_patches.inject.saa_settings import SaaSettings
from flexid.model_patches.training import dynamicid_base, loop, saa_job
from flexid.model_patches.training.checkpoint import Checkpoint
from flexid.model_patches.training.data import read_data
from flexid.model_patches.training.data_problems import DataError
from flexid.model_patches.training.face_features import FeatureStore
from flexid.model_patches.training.pictures import square_of
from flexid.model_patches.training.pulid_rows import collect_rows, draw_rows
from flexid.model_patches.training.row_batches import join_rows
from flexid.model_patches.training.saa_job import begin, check_rank, work_through
from flexid.model_patches.training.saa_recipe import load_row, make_loss, predict_errors
from flexid.model_patches.training.saa_trained import export_saa, predict_person
from flexid.model_patches.training.sheets import Sampling
from flexid.model_patches.training.unet_base import UNetBase
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

pytestmark = pytest.mark.comfy

CPU = torch.device("cpu")


def rows_of(job):
    return collect_rows(read_data(job.data, fewest=1), job.data, other=False)


class World:
    """A job with its rows, features, base and what is trained."""

    def __init__(self, folder, **options):
        self.job = dynamicid_training.anchor_job(folder, **options)
        self.data = rows_of(self.job)
        self.models = dynamicid_training.models()
        prints = self.models.prints
        folder = self.job.work / "features"
        self.store = FeatureStore(folder, self.data, prints, self.job.size, square_of)
        self.store.fill_faces(self.models.encoders)
        self.store.fill_rest(self.models.encoders)
        self.model = self.models.base.model
        self.base = UNetBase(self.model, CPU)

    def saa(self, loud=False):
        saa = begin(self.job, self.base, self.store.nobody, None)
        if loud:
            with torch.no_grad():
                for name, weight in saa.named_parameters():
                    if "lora.up" in name or "_ip" in name:
                        weight.normal_(std=0.3)
        return saa

    def batch(self, step=0, **changes):
        drawn = [replace(one, **changes) for one in draw_rows(self.data.rows, self.job.draws, step)]
        (batch,) = join_rows(drawn, [load_row(self.store, one) for one in drawn], CPU)
        return batch

    def loss(self, saa, part=0):
        rows = self.data.rows
        return make_loss(self.base, saa, self.store, rows, self.job.draws, 0.3, part)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("saa"))


def test_it_begins_with_the_texts_keys_and_a_silent_lora(world):
    saa, batch = world.saa(), world.batch()
    sigma = world.base.sigmas_at([one.level for one in batch.drawn])
    with torch.no_grad():
        plain = world.base.predict(batch.noise, sigma, batch.text, None, None)
        with saa.beside(world.base):
            beside = world.base.predict(batch.noise, sigma, batch.text, None, None)
    assert torch.equal(plain, beside)
    for site, attention in world.base.attention.items():
        layer = saa.SAA_module[saa.places[site]]
        assert torch.equal(layer.to_k_ip.weight, attention.to_k.weight)
        assert torch.equal(layer.to_v_ip.weight, attention.to_v.weight)
    down = saa.SAA_module[0].to_q_lora.down.weight
    assert down.std().item() == pytest.approx(1 / 4, rel=0.2)


def test_the_exported_file_draws_what_was_trained(world, tmp_path):
    """One call of the model through the trainer, and through Apply SAA with its weight patches."""
    saa, path = world.saa(loud=True), tmp_path / "SAA.safetensors"
    export_saa(path, saa, torch.float32, {"run": "x"})
    adapter = load_dynamicid(path)
    seen = world.store.face(0), world.store.nobody
    pairs = [(one["embedding"][None], one["patches"][None]) for one in seen]
    tokens, nobody = (make_face_tokens(adapter, *pair) for pair in pairs)
    with torch.no_grad():
        own = saa.make_tokens({"face": pairs[0][0], "patches": pairs[0][1]})
    torch.testing.assert_close(own, tokens, atol=1e-5, rtol=1e-5)
    person = Person(Identity({FAMILY: Encoding(FAMILY, adapter.encoder_digest, tokens, nobody)}))
    text = world.store.text(1)["text"][None]
    before = {key: value.clone() for key, value in world.base.net.state_dict().items()}
    # On a model of its own: weight patches change the weights where they are.
    patched = apply_saa(tiny_unet.sd15(), adapter, [person], SaaSettings(beta=0.0)).model
    calls = flexip_training.watch_calls(patched)
    tiny_unet.sample(patched, [[text, {}]], [[text, {}]], steps=1, cfg=1.0)
    noisy, sigma, drawn = calls[0]
    with torch.no_grad():
        out = predict_person(world.base, saa, noisy, sigma, text, own, 0.3)
        plain = world.base.predict(noisy, sigma, text, None, None)
    wide = sigma[:, None, None, None]
    ours, base = (world.base.sampling.calculate_denoised(wide, one, noisy) for one in (out, plain))
    change = (ours - base).abs().max()
    assert change > 1e-3 and (ours - drawn).abs().max() < 1e-3 * change
    after = world.base.net.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_gradients_reach_every_weight_and_parts_add_up(world):
    found = []
    for part in (0, 1):
        saa = world.saa(loud=True)
        value, shown = world.loss(saa, part)(0, None)
        value.backward()
        found.append((value.item(), shown, {n: w.grad for n, w in saa.named_parameters()}))
    (whole, shown, together), (divided, _, apart) = found
    assert divided == pytest.approx(whole, rel=1e-5)
    assert [name for name, grad in together.items() if grad is None or not grad.any()] == []
    for name, value in together.items():
        torch.testing.assert_close(apart[name], value, atol=1e-5, rtol=2e-3)
    assert all(weight.grad is None for weight in world.base.net.parameters())
    assert {"with face", "quarter 1", "quarter 4", "face / text"} <= shown.keys()


def test_low_precision_is_close_and_gives_full_gradients(world):
    """As on a GPU: what is trained is computed with autocast, its weights stay float32."""
    found = []
    for low in (False, True):
        saa = world.saa(loud=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            value, _ = world.loss(saa)(0, None)
        value.backward()
        assert all(weight.grad.dtype == torch.float32 for weight in saa.parameters())
        found.append(value.item())
    assert found[1] == pytest.approx(found[0], rel=0.05) and found[0] != found[1]


def test_another_base_is_refused(tmp_path, monkeypatch):
    opened = Checkpoint(tiny_unet.sdxl(), None, None)
    monkeypatch.setattr(dynamicid_base, "open_checkpoint", lambda *_: opened)
    with pytest.raises(ValueError, match="base.safe.* is a checkpoint of sdxl, DynamicID is for"):
        dynamicid_base.open_models(
            tmp_path / "base.safetensors", tmp_path, tmp_path, CPU, saa_job.SaaFaces
        )


def test_the_gradient_is_that_of_finite_differences(world):
    """Through activation and softmax, without the threshold, at which the loss jumps."""
    saa, batch = world.saa(loud=True), world.batch()
    weight = saa.SAA_module[1].to_k_ip.weight

    def loss():
        return predict_errors(world.base, saa, 0.0, batch)[0].sum()

    loss().backward()
    slope = weight.grad.norm()
    ends = []
    with torch.no_grad():
        for steps in (1, -2):
            weight += 0.02 * steps * weight.grad / slope
            ends.append(loss().item())
    assert (ends[0] - ends[1]) / 0.04 == pytest.approx(slope.item(), rel=0.02)


def test_equal_scores_have_no_activation_and_a_finite_gradient():
    """A grid of one image token, and tokens that all see the same."""
    for count in (1, 5):
        scores = torch.ones(1, count, 2, 4, requires_grad=True)
        weight = activation(scores, None, 0.3)
        assert not weight.any()
        (weight.sum() + scores.sum()).backward()
        assert torch.equal(scores.grad, torch.ones_like(scores))


def test_who_is_dropped_is_nobody_and_a_caption_nothing(world):
    nobody = world.batch(keeps_photo=False, keeps_text=False)
    assert not nobody.features["face"].any()
    assert torch.equal(nobody.features["patches"][0], world.store.nobody["patches"])
    assert torch.equal(nobody.text[0], world.store.text(0)["text"])
    somebody = world.batch(keeps_photo=True, keeps_text=True)
    assert somebody.features["face"].any() and not torch.equal(somebody.text, nobody.text)
    row = world.data.rows[0]
    assert row.references == (row.photo,)  # its own reference


def test_a_picture_without_a_face_is_told_before_anything_is_trained(tmp_path):
    job = dynamicid_training.anchor_job(tmp_path)
    analyser = tiny_faces.analyser(tiny_faces.FixedDetector({}), dynamicid_training.imr_world)
    models = dynamicid_training.models(analyser=analyser)
    with pytest.raises(DataError, match=r"list.json:1: no face was found in 1 of 1 references"):
        work_through(job, models, rows_of(job), None, {}, CPU)


def test_a_person_may_have_a_single_picture(tmp_path):
    dynamicid_training.write_pictures(tmp_path, ["ann/1.png"])
    (tmp_path / "ann/1.txt").write_text("a woman reads")
    (row,) = collect_rows(read_data(tmp_path, fewest=1), tmp_path, other=False).rows
    assert row.references == (row.photo,)


def test_a_whole_job_writes_files_and_sheets_and_ends_as_a_stopped_one(
    world, tmp_path, monkeypatch
):
    monkeypatch.setattr(saa_job, "SAMPLING", Sampling(1, 5.0, "euler", "simple"))
    monkeypatch.setattr(saa_job, "hold_out", lambda rows, _: (rows[:1], rows[1:]))
    ends = []
    for name in ("whole", "stopped"):
        options = {"steps": 4, "export_every": 2, "average": 0.5}
        features = world.job.work / "features"  # of the same pictures
        job = dynamicid_training.anchor_job(tmp_path / name, features=features, **options)
        models = dynamicid_training.models()
        monkeypatch.setattr(saa_job, "open_models", lambda *_, models=models: models)

        def run(job=job):
            saa_job.run_job(job, CPU)

        if name == "stopped":
            advance, calls = loop.Training.advance, []

            def interrupted(self, *arguments, advance=advance, calls=calls):
                calls.append(self.step)
                if len(calls) == 4:
                    raise KeyboardInterrupt
                return advance(self, *arguments)

            with monkeypatch.context() as patched:
                patched.setattr(loop.Training, "advance", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    run()
            assert calls == [0, 1, 2, 3]
        run()
        ends.append(load_file(job.out))
        sheets = sorted((job.work / "sheets").iterdir())
        assert [sheet.name for sheet in sheets] == ["0000002.png", "0000004.png"]
        with Image.open(sheets[1]) as sheet:
            assert sheet.size == (3 * 64, 64 + 18)
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())
    adapter = load_dynamicid(job.out)
    assert adapter.tokens == 4 and adapter.clip == 32
    with safe_open(job.out, "pt") as file:
        notes = json.loads(file.metadata()["flexid.training"])
    assert (notes["step"], notes["threshold"], notes["data"]) == (4, 0.3, "list.json")
    with pytest.raises(ValueError, match="holds a training with rank 4, asked for is 8"):
        saa_job.run_job(replace(job, rank=8), CPU)


def test_a_file_to_begin_with_decides_rank_and_encoder(world, tmp_path):
    path, saa = tmp_path / "SAA.safetensors", world.saa(loud=True)
    export_saa(path, saa, torch.float32, {})
    job, adapter = replace(world.job, rank=0), load_dynamicid(path)
    state = begin(job, world.base, world.store.nobody, adapter).state_dict()
    assert all(torch.equal(value, state[key]) for key, value in saa.state_dict().items())
    with pytest.raises(ValueError, match="--rank is 8, and the LoRA of .* has rank 4"):
        check_rank(replace(job, rank=8), adapter)
    with pytest.raises(ValueError, match="reads 32 channels of CLIP vision, clip.safe.* gives 40"):
        begin(job, world.base, {"patches": torch.zeros(2, 40)}, adapter)
