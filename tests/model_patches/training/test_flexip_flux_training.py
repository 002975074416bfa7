"""FlexIP's trainer on the small world's Flux: exact at the start, the same as the injection,
resumable."""

import json
import shutil
from dataclasses import replace
from functools import partial

import comfy.sample
import flexip_training
import pytest
import torch
from flexid.model_patches.adapters.flexip_file import load_flexip
from flexid.model_patches.inject.flexip import apply_flexip
from flexid.model_patches.training import flexip_flux, flexip_flux_job, parts, precision
from flexid.model_patches.training.data import read_data
from flexid.model_patches.training.data_problems import DataError
from flexid.model_patches.training.face_features import FeatureStore
from flexid.model_patches.training.flexip_flux_job import (
    FlexIPFaces,
    FluxFeatures,
    begin_streams,
    check_heads,
    rows_of,
    run_job,
)
from flexid.model_patches.training.flexip_recipe import export, load_batches, make_loss
from flexid.model_patches.training.flexip_rows import draw_rows
from flexid.model_patches.training.flexip_sheet import encode
from flexid.model_patches.training.flux_encoders import encoders_of, prints_of
from flexid.model_patches.training.frozen_base import FrozenBase
from flexid.model_patches.training.pulid_rows import collect_rows
from flexid.model_patches.training.sheets import Sampling
from PIL import Image

pytestmark = pytest.mark.comfy

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    """bfloat16 rounds parts of a batch differently, and this processor may not have it."""
    monkeypatch.setattr(precision, "prefers_bfloat16", lambda kind: False)


class World:
    """A job with its rows, features and base, in float32."""

    def __init__(self, folder):
        self.job = flexip_training.flux_job(folder)
        self.data = collect_rows(read_data(self.job.data), self.job.data, alone=True)
        self.rows = rows_of(self.data)
        prints = prints_of(self.job, "flexip")
        self.store = FeatureStore(self.job.work / "features", self.data, prints, self.job.size)
        encoders = encoders_of(self.job, FlexIPFaces)
        self.store.fill_faces(encoders)
        self.store.fill_rest(encoders)
        self.features = FluxFeatures(self.store)
        self.base = FrozenBase(self.job.base, CPU, torch.float32)

    def streams(self, loud=False):
        streams = begin_streams(self.job, self.base, self.store.nobody)
        if loud:
            with torch.no_grad():
                for layer in streams.layers:
                    for side in (layer.preserve, layer.personal):
                        side.to_kv.weight.normal_(std=0.2)
        return streams

    def errors_of(self, streams):
        return partial(flexip_flux.predict_flux_errors, self.base, streams, "uniform")

    def loss(self, streams, part=0):
        draws = self.job.draws
        return make_loss(self.features, self.rows, draws, CPU, self.errors_of(streams), part)

    def batch(self, step=0):
        (batch,) = load_batches(self.features, draw_rows(self.rows, self.job.draws, step), CPU)
        return batch


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return World(tmp_path_factory.mktemp("flexip_flux"))


def gradients(streams):
    return {n: w.grad.clone() for n, w in streams.named_parameters() if w.requires_grad}


def test_the_first_step_is_the_bases_own(small):
    batch, streams = small.batch(), small.streams()
    errors, sizes = small.errors_of(streams)(batch)
    assert [float(size) for size in sizes.values()] == [0.0, 0.0]
    latents = small.base.format.process_in(batch.latents)
    sigma = torch.tensor([one.level for one in batch.drawn])
    wide = sigma[:, None, None, None]
    noisy = latents + wide * (batch.noise - latents)
    with torch.no_grad():
        plain = small.base.velocity(noisy, sigma, batch.text, batch.pooled, {})
    wanted = (plain - (batch.noise - latents)).square().mean((1, 2, 3))
    assert torch.equal(errors, wanted)


def test_gradients_reach_every_weight_and_parts_add_up(small):
    found = []
    for part in (0, 1):
        streams = small.streams(loud=True)
        value, shown = small.loss(streams, part)(0, None)
        value.backward()
        found.append((value.item(), shown, gradients(streams)))
    (whole, shown, together), (divided, _, apart) = found
    assert divided == pytest.approx(whole, rel=1e-5)
    assert all(value.abs().max() for value in together.values())
    for name, value in together.items():
        torch.testing.assert_close(apart[name], value, atol=1e-5, rtol=1e-3)
    assert {"image", "video", "quarter 1", "quarter 4", "P / image", "S / image"} <= shown.keys()
    assert shown["image"].isfinite() and shown["video"].isfinite() and shown["S / image"] > 0


def test_stills_are_their_own_reference_and_nobody_is_zeros(small):
    assert (len(small.rows.stills), len(small.rows.frames)) == (2, 6)
    nobody, somebody = small.store.nobody, small.features.photo(0)
    assert not nobody["pooled"].any() and not nobody["context"].any()
    for name in ("context", "pooled"):
        assert nobody[name].shape == somebody[name].shape and somebody[name].any()
    torch.testing.assert_close(somebody["pooled"][:512].norm().item(), 1.0, atol=1e-3, rtol=0)


