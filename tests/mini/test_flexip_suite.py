"""The suite that holds FlexIP's slider against a plain weight: every number by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
from flexid.mini.study import flexip_suite as suite
from flexid.mini.study.figures import draws
from flexid.mini.study.judge import Seen
from flexid.mini.study.options import as_arguments, check
from flexid.mini.study.rows import flexip_row, plain_row, row_of
from flexid.model_patches.evaluate.sliders import gain_at_equal


def study_of(similarity, edit=None):
    """Row key -> a value for everybody."""
    edit = edit or similarity
    return SimpleNamespace(
        people=(1, 2, 3),
        measured={
            key: {
                "similarity": np.full((3, 2), similarity[key]),
                "edit": np.full((3, 2), edit[key]),
            }
            for key in similarity
        },
    )


def test_rows_have_numbers_of_their_own():
    assert row_of("flexip-0.3") == flexip_row(0.3)
    assert row_of("plain-1.25") == plain_row(1.25)
    with pytest.raises(ValueError, match=r"flexip-1.5 is above 1"):
        row_of("flexip-1.5")
    assert [row.weight for row in suite.balances().rows] == [
        0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1,
    ]  # fmt: skip
    assert [row.weight for row in suite.weights_to(1.5).rows][:3] == [0, 0.15, 0.3]


@pytest.mark.parametrize(
    ("wanted", "kept", "top"),
    [
        (0.5, (0.2, 0.4, 0.6, 0.7, 0.7, 0.7), 0.9),
        (0.1, (0.2, 0.4, 0.6, 0.7, 0.7, 0.7), 0.5),
        (0.9, (0.2, 0.4, 0.6, 0.8, 0.7, 0.5), 1.25),
    ],
    ids=["between", "below", "never"],
)
def test_the_last_weight_keeps_as_much_as_balance_1(wanted, kept, top):
    told = {plain_row(w).key: one for w, one in zip(suite.TRIED, kept, strict=True)}
    assert suite.find_top(study_of({"flexip-1": wanted, **told})) == top


def test_edits_are_compared_where_both_keep_as_much():
    """Ours: FaceSim 0.4 and 0.8 of the edits in the middle. Plain: 0.4 lies halfway between."""
    ours, plain = suite.balances(), suite.weights_to(1.0)
    similarity = {row.key: 0.4 for row in ours.rows}
    edit = {row.key: 0.8 for row in ours.rows}
    for number, row in enumerate(plain.rows):
        similarity[row.key], edit[row.key] = 0.1 + 0.12 * number, 1.0 - 0.1 * number
    study = study_of(similarity, edit)
    courses = ours.course(study), plain.course(study)
    found = gain_at_equal(*courses, suite.MIDDLE, draws(3))
    assert found.mean == pytest.approx(0.8 - 0.75) and found.low == pytest.approx(found.mean)


def test_a_neutral_face_counts_as_copied_where_another_is_asked_for():
    prompts = [
        SimpleNamespace(file_name=name, expression=wish)
        for name, wish in (("a", "happy"), ("b", "sad"), ("c", None), ("d", "angry"))
    ]
    seen = {
        "a": Seen(expression="neutral"),
        "b": Seen(expression="sad"),
        "c": Seen(expression="neutral"),
        "d": Seen(),
    }
    evaluation = SimpleNamespace(
        study=SimpleNamespace(people=(1,), prompts=prompts),
        store=SimpleNamespace(load_seen=lambda row, person, judge: seen),
    )
    found = suite.copied_values(evaluation, flexip_row(1.0))
    np.testing.assert_array_equal(found, [[1.0, 0.0, np.nan, np.nan]])


def test_a_suite_chooses_its_rows_and_files(tmp_path):
    plain = {
        "rows": None, "prompts": None, "people": 5, "split": "held-out", "knob": [], "steps": None,
        "cfg": None, "guidance": None, "dtype": None, "json": None, "csv": None, "png": None,
        "suite": None, "out": None, "ablation": None, "join": None,
    }  # fmt: skip

    def options(**changes):
        return SimpleNamespace(**{**plain, **changes})

    asked = options(suite="flexip", out=tmp_path / "new")
    check(asked)
    words = as_arguments(asked)
    assert words[words.index("--suite") + 1] == "flexip" and "--rows" not in words
    with pytest.raises(ValueError, match="go together"):
        check(options(suite="flexip"))
    with pytest.raises(ValueError, match="leave out --rows"):
        check(options(suite="flexip", out=tmp_path / "new", rows=[flexip_row(1.0)]))
    with pytest.raises(ValueError, match="there is no folder"):
        check(options(suite="flexip", out=tmp_path / "no" / "new"))
