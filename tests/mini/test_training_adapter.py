"""What the adapter's recipe trains is what the pack runs, and it learns."""

from dataclasses import replace

import comfy.sample
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flexid.mini import world
from flexid.mini.training import adapter_diffusion, adapter_drawn, adapter_preview
from flexid.mini.training.adapter import (
    ENCODER,
    TOKEN_DIM,
    Adapter,
    read_files,
    write_files,
)
from flexid.mini.training.adapter_diffusion import (
    AdapterLoss,
    Examples,
    LikenessPlan,
    drops,
    open_likeness,
    pairs,
    strangers,
)
from flexid.mini.training.adapter_drawn import DrawnLoss, fuse_adapters, load_trained
from flexid.mini.training.adapter_tokens import ANCHORS, TokensLoss, _reader, damage, load_tokens
from flexid.mini.training.base_preview import Painter
from flexid.mini.training.captions import captions_of
from flexid.mini.training.data import SHOTS, Portraits
from flexid.mini.training.drawing import Drawing, Drawn
from flexid.mini.training.frozen_faces import read_recogniser
from flexid.mini.training.identity_inputs import (
    IdentityInputs,
    face_pixels,
    grey_pixels,
    jitter_points,
    recogniser_of,
    tower_input,
)
from flexid.mini.training.options import models
from flexid.model_patches.adapters.pulid_flux import load_adapter
from flexid.model_patches.encoders.eva_clip import load_eva_clip
from flexid.model_patches.encoders.faceclip_pixels import faceclip_pixels
from flexid.model_patches.encoders.whiten import eva_pixels
from flexid.model_patches.face.align import arcface_crop
from flexid.model_patches.identity.encode import encode_identity
from flexid.model_patches.inject.vfa import apply_vfa
from flexid.model_patches.training.attention_kernel import plain_attention
from flexid.model_patches.training.drawing import CFG, Conditioning, draw
from flexid.model_patches.training.frozen_base import FrozenBase
from flexid.model_patches.training.loop import Recipe, Training
from flexid.model_patches.training.precision import autocast
from identity_world import CPU, KnownFaces

pytestmark = pytest.mark.comfy
PICTURE = 7


@pytest.fixture(scope="module")
def work(people_work):
    return people_work


@pytest.fixture(scope="module")
def face(work):
    """Picture PICTURE as the inputs saw it."""
    data = Portraits(work)
    points = jitter_points(data.points[PICTURE], np.random.default_rng((7, PICTURE)))
    return adapter_preview.face_of(np.array(data.images[PICTURE]), points, recogniser_of(work))


@pytest.fixture(scope="module")
def base(work):
    return FrozenBase(models(work) / world.FLUX, CPU, torch.float32)


@pytest.fixture(scope="module")
def adapter(base):
    """With weights that survive the files' rounding, and loud enough to see."""
    torch.manual_seed(1)
    adapter = Adapter(base.anchors)
    with torch.no_grad():
        for layer in adapter.layers:
            layer.to_out.weight.mul_(10)
        for part, kind in ((adapter.tower, torch.half), (adapter.encoder, torch.bfloat16)):
            _round(part, kind)
        _round(adapter.layers, torch.bfloat16)
    return adapter


def _round(module, kind):
    for parameter in module.parameters():
        parameter.copy_(parameter.to(kind).float())


def test_the_inputs_are_those_of_the_pack(work, face):
    crop, points = face.ffhq_crop.numpy(), face.points.double().numpy()
    exact = tower_input(grey_pixels(crop)[None, None])
    torch.testing.assert_close(exact, eva_pixels(face, 112, "auto"), atol=1e-5, rtol=0)
    shrunk = F.interpolate(faceclip_pixels(face), (112, 112), mode="bilinear")[0]
    torch.testing.assert_close(face_pixels(crop, points), shrunk, atol=1e-4, rtol=0)


def test_the_inputs_on_disk_are_a_byte_from_them(work, face):
    rows, inputs = np.array([PICTURE]), IdentityInputs(work)
    crop = face.ffhq_crop.numpy()
    assert (inputs.grey(rows)[0, 0] - grey_pixels(crop)).abs().max() < 1.3 / 255
    shrunk = F.interpolate(faceclip_pixels(face), (112, 112), mode="bilinear")
    assert (inputs.face(rows) - shrunk).abs().max() < 1 / 255
    torch.testing.assert_close(inputs.embedding(rows)[0], face.embedding, atol=1e-4, rtol=1e-4)


