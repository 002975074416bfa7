"""IBench's files and a plain folder: what is read, repaired and refused."""

import json

import numpy as np
import pytest
from flexid.ibench.data import read_data
from flexid.ibench.records import EXPRESSIONS, VIEWS, DataError, Prompt
from flexid.model_patches.evaluate import expression, pose
from PIL import Image

pytestmark = pytest.mark.pure


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(path)
    return path


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture
def ibench(tmp_path):
    """IBench's own layout, with the paths of its authors' machine."""
    for name in ("李娜.jpg", "zoe.jpg"):
        photo(tmp_path / "data" / "images" / "chineseid" / name)
    people = [
        {"num": 1, "id": "/mnt/authors/data/images/chineseid/李娜.jpg", "gender": "female"},
        {"num": 2, "id": "D:\\bench\\images\\chineseid\\zoe.jpg", "gender": "unknown"},
    ]
    tags = {"category": "imageid"}
    write(tmp_path / "data/images/chineseid_images.json", {"datas": people, "tags": tags})
    prompts = [
        {"num": 1, "prompt": "[portrait,] a {person} laughs", "prompt_attr": ["short"]},
        {"num": 2, "prompt": "a <class word> runs", "prompt_style": ["photo"]},
    ]
    write(tmp_path / "data/prompts/human_longer_template.json", {"datas": prompts})
    return tmp_path


def test_ibench_s_own_sets_are_found_where_this_machine_has_them(ibench):
    data = read_data(ibench)
    assert [one.name for one in data.people] == ["李娜", "zoe"]
    assert all(one.photos[0].is_file() for one in data.people)
    texts = [pair.text for pair in data.pairs]
    assert texts == [
        "portrait, a woman laughs",
        "a woman runs",
        "portrait, a person laughs",
        "a person runs",
    ]
    assert data.pairs[0].prompt.attributes == ("short",)
    assert data.notes == ("2 pictures are named by paths of another machine; found by file name",)
    seeds = {pair.seed for pair in data.pairs}
    assert len(seeds) == 4 and seeds == {pair.seed for pair in read_data(ibench).pairs}


def test_several_sets_have_to_be_chosen(ibench):
    write(ibench / "data/prompts/typemovie_template.json", {"datas": [{"prompt": "a knight"}]})
    with pytest.raises(DataError, match="2 files .*--prompts of human_longer, typemovie"):
        read_data(ibench)
    assert len(read_data(ibench, "chineseid", "typemovie").pairs) == 2
    with pytest.raises(DataError, match="0 of them are called mystyleid"):
        read_data(ibench, "mystyleid", "typemovie")


def test_a_photo_that_is_nowhere_or_in_two_places(ibench):
    (ibench / "data/images/chineseid/zoe.jpg").rename(ibench / "other.jpg")
    with pytest.raises(DataError, match=r"entry 2 names .*zoe\.jpg, and .* has 0 files zoe\.jpg"):
        read_data(ibench)
    for folder in ("a", "b"):
        photo(ibench / folder / "zoe.jpg")
    with pytest.raises(DataError, match=r"has 2 files zoe\.jpg, expected 1"):
        read_data(ibench)
    photo(ibench / "copies" / "chineseid" / "zoe.jpg")
    assert "copies" in str(read_data(ibench).people[1].photos[0]), "the longest common end counts"


def test_a_plain_folder(tmp_path):
    for name in ("b.jpg", "a.png"):
        photo(tmp_path / "identities" / "Zoë" / name)
    photo(tmp_path / "identities" / "Max.jpg")
    (tmp_path / "prompts.txt").write_text("# two\na portrait\n\na portrait\nein Bild\n", "utf-8")
    data = read_data(tmp_path)
    assert [(one.name, len(one.photos)) for one in data.people] == [("Max", 1), ("Zoë", 2)]
    assert data.people[1].photos[0].name == "a.png"
    assert len(data.pairs) == 4 and "1 prompts came twice" in data.notes[0]
    (tmp_path / "prompts.txt").unlink()
    write(tmp_path / "prompts.json", ["one", {"prompt": "two", "seed": 5, "prompt_style": "ink"}])
    prompts = [pair.prompt for pair in read_data(tmp_path).pairs[:2]]
    assert prompts == [Prompt("one"), Prompt("two", (), ("ink",), 5)]
    assert read_data(tmp_path).pairs[1].seed == 5


