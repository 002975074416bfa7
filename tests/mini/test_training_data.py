"""Training pictures: their order and labels, stopping and going on, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from flexid.mini import portraits
from flexid.mini.training import data
from flexid.mini.training.options import Options

pytestmark = pytest.mark.pure

SMALL = Options(people=4, groups=6, processes=1)


@pytest.fixture(scope="module")
def work(pictures_work):
    return pictures_work


def test_six_pictures_of_each_person_lie_together(work):
    singles = data.Portraits(work)
    assert singles.images.shape == (24, 128, 128, 3) and len(singles) == 24
    assert singles.person.tolist() == [seed for seed in range(4) for _ in range(6)]
    assert singles.images.std((1, 2, 3)).min() > 5
    assert singles.vectors.shape == (4, portraits.IDENTITY_SIZE)
    assert np.array_equal(singles.vectors[2], portraits.person(2).vector())


def test_the_first_two_are_frames_of_one_sitting(work):
    singles = data.Portraits(work)
    photo = portraits.STYLES.index("photo")
    first, second = slice(0, None, 6), slice(1, None, 6)
    assert (singles.style[first] == photo).all() and (singles.style[second] == photo).all()
    assert np.array_equal(singles.expression[first], singles.expression[second])
    moved = np.abs(singles.angles[first] - singles.angles[second])
    assert 0 < moved.max() < 40
    assert (singles.images[first] != singles.images[second]).any((1, 2, 3)).all()


def test_half_of_the_other_shots_are_photos():
    rng = np.random.default_rng(0)
    styles = [data.free_shot(rng).style for _ in range(400)]
    assert 160 < styles.count("photo") < 240
    assert set(styles) == set(portraits.STYLES)


def test_labels_belong_to_their_pictures(work):
    """Drawn again from what the arrays say of it, a picture's face is where they say it is."""
    singles = data.Portraits(work)
    width = singles.box[:, 2] - singles.box[:, 0]
    assert (width > 20).all() and (width < 128).all()
    centre = singles.points.mean(1)
    assert (centre > singles.box[:, :2]).all() and (centre < singles.box[:, 2:]).all()
    again = list(data.singles(6, 12))
    for index, (picture, caption) in enumerate(again, 6):
        shot = picture.people[0][1]
        assert singles.caption[index] == caption
        assert singles.angles[index].tolist() == pytest.approx([shot.yaw, shot.pitch, shot.roll])
        assert portraits.EXPRESSIONS[singles.expression[index]] == shot.expression
        assert portraits.STYLES[singles.style[index]] == shot.style
        assert np.array_equal(portraits.render(picture, 128).image, singles.images[index])


def test_groups_name_everybody_in_them(work):
    groups = data.Groups(work)
    assert len(groups) == 6 and set(groups.count) <= {2, 3}
    for index, count in enumerate(groups.count):
        people = groups.people[index]
        assert len(set(people[:count])) == count
        assert (people[:count] >= 0).all() and (people[count:] == -1).all()
        assert (groups.box[index, :count, 2] > groups.box[index, :count, 0]).all()
        assert (groups.box[index, count:] == 0).all()


def test_nobody_is_held_out(work):
    drawn = [data.Portraits(work).person.max(), data.Groups(work).people.max()]
    assert max(drawn) < data.HELD_OUT


def test_a_stopped_run_goes_on_and_ends_with_the_same_pictures(work, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CHUNK", 6)
    render, drawn = portraits.render, []

    def failing(picture, size):
        drawn.append(picture)
        if len(drawn) == 15:
            raise KeyboardInterrupt
        return render(picture, size)

    monkeypatch.setattr(portraits, "render", failing)
    with pytest.raises(KeyboardInterrupt):
        data.build(tmp_path, "cpu", SMALL)
    with pytest.raises(FileNotFoundError, match="lacks 2 of 4 chunks"):
        data.Portraits(tmp_path)
    data.build(tmp_path, "cpu", SMALL)
    assert len(drawn) == 15 + 12 + 6
    whole, resumed = data.Portraits(work), data.Portraits(tmp_path)
    assert np.array_equal(whole.images, resumed.images)
    assert whole.caption == resumed.caption
    assert np.array_equal(data.Groups(work).images, data.Groups(tmp_path).images)


def test_a_finished_set_is_not_drawn_again(work, monkeypatch):
    monkeypatch.setattr(portraits, "render", None)
    data.build(work, "cpu", SMALL)


def test_another_size_is_refused(work):
    with pytest.raises(ValueError, match="holds 24 pictures, 30 are asked for"):
        data.build(work, "cpu", Options(people=5, groups=5, processes=1))


def test_half_a_set_of_another_renderer_is_refused(work, tmp_path, capsys):
    shutil.copytree(work, tmp_path, dirs_exist_ok=True)
    stated = tmp_path / "data" / "singles" / "layout.json"
    stated.write_text(json.dumps(json.loads(stated.read_text()) | {"renderer": "older"}))
    data.build(tmp_path, "cpu", SMALL)
    assert "earlier version of the renderer, kept" in capsys.readouterr().out
    (tmp_path / "data" / "singles" / "captions" / "0000000.json").unlink()
    with pytest.raises(ValueError, match="half drawn by another version"):
        data.build(tmp_path, "cpu", SMALL)


def test_before_anything_is_drawn(tmp_path):
    with pytest.raises(FileNotFoundError, match="--only data"):
        data.Portraits(tmp_path)