def trained_tokens(adapter, face, present=True):
    pixels = eva_pixels(face, 112, "ellipse")
    with torch.no_grad():
        return adapter.tokens(pixels, face.embedding[None], torch.tensor([present]))


@pytest.fixture(scope="module")
def opened(adapter, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_files(adapter, folder)
    assert (folder / world.EVA).stat().st_size < 2.6e6
    assert (folder / world.PULID).stat().st_size < 4.5e6
    return load_adapter(folder / world.PULID), load_eva_clip(folder / world.EVA)


@pytest.fixture(scope="module")
def identity(opened, face):
    return encode_identity(*opened, [face]).identity


def test_tokens_are_those_of_the_pack(adapter, identity, face):
    encoding = identity.encodings["pulid_flux"]
    for present, tokens in ((True, encoding.tokens), (False, encoding.null)):
        mine = trained_tokens(adapter, face, present)
        torch.testing.assert_close(mine, tokens, atol=2e-4, rtol=1e-3)
    assert not torch.allclose(mine, identity.encodings["pulid_flux"].tokens, atol=1e-2)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_run_with_apply_vfa_is_what_training_draws(
    work, base, adapter, opened, identity, face, steps
):
    """CFG included: the negative prompt gets what dropped captions and dropped identities get."""
    painter = Painter(*(models(work) / n for n in (world.FLUX, world.T5, world.CLIP_L, world.VAE)))
    captions, row = captions_of(work, CPU), np.array([PICTURE])
    length = {"t5xxl_min_length": captions.cut.t5.shape[1]}
    positive, negative = (
        painter.clip.encode_from_tokens_scheduled(
            painter.clip.tokenize(text, tokenizer_options=length)
        )
        for text in (Portraits(work).caption[PICTURE], "")
    )
    empty = torch.zeros(1, 16, 16, 16)
    noise = comfy.sample.prepare_noise(empty, 5)
    model = apply_vfa(painter.model, opened[0], identity)
    made = comfy.sample.sample(
        model,
        noise,
        steps,
        CFG,
        "euler",
        "sgm_uniform",
        positive,
        negative,
        empty,
        disable_pbar=True,
        seed=5,
    )
    one, nobody = (trained_tokens(adapter, face, present) for present in (True, False))
    said, unsaid = (captions(row, np.array([dropped])) for dropped in (False, True))
    with torch.no_grad(), plain_attention(CPU):
        positive = Conditioning(*said, adapter.injections(one))
        negative = Conditioning(*unsaid, adapter.injections(nobody))
        mine = draw(base, noise, positive, negative, steps)
        alone = draw(base, noise, Conditioning(*said), Conditioning(*unsaid), steps)
    torch.testing.assert_close(base.format.process_in(made), mine, atol=5e-3, rtol=5e-3)
    assert (mine - alone).norm() > 0.05 * alone.norm()


@pytest.mark.parametrize("chained", [True, False])
def test_gradients_pass_through_the_latents_only_if_wanted(base, chained):
    torch.manual_seed(0)
    noise, text = torch.randn(1, 16, 16, 16), torch.randn(1, 48, 64)
    positive, negative = (Conditioning(one, torch.randn(1, 64)) for one in (text, -text))
    with torch.no_grad(), plain_attention(CPU):
        expected = draw(base, noise, positive, negative, 2)
    for leaf in (noise, text):
        leaf.requires_grad_()
    with plain_attention(CPU):
        made = draw(base, noise, positive, replace(negative, text=-text.detach()), 2, chained)
    torch.testing.assert_close(made.detach(), expected)
    made.sum().backward()
    assert text.grad.any()
    # The noise itself is always a summand of the picture.
    assert torch.equal(noise.grad, torch.ones_like(noise)) != chained


def test_bfloat16_is_the_same_base(work, base):
    low = FrozenBase(models(work) / world.FLUX, CPU, torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    noise, text, pooled = (
        torch.randn(shape, generator=generator) for shape in ((2, 16, 16, 16), (2, 48, 64), (2, 64))
    )
    sigma = torch.tensor([0.3, 0.8])
    one, other = (b.velocity(noise, sigma, text, pooled, {}) for b in (base, low))
    assert (one - other).norm() < 0.05 * one.norm()


@pytest.mark.parametrize("stage", ["adapter", "adapter_drawn"])
def test_gradients_reach_everything_through_the_frozen_base(work, stage):
    base = FrozenBase(models(work) / world.FLUX, CPU)
    examples = Examples(work, captions_of(work, CPU), CPU)
    likeness = open_likeness(work, examples)
    torch.manual_seed(0)
    adapter = Adapter(base.anchors)
    if stage == "adapter":
        plan = LikenessPlan(weight=1.0, pictures=2, start=0.0)
        loss = AdapterLoss(adapter, base, examples, 8, likeness, plan, 10)
    else:
        drawing = Drawing(base, examples, likeness, KnownFaces(examples.data.points[:3]))
        kept = AdapterLoss(adapter, base, examples, 3, views=strangers)
        loss = DrawnLoss(kept, drawing)
    with plain_attention(CPU), autocast(CPU):  # as the loop does
        value, shown = loss(0, np.random.default_rng(0))
    value.backward()
    silent = [n for n, p in adapter.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    assert {"velocity", "alike"} == set(shown)
    assert all(p.grad is None for p in base.net.parameters())


@pytest.mark.parametrize("where", ["face", "elsewhere"])
def test_errors_in_the_face_count_more(work, base, adapter, monkeypatch, where):
    """A prediction that is wrong by one in the face alone, or everywhere else alone."""
    examples = Examples(work, captions_of(work, CPU), CPU)
    loss = AdapterLoss(adapter, base, examples, 4)
    seen = {}

    def velocity(noisy, sigma, *rest):
        wanted = (noisy - examples.targets(seen["rows"])) / sigma[:, None, None, None]
        heavy = (examples.weights(seen["rows"]) > 1).float()
        seen["wrong"] = heavy if where == "face" else 1 - heavy
        return wanted + seen["wrong"]

    def targets(rows, targets=examples.targets):
        seen["rows"] = rows
        return targets(rows)

    monkeypatch.setattr(base, "velocity", velocity)
    monkeypatch.setattr(examples, "targets", targets)
    counted = float(loss(0, np.random.default_rng(1))[0])
    plain = float(seen["wrong"].expand(4, 16, 16, 16).mean())
    assert counted > 1.3 * plain if where == "face" else counted < 0.9 * plain


def test_the_tokens_stage_learns_and_hands_on(work, tmp_path):
    loss = TokensLoss(work, 8, CPU)
    torch.manual_seed(0)
    adapter = Adapter(ANCHORS)
    loss.module = _reader(loss.data, adapter)
    run = Training(Recipe("adapter_tokens", 40, 1e-3, warmup=2), loss.module, tmp_path / "runs")
    with plain_attention(CPU):
        values = [run.advance(loss, CPU)["loss"] for _ in range(16)]
    assert np.mean(values[-4:]) < 0.8 * values[0]
    run.save()
    run.load_averages()
    (tmp_path / "data").symlink_to(work / "data")
    fresh = Adapter(ANCHORS)
    load_tokens(tmp_path, fresh)
    assert torch.equal(fresh.encoder.latents, adapter.encoder.latents)
    assert all(p.requires_grad for p in fresh.parameters())


def test_without_the_tokens_stage_there_is_an_error(work, tmp_path):
    (tmp_path / "data").symlink_to(work / "data")
    with pytest.raises(FileNotFoundError, match="--only adapter_tokens"):
        load_tokens(tmp_path, Adapter(ANCHORS))


def test_pairs_show_one_person_twice():
    reference, target = pairs(np.random.default_rng(0), 50, 4000)
    assert (reference // SHOTS == target // SHOTS).all() and (reference != target).all()
    sitting = (reference % SHOTS < 2) & (target % SHOTS < 2)
    assert 0.5 < sitting.mean() < 0.6  # free pairs hit a sitting one time in fifteen
    assert set(reference % SHOTS) == set(target % SHOTS) == set(range(SHOTS))


def test_a_twentieth_is_dropped_each_way():
    wordless, nobody = drops(np.random.default_rng(0), 20000)
    for share in (wordless & nobody, wordless & ~nobody, ~wordless & nobody):
        assert share.mean() == pytest.approx(0.05, abs=0.01)


def test_targets_share_no_sitting_with_their_reference():
    reference, target = strangers(np.random.default_rng(0), 50, 4000)
    assert (reference // SHOTS == target // SHOTS).all() and (reference != target).all()
    assert not ((reference % SHOTS < 2) & (target % SHOTS < 2)).any()
    assert set(target % SHOTS) == set(range(SHOTS))


def test_damage_spares_white():
    torch.manual_seed(0)
    grey = torch.full((4, 1, 16, 16), 0.4)
    grey[:, :, :4] = 1.0
    changed = damage(grey)
    assert (changed[:, :, :4] == 1.0).all()
    assert not torch.equal(changed[:, :, 4:], grey[:, :, 4:])


def test_the_judge_is_the_recogniser(work, face):
    judge = read_recogniser(models(work) / world.RECOGNISER)
    rgb = np.array(Portraits(work).images[PICTURE])
    crop = torch.from_numpy(arcface_crop(rgb, face.points.numpy())).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        found = judge((crop - 127.5) / 127.5)[0]
    torch.testing.assert_close(found, face.embedding, atol=1e-3, rtol=1e-3)


def test_another_network_is_no_judge(tmp_path):
    from flexid.mini.random_faces import write_recogniser

    write_recogniser(tmp_path / "other.onnx", 0)
    with pytest.raises(ValueError, match="--only recogniser"):
        read_recogniser(tmp_path / "other.onnx")


def test_a_drawn_face_is_judged_where_it_is_found(work, base):
    """Latents of real pictures: at the renderer's points as the window of one step's judge, and
    nothing for a picture without a face."""
    examples = Examples(work, captions_of(work, CPU), CPU)
    likeness, rows = open_likeness(work, examples), np.array([1, 5, 9])
    points = np.array(examples.data.points[rows])
    points[1] = np.nan

    def alike(points):
        pictures = likeness.decode(examples.targets(rows))
        drawn = Drawn(pictures, KnownFaces(points)(pictures))
        return Drawing(base, examples, likeness, None).measure_likeness(drawn, rows)

    with torch.no_grad():
        found, window = alike(points), likeness(examples.targets(rows), rows)
        assert not alike(np.full_like(points, np.nan)).any()
    assert found[1] == 0
    # The decoder sees beyond the window.
    torch.testing.assert_close(found[[0, 2]], window[[0, 2]], atol=0.05, rtol=0)


def test_the_weight_scales_what_is_injected(base, adapter):
    torch.manual_seed(0)
    tokens, image = (
        torch.randn(2, ENCODER.queries, TOKEN_DIM),
        torch.randn(2, 9, base.anchors.hidden),
    )
    whole, part = adapter.injections(tokens), adapter.injections(tokens, torch.tensor([0.0, 0.5]))
    for place, inject in whole.items():
        expected = inject(image) * torch.tensor([0.0, 0.5])[:, None, None]
        torch.testing.assert_close(part[place](image), expected)


def test_files_are_read_as_they_were_written(base, adapter, tmp_path):
    with pytest.raises(FileNotFoundError, match="--only adapter_drawn"):
        read_files(tmp_path, base.anchors)
    write_files(adapter, tmp_path)
    read = read_files(tmp_path, base.anchors).state_dict()
    for name, value in adapter.state_dict().items():
        torch.testing.assert_close(read[name], value, atol=1e-3, rtol=1e-2, msg=name)


def test_the_files_lie_between_the_two_stages(base):
    second, third = Adapter(base.anchors), Adapter(base.anchors)
    before = {name: value.clone() for name, value in second.state_dict().items()}
    between = fuse_adapters(second, third, 0.75).state_dict()
    for name, value in third.state_dict().items():
        expected = 0.25 * before[name] + 0.75 * value
        torch.testing.assert_close(between[name], expected, msg=name)


def test_the_preview_shows_the_latest_stage(base, tmp_path):
    with pytest.raises(FileNotFoundError, match="--only adapter"):
        load_trained(tmp_path, base.anchors)
    runs, second, third = tmp_path / "runs", Adapter(base.anchors), Adapter(base.anchors)
    _save_finished(adapter_diffusion.RECIPE, second, runs, 3)
    shown, stage = load_trained(tmp_path, base.anchors)
    assert stage == "adapter" and torch.equal(shown.encoder.proj_out, second.encoder.proj_out)
    _save_finished(adapter_drawn.RECIPE, third, runs, 5)
    shown, stage = load_trained(tmp_path, base.anchors)
    assert stage == "adapter_drawn, step 5"
    expected = fuse_adapters(second, third, adapter_drawn.FUSED).encoder.proj_out
    assert torch.equal(shown.encoder.proj_out, expected)


def _save_finished(recipe, adapter, folder, step):
    run = Training(recipe, adapter, folder)
    run.step = step
    run.save()
