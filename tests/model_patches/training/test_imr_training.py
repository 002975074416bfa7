"""DynamicID's second stage on a small SD 1.5: its data, its loss, and that a run resumes."""

from dataclasses import replace
from unittest import mock

import dynamicid_files
import dynamicid_training
import dynamicid_world
import imr_world
import numpy as np
import pytest
import tiny_unet
import torch
import training_steps
from flexid.model_patches.adapters.imr import Motion, edit_tokens, load_editor
from flexid.model_patches.face.landmark_image import landmark_image
from flexid.model_patches.training import distributed, imr_job, loop, precision
from flexid.model_patches.training.data_problems import DataError
from flexid.model_patches.training.imr_features import PROMPT, find_points, motions_of
from flexid.model_patches.training.imr_job import begin, find_motions, make_store
from flexid.model_patches.training.imr_people import (
    Draws,
    draw_people,
    keep_usable,
    read_subjects,
    words_of_kdef,
)
from flexid.model_patches.training.imr_recipe import Course, ImrLoss
from flexid.model_patches.training.imr_trained import TrainedImr, export_imr, published_dims
from flexid.model_patches.training.saa_trained import begin_with
from flexid.model_patches.training.sheets import Sampling
from flexid.model_patches.training.unet_base import UNetBase
from pack import ROOT
from PIL import Image
from safetensors.torch import load_file

pytestmark = pytest.mark.comfy

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_keypoint_encoder(monkeypatch):
    monkeypatch.setattr(imr_job, "WIDTHS", imr_world.KEYPOINTS)


class World:
    """A job with its people, features and frozen models."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.model = tiny_unet.sd15()
        self.adapter = dynamicid_world.adapter(folder, self.model)
        self.job = dynamicid_training.reconfigure_job(folder)
        self.people = read_subjects(self.job.data)
        self.models = dynamicid_training.models(self.model, self.adapter)
        self.store = make_store(self.job, self.models, self.people)
        self.faces = [self.store.face(number) for number in range(len(self.people.shots))]
        self.points = find_motions(self.people, self.faces)
        self.base = UNetBase(self.model, CPU)
        self.saa = begin_with(self.base, self.adapter).requires_grad_(False)

    def net(self):
        return begin(self.job, self.adapter, None)

    def loss(self, net, **course):
        course = Course(**{"spread": 0.0, **course})
        subjects = self.people.subjects
        facts = (self.store, self.points, subjects, self.job.draws, course)
        return ImrLoss(self.base, self.saa, net, *facts)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("imr"))


# Data


def test_the_published_layout_is_read_with_kdefs_names(world):
    first, second, kdef = world.people.subjects
    assert [len(one.shots) for one in (first, second, kdef)] == [3, 3, 3]
    assert kdef.is_kdef and not first.is_kdef
    words = [world.people.shots[number].words for number in kdef.shots]
    assert words == [
        "the expression is happy, the face is slightly turned to the left",
        "the expression is surprised, the face is front view",
        "the expression is angry, the face is fully turned to the right",
    ]
    shots = [world.people.shots[number] for number in first.shots]
    assert [shot.words for shot in shots] == [
        f"a happy expression {number}, side view." for number in range(3)
    ]
    assert all(shot.landmarks for shot in shots)
    assert world.store.data.captions[:2] == ("", PROMPT)
    assert words_of_kdef("holiday") is None


def test_drawn_landmarks_come_back_as_they_are(world):
    for number in world.people.subjects[0].shots:
        path = world.people.shots[number].landmarks
        with Image.open(path) as opened:
            drawn = torch.from_numpy(np.array(opened))
        assert torch.equal(landmark_image(world.points[number]), drawn)
    detected = world.people.subjects[1].shots[0]
    found = find_points(world.people.shots[detected], world.faces[detected])
    assert found.shape == (106, 2) and landmark_image(found).any()


def test_words_are_estimated_where_none_are_given(world, tmp_path):
    """By the rule of the authors' code; without a landmarker nobody names the expression."""
    number = world.people.subjects[1].shots[0]
    caption = world.store.data.rows[number].caption
    assert world.store.data.captions[caption] == "in side view"
    job = dynamicid_training.reconfigure_job(tmp_path)
    finder = dynamicid_training.Smiling()
    models = dynamicid_training.models(world.model, world.adapter, finder)
    store = make_store(job, models, read_subjects(job.data))
    captions = [store.data.captions[store.data.rows[n].caption] for n in (0, number)]
    assert captions == ["a happy expression 0, side view.", "in a happy expression, in side view"]