def test_the_exported_file_draws_what_was_trained(small, tmp_path):
    """One call of the model through the trainer and through Apply FlexIP."""
    streams = small.streams(loud=True)
    path = tmp_path / "trained.safetensors"
    side = int(small.store.nobody["side"])
    export(path, streams, flexip_flux.flux_settings(streams, side, {}))
    adapter = load_flexip(path)
    row = small.rows.frames[0]
    photo, found = small.features.photo(row.references[0]), small.features.caption(row.caption)
    prompt = [[found["text"][None], {"pooled_output": found["pooled"][None]}]]
    person = encode(adapter, photo)
    done = apply_flexip(small.base.patcher, prompt, prompt, adapter, person, value=0.3)
    seen = flexip_training.watch_calls(done.model)
    latent = torch.zeros_like(small.features.latent(row.picture))[None]
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        comfy.sample.sample(
            done.model, noise, 1, 1.0, "euler", "simple", done.positive, done.negative, latent,
            disable_pbar=True, seed=1,
        )  # fmt: skip
        noisy, sigma, drawn = seen[0]
        features = {name: value[None] for name, value in photo.items()}
        tokens = streams.make_tokens(features, found["text"][None])
        added = streams.injections(tokens, torch.tensor([[0.3, 0.7]]))
        text, pooled = found["text"][None], found["pooled"][None]
        velocities = [small.base.velocity(noisy, sigma, text, pooled, one) for one in (added, {})]
    ours, base = (noisy - sigma[:, None, None, None] * one for one in velocities)
    change = (ours - base).abs().max()
    assert change > 1e-2
    # The file holds 16 bits.
    assert (ours - drawn).abs().max() < 0.02 * change


def test_a_stopped_run_ends_with_the_file_of_one_that_was_not(small, tmp_path, monkeypatch):
    """Whole jobs, with a sheet; another training's file and folder are refused."""
    monkeypatch.setattr(flexip_flux_job, "SAMPLING", Sampling(1, 1.0, "euler", "simple"))
    options = {"steps": 3, "average": 0.5, "features": small.job.work / "features"}
    jobs = [
        flexip_training.flux_job(tmp_path / name, data=small.job.data, **options)
        for name in ("whole", "stopped")
    ]
    with monkeypatch.context() as patched:
        patched.setattr(flexip_flux_job, "hold_out", lambda rows, _: (rows.stills[:1], rows))
        run_job(jobs[0], CPU)
    errors_of, calls = flexip_flux_job.predict_flux_errors, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 5:  # in the second step of four rows
            raise KeyboardInterrupt
        return errors_of(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(flexip_flux_job, "predict_flux_errors", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_job(jobs[1], CPU)
    assert not jobs[1].out.exists()
    run_job(jobs[1], CPU)
    adapters = [load_flexip(job.out) for job in jobs]
    for ours, theirs in zip(adapters[0].preserve.layers, adapters[1].preserve.layers, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert adapters[0].encoder_digest == adapters[1].encoder_digest
    settings, notes = adapters[0].settings, adapters[0].settings.notes
    assert (settings.base, settings.context, settings.law) == ("flux", "eva-clip", "linear")
    assert (notes["steps"], notes["alpha"], notes["data"]) == ("3", "0.8", "data.jsonl")
    assert adapters[0].has_personal and adapters[0].count == len(small.base.anchors.blocks)
    values = [layer["to_kv.weight"].chunk(2)[1] for layer in adapters[0].personal.layers]
    assert all(value.any() for value in values)
    with Image.open(jobs[0].work / "sheets" / "0000003.png") as sheet:
        assert sheet.size == (6 * 128, 128 + 18)
    other = flexip_training.flux_job(
        tmp_path / "other", data=small.job.data, out=jobs[0].out, **options
    )
    with pytest.raises(FileExistsError, match=r"exists already.*nothing is overwritten.*--out"):
        run_job(other, CPU)
    other = flexip_training.flux_job(
        tmp_path / "whole", data=small.job.data, blocks="all", **options
    )
    with pytest.raises(ValueError, match=r"blocks 'pulid', asked for is 'all'.*--work"):
        run_job(other, CPU)


def test_the_streams_may_work_after_every_block(small):
    job = replace(small.job, blocks="all")
    anchors = small.base.anchors
    streams = begin_streams(job, small.base, small.store.nobody)
    assert len(streams.blocks) == anchors.doubles + anchors.singles > len(anchors.blocks)


def test_gates_can_be_learned_on_a_flux(small):
    job = replace(small.job, learn_gates=True)
    streams = begin_streams(job, small.base, small.store.nobody)
    with torch.no_grad():
        for layer in streams.layers:
            layer.personal.to_kv.weight.normal_(std=0.2)
    small.loss(streams)(0, None)[0].backward()
    assert torch.sigmoid(streams.gates).tolist() == pytest.approx([0.8, 0.8])
    assert streams.gates.grad.abs().min() > 0


def test_heads_that_do_not_divide_the_base_are_refused_by_its_header(small):
    width = small.base.anchors.hidden
    with pytest.raises(ValueError, match=rf"--heads is 7 and .*width {width}, expected"):
        check_heads(replace(small.job, heads=7))


def test_a_reference_without_a_face_is_named(small, tmp_path):
    shutil.copytree(small.job.data.parent, tmp_path / "data")
    Image.new("RGB", (128, 128), "grey").save(tmp_path / "data" / "wall.png")
    path = tmp_path / "data" / "data.jsonl"
    row = json.dumps({"image": "wall.png", "caption": "a wall"})
    path.write_text(path.read_text() + "\n" + row)
    job = flexip_training.flux_job(
        tmp_path / "job", data=path, features=small.job.work / "features"
    )
    with pytest.raises(DataError, match=r"no face was found in 1 of 1 references \(wall\.png\)"):
        run_job(job, CPU)


def test_rows_of_the_same_sizes_go_together():
    assert parts.divide(["a", "b", "a", "a", "b"], 2) == [[0, 2], [3], [1, 4]]
