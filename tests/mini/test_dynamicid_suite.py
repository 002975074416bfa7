"""The suite of DynamicID: who is paired, what is measured of two people, and the aims by hand."""

import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flexid.mini.study import dynamicid_sheet as sheet
from flexid.mini.study import dynamicid_suite as suite
from flexid.mini.study import rows
from flexid.mini.study.dynamicid_couples import Couples, pair_people
from flexid.mini.study.dynamicid_rows import (
    COUPLE_IMR,
    COUPLE_MASKS,
    COUPLE_PLAIN,
    COUPLE_SAA,
    ONE,
    PLAIN,
    PLAIN_UNSAID,
    PROMPTS,
    SAA,
    SAA_IMR,
    SAA_UNSAID,
    SCENES,
    SHEET_MOODS,
    SHEET_TURNS,
    TWO,
    way_of,
)
from flexid.mini.study.evaluation import Evaluation
from flexid.mini.study.judge import Seen
from flexid.mini.study.judges import INDEPENDENT, TRAINING
from flexid.mini.study.prompts import choose
from flexid.mini.study.report import Study
from flexid.mini.study.rows import ALONE
from flexid.mini.study.store import Store
from PIL import Image

pytestmark = pytest.mark.comfy
SIDE = 32
SHADES = {1: 40, 2: 80, 3: 120, 4: 160}
"""Person -> the grey of their photo, and of their half of a picture."""


def photo(person):
    return np.full((SIDE, SIDE, 3), SHADES[person], np.uint8)


@dataclass
class Painter:
    """Paints each half in its person's grey; one row changes both people over."""

    painted: list = field(default_factory=list)
    studio: object = field(
        default_factory=lambda: SimpleNamespace(settings=SimpleNamespace(side=SIDE))
    )

    def sitter(self, rgb, sip=False):
        return rgb

    def paint(self, row, sitter, prompts, seeds):
        self.painted += [(row.key, prompt.id) for prompt in prompts]
        return np.stack([sitter] * len(prompts))

    def paint_couple(self, row, sitters, scene, seed):
        self.painted.append((row.key, scene.whole.id))
        picture = np.concatenate(sitters[:: -1 if row == COUPLE_PLAIN else 1], axis=1)
        if row == COUPLE_SAA:
            picture[:4] = picture[:4] // 2  # outside of the faces
        return picture


class Judge:
    """Sees a face everywhere but in the fourth person's photo: like a person by the grey."""

    looked = 0

    def remember(self, rgb):
        return torch.tensor([float(rgb[-1, 0, 0])])

    def look(self, rgb, wanted):
        Judge.looked += 1
        assert rgb.shape == (SIDE, SIDE, 3)
        shade = float(rgb[-1, 0, 0])
        if shade == SHADES[4]:
            return Seen(style="photo")
        mood = "happy" if shade == SHADES[1] else "sad"
        box = (8.0, 12.0, 24.0, 28.0)
        return Seen(float(shade == float(wanted)), box, mood, (0.0, 0.0, 0.0), "photo")


@pytest.fixture
def couples(tmp_path):
    settings = rows.settings(side=SIDE)
    study = Study(ONE, choose(PROMPTS), (1, 2, 3, 4), "tune", settings, {}, {})
    judges = {INDEPENDENT: Judge(), TRAINING: Judge()}
    store = Store(tmp_path, {}, settings, {})
    painter = Painter()
    evaluation = Evaluation(study, painter, judges, store, photo, lambda _: None)
    return Couples(evaluation, painter, pair_people(study.people))


ONE_KEYS = ["plain", "saa", "saa-imr", "plain-unsaid", "saa-imr-unsaid"]


def test_neighbours_are_pairs():
    assert pair_people((1, 2, 3, 4, 5)) == ((1, 2), (3, 4))
    assert pair_people((7,)) == ()


def test_the_rows_differ_by_one_thing_at_a_time():
    assert [row.key for row in ONE] == ONE_KEYS
    assert [suite.short_key(row) for row in TWO] == [
        "alone", "plain", "plain-masks", "saa", "saa-imr",
    ]  # fmt: skip
    for chain in (
        (PLAIN, SAA, SAA_IMR, SAA_UNSAID),
        (PLAIN, PLAIN_UNSAID),
        (COUPLE_PLAIN, COUPLE_MASKS, COUPLE_SAA, COUPLE_IMR),
    ):
        told = [vars(way_of(row)) for row in chain]
        for one, other in zip(told, told[1:], strict=False):
            assert sum(one[name] != other[name] for name in one) == 1


def test_the_scenes_change_the_moods_over():
    first, second = SCENES
    assert first.halves == second.halves[::-1] and first.whole.id == "laughing+sad"
    assert {half.expression for half in first.halves} == {"happy", "sad"}


