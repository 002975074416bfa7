"""FlexIP's trainer on a small SD 1.5: exact at the start, the same as the injection, resumable."""

from functools import partial

import flexip_training
import ip_files
import pytest
import tiny_unet
import torch
import training_steps
from flexid.model_patches.adapters.flexip_file import load_flexip
from flexid.model_patches.adapters.ip_adapter import load_ip_adapter
from flexid.model_patches.inject.flexip import apply_flexip
from flexid.model_patches.training import (
    distributed,
    flexip_recipe,
    flexip_streams,
    loop,
    precision,
)
from flexid.model_patches.training.checkpoint import Checkpoint
from flexid.model_patches.training.data import read_data
from flexid.model_patches.training.flexip_course import hold_out
from flexid.model_patches.training.flexip_features import FeatureStore
from flexid.model_patches.training.flexip_job import Models, begin_streams, work_through
from flexid.model_patches.training.flexip_rows import collect_rows, draw_rows
from flexid.model_patches.training.flexip_sheet import encode
from flexid.model_patches.training.sheets import Sampling
from flexid.model_patches.training.unet_base import UNetBase
from PIL import Image
from safetensors.torch import load_file

pytestmark = pytest.mark.comfy

CPU = torch.device("cpu")


class World:
    """A job with its rows, features, base and streams."""

    def __init__(self, folder, model=None, **options):
        self.job = flexip_training.job(folder, **options)
        self.rows = collect_rows(read_data(self.job.data), self.job.data)
        self.makers = flexip_training.makers(self.job.context == "dino")
        self.store = FeatureStore(folder / "features", self.rows, self.makers.fingerprint)
        self.store.fill(self.makers)
        self.model = model or tiny_unet.sd15()
        self.base = UNetBase(self.model, CPU)
        self.streams = begin_streams(self.job, self.base, self.store)

    def batch(self, step=0):
        drawn = draw_rows(self.rows, self.job.draws, step)
        (batch,) = flexip_recipe.load_batches(self.store, drawn, CPU)
        return batch

    def loss(self):
        errors_of = partial(flexip_streams.predict_errors, self.base, self.streams)
        return flexip_recipe.make_loss(self.store, self.rows, self.job.draws, CPU, errors_of)

    def loud(self):
        """Values that are not zero, so that both streams work."""
        with torch.no_grad():
            for layers in (self.streams.preserve, self.streams.personal):
                for layer in layers.values():
                    layer.to_v.weight.normal_(std=0.5)
        return self

    def train(self, folder):
        loop.train(self.job.recipe, self.streams, self.loss(), folder, CPU)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_the_first_step_is_the_bases_own(world):
    batch = world.batch()
    sigma = flexip_streams.sigmas_of(world.base, batch)
    noisy = world.base.add_noise(batch.latents, batch.noise, sigma)
    plain = world.base.predict(noisy, sigma, batch.text, batch.pooled, None)
    target = world.base.target(batch.latents, noisy, sigma)
    errors, sizes = flexip_streams.predict_errors(world.base, world.streams, batch)
    assert torch.equal(errors, (plain - target).square().mean((1, 2, 3)))
    assert [float(size) for size in sizes.values()] == [0.0, 0.0]


def test_the_target_is_what_the_base_was_trained_to_predict(world):
    """Noise, and for bases of velocity alpha times noise minus sigma times the picture."""
    batch = world.batch()
    sigma = flexip_streams.sigmas_of(world.base, batch)
    noisy = world.base.add_noise(batch.latents, batch.noise, sigma)
    target = world.base.target(batch.latents, noisy, sigma)
    torch.testing.assert_close(target, batch.noise, atol=1e-3, rtol=1e-3)
    import comfy.model_base
    import comfy.model_sampling

    config = comfy.supported_models.SD15(dict(tiny_unet.UNET))
    velocity = comfy.model_base.model_sampling(config, comfy.model_base.ModelType.V_PREDICTION)
    world.base.sampling = velocity
    noisy = world.base.add_noise(batch.latents, batch.noise, sigma)
    alpha = 1 / (1 + sigma**2).sqrt()[:, None, None, None]
    clean = world.base.latents.process_in(batch.latents)
    expected = alpha * batch.noise - sigma[:, None, None, None] * alpha * clean
    found = world.base.target(batch.latents, noisy, sigma)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_the_exported_file_draws_what_was_trained(world, tmp_path):
    """One call of the model through the trainer and through Apply FlexIP."""
    world.loud()
    path = tmp_path / "trained.safetensors"
    settings = flexip_streams.settings_for("sd15", world.streams, "dinov2-large", 56, {})
    flexip_recipe.export(path, world.streams, settings)
    adapter = load_flexip(path)
    row = world.rows.frames[0]
    features = world.store.photo(row.references[0])
    text = world.store.caption(row.caption)["text"][None]
    prompt = [[text, {}]]
    done = apply_flexip(world.model, prompt, prompt, adapter, encode(adapter, features), value=0.3)
    seen = flexip_training.watch_calls(done.model)
    tiny_unet.sample(done.model, done.positive, done.negative, steps=1, cfg=1.0)
    noisy, sigma, drawn = seen[0]
    with torch.no_grad():
        tokens = world.streams.make_tokens(
            {"context": features["context"][None], "pooled": features["pooled"][None]}, text
        )
        weights = torch.tensor([[0.3, 0.7]])

        def inject(site, attention, image):
            kept, followed = world.streams.attend(site, attention, image, tokens, weights)
            return flexip_streams.project(attention, kept + followed)

        out = world.base.predict(noisy, sigma, text, None, inject)
        plain = world.base.predict(noisy, sigma, text, None, None)
    ours, base = (
        world.base.sampling.calculate_denoised(sigma[:, None, None, None], one, noisy)
        for one in (out, plain)
    )
    change = (ours - base).abs().max()
    assert change > 1e-3
    # The file holds 16 bits.
    assert (ours - drawn).abs().max() < 0.02 * change