def test_what_is_wrong_with_the_data_is_told(world, tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no folder. Name a folder"):
        read_subjects(tmp_path / "nowhere")
    dynamicid_training.write_pictures(tmp_path, ["KDEF/a/1.png", "KDEF/a/2.png"])
    with pytest.raises(DataError, match=r"KDEF/a/1.png: no name of KDEF, such as AF01HAHL.JPG"):
        read_subjects(tmp_path)
    dynamicid_training.write_pictures(tmp_path, ["people/a/1.png", "people/a/1_landmark.png"])
    with pytest.raises(DataError) as error:
        read_subjects(tmp_path / "people")
    assert "a/1_landmark.png: the picture of landmarks has 96 x 80 pixels" in str(error.value)
    assert "a: 1 pictures of this person, at least 2 are needed" in str(error.value)
    with pytest.raises(DataError, match="2 of 9 pictures show a face, and 0 of 3 people have"):
        keep_usable(world.people, (0, 4))


def test_people_are_drawn_as_published(world):
    kdef = world.people.subjects[2]
    subjects = world.people.subjects
    drawn = [one for step in range(400) for one in draw_people(subjects, Draws(), step)]
    share = sum(one.subject == kdef for one in drawn) / len(drawn)
    assert share == pytest.approx(0.05, abs=0.03)
    for one in drawn:
        assert {one.source, *one.targets} <= set(one.subject.shots)
        if one.subject == kdef:  # all others, once
            assert sorted((one.source, *one.targets)) == sorted(kdef.shots)
        else:  # with replacement
            assert len(one.targets) == 32
    assert draw_people([kdef], Draws(), 0)[0].subject == kdef


# The loss


def test_the_gradients_of_parts_are_those_of_the_whole(world):
    """Equation 7 written down at once, with one graph from the loss to the weights.

    In evaluation mode: BatchNorm over four pictures multiplies rounding errors.
    """
    found = []
    for part in (1, 3):
        net = world.net().eval()
        value, shown = world.loss(net, part=part, weight=0.7)(0, None)
        value.backward()
        grads = {name: weight.grad for name, weight in net.named_parameters()}
        assert [name for name, grad in grads.items() if grad is None] == []
        found.append((value.item(), grads))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    net, total = world.net().eval(), 0.0
    loss = world.loss(net, weight=0.7)
    for one in draw_people(world.people.subjects, world.job.draws, 0):
        source = world.store.face(one.source)["tokens"][None]
        wanted = torch.stack([world.store.face(n)["tokens"] for n in one.targets])
        predicted = loss.predict(one, source)
        total = total + loss.of_part(one, predicted, wanted, slice(None)).total.mean() / 2
    total.backward()
    assert found[0][0] == pytest.approx(total.item(), rel=1e-5)
    for name, weight in net.named_parameters():
        for _, grads in found:
            torch.testing.assert_close(grads[name], weight.grad, atol=1e-6, rtol=1e-3)
    assert all(weight.grad is None for weight in world.saa.parameters())
    assert {"tokens", "noise", "unedited"} <= shown.keys() and shown["noise"] > 0


def test_the_targets_own_tokens_have_no_loss(world):
    """Both branches see the same noise, noise level and latents."""
    loss = world.loss(world.net())
    (one, _) = draw_people(world.people.subjects, world.job.draws, 0)
    wanted = torch.stack([world.store.face(n)["tokens"] for n in one.targets])
    same = loss.of_part(one, wanted, wanted, slice(None))
    assert not same.total.any()
    other = loss.of_part(one, wanted.flip(1) + 0.5, wanted, slice(None))
    assert other.noise.all() and other.tokens.all()


def test_low_precision_is_close_and_gives_full_gradients(world):
    """As on a GPU: the networks are computed with autocast, their weights stay float32."""
    found = []
    for low in (False, True):
        net = world.net()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            value, shown = world.loss(net)(0, None)
        value.backward()
        assert all(weight.grad.dtype == torch.float32 for weight in net.parameters())
        found.append((value.item(), shown["noise"].item()))
    assert found[1] == pytest.approx(found[0], rel=0.1) and found[0] != found[1]


def test_landmarks_are_moved_a_little_and_the_same_in_every_run(world):
    one = draw_people(world.people.subjects, world.job.draws, 0)[0]
    source, seen = world.store.face(one.source)["tokens"][None], []
    net = world.net()
    for spread in (0.0, 3.0, 3.0):
        pictures = []
        net.keypoints.register_forward_pre_hook(lambda _, read, kept=pictures: kept.extend(read))
        world.loss(net, spread=spread).predict(one, source)
        seen.append(pictures[0])
    exact = torch.stack([landmark_image(world.points[n]) for n in (one.source, *one.targets)])
    assert torch.equal(seen[0].squeeze(1) > 0, exact > 0)
    assert torch.equal(seen[1], seen[2]) and not torch.equal(seen[0], seen[1])


# Files


def test_fresh_networks_have_the_published_sizes():
    with torch.device("meta"):
        net = TrainedImr(published_dims(768))
    wanted = (dynamicid_files.imr_shapes(), dynamicid_files.keypoint_shapes())
    for module, shapes in zip((net.reconfigurator, net.keypoints), wanted, strict=True):
        found = {key: tuple(value.shape) for key, value in module.state_dict().items()}
        assert found == shapes


def test_the_exported_files_edit_as_the_trained_networks_do(world, tmp_path):
    net = world.net()
    world.loss(net)(0, None)[0].backward()  # BatchNorm has seen pictures
    paths = tmp_path / "IMR.safetensors", tmp_path / "key_point_encoder.safetensors"
    export_imr(*paths, net.eval(), torch.float32, {"run": "x"})
    editor = load_editor(*paths)
    first = world.people.subjects[0].shots
    words = motions_of(world.store, first)
    pictures = torch.stack([landmark_image(world.points[number]) for number in first])
    motions = [Motion(picture, text) for picture, text in zip(pictures, words, strict=True)]
    tokens = world.store.face(first[0])["tokens"][None]
    with torch.no_grad():
        trained = net(tokens, pictures, words)
    edited = edit_tokens(editor, tokens, motions[0], motions[1:])
    torch.testing.assert_close(trained, edited, atol=1e-5, rtol=1e-5)
    assert (trained - tokens).abs().max() > 0.1
    again = begin(world.job, world.adapter, editor).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in net.state_dict().items())
    counter = load_file(paths[1])["blocks.0.0.conv_block.1.num_batches_tracked"]
    assert counter.dtype == torch.int64 and counter > 0


