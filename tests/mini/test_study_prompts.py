"""The prompts: balanced, valid, and read by the gate as they are meant; rows and options."""

import argparse
from collections import Counter
from dataclasses import fields

import pytest
from flexid.mini import world
from flexid.mini.portraits import EXPRESSIONS, STYLES
from flexid.mini.study import options, prompts, rows
from flexid.model_patches.gates.cag import Knobs, compute_gates

pytestmark = pytest.mark.pure

PROMPTS = prompts.all_prompts()


def test_the_prompts_are_balanced():
    assert len(PROMPTS) == 12 and len({p.id for p in PROMPTS}) == 12
    asked = Counter(kind for p in PROMPTS for kind in p.asked)
    assert set(asked) == {"expression", "pose", "style"}
    assert max(asked.values()) - min(asked.values()) <= 1
    alone = Counter(p.asked[0] for p in PROMPTS if len(p.asked) == 1)
    assert set(alone.values()) == {3}
    assert max(len(p.asked) for p in PROMPTS) == 3
    assert {p.expression for p in PROMPTS} >= set(EXPRESSIONS) - {"neutral"}
    assert {p.style for p in PROMPTS} >= set(STYLES) - {"photo"}
    turns = [p.yaw for p in PROMPTS if p.yaw] + [p.pitch for p in PROMPTS if p.pitch]
    assert sum(turn > 0 for turn in turns) == sum(turn < 0 for turn in turns)


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda p: p.id)
def test_the_gate_finds_what_a_prompt_asks_and_nothing_else(prompt):
    found = compute_gates(prompt.text, Knobs()).parsed.categories
    assert {name for name, score in found.items() if score > 0} == set(prompt.asked)


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda p: p.id)
def test_a_wish_is_one_that_the_small_world_can_show(prompt):
    assert prompt.expression is None or prompt.expression in EXPRESSIONS
    assert prompt.style is None or prompt.style in STYLES
    limits = {"yaw": 45, "pitch": 25, "tilt": 25}
    assert all(10 <= abs(value) <= limits[axis] for axis, value in prompt.angles.items())


@pytest.mark.parametrize(
    ("entry", "fact"),
    [('{"id": "a", "text": "t", "mood": 1}', "mood"), ('{"id": "a", "text": "t"}', "asks for no")],
)
def test_a_wrong_prompt_file_is_refused(tmp_path, entry, fact):
    (tmp_path / "p.json").write_text(f"[{entry}]")
    with pytest.raises(ValueError, match=fact):
        prompts.read_prompts(tmp_path / "p.json")


def test_a_rewritten_prompt_has_another_file():
    one, other = (prompts.Prompt("a", text, "happy") for text in ("x", "y"))
    assert one.file_name != other.file_name


def test_rows_by_name():
    assert [rows.row_of(row.key) for row in rows.ROWS] == list(rows.ROWS)
    assert rows.row_of("vfa-0.9").weight == 0.9 and rows.row_of("vfa-1.0") == rows.rigid_row(1)
    balanced = rows.row_of("editid-balanced")
    assert (balanced.anchor, balanced.preset, balanced.weight) == ("editid", "balanced", 1.0)
    for row in (rows.guided_row(), rows.guided_row(0.3), rows.guided_row(0.2, 0.0)):
        assert rows.row_of(row.key) == row and row.anchor == "guided"
    guided = rows.row_of("id-guidance-0.2-vfa-0.75")
    assert (guided.strength, guided.weight) == (0.2, 0.75)
    assert (rows.row_of("id-guidance").strength, rows.row_of("id-guidance").weight) == (0.1, 0.5)
    with pytest.raises(ValueError, match="vfa-cag.*editid-editability.*id-guidance-S-vfa-W"):
        rows.row_of("pulid")


def test_the_knobs_are_those_of_the_gate():
    assert set(rows.KNOBS) == {f.name for f in fields(Knobs) if f.type == "float"}


def parse(*words):
    parser = argparse.ArgumentParser(exit_on_error=False)
    options.add_options(parser)
    chosen = parser.parse_args(words)
    options.check(chosen)
    return chosen


def test_options_survive_being_handed_on(tmp_path):
    words = ["--people", "3", "--prompts", "oil", "up", "--rows", "alone", "vfa-0.9", "--split",
             "tune", "--knob", "lambda_down=0.5", "w_max=2", "--steps", "4", "--cfg", "2.5",
             "--json", str(tmp_path / "a.json"), "--png", str(tmp_path / "b.png")]  # fmt: skip
    chosen = parse(*words)
    assert parse(*options.as_arguments(chosen)) == chosen
    assert chosen.knob == [("lambda_down", 0.5), ("w_max", 2.0)]
    own = parse("--suite", "editid", "--out", str(tmp_path / "new"), "--ablation", str(tmp_path),
                "--rows", "adapter-mine-0.75")  # fmt: skip
    assert parse(*options.as_arguments(own)) == own and own.rows[0].adapter == "mine"
    joined = parse("--suite", "editid", "--out", str(tmp_path), "--join", str(tmp_path / "a.json"))
    assert parse(*options.as_arguments(joined)) == joined
    plain = parse()
    assert parse(*options.as_arguments(plain)) == plain
    assert (plain.people, plain.split, plain.rows) == (100, "held-out", None), "all rows"


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["--people", "0"], "1 to"),
        (["--people", "many"], "many"),
        (["--rows", "pulid"], "no row"),
        (["--rows", "adapter-mine-1"], "adapter-mine-1 needs --ablation DIR"),
        (["--ablation", "/no/such"], "no such folder"),
        (["--prompts", "nonsense"], "nonsense"),
        (["--split", "train"], "train"),
        (["--knob", "lambda=1"], "NAME=VALUE"),
        (["--knob", "w_max=high"], "not a number"),
        (["--cfg", "0"], "cfg 0"),
        (["--json", "a.txt"], r"\.json"),
        (["--png", "/no/such/folder/a.png"], "no folder"),
        (["--join", "a.json"], "--join a.json with --suite None: expected the suite editid"),
        (["--join", "a.json", "--suite", "flexip", "--out", "out"], "with --suite flexip"),
    ],
)
def test_wrong_options_are_explained(words, fact):
    with pytest.raises((argparse.ArgumentError, ValueError), match=fact):
        parse(*words)


def test_no_split_holds_people_that_were_trained_on():
    from flexid.mini.training.data import HELD_OUT, PEOPLE

    assert options.SPLITS["held-out"] == HELD_OUT
    assert PEOPLE < options.SPLITS["tune"] < HELD_OUT - 10_000


# The models folder


def test_the_trained_world_takes_the_place_of_the_random_one(tmp_path):
    weights = tmp_path / "weights"
    for name in world.TRAINED:
        assert not world.is_trained(weights)
        (weights / name).parent.mkdir(parents=True, exist_ok=True)
        (weights / name).write_text(name)
    (weights / world.CARD).write_text("whole")
    placed = world.build_world(tmp_path / "models", weights)
    assert [p.relative_to(tmp_path / "models").as_posix() for p in placed] == list(world.TRAINED)
    assert all(p.read_text() == p.relative_to(tmp_path / "models").as_posix() for p in placed)
    (weights / world.EVA).unlink()
    with pytest.raises(FileNotFoundError, match="flexid_mini_eva"):
        world.build_world(tmp_path / "other", weights)
