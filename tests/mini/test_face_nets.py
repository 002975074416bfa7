"""The face networks: their files mean what insightface reads in them, and their recipes learn."""

import csv
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from flexid.mini import conv_layers, estimators, world
from flexid.mini.training import (
    data,
    detector,
    faces_anchors,
    faces_canvas,
    faces_degrade,
    faces_evaluate,
    faces_pictures,
    options,
    recogniser,
)
from flexid.mini.training import estimators as estimators_recipe
from flexid.model_patches.face.analyser import load_analyser
from flexid.model_patches.face.boxes import Detection
from flexid.model_patches.face.pack import load_model
from torch import nn

pytestmark = pytest.mark.pure

PEOPLE = 4
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """These networks are too small to share; waiting for each other costs more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A few drawn pictures, and each stage run for a few steps."""
    folder = tmp_path_factory.mktemp("work")
    data.build(folder, CPU, options.Options(people=PEOPLE, groups=4, processes=1))
    short = options.Options(steps=3, batch=4)
    recogniser.train_recogniser(folder, CPU, short)
    detector.train_detector(folder, CPU, short)
    estimators_recipe.train_estimators(folder, CPU, short)
    return folder


def lived(net):
    """The network as if trained: its norms' statistics and scales are not the initial ones."""
    generator = torch.Generator().manual_seed(1)
    for part in net.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_(0, 0.2, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
            if part.weight is not None:
                part.weight.data.uniform_(0.5, 1.5, generator=generator)
                part.bias.data.normal_(0, 0.2, generator=generator)
    return net.eval()


def parameters(net):
    return sum(value.numel() for value in net.parameters())


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2)) * 0.5


# folding and calibration


@torch.no_grad()
def test_folding_changes_nothing():
    crops = noise(2, 3, 112, 112)
    net = lived(recogniser.Recogniser())
    torch.testing.assert_close(conv_layers.fold_norms(net)(crops), net(crops), rtol=1e-3, atol=1e-3)
    assert any(isinstance(part, nn.BatchNorm2d) for part in net.modules())
    finder = lived(detector.Detector())
    for one, other in zip(
        conv_layers.fold_norms(finder)(crops[..., :96, :96]),
        finder(crops[..., :96, :96]),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_calibration_gives_averaged_weights_their_own_statistics():
    """Old statistics spoil the output; new ones make evaluation agree with training mode."""
    net = lived(recogniser.Recogniser())
    batches = noise(4, 32, 3, 112, 112)

    def spread():
        with torch.no_grad():
            outputs = torch.cat([net(batch) for batch in batches])
        return outputs.mean(0).abs().mean().item(), outputs.std(0).mean().item()

    assert abs(spread()[1] - 1) > 0.2
    conv_layers.recalibrate(net, lambda number: net(batches[number]), len(batches))
    mean, deviation = spread()
    assert mean < 0.15 and deviation == pytest.approx(1, abs=0.15)
    assert not net.training
    first = net[0].norm
    seen = torch.cat([net[0].conv(batch) for batch in batches])
    torch.testing.assert_close(first.running_mean, seen.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    assert first.momentum == nn.BatchNorm2d(1).momentum and int(first.num_batches_tracked) == 4


# the ONNX files


@torch.no_grad()
def test_the_recogniser_file_is_an_arcface_to_insightface(tmp_path):
    net = lived(recogniser.Recogniser())
    path, again = tmp_path / "recogniser.onnx", tmp_path / "again.onnx"
    recogniser.write_recogniser(net, path)
    recogniser.write_recogniser(net, again)
    assert path.read_bytes() == again.read_bytes()
    assert parameters(net) <= 0.9e6 and path.stat().st_size <= 2e6
    model, provider = load_model(path, ["CPUExecutionProvider"])
    assert (model.taskname, model.input_size, provider) == ("recognition", (112, 112), "CPU")
    crops = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3)).astype(np.uint8)
    found = model.get_feat([crop[..., ::-1] for crop in crops])
    wanted = net(faces_pictures.to_input(crops, recogniser.DIVISOR, CPU)).numpy()
    assert found.shape == (3, 512)
    assert np.abs(found - wanted).max() < 0.01 * np.abs(wanted).max()


