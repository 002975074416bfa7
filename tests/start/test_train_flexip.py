"""`start.py train flexip`: what is wrong with its options is said before anything is opened."""

import json
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
    assert chosen.keys() - set(script["OWN"]) <= fields_of("flexip_course", "flexip_job")


def fields_of(*modules):
    sources = [
        (ROOT / f"model_patches/training/{name}.py").read_text(encoding="utf-8") for name in modules
    ]
    lines = "\n".join(sources).splitlines()
    return {line.strip().split(":")[0] for line in lines if ": " in line}


@pytest.fixture
def flux_words(tmp_path, words):
    """A header that says Flux, and the files that a Flux needs."""
    header = {
        "double_blocks.0.img_attn.qkv.weight": {
            "dtype": "F16",
            "shape": [1],
            "data_offsets": [0, 2],
        }
    }
    text = json.dumps(header).encode()
    path = tmp_path / "flux.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(2))
    (tmp_path / "file").touch()
    common = [word for at in (0, 8, 10) for word in words[at : at + 2]]
    files = [
        word
        for name in ("vae", "t5", "clip-l", "eva")
        for word in (f"--{name}", str(tmp_path / "file"))
    ]
    return [*common, "--base", str(path), *files, "--faces", str(tmp_path)]


def test_a_flux_has_options_of_its_own(script, flux_words):
    chosen = vars(script["parse"](flux_words))
    assert (chosen["kind"], chosen["blocks"], chosen["part"]) == ("flux", "pulid", 1)
    assert "clip_vision" not in chosen and chosen["checkpointing"]
    assert chosen.keys() - set(script["OWN"]) <= fields_of("flexip_course", "flexip_flux_job")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--context", "clip"], "--context is for Stable Diffusion checkpoints, and flux.safeten"),
        (["--init", "x"], "--init is for Stable Diffusion checkpoints.*is a Flux"),
        (["--size", "120"], "--size is 120, expected a multiple of 16"),
        (["--guidance", "-1"], "--guidance is -1, expected 0 to 100"),
        (["--t5", "nowhere"], "--t5: nowhere does not exist"),
    ],
)
def test_wrong_options_of_a_flux_are_named(script, flux_words, more, said, capsys):
    with pytest.raises(SystemExit):
        script["parse"]([*flux_words, *more])
    assert re.search(said, capsys.readouterr().err.replace("\n", " "))


def test_options_of_a_flux_are_refused_for_a_checkpoint(script, words, flux_words, capsys):
    with pytest.raises(SystemExit):
        script["parse"]([*words, "--no-checkpointing"])
    assert (
        "--no-checkpointing is for Flux, and base.safetensors is no Flux" in capsys.readouterr().err
    )
    place = flux_words.index("--eva")
    with pytest.raises(SystemExit):
        script["parse"](flux_words[:place] + flux_words[place + 2 :])
    assert "--eva FILE is needed for Flux" in capsys.readouterr().err
