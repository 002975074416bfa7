"""What was trained becomes part of the repository whole, or not at all."""

import pytest
from flexid.mini import train as command
from flexid.mini import world
from flexid.mini.training.install import adopt, install
from flexid.mini.training.options import curves, models

pytestmark = pytest.mark.pure


@pytest.fixture
def work(tmp_path):
    """Every file that training leaves, each with its own name in it."""
    folder = tmp_path / "work"
    names = [*world.TRAINED, "flexid/flexid_mini_faces.json"]
    files = [models(folder) / name for name in names]
    files += [
        curves(folder) / name for name in ("vae.json", "judges.json", "base.csv", "base.ckpt")
    ]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    return folder


def test_weights_figures_and_curves_find_their_places(work, tmp_path):
    weights, evaluation = tmp_path / "weights", tmp_path / "evaluation"
    install(work, weights, evaluation)
    assert all((weights / name).is_file() for name in world.TRAINED)
    assert (weights / world.FLUX).read_text() == "flexid_mini_flux.safetensors"
    found = {path.relative_to(evaluation).as_posix() for path in evaluation.rglob("*.*")}
    assert found == {"faces.json", "autoencoder.json", "judges.json", "curves/base.csv"}


def test_an_unfinished_world_is_not_installed(work, tmp_path):
    (models(work) / world.PULID).unlink()
    with pytest.raises(FileNotFoundError, match=r"flexid_mini_pulid\.safetensors.*mini-train"):
        install(work, tmp_path / "weights", tmp_path / "evaluation")
    assert not (tmp_path / "weights").exists()


def test_training_goes_on_from_the_weights_in_the_repository(tmp_path):
    weights, other = tmp_path / "weights", tmp_path / "other"
    for name in (world.VAE, world.FLUX):
        (weights / name).parent.mkdir(parents=True, exist_ok=True)
        (weights / name).write_text("shipped")
    mine = models(other) / world.FLUX
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    adopt(other, weights)
    assert (models(other) / world.VAE).read_text() == "shipped" and mine.read_text() == "mine"


def test_a_stage_whose_files_are_there_is_done(work, tmp_path):
    assert command.is_done("base", work) and not command.is_done("data", work)
    assert {stage for stage in command.STAGES if command.is_done(stage, work)} == set(command.MADE)
    (models(work) / world.T5).unlink()
    assert not command.is_done("text", work)
    named = {getattr(world, name) for names in command.MADE.values() for name in names}
    assert named == set(world.TRAINED)
