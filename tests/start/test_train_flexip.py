"""`start.py train flexip`: what is wrong with its options is said before anything is opened."""

import re
import runpy

import pytest
from pack import ROOT

pytestmark = pytest.mark.pure


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "setup" / "train_flexip.py"), run_name="script")


@pytest.fixture
def words(tmp_path):
    for name in ("data.jsonl", "base.safetensors", "clip.safetensors", "dino.safetensors"):
        (tmp_path / name).touch()
    return [
        *("--data", str(tmp_path / "data.jsonl"), "--base", str(tmp_path / "base.safetensors")),
        *("--clip-vision", str(tmp_path / "clip.safetensors")),
        *("--dino", str(tmp_path / "dino.safetensors")),
        *("--out", str(tmp_path / "out.safetensors"), "--work", str(tmp_path / "work")),
    ]


def test_defaults_are_the_papers(script, words):
    chosen = script["parse"](words)
    assert (chosen.steps, chosen.rate, chosen.video_share) == (140_000, 1e-4, 0.5)
    assert not chosen.muon and chosen.context == "dino"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--alpha", "1.5"], "--alpha is 1.5, expected 0 to 1"),
        (["--alpha", "nan"], "--alpha is nan, expected 0 to 1"),
        (["--batch", "0"], "--batch is 0, expected 1 to"),
        (["--size", "500"], "--size is 500, expected a multiple of 64"),
        (["--dropout", "0.5"], "--dropout is 0.5, expected 0 to 0.33"),
        (["--out", "adapter.ckpt"], "--out is adapter.ckpt, expected a name that ends in"),
        (["--init", "nowhere"], "--init begins with an IP-Adapter file.*--context clip"),
        (["--init", "nowhere", "--context", "clip"], "--init: nowhere does not exist"),
        (["--data", "nowhere"], "--data: nowhere does not exist"),
    ],
)
def test_wrong_options_are_named_with_what_is_expected(script, words, more, said, capsys):
    with pytest.raises(SystemExit):
        script["parse"]([*words, *more])
    assert re.search(said, capsys.readouterr().err.replace("\n", " "))


def test_dino_is_needed_unless_clip_is_read(script, words, capsys):
    place = words.index("--dino")
    without = words[:place] + words[place + 2 :]
    with pytest.raises(SystemExit):
        script["parse"](without)
    assert "--context dino needs --dino FILE" in capsys.readouterr().err
    assert script["parse"]([*without, "--context", "clip"]).dino is None


def test_every_option_reaches_the_job(script, words):
    """All but those that say where to compute."""
    chosen = vars(script["parse"](words))
    source = (ROOT / "model_patches/training/flexip_job.py").read_text(encoding="utf-8")
    fields = {line.strip().split(":")[0] for line in source.splitlines() if ": " in line}
    assert chosen.keys() - set(script["OWN"]) <= fields
