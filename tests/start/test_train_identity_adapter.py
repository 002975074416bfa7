"""`start.py train identity-adapter`: wrong options are named before anything is opened."""

import re
import runpy

import pytest
from pack import ROOT

pytestmark = pytest.mark.pure


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "setup/train_identity_adapter.py"), run_name="script")


@pytest.fixture
def words(tmp_path):
    (tmp_path / "faces").mkdir()
    (tmp_path / "file.safetensors").touch()
    given = {name: "file.safetensors" for name in ("data", "base", "adapter", "eva", "vae", "t5")}
    given |= {"clip-l": "file.safetensors", "faces": "faces"}
    given |= {"out": "out.safetensors", "work": "work"}
    return [word for name, file in given.items() for word in (f"--{name}", str(tmp_path / file))]


def test_defaults_are_the_published_ones(script, words):
    chosen = script["parse"](words)
    assert (chosen.train, chosen.steps, chosen.batch, chosen.rate) == ("ca_all", 5000, 2, 1e-5)
    assert (chosen.likeness, chosen.likeness_until, chosen.reference) == (0.1, 0.6, "other")
    assert script["parse"]([*words, "--train", "lora"]).rate == 1e-4


def test_the_sets_are_those_of_the_trainer(script):
    from flexid.model_patches.training.flow import SIGMAS

    assert set(script["SIGMAS"]) == set(SIGMAS)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--likeness", "-1"], "--likeness is -1, expected 0 to 10"),
        (["--likeness", "nan"], "--likeness is nan, expected 0 to 10"),
        (["--likeness-until", "0"], "--likeness-until is 0, expected 0.01 to 1"),
        (["--size", "500"], "--size is 500, expected a multiple of 16"),
        (["--train", "all"], "invalid choice: 'all'"),
        (["--out", "adapter.ckpt"], "--out is adapter.ckpt, expected a name that ends in"),
        (["--decoder", "nowhere"], "--decoder: nowhere does not exist"),
    ],
)
def test_wrong_options_are_named_with_what_is_expected(script, words, more, said, capsys):
    with pytest.raises(SystemExit):
        script["parse"]([*words, *more])
    assert re.search(said, capsys.readouterr().err.replace("\n", " "))


def test_the_file_that_it_begins_with_is_not_written_over(script, words, capsys):
    adapter = words[words.index("--adapter") + 1]
    with pytest.raises(SystemExit):
        script["parse"]([*words, "--out", adapter])
    assert "--out is the file of --adapter" in capsys.readouterr().err
