"""Autoencoder and base model: what training computes is what ComfyUI computes from the files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import comfy.latent_formats
import comfy.model_management
import comfy.sd
import comfy.utils
import numpy as np
import pytest
import torch
from flexid.mini import train as command
from flexid.mini import world
from flexid.mini.seeded import Seeded
from flexid.mini.study import rows
from flexid.mini.training import (
    base,
    base_model,
    base_preview,
    data,
    text,
    vae,
    vae_latents,
)
from flexid.mini.training.options import Options, curves, models
from flexid.mini.training.text_model import LENGTH
from flexid.model_patches.training import loop

pytestmark = pytest.mark.comfy

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def work(pictures_work):
    """Pictures of four people, a VAE and text encoders of three steps, and the latents."""
    folder, options = pictures_work, Options(steps=3, batch=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae, "MEASURED", 6)
        vae.train_vae(folder, CPU, options)
    vae_latents.encode_all(folder, CPU, options)
    text.train_text(folder, CPU, options)
    return folder


@pytest.fixture(scope="module")
def examples(work):
    return base.Examples(work, CPU)


@pytest.fixture(scope="module")
def flux():
    """As before training, but for the layers that are zero then: nothing would depend on them."""
    made, draw = base_model.build_flux(Seeded(3)), Seeded(4)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if any(part in name for part in base_model.SILENT):
                parameter.copy_(draw.normal(name, *parameter.shape, std=0.05))
    return made


def test_the_sampler_sees_latents_of_unit_size(work):
    images = np.array(data.Portraits(work).images)
    figures = vae.measure(models(work) / world.VAE, images)
    assert figures["latent mean"] == pytest.approx(0, abs=0.05)
    assert figures["latent deviation"] == pytest.approx(1, abs=0.05)
    stated = json.loads((curves(work) / "vae.json").read_text())
    assert set(stated) == set(figures) and stated["psnr"] > 3


def test_the_linear_code_is_loud_first_and_of_unit_size(work):
    images = np.array(data.Portraits(work).images)
    with torch.no_grad():
        codes = vae.linear_code(images)(vae.to_tensor(images, CPU))
    assert codes.shape == (len(images), 16, data.SIZE // 8, data.SIZE // 8)
    assert codes.mean((0, 2, 3)).abs().max() < 0.01
    variances = codes.var((0, 2, 3))
    assert (variances.diff() <= 0).all() and variances.mean() == pytest.approx(1, abs=0.01)
    apart = torch.corrcoef(codes.transpose(0, 1).flatten(1)) - torch.eye(16)
    assert apart.abs().max() < 0.01
    # The first component is brightness.
    grey = vae.to_tensor(images, CPU).mean(1, keepdim=True)
    loud = torch.stack([codes[:, :1], torch.nn.functional.avg_pool2d(grey, 8)]).flatten(1)
    assert torch.corrcoef(loud)[0, 1].abs() > 0.95


def test_latents_are_what_comfyui_would_sample(work):
    state, metadata = comfy.utils.load_torch_file(
        str(models(work) / world.VAE), return_metadata=True
    )
    found = vae_latents.latents(work, "singles")
    assert found.shape == (24, 16, 16, 16)
    pixels = torch.from_numpy(np.array(data.Portraits(work).images[:8])).float() / 255
    with torch.inference_mode():
        latent = comfy.sd.VAE(sd=state, metadata=metadata).encode(pixels).cpu().float()
    expected = comfy.latent_formats.Flux().process_in(latent)
    error = torch.from_numpy(found[:8]).float() - expected
    assert error.std() < 0.03 * expected.std()


def test_another_vae_encodes_everything_anew(work):
    path = work / "data" / "groups" / "latents.npy"
    stated, before = path.with_suffix(".json"), np.load(path)
    stated.write_text(json.dumps({"done": 2, "vae": "another"}))
    with pytest.raises(FileNotFoundError, match="unfinished"):
        vae_latents.latents(work, "groups")
    np.save(path, np.zeros_like(before))
    vae_latents.encode_all(work, CPU, Options())
    assert np.array_equal(vae_latents.latents(work, "groups"), before)


def test_slopes_ignore_brightness_and_see_edges():
    target = torch.zeros(1, 3, 16, 16)
    edge = target.clone()
    edge[..., 8:] = 0.3
    assert vae.slope_error(target + 0.3, target) == pytest.approx(0, abs=1e-6)
    assert vae.slope_error(edge, target) > 0.01


def test_the_stock_loader_opens_a_schnell_that_predicts_what_was_trained(flux, tmp_path):
    base_model.write_flux(flux, tmp_path / "flux.safetensors")
    patcher = comfy.sd.load_diffusion_model(str(tmp_path / "flux.safetensors"))
    model = patcher.model
    assert type(model.model_config).__name__ == "FluxSchnell"
    assert model.model_type.name == "FLOW"
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(2, 16, 16, 16, generator=generator)
    sigma = torch.tensor([0.3, 0.9])
    context = torch.randn(2, LENGTH, 64, generator=generator)
    pooled = torch.randn(2, 64, generator=generator)
    with base_model.trainable(flux):
        velocity = flux(noisy, sigma, context, pooled).detach()
    comfy.model_management.load_models_gpu([patcher])
    with torch.inference_mode():
        picture = model.apply_model(noisy, sigma, c_crossattn=context, y=pooled)
    expected = noisy - sigma[:, None, None, None] * velocity
    assert velocity.std() > 0.05
    assert (picture - expected).std() < 0.01 * velocity.std()


def gradients(module, context):
    module.zero_grad()
    torch.manual_seed(0)
    latent, sigma = torch.randn(2, 16, 8, 8), torch.tensor([0.3, 0.8])
    text, pooled = torch.randn(2, 9, 64), torch.randn(2, 64)
    with context:
        module(latent, sigma, text, pooled).square().sum().backward()
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def test_gradients_are_right_and_reach_everything(flux, monkeypatch):
    """Compared with autograd's own, much slower way to survive changes in place."""
    found = gradients(flux, base_model.trainable(flux))
    monkeypatch.setattr(comfy.model_management, "in_training", True)
    expected = gradients(flux, torch.autograd.graph.allow_mutation_on_saved_tensors())
    assert set(found) == set(expected) == {name for name, _ in flux.named_parameters()}
    for name, gradient in found.items():
        assert gradient.abs().max() > 0, name
        assert torch.allclose(gradient, expected[name], rtol=1e-3, atol=1e-4), name
    flux.zero_grad(set_to_none=True)


