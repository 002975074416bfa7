"""Rows that can be painted, and what is said of the others; nothing is painted twice."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flexid.ibench.painter import PaintError, _describe, _explain
from flexid.ibench.records import Data, DataError, Pair, Person, Prompt
from flexid.ibench.rows import GIVEN, row_of
from flexid.ibench.store import Store
from flexid.ibench.work import Choices, open_brushes, paint_jobs, plan_jobs

pytestmark = pytest.mark.comfy


class Painter:
    """As the real one, with some files, and pictures of one colour."""

    def __init__(self, *files):
        self.files, self.painted = files, []

    def list_problems(self, graph, result):
        names = [
            value
            for node in graph.values()
            for value in node["inputs"].values()
            if isinstance(value, str) and value.endswith((".safetensors", ".pt", ".bin"))
        ]
        return [f"lacks {name}" for name in names if name not in self.files]

    def name_files(self, graph):
        return dict.fromkeys(self.files, "digest")

    def put_photo(self, path):
        return f"{path.stem}.copy.png"

    def paint(self, graph, result):
        self.painted.append(graph)
        return torch.full((4, 4, 3), 0.5)


FLUX = (
    "flux1-dev.safetensors", "clip_l.safetensors", "t5xxl_fp8_e4m3fn.safetensors",
    "ae.safetensors", "pulid_flux_v0.9.1.safetensors", "EVA02_CLIP_L_336_psz14_s6B.pt",
)  # fmt: skip
ROWS = [row_of(key) for key in ("alone", "vfa-1", "flexid", "dynamicid")]


@pytest.fixture
def pairs(tmp_path):
    person = Person("Zoë", (tmp_path / "photo.png",))
    return [Pair(person, Prompt(text)) for text in ("one", "two")]


def test_absent_files_leave_a_row_out_by_name_or_refuse_it(pairs):
    brushes, left_out = open_brushes(Painter(*FLUX), ROWS, Choices(), "a.png", insist=False)
    assert [one.row.key for one in brushes] == ["alone", "vfa-1"]
    assert left_out["flexid"] == "lacks face_t5_encoder.pt"
    assert "lacks SAA.bin" in left_out["dynamicid"]
    with pytest.raises(DataError, match=r"2 of 4 rows cannot .*\n  flexid: lacks face_t5"):
        open_brushes(Painter(*FLUX), ROWS, Choices(), "a.png", insist=True)
    with pytest.raises(DataError, match="4 of 4 rows cannot be painted"):
        open_brushes(Painter(), ROWS, Choices(), "a.png", insist=False)


def test_another_file_and_other_inputs_of_the_user(pairs):
    files = {"flux1-dev.safetensors": "mine.safetensors"}
    choices = Choices(files, {"steps": 3, "width": 64})
    painter = Painter("mine.safetensors", *FLUX[1:])
    brushes, _ = open_brushes(painter, ROWS[:1], choices, "a.png", insist=True)
    inputs = [node["inputs"] for node in brushes[0].recipe.graph.values()]
    assert any(one.get("unet_name") == "mine.safetensors" for one in inputs)
    assert any(one.get("steps") == 3 for one in inputs)
    assert any(one.get("width") == 64 for one in inputs)


def test_a_picture_is_compared_with_the_next_seed_of_its_prompt(pairs):
    brushes, _ = open_brushes(Painter(*FLUX), ROWS[:2], Choices(), "a.png", insist=True)
    photos = {pairs[0].person.photos[0]: "photo.copy.png"}
    assert all(one.other_seed is None for one in plan_jobs(ROWS[:2], brushes, pairs, photos))
    data = Data("set", tuple(pairs)).with_seeds(3)
    jobs = plan_jobs(ROWS[:2], brushes, data.pairs, photos)
    assert len(jobs) == 12 and len({job.key for job in jobs}) == 12
    for start in range(0, 12, 3):
        one, two, three = jobs[start : start + 3]
        assert [job.other_seed.key for job in (one, two, three)] == [two.key, three.key, one.key]
        assert len({(job.row.key, job.pair.text) for job in (one, two, three)}) == 1
    again = [replace(one, prompt=replace(one.prompt, seed=7)) for one in (pairs[0], pairs[0])]
    same = plan_jobs(ROWS[:1], brushes, again, photos)
    assert all(one.other_seed is None for one in same), "the same seed is the same picture"


def test_more_seeds_keep_the_pictures_of_the_first(pairs):
    data = Data("set", tuple(pairs))
    assert data.with_seeds(1) is data
    seeds = [pair.seed for pair in data.with_seeds(2).pairs]
    assert seeds[::2] == [pair.seed for pair in pairs] and len(set(seeds)) == 4
    given = Data("set", (replace(pairs[0], given=Path("w.png")),))
    with pytest.raises(DataError, match="--seeds 2: .* of set have 1 seed each"):
        given.with_seeds(2)


def test_each_picture_is_painted_once_and_shared_by_rows(pairs, tmp_path):
    painter, store = Painter(*FLUX), Store(tmp_path / "out")
    brushes, _ = open_brushes(painter, ROWS[:2], Choices(), "a.png", insist=True)
    photos = {pairs[0].person.photos[0]: "photo.copy.png"}
    jobs = plan_jobs(ROWS[:2], brushes, pairs, photos)
    assert len(jobs) == 4 and jobs[0].key == jobs[2].plain_key
    assert jobs[0].find_plain(store) is None and jobs[2].find_plain(store) is not None
    assert paint_jobs(painter, store, jobs, lambda line: None) == 4
    assert all(job.find_picture(store).is_file() for job in jobs)
    assert paint_jobs(painter, store, jobs, lambda line: None) == 0
    other, _ = open_brushes(painter, ROWS[:2], Choices(inputs={"steps": 9}), "a.png", True)
    keys = {job.key for job in plan_jobs(ROWS[:2], other, pairs, photos)}
    assert not keys & {job.key for job in jobs}, "other settings are other pictures"


def test_a_picture_that_fails_names_row_person_and_prompt(pairs, tmp_path):
    class Broken(Painter):
        def paint(self, graph, result):
            raise PaintError("KSampler: out of memory")

    painter = Broken(*FLUX)
    brushes, _ = open_brushes(painter, ROWS[:1], Choices(), "a.png", insist=True)
    jobs = plan_jobs(ROWS[:1], brushes, pairs, {pairs[0].person.photos[0]: "a.png"})
    with pytest.raises(PaintError, match="row alone, person Zoë, prompt 'one': KSampler: out of"):
        paint_jobs(painter, Store(tmp_path), jobs, lambda line: None)


def test_finished_pictures_are_taken_as_they_are(pairs, tmp_path):
    pair = Pair(pairs[0].person, pairs[0].prompt, tmp_path / "a.png", tmp_path / "b.png")
    [job] = plan_jobs([GIVEN], [], [pair], {})
    assert job.find_picture(Store(tmp_path)) == pair.given and not job.paints
    assert job.find_plain(Store(tmp_path)) == pair.plain


def test_comfyui_s_own_words_are_passed_on():
    absent = {
        "type": "value_not_in_list",
        "extra_info": {"input_name": "f", "received_value": "x.pt", "input_config": [["y.pt"], {}]},
    }
    assert _describe("Load", absent) == "Load lacks x.pt (f; there are y.pt)"
    absent["extra_info"]["input_config"] = ["COMBO", {"options": []}]
    assert _describe("Load", absent) == "Load lacks x.pt (f; there are none)"
    other = {"type": "required", "message": "Required input is missing", "details": "model"}
    assert _describe("Apply", other) == "Apply: Required input is missing model"
    failure = {"node_id": "3", "exception_message": "no face "}
    graph = {"3": {"class_type": "Detect", "inputs": {}}}
    assert _explain(graph, [("execution_start", {}), ("execution_error", failure)]) == (
        "Detect: no face"
    )
