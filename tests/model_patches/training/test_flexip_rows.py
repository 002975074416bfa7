"""What FlexIP's trainer draws: stills and other photos of the same person, gates and dropouts."""

import json

import numpy as np
import pytest
from flexid.model_patches.training.data import DataError, read_data
from flexid.model_patches.training.flexip_rows import (
    Draws,
    check_kinds,
    collect_rows,
    draw_gamma,
    draw_rows,
)
from PIL import Image

pytestmark = pytest.mark.pure


@pytest.fixture
def rows(tmp_path):
    for name in ("a", "b", "c", "d", "e"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    lines = [
        {"image": "a.png", "caption": "one"},
        {"image": "b.png", "caption": "two", "references": ["a.png", "c.png"]},
        {"image": "c.png", "caption": "two", "group": "clip"},
        {"image": "d.png", "caption": "four", "group": "clip"},
        {"image": "e.png", "caption": "five", "group": "clip"},
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return collect_rows(read_data(path), path)


def test_rows_know_their_references(rows):
    names = [path.stem for path in rows.pictures]
    assert [names[row.picture] for row in rows.stills] == ["a"]
    found = {names[row.picture]: {names[n] for n in row.references} for row in rows.frames}
    assert found == {"b": {"a", "c"}, "c": {"d", "e"}, "d": {"c", "e"}, "e": {"c", "d"}}
    assert rows.captions == ("", "one", "two", "four", "five")


def test_a_picture_without_a_caption_is_refused(tmp_path):
    for person in ("ann", "bob"):
        (tmp_path / person).mkdir()
        for number in (1, 2):
            Image.new("RGB", (8, 8)).save(tmp_path / person / f"{number}.png")
            (tmp_path / person / f"{number}.txt").write_text("a person")
    assert len(collect_rows(read_data(tmp_path), tmp_path).frames) == 4
    (tmp_path / "bob" / "2.txt").unlink()
    with pytest.raises(DataError, match=r"1 of 4 pictures have no caption.*2\.png.*\.txt file"):
        collect_rows(read_data(tmp_path), tmp_path)


def test_both_kinds_are_needed_unless_one_is_not_drawn(rows):
    import dataclasses

    check_kinds(rows, Draws())
    only_stills = dataclasses.replace(rows, frames=())
    with pytest.raises(DataError, match="1 rows are stills and 0 have another.*--video-share 0"):
        check_kinds(only_stills, Draws())
    check_kinds(only_stills, Draws(video_share=0.0))


def test_a_step_draws_the_same_rows_again(rows):
    assert draw_rows(rows, Draws(), 3) == draw_rows(rows, Draws(), 3)
    assert draw_rows(rows, Draws(), 3) != draw_rows(rows, Draws(), 4)
    assert draw_rows(rows, Draws(), 3) != draw_rows(rows, Draws(seed=1), 3)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_frames_are_spread_over_the_batch(rows, share):
    """So that each half, which another process takes, has its part of them."""
    drawn = draw_rows(rows, Draws(batch=16, video_share=share), 0)
    halves = [sum(one.is_video for one in half) for half in (drawn[:8], drawn[8:])]
    assert halves == [8 * share, 8 * share]


def test_a_still_is_its_own_reference_and_a_frame_is_not(rows):
    for step in range(20):
        for one in draw_rows(rows, Draws(), step):
            assert (one.reference == one.row.picture) == (not one.is_video)
            assert not one.is_video or one.reference in one.row.references


def test_gates_cover_both_ends_of_the_slider():
    draws = Draws()
    chances = np.linspace(0, 1, 11)
    stills = [draw_gamma(False, chance, draws) for chance in chances]
    frames = [draw_gamma(True, chance, draws) for chance in chances]
    assert (min(stills), max(stills)) == pytest.approx((0.6, 1.0))
    assert (min(frames), max(frames)) == pytest.approx((0.0, 0.4))
    paper = Draws(alpha=0.9, beta=0.9, spread=0.0)
    assert draw_gamma(False, 0.3, paper) == 0.9
    assert draw_gamma(True, 0.3, paper) == pytest.approx(0.1)


def test_a_twentieth_each_drops_text_photo_and_both(rows):
    drawn = [one for step in range(400) for one in draw_rows(rows, Draws(batch=32), step)]
    counts = {
        (text, photo): sum((one.keeps_text, one.keeps_photo) == (text, photo) for one in drawn)
        for text in (True, False)
        for photo in (True, False)
    }
    for kind in ((False, True), (True, False), (False, False)):
        assert counts[kind] / len(drawn) == pytest.approx(0.05, abs=0.008), kind
