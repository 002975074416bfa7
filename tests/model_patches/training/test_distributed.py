"""Processes under torchrun train what one process trains; a stop in any of them saves."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from flexid.model_patches.training import distributed
from torch import nn

ROOT = Path(distributed.__file__).parents[2]

pytestmark = pytest.mark.pure

SCRIPT = """
import os, sys, time, types
from pathlib import Path

pack = types.ModuleType("flexid")
pack.__path__ = [ROOT]
sys.modules["flexid"] = pack

import torch
from torch import nn
from flexid.model_patches.training import distributed, loop
from flexid.model_patches.training.loop import Recipe, train

folder, count, steps, pause = Path(sys.argv[1]), *map(int, sys.argv[2:5])
if count > 1 and not distributed.is_launched():
    try:
        distributed.launch(count, sys.argv)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)
device = distributed.join(torch.device("cpu"))
assert device.type == "cpu" and distributed.count() == count
assert distributed.share(8) == 8 // count
examples = torch.arange(8.0).view(8, 1) / 8
loop.SAVE_SECONDS = 0


def run(name, count):
    torch.manual_seed(distributed.rank())  # all start from the first one's weights
    model = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 2), nn.Linear(2, 1))
    mine = examples.chunk(count)[distributed.rank()]

    def loss(step, rng):
        (folder / f"pid{os.getpid()}").touch()
        if step > 30:
            time.sleep(pause)
        with torch.autocast("cpu", enabled=False):  # halves of a batch round differently
            return (model(mine) - 3 * mine).square().mean(), {}

    train(Recipe(name, steps=steps, rate=0.05, warmup=2), model, loss, folder)
    if not distributed.rank():
        torch.save(model.state_dict(), folder / f"{name}.pt")


def count_alone():
    assert distributed.count() == 1 and distributed.share(7) == 7
    run("alone", 1)


run("line", count)
assert (folder / "line.ckpt").exists()  # for all of them
distributed.by_first(count_alone)
assert (folder / "alone.pt").exists()
assert distributed.of_first(distributed.rank() + 5) == 5
assert distributed.any_of(distributed.rank() == count - 1)
distributed.leave()
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "script.py"
    path.write_text(textwrap.dedent(SCRIPT.replace("ROOT", repr(str(ROOT)))), encoding="utf-8")
    return path


@pytest.fixture
def start(script, tmp_path):
    """Starts the script; what a failed test leaves behind is stopped."""
    started = []

    def run(count, steps=40, pause=0):
        call = [sys.executable, str(script), *map(str, (tmp_path, count, steps, pause))]
        process = subprocess.Popen(call, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield run
    for process in started:
        process.terminate()
        process.communicate()


def finish(process, code=0):
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == code, errors


def trained(folder, name):
    """Weights, and Muon's momenta, of one of the script's two runs."""
    momenta = torch.load(folder / f"{name}.ckpt", weights_only=True)["optimisers"][0]["state"]
    weights = torch.load(folder / f"{name}.pt", weights_only=True)
    return weights | {f"momentum {k}": state["momentum_buffer"] for k, state in momenta.items()}


def test_two_train_like_one(start, tmp_path):
    """Each takes the costly part of the step for some layers, and both end with all of it."""
    finish(start(2))
    together, alone = trained(tmp_path, "line"), trained(tmp_path, "alone")
    assert alone.keys() == together.keys() and len(alone) == 6 + 3
    for name, value in alone.items():
        assert torch.allclose(value, together[name], atol=2e-3), name
    assert len((tmp_path / "line.csv").read_text().splitlines()) == 3


def test_a_killed_run_goes_on_to_the_same_loss(start, tmp_path):
    process = start(1, pause=1)
    wait_for((tmp_path / "line.ckpt").exists)
    process.kill()
    finish(process, -signal.SIGKILL)
    assert not (tmp_path / "line.pt").exists()
    finish(start(1))
    resumed, alone = trained(tmp_path, "line"), trained(tmp_path, "alone")
    for name, value in alone.items():
        assert torch.equal(value, resumed[name]), name
    curves = [(tmp_path / f"{name}.csv").read_text().splitlines() for name in ("line", "alone")]
    losses = [[row.split(",")[2] for row in curve] for curve in curves]
    assert losses[0] == losses[1] and losses[0][0] == "loss"


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "nothing came"
        time.sleep(0.1)


def test_a_stop_saves_and_leaves_no_process(start, tmp_path):
    """The signal reaches the process that was started; in between, nothing listens to others."""
    process = start(2, steps=10_000, pause=1)
    checkpoint = tmp_path / "line.ckpt"
    wait_for(checkpoint.exists)
    workers = [int(path.name.removeprefix("pid")) for path in tmp_path.glob("pid*")]
    assert len(workers) == 2
    assert outside_listeners([process.pid, *workers]) == []
    process.send_signal(signal.SIGTERM)
    finish(process, 130)
    assert torch.load(checkpoint, weights_only=True)["step"] > 25, "only the regular save"
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def outside_listeners(processes):
    """Addresses beyond this machine that the processes listen on (Linux; elsewhere none)."""
    if not Path("/proc/net/tcp").exists():
        return []
    mine = set()
    for process in processes:
        for link in Path(f"/proc/{process}/fd").iterdir():
            try:
                mine.add(os.readlink(link))
            except OSError:
                continue
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, state, inode = (line.split()[k] for k in (1, 3, 9))
            listens = state == "0A" and f"socket:[{inode}]" in mine
            if listens and local.split(":")[0] not in LOOPBACKS:
                found.append(local)
    return found


LOOPBACKS = (
    socket.inet_aton("127.0.0.1")[::-1].hex().upper(),
    "0000000000000000FFFF00000100007F",
    "00000000000000000000000001000000",
)


def test_alone_there_is_nothing_to_share():
    assert distributed.rank() == 0 and distributed.count() == 1 and distributed.share(7) == 7
    assert distributed.join(torch.device("cpu")) == torch.device("cpu")
    weight, done = nn.Parameter(torch.zeros(3)), []
    weight.grad = torch.ones(3)
    distributed.average_gradients([weight])
    distributed.by_first(lambda: done.append(1))
    distributed.meet()
    owners = distributed.dealt([3, 5])
    distributed.hand_out([weight, weight], owners)
    assert owners == [0, 0] and weight.grad.tolist() == [1, 1, 1] and done == [1]
    assert distributed.of_first(3) == 3 and not distributed.any_of(False)


def test_work_is_dealt_evenly(monkeypatch):
    monkeypatch.setattr(distributed, "count", lambda: 2)
    assert distributed.dealt([5, 9, 3, 2]) == [1, 0, 1, 1]


def test_each_process_has_a_gpu_of_its_own():
    assert distributed._own_gpu(1, 2) == torch.device("cuda", 1)
    with pytest.raises(ValueError, match="process 2 .* torch sees 2.* at most 2"):
        distributed._own_gpu(2, 2)
