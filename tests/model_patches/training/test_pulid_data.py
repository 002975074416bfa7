"""What is wrong with an identity adapter's data is said with its place, before any training."""

import json

import numpy as np
import pytest
from flexid.model_patches.training.data import read_data
from flexid.model_patches.training.data_problems import DataError
from flexid.model_patches.training.pulid_rows import Draws, collect_rows, draw_rows
from PIL import Image

pytestmark = pytest.mark.pure

NAMES = ("ann/1.png", "ann/2.png", "ann/3.png", "bob/1.png", "bob/2.png")


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in NAMES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(path)
        path.with_suffix(".txt").write_text(f"a person, {name}")
    Image.new("L", (40, 30), 255).save(tmp_path / "mask.png")
    Image.new("L", (20, 30), 255).save(tmp_path / "small.png")
    return tmp_path


def rows_of(folder, *rows, other=True):
    path = folder / "list.json"
    path.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    return collect_rows(read_data(path), path, other)


def row(**changes):
    known = {"id_image": "ann/1.png", "image": "ann/2.png", "text": "she reads"}
    return {key: value for key, value in {**known, **changes}.items() if value is not ...}


def test_a_published_list_is_read(folder):
    found = rows_of(
        folder,
        row(mask="mask.png", landmarks=[[1, 2]] * 5),
        row(id_image=["1.png", "3.png"], image="2.png", source="ann", text="she laughs"),
        row(id_image="ann/2.png", image="bob/1.png"),
    )
    assert [one.line for one in found.rows] == [2, 3, 4]
    first, second, third = found.rows
    photo = found.photos[first.photo]
    assert photo.mask == folder / "mask.png" and photo.points == ((1.0, 2.0),) * 5
    assert [found.photos[n].path.name for n in second.references] == ["1.png", "3.png"]
    assert found.captions == ("", "she reads", "she laughs")
    # Two rows describe that picture, each another way: as a reference it is taken as it is.
    assert found.photos[third.references[0]].mask is None


def test_a_folder_of_people_pairs_different_photos(folder):
    people = folder / "people"
    people.mkdir()
    for name in ("ann", "bob"):
        (folder / name).rename(people / name)
    found = collect_rows(read_data(people), people)
    assert [len(one.references) for one in found.rows] == [2, 2, 2, 1, 1]
    for step in range(50):
        for drawn in draw_rows(found.rows, Draws(), step):
            assert drawn.reference != drawn.row.photo
            assert (
                found.photos[drawn.reference].path.parent
                == found.photos[drawn.row.photo].path.parent
            )
    same = collect_rows(read_data(people), people, other=False)
    assert all(one.references == (one.photo,) for one in same.rows)


def test_dropouts_come_as_often_as_asked(folder):
    found = rows_of(folder, row(), row(image="ann/3.png"))
    drawn = [one for step in range(1000) for one in draw_rows(found.rows, Draws(batch=4), step)]
    kinds = [(one.keeps_text, one.keeps_photo) for one in drawn]
    for kind in ((False, True), (True, False), (False, False)):
        assert kinds.count(kind) / len(kinds) == pytest.approx(0.05, abs=0.012)
    assert len({one.noise for one in drawn}) == len(drawn)


WRONG = {
    "missing file": (row(id_image="ann/9.png"), "references 'ann/9.png': there is no such file"),
    "absolute": (row(image="/data/x.png"), "image is '/data/x.png', outside of"),
    "drive": (row(id_image="D:\\x.png"), "outside of"),
    "source": (row(source="/data"), "source is '/data', a folder beside the file is needed"),
    "source and path": (row(source="ann", image="/x.png"), "image is '/x.png', outside of"),
    "empty caption": (row(text=" "), "caption is an empty text, a text is needed"),
    "itself": (row(id_image="ann/2.png"), "references names the picture itself"),
    "no reference": (row(id_image=...), "has 0 other photos of the same person, at least 1"),
    "mask": (row(mask="small.png"), "mask 'small.png' has 20 x 30 pixels, the image 40 x 30"),
    "two names": (row(caption="x"), "text and caption are the same"),
    "landmarks": (row(landmarks=[[1, 2]]), "five pairs of finite numbers are needed"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_with_its_line(folder, case):
    wrong, fact = WRONG[case]
    with pytest.raises(DataError) as error:
        rows_of(folder, row(image="ann/3.png"), wrong)
    assert f"{folder / 'list.json'}:3: " in str(error.value) and fact in str(error.value)


@pytest.mark.parametrize(
    ("text", "line", "fact"),
    [
        ('{"image": "a"}', "", "it is no JSON array"),
        ('[\n{"image": "ann/1.png"\n', 3, "cannot be read as JSON"),
        ('[\n{"image": "ann/1.png", "text": "x"}\n{"image"', 3, "a comma or the array's end"),
        ('[\n{"image": "ann/1.png", "text": "x"}\n]\n7', 3, "something follows the array's end"),
        ("[]", "", "it has no rows, at least 1 is needed"),
        ("[\n3\n]", 2, "it is a number, an object"),
    ],
)
def test_a_list_that_is_no_list(folder, text, line, fact):
    path = folder / "list.json"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        read_data(path)
    assert f"{path}:{line}" in str(error.value) and fact in str(error.value)


def test_a_person_with_one_photo_and_a_picture_without_caption(folder):
    people = folder / "people"
    people.mkdir()
    (folder / "ann").rename(people / "ann")
    (people / "ann/1.txt").unlink()
    with pytest.raises(DataError, match=r"people/ann/1.png: no caption. Write a .txt file"):
        collect_rows(read_data(people), people)
    (folder / "bob").rename(people / "bob")
    (people / "bob/2.png").unlink()
    (people / "bob/2.txt").unlink()
    with pytest.raises(DataError, match=r"people/bob: 1 pictures of this person, at least 2"):
        read_data(people)