def test_what_a_prompt_asks_for_beside_its_text(tmp_path):
    photo(tmp_path / "identities" / "Max.jpg")
    wish = {"prompt": "a happy man looks up", "expression": "happy", "view": "up", "pitch_deg": 20}
    write(tmp_path / "prompts.json", [wish, "a man"])
    asked, plain = (pair.prompt for pair in read_data(tmp_path).pairs)
    assert list(asked.wishes.values()) == ["happy", "up", None, 20.0]
    assert set(plain.wishes.values()) == {None}
    assert EXPRESSIONS == expression.CLASSES and VIEWS == pose.VIEWS


def test_what_a_plain_folder_lacks(tmp_path):
    with pytest.raises(DataError, match="there is no such file or folder"):
        read_data(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"0 files \*_images\.json"):
        read_data(tmp_path)
    (tmp_path / "identities" / "Zoë").mkdir(parents=True)
    with pytest.raises(DataError, match="Zoë has 0 photos"):
        read_data(tmp_path)
    photo(tmp_path / "identities" / "Zoë" / "a.png")
    with pytest.raises(DataError, match="0 of prompts.txt and prompts.json, expected 1"):
        read_data(tmp_path)
    (tmp_path / "prompts.txt").write_text("", "utf-8")
    with pytest.raises(DataError, match="1 people and 0 prompts"):
        read_data(tmp_path)
    with pytest.raises(DataError, match="--people a: .* no named sets"):
        read_data(tmp_path, "a")


def test_an_evaluation_file(tmp_path):
    for name in ("id.jpg", "with.png", "without.png"):
        photo(tmp_path / name)
    row = {"id": "/x/id.jpg", "prompt": "a man", "imagewithid": "with.png"}
    row["imagewithoutid"] = "/foreign/without.png"
    file = write(tmp_path / "evaluation.json", {"datas": [row, row]})
    [pair] = read_data(file).pairs
    assert (pair.given.name, pair.plain.name) == ("with.png", "without.png")
    other = {key: value for key, value in row.items() if key != "imagewithoutid"}
    write(file, {"datas": [row, {**other, "prompt": "a dog"}]})
    with pytest.raises(DataError, match="2 rows and 1 pictures imagewithoutid"):
        read_data(file)


@pytest.mark.parametrize(
    "content, words",
    [
        ({"datas": [{"id": "p.jpg"}]}, '"prompt", expected some text'),
        ({"datas": [{"id": "p.jpg", "prompt": "x", "gender": "m"}]}, "gender 'm': male, female"),
        ({"datas": [{"id": "p.jpg", "prompt": "x", "seed": -1}]}, "seed -1, expected 0 to"),
        ({"datas": [{"id": "p.jpg", "prompt": "x", "expression": "joy"}]}, "'joy'; choose one of"),
        ({"datas": [{"id": "p.jpg", "prompt": "x", "view": "back"}]}, "'back'; .* front, side"),
        ({"datas": [{"id": "p.jpg", "prompt": "x", "yaw_deg": 200}]}, "yaw_deg 200, expected -180"),
        ({"datas": [{"id": "p.jpg", "prompt": "x", "pitch_deg": True}]}, "pitch_deg True"),
        ({"datas": [{"id": 3, "prompt": "x"}]}, "names 3 as a picture"),
        ({"rows": []}, 'no list "datas"'),
        ({"datas": []}, "0 rows, expected 1"),
    ],
)
def test_bad_entries_are_refused_with_their_number(tmp_path, content, words):
    photo(tmp_path / "p.jpg")
    with pytest.raises(DataError, match=words):
        read_data(write(tmp_path / "evaluation.json", content))


def test_files_that_are_no_json_or_no_utf_8(tmp_path):
    file = tmp_path / "evaluation.json"
    file.write_bytes(b"{")
    with pytest.raises(DataError, match="is not JSON"):
        read_data(file)
    file.write_bytes("ä".encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8"):
        read_data(file)
