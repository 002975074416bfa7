"""The judges that nothing is trained against: their nets, their recipes, and that nobody else knows
them."""

import ast
import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from flexid.mini import estimators, judge_nets, portraits, world
from flexid.mini.study.judge import Judge, Seen
from flexid.mini.study.judges import INDEPENDENT, TRAINING, open_judges
from flexid.mini.study.options import SPLITS
from flexid.mini.study.prompts import all_prompts
from flexid.mini.training import (
    data,
    judge_damage,
    judge_data,
    judge_estimators,
    judge_evaluate,
    judge_recogniser,
    options,
)
from flexid.model_patches.face.boxes import Detection
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

pytestmark = pytest.mark.pure

MINI = Path(world.__file__).parent
CPU = torch.device("cpu")
PEOPLE = 6


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A few drawn pictures, and both recipes run for a few steps."""
    folder = tmp_path_factory.mktemp("work")
    judge_data.build(folder, CPU, options.Options(people=PEOPLE, processes=1))
    short = options.Options(steps=3, batch=4)
    judge_recogniser.train_recogniser(folder, CPU, short)
    judge_estimators.train_estimators(folder, CPU, short)
    return folder


# who knows them


def imported(path):
    """Files of mini/ that a file imports, at any depth of its code."""
    package = path.relative_to(MINI).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and 0 < node.level <= len(package) + 1:
            here = package[: len(package) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            names += [f"{node.module}.{alias.name}" for alias in node.names if node.module]
            for name in names:
                found = MINI.joinpath(*here, *name.split(".")).with_suffix(".py")
                if found.is_file():
                    yield found


def reached(path):
    """All files of mini/ that come with a file, itself among them."""
    known, waiting = set(), [path]
    while waiting:
        path = waiting.pop()
        if path not in known:
            known.add(path)
            waiting += imported(path)
    return known


def test_only_their_own_recipe_knows_the_judges():
    nets = MINI / "judge_nets.py"
    recipes = sorted((MINI / "training").glob("*.py"))
    own = {path for path in recipes if path.stem.startswith("judge_")}
    knowing = {path.stem for path in own if nets in reached(path)}
    assert knowing == {path.stem for path in own} - {"judge_data"}
    for path in set(recipes) - own:
        assert not reached(path) & {nets, *own}, f"{path.name} reaches the independent judges"
        text = path.read_text(encoding="utf-8")
        assert "JUDGE_RECOGNISER" not in text and "JUDGE_ESTIMATORS" not in text, path.name


def test_their_people_are_nobodys_else():
    own = range(judge_data.FIRST, judge_data.FIRST + judge_data.PEOPLE)
    assert data.PEOPLE < own.start and own.stop < min(SPLITS.values())
    assert judge_data.SEED != data.SEED


def test_the_random_world_has_no_independent_judge(tmp_path):
    world.build_random(tmp_path)
    analyser = type("Analyser", (), {"detector": None, "recogniser": object()})
    assert list(open_judges(analyser, tmp_path)) == [TRAINING]
    for name in (world.JUDGE_RECOGNISER, world.JUDGE_ESTIMATORS):
        (tmp_path / name).write_bytes((world.WEIGHTS / name).read_bytes())
    assert list(open_judges(analyser, tmp_path)) == [INDEPENDENT, TRAINING]


def test_no_convolution_is_in_them():
    nets = (judge_nets.FaceMixer(4), judge_nets.JudgeEstimators(7, 5))
    kinds = {type(part) for net in nets for part in net.modules()}
    assert not kinds & {nn.Conv2d, nn.BatchNorm2d} and nn.LayerNorm in kinds


# the pictures


def test_pictures_are_those_of_their_people(work):
    pictures = judge_data.open_pictures(work)
    assert len(pictures) == PEOPLE * judge_data.SHOTS
    assert pictures.person.tolist() == [
        judge_data.FIRST + number // judge_data.SHOTS for number in range(len(pictures))
    ]
    photos = pictures.style == portraits.STYLES.index("photo")
    assert photos.tolist() == [number % 2 == 0 for number in range(len(pictures))]
    assert np.array_equal(pictures.vectors[2], portraits.person(judge_data.FIRST + 2).vector())
    picture, caption = next(judge_data.shots(5, 6))
    assert np.array_equal(portraits.render(picture, data.SIZE).image, pictures.images[5])
    assert pictures.caption[5] == caption


def test_before_anything_is_drawn(tmp_path):
    with pytest.raises(FileNotFoundError, match="--only judge_data"):
        judge_data.open_pictures(tmp_path)


# crops


def test_an_upright_crop_says_how_far_it_was_turned():
    upright = judge_nets.TEMPLATE * 0.9 + 20
    for degrees in (-20.0, 0.0, 12.0):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        leaning = (upright - 60) @ np.array(((c, s), (-s, c))) + 60  # clockwise, y down
        picture = np.full((128, 128, 3), 90, np.uint8)
        crop, roll = judge_nets.aligned_crop(picture, leaning)
        assert roll == pytest.approx(degrees, abs=1e-6)
        assert crop.shape == (judge_nets.SIDE, judge_nets.SIDE, 3)


def test_the_roll_that_is_told_is_the_heads(work):
    """As the renderer counts it, but for what perspective does to five points."""
    pictures = judge_data.open_pictures(work)
    crops = (
        judge_nets.aligned_crop(rgb, points)
        for rgb, points in zip(pictures.images, pictures.points, strict=True)
    )
    rolls = np.array([roll for _, roll in crops])
    away = np.abs(rolls - pictures.angles[:, 2])
    assert away.mean() < 4 < np.abs(pictures.angles[:, 2]).max()


def test_the_recipes_cut_what_the_judge_cuts(work, monkeypatch):
    """Without jitter, on pictures as they are."""
    for name in ("JITTER", "ZOOM", "SHIFT", "WOBBLE"):
        monkeypatch.setattr(judge_damage, name, 0.0)
    pictures = judge_data.open_pictures(work)
    rows, rng = np.arange(4), np.random.default_rng(0)
    images = estimators.network_input(pictures.images[rows])
    crops, rolls = judge_damage.cut_crops(images, pictures.points[rows], rng)
    for row in rows:
        known, roll = judge_nets.aligned_crop(pictures.images[row], pictures.points[row])
        mine = (crops[row].permute(1, 2, 0) + 1) * 127.5
        away = np.abs(mine.numpy() - known)[4:-4, 4:-4]
        assert np.median(away) < 1.5 and away.mean() < 3
        assert rolls[row] == pytest.approx(roll)


def test_a_mirrored_face_keeps_its_points():
    images = torch.rand(2, 3, 128, 128)
    points = np.random.default_rng(0).uniform(20, 100, (2, 5, 2)).round()
    turned, moved = judge_damage.mirror(images, points, np.array([True, False]))
    assert torch.equal(turned[1], images[1]) and np.array_equal(moved[1], points[1])
    for old, new in ((0, 1), (1, 0), (2, 2), (3, 4), (4, 3)):
        x, y = points[0, old].astype(int)
        across, down = moved[0, new].astype(int)
        assert torch.equal(turned[0, :, down, across], images[0, :, y, x])


def test_damage_is_repeatable_moderate_and_different_for_each():
    pictures = torch.linspace(-0.7, 0.7, 80).expand(8, 3, 80, 80).contiguous()

    def damaged():
        torch.manual_seed(3)
        return judge_damage.damage(pictures)

    made = damaged()
    assert torch.equal(made, damaged()) and made.shape == pictures.shape
    assert made.abs().max() <= 1
    away = (made - pictures).abs().mean((1, 2, 3))
    assert 0.02 < away.median() < 0.3 and away.max() < 0.5
    assert len({round(float(value), 5) for value in away}) == 8


@pytest.mark.parametrize(
    "change", ["_change_colours", "_soften", "_lower_resolution", "_add_noise", "_cover"]
)
def test_every_kind_of_damage_does_something(change):
    torch.manual_seed(0)
    pictures = torch.rand(16, 3, 80, 80) - 0.5
    changed = getattr(judge_damage, change)(pictures)
    assert ((changed - pictures).abs() > 1e-3).float().mean() > 0.01


# files


@torch.no_grad()
def test_the_nets_survive_their_files(tmp_path):
    torch.manual_seed(0)
    face, both = judge_nets.FaceMixer(judge_nets.EMBEDDING), judge_nets.JudgeEstimators(7, 5)
    names = {"expressions": list("abcdefg"), "styles": list("vwxyz")}
    judge_nets.save_judge(face, tmp_path / "r.safetensors")
    judge_nets.save_judge(both, tmp_path / "e.safetensors", names)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3e6
    picture = np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    points = judge_nets.TEMPLATE + 20
    crop, roll = judge_nets.aligned_crop(picture, points)
    pixels = estimators.network_input(crop[None])
    found = judge_nets.load_judge_recogniser(tmp_path / "r.safetensors").embed(picture, points)
    torch.testing.assert_close(found, face(pixels)[0], rtol=0.02, atol=0.01)
    estimator = judge_nets.load_judge_estimator(tmp_path / "e.safetensors")
    seen, answer = estimator.face(picture, points), both.face(pixels)[0]
    assert seen.expression == names["expressions"][int(answer[:7].argmax())]
    angles = (answer[7:] * estimators.DEGREES + torch.tensor((0.0, 0.0, roll))).tolist()
    assert (seen.yaw, seen.pitch, seen.roll) == pytest.approx(angles, abs=0.5)
    style = both.style(estimators.network_input(picture[None]))
    assert estimator.style(picture) == names["styles"][int(style.argmax())]


def test_a_missing_or_foreign_file_is_named(tmp_path):
    for load in (judge_nets.load_judge_recogniser, judge_nets.load_judge_estimator):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
            load(tmp_path / "nowhere.safetensors")
    judge_nets.save_judge(nn.Linear(2, 2), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds another network"):
        judge_nets.load_judge_recogniser(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="does not name its expressions, styles"):
        judge_nets.load_judge_estimator(tmp_path / "other.safetensors")


# the recipes


def test_pairs_are_two_pictures_of_each_person():
    rows = judge_recogniser.choose_pairs(20, 8, np.random.default_rng(0))
    first, second = rows[:8], rows[8:]
    assert (first // judge_data.SHOTS == second // judge_data.SHOTS).all()
    assert (first != second).all() and len(set(first // judge_data.SHOTS)) == 8
    assert rows.max() < 20 * judge_data.SHOTS


def test_the_other_picture_of_a_person_is_what_is_asked_for():
    unit = torch.eye(3).repeat(2, 1)
    logits = judge_recogniser.pair_logits(unit)
    assert logits.argmax(1).tolist() == [3, 4, 5, 0, 1, 2]
    assert torch.isinf(logits.diagonal()).all()


def test_mirrored_examples_have_mirrored_angles(work, monkeypatch):
    """The same pictures twice, once with a mirror that always turns: crops and angles agree."""
    for name in ("JITTER", "ZOOM", "SHIFT", "WOBBLE"):
        monkeypatch.setattr(judge_damage, name, 0.0)
    monkeypatch.setattr(judge_estimators, "damage", lambda pictures: pictures)
    pictures = judge_data.open_pictures(work)

    class Fixed:
        def __init__(self, turned):
            self.turned, self.rng = turned, np.random.default_rng(0)

        def random(self, count):
            return np.full(count, 0.0 if self.turned else 1.0)

        def integers(self, *_, size):
            return np.arange(size)

        def __getattr__(self, name):
            return getattr(self.rng, name)

    plain, turned = (
        judge_estimators.examples(pictures, 6, Fixed(which), CPU) for which in (False, True)
    )
    torch.testing.assert_close(
        turned.angles, plain.angles * torch.tensor((-1.0, 1.0, -1.0)), atol=0.03, rtol=0
    )
    away = [(turned.crops - other).abs().mean() for other in (plain.crops.flip(-1), plain.crops)]
    assert away[0] < 0.5 * away[1]
    assert torch.equal(turned.expression, plain.expression)


def test_the_recogniser_finds_pairs_after_a_few_steps(work):
    torch.manual_seed(0)
    pictures = judge_data.open_pictures(work)
    net = judge_recogniser.Pairs(pictures.vectors.shape[1])
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3)
    rights = []
    for step in range(40):
        rng = np.random.default_rng(step)
        rows = judge_recogniser.choose_pairs(PEOPLE, PEOPLE, rng)
        unit, _ = net(judge_recogniser.crops_of(pictures, rows, rng))
        logits = judge_recogniser.pair_logits(unit)
        others = torch.arange(len(rows)).roll(len(rows) // 2)
        optimiser.zero_grad()
        cross_entropy(logits, others).backward()
        optimiser.step()
        rights.append((logits.argmax(1) == others).float().mean().item())
    assert np.mean(rights[-8:]) > 0.7 > np.mean(rights[:3])


def test_a_finished_stage_writes_the_same_file_again(work):
    path = options.models(work) / world.JUDGE_RECOGNISER
    before = path.read_bytes()
    path.unlink()
    judge_recogniser.train_recogniser(work, CPU, options.Options(steps=3, batch=4))
    assert path.read_bytes() == before
    with (options.curves(work) / "judge_recogniser.csv").open(encoding="utf-8") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["3"]


def test_an_interrupted_recipe_ends_with_the_same_weights(work, tmp_path):
    """Two steps of three, then the third one."""
    (tmp_path / "data").symlink_to(work / "data")
    recipe = judge_estimators.RECIPE
    real = judge_estimators.examples
    taken = []

    def failing(*arguments):
        taken.append(1)
        if len(taken) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge_estimators, "examples", failing)
        with pytest.raises(KeyboardInterrupt):
            judge_estimators.train_estimators(tmp_path, CPU, options.Options(steps=3, batch=4))
    assert (options.curves(tmp_path) / f"{recipe.name}.ckpt").is_file()
    judge_estimators.train_estimators(tmp_path, CPU, options.Options(steps=3, batch=4))
    whole, resumed = (
        load_file(options.models(one) / world.JUDGE_ESTIMATORS) for one in (work, tmp_path)
    )
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


# what they are worth


class Knowing:
    """Finds one face everywhere."""

    tried = "once"

    def find(self, rgb):
        return [Detection((30.0, 30.0, 90.0, 100.0), judge_nets.TEMPLATE + 20, 0.9, "x")]


def test_a_photo_without_a_face_is_refused():
    blind = type("Blind", (), {"tried": "at 320", "find": lambda self, rgb: []})()
    judge = Judge(blind, lambda rgb, face: torch.ones(2))
    with pytest.raises(ValueError, match="no face is found in the reference photo"):
        judge.remember(np.zeros((9, 9, 3), np.uint8))
    assert judge.look(np.zeros((9, 9, 3), np.uint8), torch.ones(2)) == Seen()


def test_the_renderer_obeys_the_prompts():
    """What is drawn for a prompt is what the prompt asks: told by an estimator that knows."""
    asked = []

    def estimate(rgb, face):
        prompt = asked.pop(0)
        angles = [prompt.yaw or 0.0, prompt.pitch or 0.0, prompt.tilt or 0.0]
        return estimators.Estimate(prompt.expression or "neutral", 1.0, *angles)

    styles = [prompt.style or "photo" for prompt in all_prompts()]
    judge = Judge(Knowing(), lambda rgb, face: torch.ones(2), estimate, lambda rgb: styles.pop(0))
    asked += all_prompts()
    found = judge_evaluate.ceiling(judge, [judge_evaluate.draw_sitting(900_000)])
    assert found["edit"] == 1 and found["similarity"] == pytest.approx(1)
    assert found["pose_error"] == 0


def test_prompts_are_drawn_as_they_ask(monkeypatch):
    shots = []
    monkeypatch.setattr(
        portraits, "picture", lambda rng, people: shots.append(people[0][1]) or people
    )
    monkeypatch.setattr(
        portraits, "render", lambda *_: type("R", (), {"image": np.zeros((8, 8, 3), np.uint8)})
    )
    for prompt in all_prompts():
        judge_evaluate.draw_prompt(900_000, prompt)
    for prompt, shot in zip(all_prompts(), shots, strict=True):
        assert shot.expression == (prompt.expression or "neutral")
        assert shot.style == (prompt.style or "photo")
        for axis, degrees in prompt.angles.items():
            shown = abs(shot.roll) if axis == "tilt" else getattr(shot, axis)
            assert shown == degrees


@pytest.mark.skipif(not world.is_trained(), reason="mini/weights is not whole yet")
def test_the_model_card_states_what_was_measured():
    stated = json.loads((MINI / "evaluation" / "judges.json").read_text(encoding="utf-8"))
    card = (world.WEIGHTS / world.CARD).read_text(encoding="utf-8")
    for name in (INDEPENDENT, TRAINING):
        drawn = stated[name]["drawn"]
        area = drawn["recognition"]["all styles"]["area under the curve"]
        read = drawn["estimation"]
        cells = f"{area:.4f} | {100 * read['expression']:.1f} % | {100 * read['style']:.1f} %"
        assert cells in card, name
