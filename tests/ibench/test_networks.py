"""Published networks as files of their own formats with drawn weights: found, opened, measured
with, and named where they are absent."""

import json
import math
from dataclasses import replace

import compare_world
import numpy as np
import pytest
import tiny_vision
import torch
from compare_world import BLUE, GREEN, RED, picture
from flexid.ibench.job import list_unasked
from flexid.ibench.judges import NEVER, Judges
from flexid.ibench.looks import (
    CLASS,
    EXPR,
    EXPR_SHAPES,
    Look,
    compare_looks,
    compare_subjects,
    look,
    measure_wishes,
)
from flexid.ibench.measure import Meter
from flexid.ibench.networks import (
    AESTHETIC,
    DINO,
    EXPRESSION,
    POSE,
    SUBJECT,
    Aesthetic,
    Networks,
    Quality,
    open_networks,
)
from flexid.ibench.records import Data, Pair, Person, Prompt
from flexid.ibench.rows import GIVEN
from flexid.ibench.store import Store
from flexid.ibench.table import Result, write_json
from flexid.ibench.work import Job
from flexid.model_patches.encoders.clip_vision import look_at_pixels
from flexid.model_patches.evaluate import dino, expression, networks, subject
from flexid.model_patches.evaluate.features import aesthetic
from flexid.model_patches.evaluate.pixels import (
    clip_pixels,
    compat_aesthetic_pixels,
    dino_pixels,
)
from flexid.model_patches.face.mesh import Mesh
from flexid.model_patches.face.pixels import to_uint8
from flexid.model_patches.identity.compare import know_by_photos
from flexid.model_patches.identity.compare_faces import Seen
from model_folders import Folders
from PIL import Image
from safetensors.torch import save_file

pytestmark = pytest.mark.comfy
CPU = torch.device("cpu")


class SmallExpression(torch.nn.Module):
    """In place of VGG19, whose 20 million values the golden vectors check."""

    def __init__(self):
        super().__init__()
        self.features = torch.nn.Conv2d(3, 4, 11, stride=11)
        self.classifier = torch.nn.Linear(4, 7)

    def forward(self, pixels):
        return self.classifier(self.features(pixels).relu().mean((2, 3)))