def test_a_whole_job_writes_files_and_sheets_and_ends_as_a_stopped_one(
    world, tmp_path, monkeypatch
):
    monkeypatch.setattr(imr_job, "SAMPLING", Sampling(1, 5.0, "euler", "simple"))
    monkeypatch.setattr(imr_job, "open_models", lambda *_: world.models)
    monkeypatch.setattr(imr_job, "hold_out", lambda found, _: (found[:1], found[1:]))
    ends = []
    for name in ("whole", "stopped"):
        features = world.job.work / "features"  # of the same pictures
        saa = features.parents[1] / "SAA.bin"
        options = {"steps": 3, "features": features, "saa": saa}
        job = dynamicid_training.reconfigure_job(tmp_path / name, **options)

        def run(job=job):
            imr_job.run_job(job, CPU)

        if name == "stopped":
            advance = loop.Training.advance

            def interrupted(self, *arguments, advance=advance):
                if self.step == 2:
                    raise KeyboardInterrupt
                return advance(self, *arguments)

            with monkeypatch.context() as patched:
                patched.setattr(loop.Training, "advance", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    run()
        run()
        ends.append({**load_file(job.out), **load_file(job.out_keypoints)})
    assert job.out_keypoints.name == "reconfigure_key_point_encoder.safetensors"
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())
    assert load_editor(*job.files).dims.width == dynamicid_training.WIDTH
    with Image.open(job.work / "sheets" / "0000003.png") as sheet:
        assert sheet.size == (4 * 64, 64 + 18)
    job.out_keypoints.unlink()
    job.out_keypoints.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="key_point_encoder.safetensors exists already"):
        run(job)
    with pytest.raises(ValueError, match="holds a training with dim 64, asked for is 128"):
        run(replace(job, dim=128))


def briefly(folder):
    """Both stages with their nets; two steps of each have one row or person for each of two
    processes. Data and features are this process's own."""
    import test_saa_training

    own = folder / f"data{distributed.rank()}"
    with mock.patch.object(distributed, "by_first", lambda work: work()):
        first, second = test_saa_training.World(own / "anchor", batch=2), World(own / "reconfigure")
    return first, second, torch.nn.ModuleDict({"saa": first.saa(), "imr": second.net()})


def train_briefly(folder):
    with mock.patch.object(imr_job, "WIDTHS", imr_world.KEYPOINTS):
        first, second, nets = briefly(folder)
    losses = {"saa": first.loss(nets["saa"], 1), "imr": second.loss(nets["imr"], part=2)}
    for world, (name, loss) in zip((first, second), losses.items(), strict=True):
        with training_steps.along_gradients():
            loop.train(world.job.recipe, nets[name], loss, folder / "work", CPU)
    return nets


def test_two_processes_train_both_stages_like_one(tmp_path, monkeypatch, trained_by_two):
    monkeypatch.setattr(precision, "prefers_bfloat16", lambda kind: False)
    monkeypatch.syspath_prepend(str(ROOT / "tests/model_patches/training"))
    *_, nets = briefly(tmp_path / "begun")
    begun = dynamicid_training.weights_of(nets)
    alone = dynamicid_training.weights_of(train_briefly(tmp_path / "alone"))
    together = trained_by_two["test_imr_training"]
    for name in nets:  # each stage by itself: one goes further than the other
        training_steps.assert_alike(
            *({k: v for k, v in one.items() if k.startswith(f"{name}.") and k in alone}
              for one in (begun, alone, together))
        )  # fmt: skip