def test_everybody_is_measured_in_their_own_half(couples):
    measured = couples.run()
    own, changed = measured[COUPLE_MASKS.key], measured[COUPLE_PLAIN.key]
    # The fourth person has no face; each row is a pair, two halves of two scenes.
    np.testing.assert_array_equal(own["similarity"], [[1, 1, 1, 1], [1, 0, 1, 0]])
    np.testing.assert_array_equal(own["other"], np.zeros((2, 4)))
    np.testing.assert_array_equal(changed["similarity"], np.zeros((2, 4)))
    np.testing.assert_array_equal(changed["other"], [[1, 1, 1, 1], [0, 1, 0, 1]])
    np.testing.assert_array_equal(own["detected"], [[1, 1, 1, 1], [1, 0, 1, 0]])
    # The first person always laughs, the others are always sad.
    np.testing.assert_array_equal(own["expression"], [[1, 1, 0, 0], [0, 0, 1, 0]])
    np.testing.assert_array_equal(own["trained_similarity"], own["similarity"])
    assert np.isnan(measured[ALONE.key]["disruption"]).all()
    np.testing.assert_array_equal(own["disruption"], np.zeros((2, 2)))
    assert (measured[COUPLE_SAA.key]["disruption"] > 0).all()
    assert (changed["disruption"] > measured[COUPLE_SAA.key]["disruption"]).all()


def test_nothing_is_painted_or_looked_at_twice(couples):
    assert couples.to_paint() == 2 * len(SCENES) * len(TWO)
    first = couples.run()
    painted, looked = len(couples.painter.painted), Judge.looked
    second = couples.run()
    assert couples.to_paint() == 0 and painted == 2 * len(SCENES) * len(TWO)
    assert (len(couples.painter.painted), Judge.looked) == (painted, looked)
    for key, values in first.items():
        np.testing.assert_equal(second[key], values)


def flat(value, shape=(3, 2)):
    return np.full(shape, value)


def test_the_aims_by_hand(couples):
    one = {
        PLAIN.key: {"similarity": flat(0.6), "expression": flat(0.3), "pose": flat(0.4)},
        SAA_IMR.key: {"similarity": flat(0.57), "expression": flat(0.75), "pose": flat(0.6)},
        PLAIN_UNSAID.key: {"similarity": flat(0.5), "expression": flat(0.1), "pose": flat(0.0)},
        SAA_UNSAID.key: {"similarity": flat(0.4), "expression": flat(0.15), "pose": flat(0.3)},
    }
    two = {
        COUPLE_PLAIN.key: {"disruption": flat(0.10)},
        COUPLE_SAA.key: {"disruption": flat(0.04), "other": flat(0.05, (3, 4))},
        COUPLE_IMR.key: {"other": flat(0.20, (3, 4)), "expression": flat(0.8, (3, 4))},
    }
    found = suite.claims(one, two)
    values = [claim.found.mean for claim in found]
    assert values == pytest.approx([2.5, 1.5, 0.05, -0.05, 0.3, 0.2, 0.05, 0.20, 0.8, 0.4])
    assert [claim.holds for claim in found] == [
        True, False, True, False, True, False, True, False, True, True,
    ]  # fmt: skip
    assert [one.found for one in suite.claims({PLAIN.key: one[PLAIN.key]}, two)][:6] == [None] * 6


def test_the_document_names_both_tables(couples):
    study = couples.evaluation.study
    measures = {"similarity": flat(0.5), "expression": flat(1.0), "pose": flat(np.nan)}
    measures |= {"style": flat(1.0), "edit": flat(1.0)}
    study = Study(**{**vars(study), "measured": {row.key: measures for row in ONE}})
    document = suite.to_json(study, couples.run(), couples.pairs)
    assert list(document["rows"]) == ONE_KEYS
    told = document["couples"]
    assert list(told["rows"]) == ["alone", "plain", "plain-masks", "saa", "saa-imr"]
    assert told["pairs"] == {"first": (1, 2), "count": 2} and told["size"] == [SIDE, 2 * SIDE]
    assert told["rows"]["plain-masks"]["figures"]["similarity"]["mean"] == 0.75
    assert len(document["claims"]) == 10
    json.dumps(document, allow_nan=False)
    first, second = suite.tables(study, couples.run())
    assert "| SAA + IMR | 0.50 ±0.00 | 100 ±0 % | - |" in first
    assert "| plain, masks | 0.75" in second


def test_the_sheet_has_a_cell_for_every_wish(couples, tmp_path, monkeypatch):
    monkeypatch.setattr(sheet, "DEMO", 1)
    monkeypatch.setattr(sheet, "OTHER", 2)
    painter = Painter()
    sheet.draw_sheet(painter, photo, Judge(), tmp_path / "sheet.png")
    assert len(SHEET_MOODS) == 7 and len(SHEET_TURNS) == 5
    ids = [one.id for one in (*SHEET_MOODS, *SHEET_TURNS)]
    assert [name for key, name in painter.painted if key == SAA_IMR.key] == ids
    assert [key for key, _ in painter.painted[12:]] == [COUPLE_PLAIN.key] * 2 + [COUPLE_IMR.key] * 2
    with Image.open(tmp_path / "sheet.png") as made:
        assert made.size[0] == sheet.WIDTH * sheet.SCALE
