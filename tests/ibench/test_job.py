"""What a run says beside its figures: which rows, how many people, what is missing and why."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from flexid.ibench.job import choose_rows, limit, sum_up
from flexid.ibench.judges import Judges
from flexid.ibench.measure import Measured
from flexid.ibench.records import Data, DataError, Pair, Person, Prompt
from flexid.ibench.rows import ALONE, GIVEN, ROWS, row_of
from flexid.model_patches.evaluate.outcomes import valid

pytestmark = pytest.mark.comfy


def data(*names, photos=1, given=None, **wishes):
    people = [Person(n, tuple(Path(f"{n}{i}.png") for i in range(photos))) for n in names]
    return Data("set", tuple(Pair(one, Prompt("p", **wishes), given) for one in people))


def result_of(found, rows=(GIVEN,), plain=None, sets=None):
    """Two pictures or one, all alike."""
    measured = [
        Measured(row.key, one.name, "p", (), (), Path("w.png"), plain, {"likeness": valid(0.5)}, 1)
        for row in rows
        for one in found.people
    ]
    meter = SimpleNamespace(collect=lambda jobs: measured, compare_sets=lambda jobs: sets or {})
    opened = SimpleNamespace(
        data=found, rows=rows, meter=meter, jobs=[], brushes=[], left_out={"flexip": "no file"},
        judges=Judges(None, "pack", absent={"fid, kid": "put a file"}),
    )  # fmt: skip
    return sum_up(opened, SimpleNamespace(mode="corrected"))


def test_one_identity_has_no_interval_and_is_told():
    one = result_of(data("Zoë"))
    assert any("one person says nothing about others" in note for note in one.notes)
    shown = one.shown(GIVEN.key, one.columns()[0])
    assert shown.mean == 0.5 and shown.low != shown.low, "NaN"
    two = result_of(data("Zoë", "李"))
    assert not two.notes and two.shown(GIVEN.key, two.columns()[0]).low == 0.5


def test_everything_that_is_missing_is_named():
    rows = (ALONE, row_of("vfa-1"), GIVEN)
    left = result_of(data("Zoë", "李"), rows).left_out
    assert left["flexip"] == "no file" and left["fid, kid"] == "put a file"
    assert "no person has a second photo" in left["copy_paste"]
    assert "Apply node" in left["vfa-1, against the plain picture"]
    assert "imagewithoutid" in left["given, against the plain picture"]
    assert "alone, against the plain picture" not in left and "view_asked" in left
    whole = result_of(data("Zoë", "李", photos=2, view="up"), rows, plain=Path("b.png")).left_out
    assert not whole.keys() & {"copy_paste", "view_asked", "vfa-1, against the plain picture"}


def test_few_pictures_for_fid_are_told():
    found = result_of(data("Zoë", "李"), sets={"given": {"fid": 3.0, "pictures": 2.0}})
    assert found.notes == (
        "given: FID of 2 pictures, below 2048, says more of their number; read KID",
    )


def test_fewer_people_are_told():
    found = data("a", "b", "c")
    assert [one.name for one in limit(found, 2).people] == ["a", "b"]
    assert limit(found, 2).notes == ("only the first 2 of 3 people",)
    assert limit(found, None) is found and limit(found, 3).notes == ()


def test_rows_of_the_user_of_the_data_or_all():
    painted = data("a", given=Path("w.png"))
    assert choose_rows(data("a"), None) == ROWS and choose_rows(painted, None) == (GIVEN,)
    assert choose_rows(data("a"), [ALONE]) == (ALONE,)
    with pytest.raises(DataError, match='row "given" needs finished pictures, and set has 0'):
        choose_rows(data("a"), [GIVEN])