@torch.no_grad()
def test_the_detector_file_answers_as_the_network(tmp_path):
    size = detector.SIDE
    net = lived(detector.Detector())
    path = tmp_path / "det_mini.onnx"
    detector.write_detector(net, path)
    assert parameters(net) <= 0.35e6 and path.stat().st_size <= 0.8e6
    model, _ = load_model(path, ["CPUExecutionProvider"])
    assert (
        model.taskname == "detection" and model.use_kps and model.static_input_size == (size, size)
    )
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3)).astype(np.uint8)
    pixels = faces_pictures.to_input(image[None], detector.DIVISOR, CPU)
    names = [value.name for value in model.session.get_outputs()]
    outputs = dict(zip(names, model.session.run(names, {"input.1": pixels.numpy()}), strict=True))
    scores, boxes, points = net(pixels)
    wanted = {"score": scores.sigmoid(), "bbox": boxes, "kps": points}
    ends = np.cumsum([2 * (size // stride) ** 2 for stride in (8, 16, 32)])
    for kind, whole in wanted.items():
        parts = np.split(whole[0].numpy(), ends[:-1])
        for stride, part in zip((8, 16, 32), parts, strict=True):
            np.testing.assert_allclose(outputs[f"{kind}_{stride}"], part, atol=0.02, rtol=0.02)
    assert names[0] == "score_8" and names[-1] == "kps_32"


def test_old_runtimes_can_read_the_files(work):
    for name in (world.DETECTOR, world.RECOGNISER):
        model = onnx.load(str(options.models(work) / name))
        assert model.ir_version <= 6 and model.opset_import[0].version <= 11


# what the detector is asked


class Answers:
    """An onnxruntime session that always gives the training targets."""

    def __init__(self, faces, size):
        score, box, points = faces_anchors.targets(faces, size)
        ends = np.cumsum([2 * (size // stride) ** 2 for stride in (8, 16, 32)])[:-1]
        kinds = (np.maximum(score, 0)[:, None], box, points)
        self.parts = [part for kind in kinds for part in np.split(kind, ends)]

    def get_inputs(self):
        return [SimpleNamespace(name="input.1", shape=[1, 3, "height", "width"], type="")]

    def get_outputs(self):
        return [SimpleNamespace(name=str(i), shape=["n", 1]) for i in range(9)]

    def get_providers(self):
        return ["CPUExecutionProvider"]

    def run(self, names, inputs):
        return self.parts


def some_faces(boxes, hidden=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    shares = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)])
    sides = boxes[:, 2:] - boxes[:, :2]
    points = boxes[:, None, :2] + shares * sides[:, None]
    hidden = np.zeros(len(boxes), bool) if hidden is None else np.array(hidden)
    return faces_anchors.Faces(boxes, points.astype(np.float32), hidden)


def test_insightface_reads_the_faces_out_of_the_targets():
    from insightface.model_zoo.scrfd import SCRFD

    faces = some_faces([(20, 30, 45, 61), (200, 100, 330, 260), (350, 350, 630, 640)])
    model = SCRFD(model_file=None, session=Answers(faces, 640))
    found, points = model.detect(np.zeros((640, 640, 3), np.uint8), input_size=(640, 640))
    order = np.argsort(found[:, 0])
    np.testing.assert_allclose(found[order, :4], faces.boxes, atol=0.01)
    np.testing.assert_allclose(points[order], faces.points, atol=0.01)


@pytest.mark.parametrize("side", [12, 20, 23, 32, 45, 64, 91, 130, 181, 260, 363, 500])
def test_every_size_of_face_is_somebodys_task(side):
    for place in (310, 313, 317):
        faces = some_faces(
            [(place - side / 2, place - side / 2, place + side / 2, place + side / 2)]
        )
        score, _, _ = faces_anchors.targets(faces, 640)
        answers = score == faces_anchors.POSITIVE
        assert answers.any()
        distance = np.linalg.norm(faces_anchors.anchor_centres(640) - place, axis=1)
        assert distance[answers].max() <= max(0.5 * side, 8)
        assert (score[distance > max(0.6 * side, 64)] == faces_anchors.NEGATIVE).all()


def test_the_parts_of_a_large_face_are_no_small_faces():
    score, _, _ = faces_anchors.targets(some_faces([(100, 100, 500, 500)]), 640)
    fine = faces_anchors.anchor_strides(640) == 8
    assert (score[fine] == faces_anchors.NEGATIVE).all()


def test_half_hidden_faces_are_not_asked_for():
    score, _, _ = faces_anchors.targets(some_faces([(100, 100, 160, 160)], [True]), 320)
    assert (score != faces_anchors.POSITIVE).all() and (score == faces_anchors.IGNORED).any()


def test_overlap_of_boxes():
    one = torch.tensor([[1.0, 1, 1, 1]])
    assert faces_anchors.box_overlap(one, one).item() == pytest.approx(1)
    half = torch.tensor([[0.0, 1, 1, 1]])
    assert faces_anchors.box_overlap(one, half).item() == pytest.approx(0.5)
    apart = torch.tensor([[-3.0, 1, 4, 1]])  # a box beyond the other's right edge
    assert faces_anchors.box_overlap(one, apart).item() < 0


class WhiteFaces:
    """Pictures whose only bright pixels are the face."""

    def draw(self, rng, group_share):
        return int(rng.integers(100))

    def __getitem__(self, number):
        rng = np.random.default_rng(number)
        x0, y0 = rng.integers(10, 50, 2)
        side = int(rng.integers(30, 60))
        image = np.zeros((128, 128, 3), np.uint8)
        image[y0 : y0 + side, x0 : x0 + side] = 255
        faces = some_faces([(x0, y0, x0 + side, y0 + side)])
        return image, faces.boxes, faces.points


@pytest.mark.parametrize("size", [320, 640])
def test_faces_lie_where_the_canvas_says(size):
    told, sides = 0, []
    for seed in range(60):
        image, faces = faces_canvas.canvas(np.random.default_rng(seed), WhiteFaces(), size)
        assert image.shape == (size, size, 3) and image.dtype == np.uint8
        for box, points, hidden in zip(faces.boxes, faces.points, faces.hidden, strict=True):
            x0, y0, x1, y1 = box
            assert ((points >= (x0, y0)) & (points <= (x1, y1))).all()
            if hidden:
                continue
            across, down = (x0 + x1) / 2, (y0 + y1) / 2
            inner = image[
                max(0, int(down - (y1 - y0) * 0.3)) : int(down + (y1 - y0) * 0.3) + 1,
                max(0, int(across - (x1 - x0) * 0.3)) : int(across + (x1 - x0) * 0.3) + 1,
            ]
            assert np.median(inner) > 120
            told += 1
            sides.append(x1 - x0)
    assert told > 40 and min(sides) < 0.15 * size and max(sides) > 0.6 * size


# damage and crops


def test_damage_is_repeatable_and_moderate():
    picture = np.tile(np.linspace(30, 220, 128).astype(np.uint8)[:, None, None], (1, 128, 3))
    changed = [faces_degrade.degrade(np.random.default_rng(i), picture) for i in range(60)]
    again = [faces_degrade.degrade(np.random.default_rng(i), picture) for i in range(60)]
    assert all(np.array_equal(one, other) for one, other in zip(changed, again, strict=True))
    assert all(one.shape == picture.shape and one.dtype == np.uint8 for one in changed)
    distances = [np.abs(one.astype(int) - picture).mean() for one in changed]
    assert 0.05 < np.mean(np.array(distances) == 0) < 0.4
    assert np.max(distances) < 80 and np.median(distances) > 2


def test_every_kind_of_damage_does_something():
    rng = np.random.default_rng(0)
    picture = rng.integers(40, 210, (128, 128, 3)).astype(np.uint8)
    for _, change in faces_degrade.CHANGES:
        assert (change(rng, picture) != picture).mean() > 0.2, change.__name__


def test_the_aligned_crop_has_the_points_on_the_template():
    points = faces_evaluate.np.array(recogniser.ARCFACE_112) * 0.5 + 30
    picture = np.zeros((128, 128, 3), np.uint8)
    for x, y in points.round().astype(int):
        picture[y - 1 : y + 2, x - 1 : x + 2] = 255
    crop = recogniser.jitter_crop(np.random.default_rng(0), picture, points)
    assert crop.shape == (112, 112, 3)
    for x, y in recogniser.ARCFACE_112.round().astype(int):
        assert crop[y - 8 : y + 9, x - 8 : x + 9].max() > 150


@pytest.mark.parametrize("scale", [1, 4])
def test_the_estimators_crop_shows_the_box_with_its_margin(scale):
    picture = np.zeros((128 * scale, 128 * scale, 3), np.uint8)
    box = np.array((40, 30, 80, 90)) * scale
    picture[box[1] : box[3], box[0] : box[2]] = 255
    crop = estimators.face_crop(picture, box)[..., 0] > 127
    rows, columns = np.flatnonzero(crop.any(1)), np.flatnonzero(crop.any(0))
    inside = estimators.FACE_SIDE / estimators.MARGIN
    assert len(rows) == pytest.approx(inside, abs=1.5)
    assert len(columns) == pytest.approx(inside * 40 / 60, abs=1.5)
    assert rows.mean() == pytest.approx(39.5, abs=1) and columns.mean() == pytest.approx(
        39.5, abs=1
    )


# the estimators' file


@torch.no_grad()
def test_the_estimators_survive_their_file(tmp_path):
    net = lived(estimators.Estimators(7, 5))
    names = list("abcdefg"), list("vwxyz")
    path = tmp_path / "estimators.safetensors"
    estimators.save_estimators(net, path, *names)
    assert path.stat().st_size <= 1e6
    read = estimators.load_estimator(path)
    picture = np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    boxes = np.array([(30, 30, 80, 90), (10, 10, 60, 60)], np.float32)
    crops = np.stack([estimators.face_crop(picture, box) for box in boxes])
    answers = net.face(estimators.network_input(crops))
    for seen, answer in zip(read.faces(picture, boxes), answers, strict=True):
        assert seen.expression == names[0][int(answer[:7].argmax())]
        angles = answer[7:] * estimators.DEGREES
        assert (seen.yaw, seen.pitch, seen.roll) == pytest.approx(angles.tolist(), abs=0.5)
    style = net.style(estimators.network_input(picture[None]))
    assert read.style(picture) == names[1][int(style.argmax())]
    assert read.faces(picture, boxes[:0]) == []


def test_a_missing_or_foreign_file_is_named(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(FileNotFoundError, match="nowhere.safetensors"):
        estimators.load_estimator(tmp_path / "nowhere.safetensors")
    save_file({"a": torch.ones(1)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match="neither expressions nor styles"):
        estimators.load_estimator(tmp_path / "other.safetensors")


# the recipes


def test_batches_depend_on_seed_and_step_alone():
    def make(rng):
        return rng.integers(1 << 40)

    with faces_pictures.Ahead(make, 5, 10) as whole:
        straight = [whole(step) for step in range(10)]
    with faces_pictures.Ahead(make, 5, 10) as resumed:
        assert [resumed(step) for step in range(6, 10)] == straight[6:]
    assert len(set(straight)) == 10


def test_an_error_while_making_a_batch_is_raised():
    def make(rng):
        raise OSError("disk")

    with faces_pictures.Ahead(make, 5, 10) as batches, pytest.raises(OSError, match="disk"):
        batches(0)


def test_the_stages_leave_files_that_the_pack_loads(work):
    folder = options.models(work)
    analyser = load_analyser((folder / world.DETECTOR).parent, "pack", ["CPU"], None)
    assert "det_mini.onnx" in analyser.detector.name and analyser.recogniser is not None
    portraits = data.Portraits(work)
    analyser.detector.find(np.array(portraits.images[0]))
    crop = recogniser.jitter_crop(
        np.random.default_rng(0), np.array(portraits.images[0]), portraits.points[0]
    )
    assert analyser.recogniser.embed(crop).norm() > 1
    assert estimators.load_estimator(folder / world.ESTIMATORS).expressions[0] == "neutral"


def test_a_finished_stage_writes_the_same_file_again(work):
    path = options.models(work) / world.DETECTOR
    before = path.read_bytes()
    path.unlink()
    detector.train_detector(work, CPU, options.Options(steps=3, batch=4))
    assert path.read_bytes() == before
    with (options.curves(work) / "detector.csv").open(encoding="utf-8") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["3"]


def test_faces_of_groups_come_with_their_pictures(work):
    pictures = faces_pictures.Pictures(work)
    groups = data.Groups(work)
    for index in range(len(groups)):
        image, boxes, points = pictures[len(pictures.singles) + index]
        assert len(boxes) == len(points) == groups.count[index] >= 2
        assert np.array_equal(image, groups.images[index])
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        assert np.abs(points.mean(1) - centres).max() < 30
    image, boxes, _ = pictures[3]
    assert np.array_equal(image, data.Portraits(work).images[3]) and boxes.shape == (1, 4)


def test_the_detectors_loss_falls_to_finding_the_face(work):
    """One canvas, learnt by heart: the loss must lead to boxes and points that are right."""
    torch.manual_seed(0)
    net = detector.Detector()
    images, *wanted = detector.canvases(
        np.random.default_rng(3), faces_pictures.Pictures(work), 2, 160
    )
    wanted = [torch.from_numpy(part) for part in wanted]
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
    pixels = faces_pictures.to_input(images, detector.DIVISOR, CPU)
    losses = []
    for _ in range(45):
        parts = detector.detection_loss(net(pixels), wanted)
        loss = sum(parts.values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.35 * losses[0]
    positive = wanted[0] == faces_anchors.POSITIVE
    scores, boxes, _ = net(pixels)
    assert scores.squeeze(-1)[positive].sigmoid().mean() > 0.3 > 0.1
    assert scores.squeeze(-1)[wanted[0] == faces_anchors.NEGATIVE].sigmoid().mean() < 0.05
    assert faces_anchors.box_overlap(boxes[positive], wanted[1][positive]).mean() > 0.6


def test_the_recogniser_tells_people_apart_after_a_few_steps(work):
    torch.manual_seed(0)
    portraits = data.Portraits(work)
    described = torch.from_numpy(portraits.describe_people())
    model = recogniser.Classes(described.shape[1])
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    rights = []
    for step in range(30):
        crops, people = recogniser.crops_of(portraits, 24, np.random.default_rng((9, step)))
        labels = torch.from_numpy(np.asarray(people))
        pixels = faces_pictures.to_input(crops, recogniser.DIVISOR, CPU)
        logits, guessed = model(pixels, labels, described, 0.0)
        loss = nn.functional.cross_entropy(logits, labels)
        loss = loss + nn.functional.mse_loss(guessed, described[labels])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rights.append((logits.argmax(1) == labels).float().mean().item())
    assert np.mean(rights[-5:]) > 0.75 > np.mean(rights[:3])


def test_the_margin_lowers_the_right_answer_only():
    model = recogniser.Classes(2).eval()
    crops, labels = noise(2, 3, 112, 112), torch.tensor([0, 2])
    people = torch.eye(3, 2)
    with torch.no_grad():
        change = model(crops, labels, people, 0.0)[0] - model(crops, labels, people, 0.2)[0]
    wanted = torch.zeros(2, 3)
    wanted[[0, 1], labels] = 0.2 * recogniser.SCALE
    torch.testing.assert_close(change, wanted, atol=1e-4, rtol=0)
    margins = [recogniser.margin_at(step, 100) for step in (0, 5, 20, 40, 99)]
    assert margins[:2] == [0, 0] and margins[3:] == [recogniser.MARGIN] * 2
    assert 0 < margins[2] < recogniser.MARGIN


# the figures


def drawn(image, boxes, seeds=(0,)):
    faces = some_faces(boxes)
    shots = tuple(SimpleNamespace(style="photo") for _ in seeds)
    return faces_evaluate.Drawn(image, tuple(seeds), shots, faces.boxes, faces.points)


def test_recall_and_spurious_detections_are_counted():
    image = np.zeros((100, 100, 3), np.uint8)
    one = drawn(image, [(10, 10, 50, 50), (60, 60, 90, 90)])
    faces = some_faces([(12, 10, 50, 50), (0, 60, 20, 90)])
    found = [
        Detection(tuple(box), points, 0.9, "x")
        for box, points in zip(faces.boxes.tolist(), faces.points, strict=True)
    ]
    figures = faces_evaluate.detection([found], [one])
    assert (figures["faces"], figures["recall"], figures["spurious per picture"]) == (2, 0.5, 1)
    assert figures["overlap"] == pytest.approx(38 / 40)
    assert 0 < figures["point error in face sides"] < 0.05


def test_verification_knows_people_from_pictures():
    units = np.eye(4)[[0, 0, 1, 1, 2]].astype(np.float64)
    units[1] = (np.eye(4)[0] + np.eye(4)[3]) / np.sqrt(2)
    figures = faces_evaluate.verification(units, np.array([7, 7, 8, 8, 9]))
    assert figures["area under the curve"] == 1
    assert figures["same person, mean cosine"] == pytest.approx((1 + np.sqrt(0.5)) / 2)
    assert figures["different people, mean cosine"] == 0
    photos = np.array([True, False, True, True, True])
    mixed = faces_evaluate.verification(units, np.array([7, 7, 8, 8, 9]), photos)
    assert mixed["same person, mean cosine"] == pytest.approx(np.sqrt(0.5))
