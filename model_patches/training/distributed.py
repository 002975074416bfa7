"""Processes that train one model together, each on its share of every step's examples.

On a CPU, processes of one thread each are faster than one process of several threads: half of a
step of a small model is elementwise work, which does not spread well. All hold the same weights:
gradients are averaged, each process works out a share of the step, and hands it to the others.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

PLACE = "FLEXID_WORKER"
"""Environment variable of a helping process: its rank, the number of all, and where they meet."""


class Helped(Exception):
    """Raised in a helping process once the model is trained: the first one writes it."""


def rank() -> int:
    """0 in the process that shows, saves and writes; 1, 2, ... in those that help it."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def share(examples: int) -> int:
    """How many of a step's examples are this process's. ValueError where they do not divide."""
    if examples % count():
        raise ValueError(f"a batch of {examples} cannot be shared by {count()} workers evenly.")
    return examples // count()


def average(tensors: Sequence[Tensor]) -> None:
    """Every tensor becomes its mean over all processes."""
    if count() == 1:
        return
    flat = _joined(tensors)
    dist.all_reduce(flat)
    _part(flat.div_(count()), tensors)


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """One message is sent faster than many."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def _part(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Put the values of `flat` where `_joined` took them from."""
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def dealt(costs: Sequence[int]) -> list[int]:
    """The process that each piece of work falls to, so that all have about as much to do."""
    loads, owners = [0] * count(), [0] * len(costs)
    for index in sorted(range(len(costs)), key=lambda one: -costs[one]):
        owners[index] = loads.index(min(loads))
        loads[owners[index]] += costs[index]
    return owners


@torch.no_grad()
def hand_out(tensors: Sequence[Tensor], owners: Sequence[int]) -> None:
    """Every tensor becomes what its owner holds."""
    if count() == 1:
        return
    for owner in range(count()):
        owned = [one for one, process in zip(tensors, owners, strict=True) if process == owner]
        if not owned:
            continue
        flat = _joined(owned)
        dist.broadcast(flat, owner)
        if owner != rank():
            _part(flat, owned)


@contextmanager
def team(workers: int, command: Sequence[str]) -> Iterator[None]:
    """This process and `workers` - 1 more that run `command`; they are stopped at the end."""
    if workers == 1:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        helpers = [_start(command, f"{k} {workers} {meeting}") for k in range(1, workers)]
        try:
            _meet(0, workers, meeting)
            yield
        finally:
            for helper in helpers:
                helper.kill()  # it may wait for this process, and holds nothing
            for helper in helpers:
                helper.wait()
            if dist.is_initialized():
                dist.destroy_process_group()


def _start(command: Sequence[str], place: str) -> subprocess.Popen:
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env={**os.environ, PLACE: place}, stdout=quiet)


def join() -> bool:
    """Meet the others if this process was started to help them; whether it was."""
    if PLACE not in os.environ:
        return False
    number, workers, meeting = os.environ[PLACE].split(" ", 2)
    _meet(int(number), int(workers), Path(meeting))
    return True


def _meet(number: int, workers: int, meeting: Path) -> None:
    """Over the loopback interface alone, and with a file instead of a port to find each other."""
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{meeting}", world_size=workers, rank=number)
