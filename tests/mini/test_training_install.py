"""What was trained becomes part of the repository whole, or not at all."""

import pytest
from flexid.mini import world
from flexid.mini.training.install import install
from flexid.mini.training.options import curves, models

pytestmark = pytest.mark.pure


@pytest.fixture
def work(tmp_path):
    """Every file that training leaves, each with its own name in it."""
    folder = tmp_path / "work"
    names = [*world.TRAINED, "flexid/flexid_mini_faces.json"]
    files = [models(folder) / name for name in names]
    files += [curves(folder) / name for name in ("vae.json", "base.csv", "base.ckpt")]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    return folder


def test_weights_figures_and_curves_find_their_places(work, tmp_path):
    weights, evaluation = tmp_path / "weights", tmp_path / "evaluation"
    install(work, weights, evaluation)
    assert world.is_trained(weights)
    assert (weights / world.FLUX).read_text() == "flexid_mini_flux.safetensors"
    found = {path.relative_to(evaluation).as_posix() for path in evaluation.rglob("*.*")}
    assert found == {"faces.json", "autoencoder.json", "curves/base.csv"}


def test_an_unfinished_world_is_not_installed(work, tmp_path):
    (models(work) / world.PULID).unlink()
    with pytest.raises(FileNotFoundError, match=r"flexid_mini_pulid\.safetensors.*mini-train"):
        install(work, tmp_path / "weights", tmp_path / "evaluation")
    assert not (tmp_path / "weights").exists()
