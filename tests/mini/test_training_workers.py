"""Two processes take the step that one would take on both their examples."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from flexid.mini.training import workers

ROOT = Path(workers.__file__).parents[2]

pytestmark = pytest.mark.pure

SCRIPT = textwrap.dedent(
    """
    import sys
    from pathlib import Path

    import torch
    from torch import nn

    from flexid.mini.training import workers
    from flexid.mini.training.loop import Recipe, train

    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    helping = workers.join()
    examples = torch.arange(8.0).view(8, 1) / 8

    def run():
        torch.manual_seed(0)
        model = nn.Linear(1, 1)
        mine = examples.chunk(count)[workers.rank()]

        def loss(step, rng):
            return (model(mine).float() - 3 * mine).square().mean(), {}

        train(Recipe("line", steps=20, rate=0.05, warmup=2), model, loss, folder)
        torch.save(model.state_dict(), folder / "trained.pt")

    if helping:
        try:
            run()
        except workers.Helped:
            sys.exit(7)
    with workers.team(count, [sys.executable, __file__, *sys.argv[1:]]):
        assert workers.count() == count and workers.share(8) == 8 // count
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
    return torch.load(folder / "trained.pt", weights_only=True)


def test_two_train_like_one(tmp_path):
    alone, together = (train_with(count, tmp_path / str(count)) for count in (1, 2))
    for name, value in alone.items():
        # Half-precision products of other shapes round differently.
        assert torch.allclose(value, together[name], atol=2e-3), name
    assert len((tmp_path / "2" / "line.csv").read_text().splitlines()) == 2


def test_alone_there_is_nothing_to_share():
    assert workers.rank() == 0 and workers.count() == 1 and workers.share(7) == 7
    gradient = torch.ones(3)
    workers.average([gradient])
    assert gradient.tolist() == [1, 1, 1]