class SmallPose(torch.nn.Module):
    """In place of a ResNet-50."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 8, 32, stride=32)
        for axis in ("yaw", "pitch", "roll"):
            setattr(self, f"fc_{axis}", torch.nn.Linear(8, 66))

    def forward(self, pixels):
        seen = self.conv1(pixels).mean((2, 3))
        return self.fc_yaw(seen), self.fc_pitch(seen), self.fc_roll(seen)


def small_dino():
    """facebook/dinov2-base in its own keys, of two layers and 64 channels."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    made = Dinov2Config(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=1, image_size=70, patch_size=14
    )
    return Dinov2Model(made).eval()


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The files, as their authors publish them: old pickles, one with notes of its training."""
    root = make_folders(tmp_path / "models")
    for name, kind in (("ExpressionNet", SmallExpression), ("PoseNet", SmallPose)):
        monkeypatch.setattr(networks, name, kind)
    torch.manual_seed(0)
    told = {"best_PublicTest_acc": torch.tensor(71.0), "best_PublicTest_acc_epoch": 189}
    unused = {"fc_finetune.weight": torch.zeros(3, 2051), "fc_finetune.bias": torch.zeros(3)}
    files = {
        networks.FER_FILE: {"net": SmallExpression().state_dict(), **told},
        networks.POSE_FILE: SmallPose().state_dict() | unused,
    }
    for name, content in files.items():
        torch.save(content, root / "flexid" / name, _use_new_zipfile_serialization=False)
    return root


def make_folders(root):
    for name in ("flexid", "clip_vision"):
        (root / name).mkdir(parents=True)
    return root


def test_what_is_absent_is_named_with_where_it_comes_from(tmp_path):
    make_folders(tmp_path)
    found = open_networks(Folders(tmp_path), None, "compat", CPU)
    assert set(vars(found.networks).values()) == {None} and found.files == {}
    every = (AESTHETIC, DINO, EXPRESSION, POSE, SUBJECT)
    assert set(found.absent) == {one.measures for one in every}
    told = " ".join(found.absent.values())
    for source in ("WuJie1010", "deep-head-pose", "facebook/dinov2-base", "LAION-AI", "BiRefNet"):
        assert source in told
    corrected = open_networks(Folders(tmp_path), None, "corrected", CPU).absent
    assert POSE.measures not in corrected, "the corrected pose needs no network"
    older = Folders(tmp_path)
    older.folder_names_and_paths = {"flexid", "clip_vision"}
    assert SUBJECT.find(older) is None, "a ComfyUI that does not know the folder"
    assert "image quality" in NEVER


def test_the_files_are_opened_in_their_own_formats(root):
    found = open_networks(Folders(root), None, "compat", CPU)
    assert set(found.files) == {networks.FER_FILE, networks.POSE_FILE}
    state = torch.load(root / "flexid" / networks.FER_FILE, weights_only=True)["net"]
    wanted = networks.build_expression_net(state)
    face = to_uint8(picture()[0])
    logits = networks.expression_logits(found.networks.expression, face)
    assert logits.shape == (10, 7) and torch.equal(logits, networks.expression_logits(wanted, face))
    shares = expression.class_probabilities(logits)
    assert list(shares) == list(expression.CLASSES)
    assert sum(shares.values()) == pytest.approx(1)
    mean = logits.double().mean(0).softmax(0)
    assert shares["happy"] == pytest.approx(mean[3].item(), rel=1e-5)
    assert not found.networks.pose.training and found.networks.pose.fc_yaw.weight.shape == (66, 8)
    other = {f"net.{key}": value for key, value in state.items()}
    other["net.classifier.weight"] = torch.zeros(8, 4)
    with pytest.raises(ValueError, match=r"PrivateTest_model.t7: classifier.weight .*8, 4.*7, 4"):
        networks.build_expression_net(other)


def test_dino_is_transformers_own_whatever_its_size():
    whole = small_dino()
    net = dino.build_dino({key: value.clone() for key, value in whole.state_dict().items()})
    rgb = to_uint8(picture(GREEN, second=BLUE)[0])
    feature = dino.dino_feature(net, rgb)
    with torch.no_grad():
        wanted = whole(dino_pixels(rgb)[None]).last_hidden_state[:, 0]
    assert feature.shape == (1, 64) and torch.allclose(feature, wanted, atol=1e-6)
    state = dict(whole.state_dict())
    del state["encoder.layer.1.norm1.weight"]
    with pytest.raises(ValueError, match=r"facebook/dinov2-base: encoder.layer.1.norm1.weight"):
        dino.build_dino(state)
    with pytest.raises(ValueError, match=r"embeddings.cls_token is absent"):
        dino.build_dino({})


def test_the_file_of_dino_is_found_by_its_shape(tmp_path):
    make_folders(tmp_path)
    for width in (1024, 768):
        there = {"embeddings.cls_token": torch.zeros(1, 1, width)}
        save_file(there, tmp_path / "clip_vision" / f"dino-{width}.safetensors")
    assert DINO.find(Folders(tmp_path)).name == "dino-768.safetensors"


def test_a_face_is_cut_with_its_margin_inside_of_the_picture():
    rgb = np.zeros((100, 80, 3), np.uint8)
    assert dino.cut_face(rgb, (20, 20, 60, 60)).shape == (60, 60, 3)
    assert dino.cut_face(rgb, (20, 20, 60, 60), "compat").shape == (90, 80, 3)
    with pytest.raises(ValueError, match="outside of the picture of 80x100"):
        dino.cut_face(rgb, (200, 20, 220, 40))


@pytest.fixture(scope="module")
def head():
    eye = tiny_vision.vision(tiny_vision.CLIP)
    width = tiny_vision.CLIP["projection_dim"]
    weight = torch.linspace(-1, 1, width)[None]
    return Aesthetic(eye, weight, torch.tensor([5.0]))


def test_the_aesthetic_score_is_laion_s_head_on_clip(head, tmp_path):
    rgb = to_uint8(picture(GREEN, second=BLUE)[0])
    for mode, pixels in (("corrected", clip_pixels), ("compat", compat_aesthetic_pixels)):
        seen = look_at_pixels(head.vision, pixels(rgb)[None]).pooled
        wanted = aesthetic(seen, head.weight, head.bias).item()
        assert head.score(rgb, mode) == pytest.approx(wanted) and 4 < wanted < 6
    assert head.score(rgb) != head.score(rgb, "compat")
    make_folders(tmp_path)
    file = tmp_path / "flexid" / "sa_0_4_vit_l_14_linear.pth"
    torch.save({"weight": torch.zeros(1, 768), "bias": torch.zeros(1)}, file)
    found = open_networks(Folders(tmp_path), None, "corrected", CPU)
    assert found.networks.aesthetic is None, "without CLIP"
    assert "picture half of CLIP ViT-L/14" in found.absent["aesthetic"]


def test_clip_beside_the_photo():
    class Eye:
        def embed_picture(self, rgb, mode):
            return torch.tensor([[3.0, 4.0]]) if rgb.max() else torch.tensor([[4.0, 3.0]])

    photo, mine = (look(Networks(), np.full((9, 9, 3), v, np.uint8), None, "corrected", Eye())
                   for v in (0, 9))  # fmt: skip
    assert compare_looks(photo, mine, "corrected")["clip_photo"].value == pytest.approx(0.96)
    assert compare_looks(Look(None), mine, "corrected") == {}


class Eye:
    """CLIP that sees the mean colour, and reads a good photo as red, a bad one as green."""

    def embed_picture(self, rgb, mode):
        return torch.from_numpy(rgb.reshape(-1, 3).mean(0))[None].float()

    def embed_text(self, text):
        return torch.tensor([[1.0, 0, 0] if text == "Good photo." else [0, 1.0, 0]])


def test_quality_is_how_much_more_a_picture_is_a_good_photo():
    eye, rgb = Eye(), np.zeros((4, 4, 3), np.uint8)
    rgb[..., :2] = 30, 31
    networks = Networks(quality=Quality(eye))
    mine = look(networks, rgb, None, "corrected", eye)
    ahead = 100 * (30 - 31) / math.hypot(30, 31)
    assert mine.quality == pytest.approx(1 / (1 + math.exp(-ahead)))
    assert compare_looks(mine, mine, "corrected")["quality"].value == mine.quality
    assert look(Networks(), rgb, None, "corrected", eye).quality is None


class Remover:
    """Keeps what is not blue."""

    def encode_image(self, pixels):
        assert pixels.shape[-1] == 3 and pixels.max() <= 1
        return (pixels[..., 2] < 0.5).float()


def test_subjects_are_compared_without_their_backgrounds():
    def drawn(colour, rows):
        rgb = np.zeros((8, 8, 3), np.uint8)
        rgb[..., 2] = 200
        rgb[:rows] = colour
        return rgb

    networks, eye = Networks(remover=Remover(), dino=small_dino()), Eye()
    looks = [
        look(networks, rgb, None, "corrected", eye)
        for rgb in (drawn((90, 0, 0), 4), drawn((90, 0, 0), 2), drawn((0, 90, 0), 2))
    ]
    photo, same, other = looks
    assert compare_subjects(networks, photo, same)["clip_subject"].value == pytest.approx(1)
    assert compare_looks(photo, same, "corrected")["clip_photo"].value < 0.97
    found = compare_subjects(networks, photo, other)
    assert found["clip_subject"].value == pytest.approx(0) and 0 < found["dino_subject"].value < 1
    black = drawn((90, 0, 0), 4)
    black[4:] = 0
    assert torch.equal(photo.whole_subject, dino.dino_feature(networks.dino, black))
    empty = look(networks, drawn((0, 0, 200), 1), None, "corrected", eye)
    missing = compare_subjects(networks, photo, empty)
    assert {one.reason for one in missing.values()} == {"undefined"} and len(missing) == 2
    assert compare_subjects(Networks(), photo, same) == {}


def test_birefnet_is_found_by_its_key_and_another_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "background_removal").mkdir()
    for name, key in (("other", "x"), ("mine", subject.SUBJECT_KEY)):
        save_file({key: torch.zeros(1)}, tmp_path / "background_removal" / f"{name}.safetensors")
    assert SUBJECT.find(Folders(tmp_path)).name == "mine.safetensors"
    if subject.can_cut():
        with pytest.raises(ValueError, match=r"other.safetensors does not hold bb.*Comfy-Org/Bi"):
            subject.open_remover(tmp_path / "background_removal" / "other.safetensors")
    make_folders(tmp_path)
    monkeypatch.setattr("flexid.ibench.networks.can_cut", lambda: True)
    monkeypatch.setattr("flexid.ibench.networks.open_remover", lambda path: path.name)
    found = open_networks(Folders(tmp_path), None, "corrected", CPU)
    assert found.networks.remover == "mine.safetensors" and "mine.safetensors" in found.files
    monkeypatch.setattr("flexid.ibench.networks.can_cut", lambda: False)
    found = open_networks(Folders(tmp_path), None, "corrected", CPU)
    assert found.networks.remover is None and SUBJECT.measures in found.absent


def save(path, image):
    Image.fromarray(to_uint8(image[0])).save(path)
    return path


def meter(folder, made, mode="corrected"):
    judges = Judges(compare_world.analyser(), "painted", networks=made)
    return Meter(judges, Store(folder), mode)


def measure(found, jobs, person):
    found.meet([person])
    found.measure_all(jobs, lambda line: None)
    return found.collect(jobs)


def test_a_picture_beside_the_photo(root, head, tmp_path):
    """The photo again, another face, and nobody."""
    opened = open_networks(Folders(root), None, "compat", CPU).networks
    made = replace(opened, dino=small_dino(), aesthetic=head)
    person = Person("Zoë", (save(tmp_path / "photo.png", picture(RED)),))
    prompt = Prompt("a happy woman", expression="happy", view="side", yaw=40.0)
    looks = {"same": picture(RED), "other": picture(GREEN, yaw=30), "nobody": picture(None)}
    plain = save(tmp_path / "plain.png", picture(BLUE))
    jobs = [
        Job(GIVEN, Pair(person, replace(prompt, text=name)), save(tmp_path / f"{name}.png", image),
            plain_picture=plain)
        for name, image in looks.items()
    ]  # fmt: skip
    same, other, nobody = measure(meter(tmp_path / "corrected", made), jobs, person)
    assert same.values["dino"].value == pytest.approx(1, abs=1e-5)
    assert same.values["fgis"].value == pytest.approx(1, abs=1e-5)
    assert other.values["fgis"].value < other.values["dino"].value < 1, "the background is equal"
    assert same.values[CLASS].value == 0 and same.shown in expression.CLASSES
    assert 0 < same.values[EXPR].value < 1
    assert "aesthetic" in same.values and "aesthetic_tenth" not in same.values
    assert same.values["view_asked"].value == 0 and other.values["view_asked"].value == 1
    assert same.values["pose_error"].value == pytest.approx(40, abs=0.5)
    assert other.values["pose_error"].value == pytest.approx(10, abs=0.5)
    assert same.values["plain_view_asked"].value == 0 and f"plain_{CLASS}" in same.values
    for name in ("fgis", CLASS, EXPR, "view_asked", "pose_error"):
        assert nobody.values[name].reason == "no_face_gen" and math.isnan(nobody.values[name].value)
    assert nobody.values["dino"].ok and nobody.values["aesthetic"].ok and nobody.shown is None

    result = Result("data", "corrected", (GIVEN,), (same, other, nobody), {}, {}, {})
    [row] = json.loads(write_json(result))["rows"]
    assert sum(row["expressions"].values()) == 3 and row["expressions"]["none"] == 1
    shown = {one.key: result.shown(GIVEN.key, one) for one in result.columns()}
    assert shown["view_asked"].mean == pytest.approx(1 / 3), "nobody shows no view"
    assert shown["fgis"].mean < (same.values["fgis"].value + other.values["fgis"].value) / 2

    same, other, nobody = measure(meter(tmp_path / "compat", made, "compat"), jobs, person)
    score = head.score(to_uint8(picture(RED)[0]), "compat")
    assert same.values["aesthetic_tenth"].value == pytest.approx(score / 10)
    assert same.values["yaw"].value == 0 and other.values["yaw"].value > 0
    assert nobody.values["yaw"].ok, "IBench shows its network the whole picture"


def test_without_networks_nothing_is_measured_and_nothing_is_0(tmp_path):
    person = Person("Zoë", (save(tmp_path / "photo.png", picture(RED)),))
    job = Job(GIVEN, Pair(person, Prompt("a", expression="sad")), person.photos[0])
    [found] = measure(meter(tmp_path / "out", Networks()), [job], person)
    for name in ("dino", "fgis", "aesthetic", CLASS, EXPR, EXPR_SHAPES, "view_asked"):
        assert name not in found.values
    result = Result("data", "corrected", (GIVEN,), (found,), {}, {}, {})
    assert json.loads(write_json(result))["rows"][0]["expressions"] == {}


def test_another_wish_is_measured_again(tmp_path):
    person = Person("Zoë", (save(tmp_path / "photo.png", picture(RED)),))
    found = meter(tmp_path / "out", Networks())
    names = {
        found.name(Job(GIVEN, Pair(person, Prompt("a", view=view)), person.photos[0]))
        for view in (None, "front", "side")
    }
    assert len(names) == 3


def test_the_prompt_s_wishes_by_the_landmarker():
    """Blendshapes say the expression, and its pose the view: pitch is positive downwards there."""
    face = know_by_photos(compare_world.analyser(), picture(RED)).seen.face
    names = [name for table in expression.SCORER.values() for name in table]
    sides = [n.replace("*", side) for n in names for side in ("Left", "Right")]
    shapes = {**dict.fromkeys(sides, 0.0), "mouthSmileLeft": 0.9, "mouthSmileRight": 0.9}
    a = math.radians(-25)  # looks up
    pose = np.eye(4)
    pose[1:3, 1:3] = [[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]
    mesh = Mesh(face.box, np.zeros((478, 2)), np.zeros((478, 3)), shapes, pose)
    asked = Prompt("a", expression="happy", view="up", pitch=20.0)
    found = measure_wishes(Networks(), asked, Look(Seen(face, mesh)), with_mesh=True)
    assert found[EXPR_SHAPES].value > 0.9 and EXPR not in found
    assert found["view_asked"].value == 1 and found["pose_error"].value == pytest.approx(5)
    sad = measure_wishes(Networks(), replace(asked, expression="sad"), Look(Seen(face, mesh)), True)
    assert sad[EXPR_SHAPES].value < 0.05
    for mine in (Look(None), Look(Seen(face))):
        missing = measure_wishes(Networks(), asked, mine, with_mesh=True)
        assert not any(one.ok for one in missing.values()) and len(missing) == 3
    assert measure_wishes(Networks(), Prompt("a"), Look(Seen(face, mesh)), True) == {}


def test_a_face_below_44_pixels_has_no_expression_in_compat(root):
    opened = open_networks(Folders(root), None, "corrected", CPU).networks
    face = know_by_photos(compare_world.analyser(), picture(RED)).seen.face
    small = Seen(replace(face, box=(40.0, 40.0, 70.0, 80.0)))
    rgb = to_uint8(picture(RED)[0])
    assert look(opened, rgb, small, "compat").expression is None
    assert look(opened, rgb, small, "compat").reason == "undefined"
    assert look(opened, rgb, small, "corrected").expression in expression.CLASSES


def test_wishes_that_no_prompt_states_are_listed(tmp_path):
    person = Person("Zoë", (tmp_path / "a.png",))

    def data(**wishes):
        return Data("d", (Pair(person, Prompt("a", **wishes)),))

    assert set(list_unasked(data())) == {"expression_asked", "view_asked", "pose_error"}
    assert set(list_unasked(data(expression="sad", yaw=0.0))) == {"view_asked"}
    assert "yaw_deg or pitch_deg" in list_unasked(data())["pose_error"]
