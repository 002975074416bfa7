"""Two processes take the step that one would take on both their examples."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from flexid.model_patches.training import distributed

ROOT = Path(distributed.__file__).parents[2]

pytestmark = pytest.mark.pure

SCRIPT = textwrap.dedent(
    """
    import sys
    from pathlib import Path

    import torch
    from torch import nn

    from flexid.model_patches.training import distributed
    from flexid.model_patches.training.loop import Recipe, train

    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    helping = distributed.join()
    examples = torch.arange(8.0).view(8, 1) / 8

    def run():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 2), nn.Linear(2, 1))
        mine = examples.chunk(count)[distributed.rank()]

        def loss(step, rng):
            with torch.autocast("cpu", enabled=False):  # halves of a batch round differently
                return (model(mine) - 3 * mine).square().mean(), {}

        train(Recipe("line", steps=25, rate=0.05, warmup=2), model, loss, folder)
        torch.save(model.state_dict(), folder / "trained.pt")

    if helping:
        try:
            run()
        except distributed.Helped:
            sys.exit(7)
    with distributed.team(count, [sys.executable, __file__, *sys.argv[1:]]):
        assert distributed.count() == count and distributed.share(8) == 8 // count
        run()
    """
)


def train_with(count, folder):
    folder.mkdir()
    script = folder / "script.py"
    package = f"import sys, types\np = types.ModuleType('flexid')\np.__path__ = [{str(ROOT)!r}]\n"
    script.write_text(package + "sys.modules['flexid'] = p\n" + SCRIPT, encoding="utf-8")
    call = [sys.executable, str(script), str(folder), str(count)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len((folder / "line.csv").read_text().splitlines()) == 2
    momenta = torch.load(folder / "line.ckpt", weights_only=True)["optimisers"][0]["state"]
    trained = torch.load(folder / "trained.pt", weights_only=True)
    return trained, {index: state["momentum_buffer"] for index, state in momenta.items()}


def test_two_train_like_one(tmp_path):
    """Each takes the costly part of the step for some layers, and both end with all of it."""
    alone, together = (train_with(count, tmp_path / str(count)) for count in (1, 2))
    for before, after in zip(alone, together, strict=True):
        assert before.keys() == after.keys() and len(after) >= 3
        for name, value in before.items():
            assert torch.allclose(value, after[name], atol=2e-3), name


def test_alone_there_is_nothing_to_share():
    assert distributed.rank() == 0 and distributed.count() == 1 and distributed.share(7) == 7
    gradient = torch.ones(3)
    distributed.average([gradient])
    assert gradient.tolist() == [1, 1, 1]
    owners = distributed.dealt([3, 5])
    distributed.hand_out([gradient, gradient], owners)
    assert owners == [0, 0] and gradient.tolist() == [1, 1, 1]


def test_work_is_dealt_evenly(monkeypatch):
    monkeypatch.setattr(distributed, "count", lambda: 2)
    assert distributed.dealt([5, 9, 3, 2]) == [1, 0, 1, 1]
