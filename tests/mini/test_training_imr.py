"""The motion editor of the small world: what it learns from, and that its files are read."""

import numpy as np
import pytest
import torch
from flexid.mini import world
from flexid.mini.imr_layout import DIMS, WIDTHS
from flexid.mini.portraits.captions import LARGE_YAW
from flexid.mini.training import imr, imr_motion, saa
from flexid.mini.training.adapter import Adapter, write_files
from flexid.mini.training.adapter_diffusion import Examples
from flexid.mini.training.adapter_tokens import ANCHORS
from flexid.mini.training.captions import captions_of
from flexid.mini.training.data import SHOTS
from flexid.mini.training.imr import ImrLoss, begin, settle
from flexid.mini.training.options import Options, curves, models
from flexid.model_patches.adapters.imr import Motion, edit_tokens, load_editor
from flexid.model_patches.adapters.imr_nets import as_seen
from flexid.model_patches.adapters.pulid_flux import load_adapter
from flexid.model_patches.face.angles import head_angles
from flexid.model_patches.face.landmark_image import in_frame, landmark_image
from flexid.model_patches.face.landmark_pose import Sliders, move_landmarks
from flexid.model_patches.training.frozen_base import FrozenBase
from flexid.model_patches.training.imr_trained import TrainedImr
from identity_world import CPU, build
from torch import nn

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Data of three people, and an SAA adapter that has not been trained."""
    folder = build(tmp_path_factory.mktemp("imr"))
    torch.manual_seed(1)
    write_files(Adapter(ANCHORS), models(folder))
    saa.write_saa(saa.begin(models(folder), ANCHORS), models(folder) / world.SAA)
    return folder


@pytest.fixture(scope="module")
def parts(work):
    base = FrozenBase(models(work) / world.FLUX, CPU, torch.float32)
    examples = Examples(work, captions_of(work, CPU), CPU)
    return base, saa.read_saa(models(work), base.anchors).requires_grad_(False), examples


@pytest.fixture
def loss(parts):
    torch.manual_seed(2)
    return ImrLoss(TrainedImr(DIMS, WIDTHS), *parts, people=2, judged=3)


def test_each_picture_of_a_person_becomes_another_one(loss):
    for seed in range(5):
        rows, target = loss.draw(np.random.default_rng(seed))
        assert len(set(rows)) == len(rows) == 2 * SHOTS and sorted(target) == [*range(2 * SHOTS)]
        assert (rows // SHOTS == rows[target] // SHOTS).all() and (rows != rows[target]).all()


def test_the_frozen_flux_sees_the_same_noise_with_both_tokens(loss, monkeypatch):
    seen, predict = [], loss.predict
    monkeypatch.setattr(loss, "predict", lambda *given: seen.append(given) or predict(*given))
    value, shown = loss(0, np.random.default_rng(0))
    (noisy, sigma, truth), (again, level, drawn) = seen
    assert torch.equal(noisy, again) and torch.equal(sigma, level) and len(noisy) == 3
    assert drawn.requires_grad and not truth.requires_grad
    total = shown["tokens"] + imr.WEIGHT * shown["velocity"]
    torch.testing.assert_close(value.detach(), total)
    value.backward()
    assert all(one.grad is not None for one in loss.net.parameters())


def exact(monkeypatch, driven):
    """Landmarks without a detector's errors, of the source or of the target's own picture."""
    monkeypatch.setattr(imr_motion, "jitter_points", lambda points, rng: points)
    for name, value in (("ZOOM", 0.0), ("SHIFT", 0.0), ("FREE", 0.0), ("DRIVEN", driven)):
        monkeypatch.setattr(imr_motion, name, value)


@pytest.mark.parametrize("driven", [0.0, 1.0])
def test_targets_have_the_source_s_landmarks_turned_or_their_own(loss, monkeypatch, driven):
    exact(monkeypatch, driven)
    data, reader = loss.examples.data, loss.reader
    rows = np.array([0, 3])
    found = reader.pairs(np.random.default_rng(0), rows, rows + 2)
    for number, row in enumerate(rows):
        points = np.asarray(data.points[row], np.float64)
        drawn = landmark_image(in_frame(torch.from_numpy(points), 128, 128))
        assert torch.equal(found[0].pictures[number], drawn)
        angles = imr_motion.angles_of(data, row + 2)
        wanted = move_landmarks(points, head_angles(points), angles, Sliders())
        if driven:
            wanted = np.asarray(data.points[row + 2], np.float64)
        drawn = landmark_image(in_frame(torch.from_numpy(wanted), 128, 128))
        assert torch.equal(found[1].pictures[number], drawn)


def test_what_users_may_say_has_been_encoded(loss, monkeypatch):
    """Every text of the rule and of captions; both kinds occur."""
    rng, data = np.random.default_rng(0), loss.examples.data
    texts = [loss.reader.ask(rng, row) for row in np.tile(np.arange(len(data)), 20)]
    ruled = [text.endswith(" view") and "expression" in text for text in texts]
    assert 0.5 < np.mean(ruled) < 0.7
    assert loss.reader.words(texts).shape == (len(texts), DIMS.text)
    assert imr_motion.turn_of((LARGE_YAW + 1, 0.0, 0.0)) == "right"
    assert imr_motion.turn_of((5.0, -20.0, 0.0)) == "down"
    assert imr_motion.turn_of((5.0, -5.0, 0.0)) == ""


def error(loss):
    """Of the tokens, over three batches."""
    with torch.no_grad():
        return np.mean([float(loss(0, np.random.default_rng(s))[1]["tokens"]) for s in (1, 2, 3)])


def test_it_begins_with_what_the_pictures_of_a_person_have_in_common(loss):
    before = error(loss)
    begin(loss, 3)
    assert error(loss) < before / 2
    assert not loss.net.reconfigurator.proj_out._forward_pre_hooks


def test_batchnorm_keeps_the_statistics_of_the_final_weights(loss, monkeypatch):
    seen = []
    keypoints = loss.net.keypoints
    keypoints.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    settle(loss, 2)
    first = keypoints.blocks[0][0].conv_block
    with torch.no_grad():
        means = torch.stack([first[0](one).mean((0, 2, 3)) for one in seen])
    torch.testing.assert_close(first[1].running_mean, means.mean(0))
    assert len(seen) == 2 and not any(
        one.training for one in loss.net.modules() if isinstance(one, nn.BatchNorm2d)
    )


def test_it_learns_and_its_files_edit_the_adapter_s_tokens(work, parts, monkeypatch):
    monkeypatch.setattr(imr, "FITTED", 2)
    monkeypatch.setattr(imr, "SETTLED", 2)
    imr.train_imr(work, CPU, Options(steps=2, batch=2))
    editor = load_editor(models(work) / world.IMR, models(work) / world.KEY_POINTS)
    settings = editor.settings
    assert (settings.family, settings.points, settings.adapter) == (
        "pulid_flux", 5, "flexid_mini_saa.safetensors",
    )  # fmt: skip
    assert settings.encoder == load_adapter(models(work) / world.SAA).encoder_digest
    assert settings.text_encoder == "flexid_mini_clip_l.safetensors"
    assert (curves(work) / "imr.csv").is_file()
    net = TrainedImr(DIMS, WIDTHS).eval()
    net.begin_with(editor)
    loss = ImrLoss(net, *parts, people=1, judged=1)
    rows = np.array([0, 4])
    source, target = loss.reader.pairs(np.random.default_rng(0), rows, rows + 1)
    tokens = loss.tokens(rows)
    with torch.no_grad():
        wanted = imr.edit(net, tokens, source, target)
    assert as_seen(source.pictures).shape == (2, 1, 96, 96)
    for number in range(2):
        old, new = (Motion(one.pictures[number], one.words[number]) for one in (source, target))
        found = edit_tokens(editor, tokens[number : number + 1], old, [new])
        torch.testing.assert_close(found[0], wanted[number], atol=1e-4, rtol=1e-4)
