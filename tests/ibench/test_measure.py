"""Pictures of painted faces, measured and kept: people, twins, modes, refusals."""

from dataclasses import replace

import compare_world
import numpy as np
import pytest
import torch
from compare_world import BLUE, GREEN, RED, picture
from flexid.ibench.judges import Judges, choose_pack, warn_of_kinship
from flexid.ibench.measure import Meter
from flexid.ibench.records import DataError, Pair, Person, Prompt
from flexid.ibench.rows import GIVEN
from flexid.ibench.sets import say_few
from flexid.ibench.store import Store, open_picture
from flexid.ibench.work import Job, share_jobs
from flexid.model_patches.evaluate.distances import fid, kid
from flexid.model_patches.evaluate.inception import inception_pixels
from flexid.model_patches.face.pixels import to_uint8
from PIL import Image

pytestmark = pytest.mark.comfy


def save(path, image):
    Image.fromarray((image[0] * 255).round().to(torch.uint8).numpy()).save(path)
    return path


@pytest.fixture
def person(tmp_path):
    return Person("Zoë", (save(tmp_path / "photo.png", picture(RED)),))


def meter(folder, mode="corrected", **judges):
    return Meter(Judges(compare_world.analyser(), "painted", **judges), Store(folder), mode)


def job(person, given, plain=None, text="a person"):
    return Job(GIVEN, Pair(person, Prompt(text)), picture=given, plain_picture=plain)


def test_figures_are_kept_and_read_by_any_process(tmp_path, person):
    jobs = [
        job(person, save(tmp_path / "a.png", picture(RED, yaw=30)), text="one"),
        job(person, save(tmp_path / "b.png", picture(None)), text="two"),
    ]
    first = meter(tmp_path / "out")
    first.meet([person])
    with pytest.raises(DataError, match="not measured.* one --out folder"):
        first.collect(jobs)
    lines = []
    first.measure_all(jobs, lines.append)
    assert lines == ["1 of 2 measured: given, Zoë", "2 of 2 measured: given, Zoë"]
    second = meter(tmp_path / "out")
    second.meet([person])
    second.measure_all(jobs, lambda line: pytest.fail("measured again"))
    seen, missing = second.collect(jobs)
    assert seen.values["likeness"].value == pytest.approx(1, abs=1e-4)
    assert seen.values["yaw"].value == pytest.approx(30, abs=0.5)
    assert missing.values["likeness"].reason == "no_face_gen" and missing.faces == 0
    assert missing.values["yaw"].reason == "no_face_gen" and "outside" not in seen.values


def test_another_mode_photo_or_judge_measures_again(tmp_path, person):
    one = job(person, save(tmp_path / "a.png", picture(RED)))
    names = {meter(tmp_path / "out").name(one), meter(tmp_path / "out", "compat").name(one)}
    names.add(meter(tmp_path / "out", files={"x.onnx": "1"}).name(one))
    other = Person("Zoë", (save(tmp_path / "other.png", picture(GREEN)),))
    names.add(meter(tmp_path / "out").name(job(other, one.picture)))
    assert len(names) == 4


def test_the_plain_twin_and_a_second_photo_add_their_measures(tmp_path):
    photos = [save(tmp_path / f"{i}.png", picture(c)) for i, c in enumerate((RED, GREEN))]
    person = Person("Zoë", tuple(photos))
    plain = save(tmp_path / "plain.png", picture(BLUE))
    jobs = [job(person, save(tmp_path / "a.png", picture(RED)), plain)]
    found = meter(tmp_path / "out")
    found.meet([person])
    found.measure_all(jobs, lambda line: None)
    [one] = found.collect(jobs)
    assert one.values["copy_paste"].value == pytest.approx(1, abs=0.02)
    assert one.values["gain"].ok and one.values["outside"].value == 0


def test_two_seeds_of_a_prompt_differ_by_chance(tmp_path, person):
    """By hand: heads of 30 and 10 degrees are 20 apart, whichever of them is asked."""
    turns = {3: picture(RED, yaw=30), 4: picture(RED, yaw=10), 5: picture(None)}
    jobs = [
        Job(
            GIVEN,
            Pair(person, Prompt("a person", seed=seed)),
            picture=save(tmp_path / f"{seed}.png", image),
        )
        for seed, image in turns.items()
    ]
    jobs = [
        replace(one, other_seed=two) for one, two in zip(jobs, jobs[1:] + jobs[:1], strict=True)
    ]
    found = meter(tmp_path / "out")
    found.meet([person])
    found.measure_all(jobs, lambda line: None)
    first, second, third = found.collect(jobs)
    assert first.values["seeds_pose"].value == pytest.approx(20, abs=0.5)
    for one in (second, third):
        assert one.values["seeds_pose"].reason == "no_face_gen", "either picture may lack the face"
    assert first.values["pose"].value == pytest.approx(30, abs=0.5)
    assert "seeds_landmarks" not in first.values, "no landmarker"
    assert found.name(jobs[0]) != found.name(replace(jobs[0], other_seed=None))
    compat = meter(tmp_path / "out", "compat")
    compat.meet([person])
    compat.measure_all(jobs, lambda line: None)
    first, second, third = compat.collect(jobs)
    assert first.values["seeds_landmarks"].value == pytest.approx(0, abs=1e-6)
    assert not second.values["seeds_landmarks"].ok and not third.values["seeds_landmarks"].ok


