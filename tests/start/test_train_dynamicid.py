"""`start.py train dynamicid-anchor` and `dynamicid-reconfigure`: wrong options are named before
anything is opened."""

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
from pack import ROOT

pytestmark = pytest.mark.pure


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "setup/train_dynamicid.py"), run_name="script")


@pytest.fixture
def words(tmp_path):
    (tmp_path / "faces").mkdir()
    (tmp_path / "file.safetensors").touch()
    given = dict.fromkeys(("data", "base", "clip-vision"), "file.safetensors")
    given |= {"faces": "faces", "out": "IMR_mine.safetensors", "work": "work"}
    found = [word for name, file in given.items() for word in (f"--{name}", str(tmp_path / file))]
    return {
        "anchor": ["anchor", *found],
        "reconfigure": ["reconfigure", *found, "--saa", str(tmp_path / "file.safetensors")],
    }


def test_defaults_are_the_papers(script, words):
    chosen = script["parse"](words["anchor"])
    assert (chosen.batch, chosen.rate, chosen.last_rate, chosen.threshold) == (16, 1e-5, 1.0, 0.3)
    chosen = script["parse"](words["reconfigure"])
    assert (chosen.weight, chosen.targets, chosen.kdef_share, chosen.depth) == (1.0, 32, 0.05, 1)
    assert (chosen.rate, chosen.dim, chosen.motion) == (1e-5, 1024, 4)


def test_the_second_file_is_named_as_the_authors_code_names_it(script, words):
    chosen = script["parse"](words["reconfigure"])
    assert chosen.out_keypoints.name == "key_point_encoder_mine.safetensors"
    beside = script["keypoints_beside"](Path("mine.safetensors"))
    assert beside == Path("mine_key_point_encoder.safetensors")


@pytest.mark.parametrize("stage", ["anchor", "reconfigure"])
def test_every_option_reaches_the_job(script, words, stage):
    """All but those that say where to compute."""
    module = {"anchor": "saa_job", "reconfigure": "imr_job"}[stage]
    source = (ROOT / f"model_patches/training/{module}.py").read_text(encoding="utf-8")
    fields = {line.strip().split(":")[0] for line in source.splitlines() if ": " in line}
    chosen = vars(script["parse"](words[stage]))
    assert chosen.keys() - set(script["OWN"]) <= fields


@pytest.mark.parametrize(
    ("stage", "more", "said"),
    [
        ("anchor", ["--rank", "-1"], "--rank is -1, expected 0 to 1024"),
        ("anchor", ["--dropout", "0.5"], "--dropout is 0.5, expected 0 to 0.33"),
        ("anchor", ["--size", "500"], "--size is 500, expected a multiple of 64"),
        ("anchor", ["--init", "nowhere"], "--init: nowhere does not exist"),
        ("anchor", ["--out", "SAA.bin"], "--out is SAA.bin, expected a name that ends in"),
        ("reconfigure", ["--lambda", "nan"], "--lambda is nan, expected 0 to 100"),
        ("reconfigure", ["--part", "0"], "--part is 0, expected 1 to"),
        ("reconfigure", ["--dim", "100"], "--dim is 100, expected a multiple of 64"),
        ("reconfigure", ["--saa", "nowhere"], "--saa: nowhere does not exist"),
        ("reconfigure", ["--landmarker", "nowhere"], "--landmarker: nowhere does not exist"),
        ("reconfigure", ["--faces", "FILE"], "is a file, the face pack's folder is needed"),
        ("reconfigure", ["--init", "FILE"], "--init and --init-keypoints belong together"),
        ("reconfigure", ["--out", "FILE"], "--out is the file of --saa, which is kept as it is"),
    ],
)
def test_wrong_options_are_named_with_what_is_expected(script, words, stage, more, said, capsys):
    given = words[stage]
    file = given[given.index("--data") + 1]
    with pytest.raises(SystemExit):
        script["parse"]([*given, *(file if word == "FILE" else word for word in more)])
    assert re.search(said, capsys.readouterr().err.replace("\n", " "))


def test_both_files_need_names_of_their_own(script, words, tmp_path, capsys):
    out = str(tmp_path / "IMR_mine.safetensors")
    with pytest.raises(SystemExit):
        script["parse"]([*words["reconfigure"], "--out-keypoints", out])
    assert "two names are needed" in capsys.readouterr().err


def test_the_trainers_name_the_stage_and_the_device():
    from flexid.setup.training import TRAINERS

    for name in ("anchor", "reconfigure"):
        prepare = TRAINERS[f"dynamicid-{name}"].prepare
        found = prepare(SimpleNamespace(device="cuda"), ["--steps", "3"])
        assert found == [name, "--device", "cuda", "--steps", "3"]