def test_training_leaves_no_trace(flux):
    norm = flux.double_blocks[0].img_norm1
    with base_model.trainable(flux):
        assert comfy.model_management.in_training and norm._forward_pre_hooks
    assert not comfy.model_management.in_training and not norm._forward_pre_hooks


def test_batches_follow_the_recipe(examples):
    given = examples.draw(np.random.default_rng(0), 2000)
    assert given.latents.shape == (2000, 16, 16, 16) and given.latents.dtype == torch.float32
    assert given.text.shape == (2000, LENGTH, 64) and given.pooled.shape == (2000, 64)
    nothing = examples.captions[0](np.zeros(1, int), np.ones(1, bool))
    empty = ((given.text - nothing[0]).abs() < 1e-4).all((1, 2))
    assert empty.float().mean().item() == pytest.approx(base.EMPTY_SHARE, abs=0.03)
    assert torch.allclose(given.pooled[empty], nothing[1].expand(int(empty.sum()), -1), atol=1e-4)
    alone = len(given.described)
    assert 1 - alone / 2000 == pytest.approx(base.GROUP_SHARE, abs=0.03)
    groups = torch.from_numpy(examples.latents[1]).float().flatten(1)
    shared = (given.latents[:, None, 0, 0] == groups[:, :16][None]).all(-1).any(-1)
    assert shared[alone:].all() and not shared[:alone].any()
    assert given.described.shape == (alone, examples.parameters)
    assert given.ways.shape == (alone, 64, 10) and given.ways.dtype == torch.float32


def test_what_was_drawn_is_described_evenly(work):
    """Identity parameters, then angles, points and expression of each picture."""
    pictures = data.Portraits(work)
    found = base.describe_pictures(pictures)
    assert found.dtype == np.float32 and found.shape[1] == pictures.vectors.shape[1] + 20
    assert np.array_equal(found[:6, :-20], np.tile(found[0, :-20], (6, 1)))
    places = found[:, -20:]
    assert np.abs(places.mean(0)).max() < 1e-5
    assert places[:, :13].std(0) == pytest.approx(1, abs=1e-4)