def test_gradients_reach_every_weight(world):
    world.loud()
    value, shown = world.loss()(0, None)
    value.backward()
    silent = [
        name
        for name, weight in world.streams.named_parameters()
        if weight.requires_grad and (weight.grad is None or not weight.grad.abs().max())
    ]
    assert silent == []
    assert all(weight.grad is None for weight in world.base.net.parameters())
    assert {"image", "video", "quarter 1", "quarter 4", "P / image", "S / image"} <= shown.keys()
    assert shown["image"].isfinite() and shown["video"].isfinite()


def test_a_photo_that_is_dropped_is_nobody_and_a_caption_nothing(world):
    import dataclasses

    one = draw_rows(world.rows, world.job.draws, 0)[1]
    dropped = dataclasses.replace(one, keeps_photo=False, keeps_text=False)
    kept = dataclasses.replace(one, keeps_photo=True, keeps_text=True)
    (batch,) = flexip_recipe.load_batches(world.store, [kept, dropped], CPU)
    assert not batch.features["context"][1].any() and not batch.features["pooled"][1].any()
    assert batch.features["context"][0].any()
    assert torch.equal(batch.text[1], world.store.caption(0)["text"])
    assert not torch.equal(batch.text[0], batch.text[1])


def test_a_stopped_run_ends_with_the_weights_of_one_that_was_not(tmp_path, monkeypatch):
    whole = World(tmp_path / "one", steps=5)
    whole.train(tmp_path / "whole")
    stopped = World(tmp_path / "two", steps=5)
    load_batches = flexip_recipe.load_batches
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return load_batches(*arguments)

    monkeypatch.setattr(flexip_recipe, "load_batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stopped.train(tmp_path / "stopped")
    resumed = World(tmp_path / "two", steps=5)
    resumed.train(tmp_path / "stopped")
    curves = [
        (tmp_path / name / "flexip.csv").read_text().splitlines() for name in ("whole", "stopped")
    ]
    for name, value in whole.streams.state_dict().items():
        assert torch.equal(value, resumed.streams.state_dict()[name]), name
    curves = [
        [row.split(",")[2:] for row in (tmp_path / name / "flexip.csv").read_text().splitlines()]
        for name in ("whole", "stopped")
    ]
    assert curves[0][0] == curves[1][0] and len(curves[0]) == len(curves[1]) == 2


def test_training_lowers_the_loss(tmp_path):
    world = World(tmp_path, steps=40, batch=8, rate=3e-3)

    def mean_loss():
        with torch.no_grad():
            found = [
                flexip_streams.predict_errors(world.base, world.streams, world.batch(step))[0]
                for step in range(40)
            ]
        return torch.cat(found).mean().item()

    # A network that has learned nothing errs by the noise, 1, and by what it adds itself.
    before = mean_loss() - 1
    world.train(tmp_path / "work")
    assert before > 0.004 and mean_loss() - 1 < before / 2


def test_gates_can_be_learned(tmp_path):
    world = World(tmp_path, steps=5, learn_gates=True, rate=0.1)
    world.loud()
    before = world.streams.gates.detach().clone()
    assert torch.sigmoid(before).tolist() == pytest.approx([0.8, 0.8])
    world.train(tmp_path / "work")
    assert (world.streams.gates - before).abs().min() > 1e-3
    notes = flexip_recipe.notes_of(world.streams, world.job.draws, 5)
    assert notes["spread"] == "0" and notes["alpha"] != "0.8"


def test_an_ip_adapter_can_be_the_beginning(tmp_path):
    """The photo's tokens, keys and values are the file's; personalisation begins at nothing."""
    world = World(tmp_path, context="clip", latents=16)
    widths, text = tiny_unet.attention_widths(world.model)
    shapes = ip_files.token_shapes("plus", width=text, clip=32, dim=64)
    shapes = {
        k: v for k, v in shapes.items() if not k.startswith(("layers.1", "layers.2", "layers.3"))
    }
    tensors = ip_files.tensors_of(shapes, ip_files.layer_shapes(widths, text))
    path = ip_files.write(tmp_path / "plus.safetensors", tensors)
    adapter = load_ip_adapter(path)
    world.streams.begin_with(adapter)
    patches = torch.randn(1, 17, 32)
    with torch.no_grad():
        found = world.streams.maker.preserve.detail(patches)
        assert torch.allclose(found, adapter.encoder.model({"patches": patches}), atol=1e-6)
    values = [layer.to_v.weight.abs().sum() for layer in world.streams.preserve.values()]
    assert all(value > 0 for value in values)
    assert all(not layer.to_v.weight.any() for layer in world.streams.personal.values())
    other = World(tmp_path / "other", context="clip", latents=8)
    with pytest.raises(
        ValueError, match="'plus.safetensors'.*latents: .1, 16, 64., expected .1, 8"
    ):
        other.streams.begin_with(adapter)


def test_a_whole_job_writes_the_adapter_and_its_sheets(tmp_path, monkeypatch):
    fast = Sampling(2, 7.5, "ddim", "ddim_uniform")
    monkeypatch.setattr("flexid.model_patches.training.flexip_job.SAMPLING", fast)
    job = flexip_training.job(tmp_path, steps=4, export_every=2, sheet_rows=1, average=0.5)
    rows = collect_rows(read_data(job.data), job.data)
    shown, trained = hold_out(rows, job.sheet_rows)
    assert len(shown) == 1 and shown[0] not in (*trained.stills, *trained.frames)
    models = Models(Checkpoint(tiny_unet.sd15(), None, None), flexip_training.makers())
    work_through(job, models, trained, shown, CPU)
    adapter = load_flexip(job.out)
    assert adapter.has_personal and adapter.tokens == 5 and adapter.width == 64
    notes = adapter.settings.notes
    assert (notes["steps"], notes["alpha"], notes["data"]) == ("4", "0.8", "data.jsonl")
    assert adapter.settings.base == "sd15" and adapter.settings.law == "linear"
    sheets = sorted((job.work / "sheets").iterdir())
    assert [sheet.name for sheet in sheets] == ["0000002.png", "0000004.png"]
    with Image.open(sheets[1]) as sheet:
        assert sheet.size == (6 * 64, 64 + 18)
    before = load_file(job.out)
    work_through(job, models, trained, shown, CPU)  # done: the same file again
    after = load_file(job.out)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_of_few_rows_one_in_ten_is_held_out(tmp_path):
    job = flexip_training.job(tmp_path)
    rows = collect_rows(read_data(job.data), job.data)
    shown, trained = hold_out(rows, 4)
    assert len(rows.stills) + len(rows.frames) == 12
    assert len(shown) == 1 and len(trained.stills) + len(trained.frames) == 11


def test_features_are_made_once_and_again_for_other_encoders(tmp_path, monkeypatch):
    world = World(tmp_path)
    monkeypatch.setattr(type(world.makers), "of_picture", None)
    world.store.fill(world.makers)
    other = FeatureStore(tmp_path / "features", world.rows, "other encoders")
    with pytest.raises(TypeError):
        other.fill(world.makers)


def test_a_full_disk_is_named_before_the_rest_is_made(tmp_path, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"features of 25 pictures.*100 bytes free.*--work"):
        World(tmp_path)


def briefly(folder):
    return World(folder / f"data{distributed.rank()}", steps=4, batch=4)


def train_briefly(folder):
    """The streams after four steps, with data of this process's own."""
    world = briefly(folder)
    with training_steps.along_gradients():
        world.train(folder / "work")
    return world.streams


def test_two_processes_train_like_one(tmp_path, monkeypatch, trained_by_two):
    monkeypatch.setattr(precision, "prefers_bfloat16", lambda kind: False)
    begun = briefly(tmp_path).streams.state_dict()
    one, two = train_briefly(tmp_path).state_dict(), trained_by_two["test_flexip_training"]
    training_steps.assert_alike(begun, one, two)


def test_averaged_weights_are_lent_and_taken_back(tmp_path):
    world = World(tmp_path, average=0.9)
    run = loop.Training(world.job.recipe, world.streams, tmp_path / "work")
    run.averages = [torch.zeros_like(one) for one in run.averages]
    before = [weight.detach().clone() for weight in run.weights]
    with run.averaged() as module:
        assert not module.training and not any(weight.any() for weight in run.weights)
    assert module.training
    assert all(torch.equal(a, b) for a, b in zip(before, run.weights, strict=True))