class Colours(torch.nn.Module):
    """In place of FID's network: the mean of each channel."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, x):
        return x.mean((2, 3)) * self.scale


def test_fid_and_kid_of_a_row_against_its_plain_twins(tmp_path, person):
    colours = [(RED, GREEN), (BLUE, RED), (GREEN, GREEN)]
    jobs = [
        job(
            person,
            save(tmp_path / f"{number}.png", picture(one)),
            save(tmp_path / f"{number}.plain.png", picture(other)),
            text=str(number),
        )
        for number, (one, other) in enumerate(colours)
    ]
    found = meter(tmp_path / "out", inception=Colours())
    with pytest.raises(DataError, match="not looked at"):
        found.compare_sets(jobs)
    found.look_all(jobs, lambda line: None)
    sides = [
        [inception_pixels(to_uint8(open_picture(path)[0])).mean((1, 2)).numpy() for path in side]
        for side in zip(*(found._both(one) for one in jobs), strict=True)
    ]
    sets = found.compare_sets(jobs)["given"]
    assert sets["fid"] == pytest.approx(fid(*map(np.stack, sides)), rel=1e-5)
    assert sets["kid"] == pytest.approx(1000 * kid(*map(np.stack, sides))[0], rel=1e-5)
    assert "FID of 3 pictures, below 2048" in say_few(sets)
    assert found.compare_sets(jobs[:1]) == {"given": {}}, "one picture has no spread"
    assert meter(tmp_path / "out").compare_sets(jobs) == {}, "left out without the network"


def test_every_photo_without_a_face_is_named_before_anything_is_painted(tmp_path, person):
    people = [person, *(Person(n, (save(tmp_path / f"{n}.png", picture(None)),)) for n in "ab")]
    with pytest.raises(DataError, match=r"2 of 3 people.*\n  a: .*\n  b: ") as caught:
        meter(tmp_path / "out").meet(people)
    assert "Zoë" not in str(caught.value)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken\.png cannot be read as a picture"):
        meter(tmp_path / "out").meet([Person("c", (broken,))])


def test_unequal_sizes_are_refused_with_the_file(tmp_path, person):
    plain = save(tmp_path / "plain.png", picture(BLUE)[:, :100])
    found = meter(tmp_path / "out")
    found.meet([person])
    with pytest.raises(
        DataError, match=r"a\.png: images have \(200, 300\) .*, plain has \(100, 300\)"
    ):
        found.measure_all([job(person, save(tmp_path / "a.png", picture(RED)), plain)], print)


def test_each_picture_is_one_process_s(person):
    jobs = [job(person, None, text=str(n)) for n in range(7)]
    for count in (1, 2, 3, 8):
        shares = [share_jobs(jobs, rank, count) for rank in range(count)]
        assert [one for share in shares for one in share] == jobs
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_pictures_of_any_kind_become_three_channels(tmp_path):
    turned = Image.new("RGB", (4, 2), (255, 0, 0))
    exif = turned.getexif()
    exif[274] = 6  # turn by a quarter
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert open_picture(tmp_path / "turned.jpg").shape == (1, 4, 2, 3)
    Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert open_picture(tmp_path / "clear.png").min() == 1, "over white"
    Image.new("L", (2, 2), 51).save(tmp_path / "grey.png")
    assert open_picture(tmp_path / "grey.png").unique().tolist() == pytest.approx([0.2])
    Image.new("I;16", (2, 2), 65535).save(tmp_path / "deep.png")
    assert open_picture(tmp_path / "deep.png").min() == 1


class Folders:
    """As ComfyUI's folder_paths."""

    def __init__(self, root):
        self.root = root

    def get_folder_paths(self, name):
        return [str(self.root / name)]


def test_the_face_pack_that_measures(tmp_path):
    folders = Folders(tmp_path)

    def add(name):
        place = tmp_path / "insightface" / "models" / name
        place.mkdir(parents=True)
        (place / "a.onnx").write_bytes(b"")

    with pytest.raises(DataError, match="0 face packs .*none is chosen"):
        choose_pack(folders, None)
    add("buffalo_l")
    assert choose_pack(folders, None).name == "buffalo_l"
    add("other")
    with pytest.raises(DataError, match=r"2 face packs .*\(buffalo_l, other\)"):
        choose_pack(folders, None)
    with pytest.raises(DataError, match="nobody is not among them"):
        choose_pack(folders, "nobody")
    add("antelopev2")
    assert choose_pack(folders, None).name == "antelopev2"
    assert choose_pack(folders, "other").name == "other"


def test_a_judge_that_also_made_the_identities_is_told():
    judges = Judges(None, "antelopev2")
    named = {"vfa-1": ["antelopev2/glintr100.onnx"], "dynamicid": ["buffalo_l/w600k_r50.onnx"]}
    [note] = warn_of_kinship(judges, named)
    assert "identities of vfa-1," in note
    assert warn_of_kinship(Judges(None, "other"), named) == []
