"""Good data is read as it stands; of bad data every mistake is told at once, with its place."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from flexid.model_patches.training import data, data_problems
from flexid.model_patches.training.data import DataError, Example, read_data
from PIL import Image

pytestmark = pytest.mark.pure

FIVE = [[10, 10], [20, 10], [15, 15], [11, 20], [19, 20]]


@pytest.fixture
def folder(tmp_path):
    """Three good pictures of 40 x 30 pixels, and a file that is none."""
    (tmp_path / "ann").mkdir()
    for name in ("1.png", "2.png", "3.png"):
        picture(tmp_path / "ann" / name)
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def picture(path, **options):
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)


def rows_file(folder, *rows):
    path = folder / "list.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def row(**changed):
    kept = {"image": "ann/1.png", "caption": "a woman reads"} | changed
    return {key: value for key, value in kept.items() if value is not ...}


def problems(path, **options):
    with pytest.raises(DataError) as refused:
        read_data(path, **options)
    return str(refused.value).splitlines()


def test_rows_are_read(folder):
    path = rows_file(
        folder,
        row(caption=" she reads\n", references="ann/2.png", box=[1, 2, 30, 30.0], points=FIVE),
        "",
        row(image="ann/2.png", group="clip"),
        row(image="ann/3.png", group="clip", references=["ann/1.png", "ann/2.png"]),
    )
    first, second, third = read_data(path)
    assert first == Example(
        folder / "ann/1.png",
        "she reads",
        (folder / "ann/2.png",),
        None,
        (1.0, 2.0, 30.0, 30.0),
        tuple((float(x), float(y)) for x, y in FIVE),
        1,
    )
    assert (second.line, second.group, second.references) == (3, "clip", ())
    assert [path.name for path in third.references] == ["1.png", "2.png"]


WRONG = {
    "missing file": (row(image="ann/9.png"), "image 'ann/9.png': there is no such file"),
    "no image": (row(image="notes.txt"), "image 'notes.txt': it is not an image. Convert it"),
    "folder": (row(image="ann"), "there is no such file"),
    "nul": (row(image="a\0b"), "there is no such file"),
    "endless name": (row(image="a" * 5000), "it cannot be read"),
    "missing key": (row(image=...), "image is missing, a path is needed"),
    "number for a path": (row(image=3), "image is a number, a path is needed"),
    "absolute": (row(image="/etc/x.png"), "image is '/etc/x.png', outside of"),
    "drive": (row(image="C:\\x.png"), "outside of"),
    "upwards": (row(image="ann/../../x.png"), "outside of"),
    "upwards, Windows": (row(image="..\\x.png"), "outside of"),
    "empty caption": (row(caption=" "), "caption is an empty text, a text is needed"),
    "no caption": (row(caption=None), "caption is missing, a text is needed"),
    "reference": (row(references=["ann/8.png"]), "references 'ann/8.png': there is no such"),
    "references": (row(references={}), "references is an object, a list of paths is needed"),
    "unknown key": (row(captoin="x"), "unknown keys captoin; known are image, caption"),
    "box": (row(box=[1, 2, 3]), "box is [1, 2, 3], four finite numbers are needed"),
    "box of words": (row(box=[1, 2, 3, True]), "four finite numbers"),
    "turned box": (row(box=[9, 2, 3, 4]), "left < right and top < bottom are needed"),
    "box outside": (row(box=[1, 2, 41, 4]), "the image has 40 x 30 pixels"),
    "huge": ('{"image": "ann/1.png", "caption": "x", "box": [0, 0, 1, 1e999]}', "four finite"),
    "digits": (f'{{"image": "ann/1.png", "caption": "x", "box": [0,0,1,{"9" * 400}]}}', "finite"),
    "points": (row(points=FIVE[:4]), "five pairs of finite numbers are needed"),
    "points outside": (row(points=[*FIVE[:4], [4, 31]]), "the image has 40 x 30 pixels"),
    "NaN": ('{"image": "ann/1.png", "box": [NaN, 1, 2, 3]}', "NaN is not a finite number"),
    "same key twice": ('{"image": "a", "image": "b"}', "image stands in it 2 times, once is"),
    "no JSON": ('{"image": ', "it cannot be read as JSON"),
    "deep": ("[" * 100_000, "too deeply nested"),
    "list": ("[1]", "it is a list, an object"),
    "lonely": (row(group="clip"), "the group 'clip' has 1 row, at least 2 are needed"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_with_its_line(folder, case):
    wrong, fact = WRONG[case]
    path = rows_file(folder, row(image="ann/2.png"), wrong)
    (line,) = problems(path)
    assert line.startswith(f"{path}:2: ") and fact in line


def test_all_mistakes_are_told_at_once(folder, monkeypatch):
    path = rows_file(folder, row(caption="", image="x.png"), row(), row(box=[1]), row())
    lines = problems(path)
    assert [line.split(": ")[0].rsplit(":")[-1] for line in lines] == ["1", "1", "3", "4"]
    assert "it is the same as line 2" in lines[3]
    monkeypatch.setattr(data_problems, "SHOWN", 2)
    assert problems(path)[2:] == ["and 2 more"]


def test_other_kinds_of_files_are_refused(folder, monkeypatch):
    (line,) = problems(folder / "absent.jsonl")
    assert "no such file or folder" in line
    (line,) = problems(rows_file(folder, ""))
    assert "it has no rows, at least 1" in line
    path = folder / "latin.jsonl"
    path.write_bytes(b'{"image": "\xe4.png"}\n')
    assert "not UTF-8" in problems(path)[0]
    monkeypatch.setattr(data, "LONGEST_LINE", 30)
    (line,) = problems(rows_file(folder, "[]" * 40))
    assert ":1: the line has more than 30 characters" in line


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
def test_a_pipe_is_not_waited_for(folder):
    os.mkfifo(folder / "pipe.png")
    (line,) = problems(rows_file(folder, row(image="pipe.png")))
    assert "no such file" in line


def test_a_picture_that_is_cut_off_is_found_by_decoding(folder):
    whole = (folder / "ann/1.png").read_bytes()
    (folder / "ann/1.png").write_bytes(whole[: len(whole) // 2])
    path = rows_file(folder, row())
    assert len(read_data(path)) == 1
    (line,) = problems(path, decode=True)
    assert "it cannot be read" in line


def test_boxes_lie_in_the_upright_picture(folder):
    exif = Image.Exif()
    exif[data_problems.ORIENTATION] = 6
    picture(folder / "turned.jpg", exif=exif)
    tall = row(image="turned.jpg", box=[0, 0, 30, 40])
    assert read_data(rows_file(folder, tall))[0].box == (0, 0, 30, 40)
    assert "30 x 40 pixels" in problems(rows_file(folder, tall | {"box": [0, 0, 40, 30]}))[0]


@pytest.fixture
def people(folder):
    """Ann with three pictures; Bob with two, one with a caption."""
    root = folder / "people"
    (root / "bob").mkdir(parents=True)
    (folder / "ann").rename(root / "ann")
    picture(root / "bob" / "a.JPG")
    picture(root / "bob" / "b.png")
    (root / "bob" / "b.txt").write_text("he laughs\n", encoding="utf-8")
    (root / ".DS_Store").write_text("")
    return root


def test_a_folder_of_people_is_read(people):
    found = read_data(people)
    assert [(e.group, e.image.name, e.caption) for e in found] == [
        ("ann", "1.png", None),
        ("ann", "2.png", None),
        ("ann", "3.png", None),
        ("bob", "a.JPG", None),
        ("bob", "b.png", "he laughs"),
    ]


def test_every_mistake_in_a_folder_of_people_is_told(people):
    (people / "list.txt").write_text("x")
    (people / "ann" / "notes.pdf").write_text("x")
    (people / "ann" / "2.png").write_text("x")
    (people / "ann" / "7.txt").write_text("x")
    (people / "bob" / "a.JPG").unlink()
    (people / "bob" / "b.txt").write_text(" ")
    assert [
        Path(line.split(": ")[0]).relative_to(people).as_posix() for line in problems(people)
    ] == [
        "ann/2.png",
        "ann/7.txt",
        "ann/notes.pdf",
        "bob",
        "bob/b.txt",
        "list.txt",
    ]
    assert "1 pictures of this person, at least 2" in "\n".join(problems(people))


def test_a_folder_without_people_is_refused(tmp_path):
    (line,) = problems(tmp_path)
    assert "no folder of a person" in line