def test_ways_lead_from_a_token_to_the_points():
    points = np.tile(np.float32([[[40, 24]]]), (2, base.POINTS, 1))
    found = base.ways(points).reshape(2, 8, 8, base.POINTS, 2)
    assert found[0, 1, 2, 0].tolist() == [0, 0]  # the token of pixels 32 to 48 and 16 to 32
    assert found[1, 1, 0, 3].tolist() == [1, 0] and found[1, 7, 2, 4].tolist() == [0, -3]


def test_the_middle_layers_are_read(flux):
    """Picture tokens alone, and from the block that is named."""
    watched = base.Blocks(flux, 1, fast=False)
    options, seen = watched.options, {}
    hook = flux.single_blocks[1].register_forward_hook(lambda *call: seen.update(out=call[2]))
    latent, sigma = torch.randn(2, 16, 8, 8), torch.tensor([0.3, 0.8])
    with base_model.trainable(flux):
        flux(latent, sigma, torch.randn(2, 9, 64), torch.randn(2, 64), transformer_options=options)
    hook.remove()
    assert watched.seen.shape == (2, 16, 256)
    assert torch.equal(watched.seen, seen["out"][:, 9:])


def test_noise_levels():
    level = base.noise_levels(np.random.default_rng(0), 20_000)
    assert (
        0 <= level.min()
        and level.max() <= 1
        and level.mean().item() == pytest.approx(0.5, abs=0.01)
    )
    ends = ((level < 0.02) | (level > 0.98)).float().mean().item()
    assert ends == pytest.approx(base.UNIFORM_SHARE * 0.04, abs=0.005)


def measure_error(work, examples):
    """Of the velocity, on one batch that is always the same, by what is trained so far."""
    module = base.Watched(base.RECIPE.seed, examples.parameters)
    loop.load_averages(base.RECIPE, module, curves(work))
    loss = base.Loss(module, base.Blocks(module.flux, base.MIDDLE, fast=False), examples, 32)
    torch.manual_seed(0)
    with torch.no_grad(), base_model.trainable(module):
        return loss(0, np.random.default_rng(0))[1]["velocity"].item()


def test_training_learns_and_can_be_watched(work, examples, tmp_path, monkeypatch):
    """Few steps on few pictures: the error falls, files are written, the checkpoint paints."""
    monkeypatch.setattr(base, "RECIPE", base.Recipe("base", 12, 3e-3, warmup=2, average=0.5))
    before = measure_error(work, examples)
    base.train_base(work, CPU, Options(batch=6))
    assert measure_error(work, examples) < 0.97 * before
    curve = (curves(work) / "base.csv").read_text().splitlines()
    assert curve[0].startswith("step,seconds per step,loss") and curve[-1].startswith("12,")
    assert (models(work) / world.FLUX).stat().st_size < 20e6
    for name, value in (("ALONE", 1), ("TOGETHER", 1), ("SAMPLING", rows.settings(steps=3))):
        monkeypatch.setattr(base_preview, name, value)
    base_preview.preview(work, tmp_path / "sheet.png")
    page = np.asarray(base_preview.Image.open(tmp_path / "sheet.png"))
    painted = page[:128, 128:256]
    assert painted.std() > 5 and not np.array_equal(painted, page[:128, :128])


def test_the_command_draws_with_several_processes(tmp_path):
    script = Path(command.__file__)
    order = ["--only", "data", "--people", "4", "--groups", "2", "--processes", "2"]
    call = [sys.executable, str(script), "--work", str(tmp_path), *order]
    done = subprocess.run(call, capture_output=True, text=True, env=dict(os.environ), timeout=300)
    assert done.returncode == 0, done.stderr
    assert "data: done after" in done.stdout
    assert len(data.Portraits(tmp_path)) == 24 and len(data.Groups(tmp_path)) == 2


def test_the_command_asks_for_comfyui(tmp_path):
    bare = {key: value for key, value in os.environ.items() if key != "COMFYUI_PATH"}
    call = [sys.executable, command.__file__, "--work", str(tmp_path), "--only", "data"]
    done = subprocess.run(call, capture_output=True, text=True, env=bare, timeout=60)
    assert done.returncode == 1 and "COMFYUI_PATH is None; set it to" in done.stderr
