"""Processes that train one model together, each on its share of every step's examples.

torchrun starts them: `torchrun --nproc-per-node 2 SCRIPT ...`, with --nnodes on several machines,
or `launch`, which runs torchrun for one machine. `join` makes them one process group: gloo on CPUs,
NCCL on GPUs. All hold the same weights: gradients are averaged, each process works out a share of
the step, and hands it to the others. Without torchrun every function here does what is right for
a single process.

On a CPU, processes of one thread each are faster than one process of several threads: half of a
step of a small model is elementwise work, which does not spread well.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

STEP = timedelta(minutes=30)
"""A process that misses a step for this long counts as lost."""
STAGE = timedelta(days=30)
"""How long the others wait while the first process works alone."""
POLL = 0.1
"""Seconds between two looks at whether the others have come."""
LOOPBACK = "127.0.0.1"

_waiting: dist.ProcessGroup | None = None
_alone = False


def is_launched() -> bool:
    """Whether torchrun (or a program that sets the same variables) started this process."""
    needed = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return all(name in os.environ for name in needed)


def launch(processes: int, command: Sequence[str]) -> None:
    """Run a script with its arguments in `processes` processes on this machine, by torchrun.

    Nothing listens on other than the loopback interface. Raises KeyboardInterrupt when this process
    was stopped by Ctrl-C or SIGTERM; the others were then told to save, and have ended. Raises
    RuntimeError when one of them failed: it has shown its error by then.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # torchrun's own stores listen on every interface: they are replaced by a file here, and by
    # `_local_store` in the processes.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        options = ["--nnodes=1", f"--nproc-per-node={processes}", f"--local-addr={LOOPBACK}"]
        options += ["--rdzv-backend=c10d", f"--rdzv-endpoint={Path(folder) / 'meeting'}"]
        options += ["--rdzv-conf=store_type=file", f"--log-dir={folder}"]
        try:
            main([*options, *command])
        except SignalException as error:
            raise KeyboardInterrupt from error
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            raise RuntimeError(
                f"process {rank} of {processes} ended with exit code {failure.exitcode}; its error "
                "stands above. The same command goes on from the last checkpoint."
            ) from error


def join(device: torch.device) -> torch.device:
    """Join the processes that torchrun started; the device that this one computes on.

    device: "cuda" becomes the GPU of this process (LOCAL_RANK). Without torchrun it comes back as
    it is. Raises ValueError where a machine has fewer GPUs than processes.
    """
    global _waiting
    if not is_launched() or dist.is_initialized():
        return device
    if device.type == "cuda":
        device = _own_gpu(int(os.environ["LOCAL_RANK"]), torch.cuda.device_count())
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=STEP, **_meeting())
    group = dist.new_group(backend="gloo", timeout=STAGE)
    _waiting = group if isinstance(group, dist.ProcessGroup) else None
    return device


def _own_gpu(local: int, gpus: int) -> torch.device:
    if local >= gpus:
        raise ValueError(
            f"process {local} of this machine has no GPU: torch sees {gpus}. Start at most {gpus} "
            "processes on each machine."
        )
    return torch.device("cuda", local)


def _meeting() -> dict:
    """How the processes find each other. On one machine, over the loopback interface alone."""
    if os.environ["LOCAL_WORLD_SIZE"] != os.environ["WORLD_SIZE"]:
        return {}
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return {}
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return {"store": _local_store(rank, count), "rank": rank, "world_size": count}


def _local_store(rank: int, count: int) -> Any:
    """A torch.distributed.TCPStore on the loopback interface."""
    port = int(os.environ["MASTER_PORT"])
    # torch documents it under this name, but does not list it among the module's exports.
    open_store = dist.TCPStore  # pyright: ignore[reportPrivateImportUsage]
    if rank:
        return open_store(LOOPBACK, port, count, is_master=False)
    listener = socket.create_server((LOOPBACK, port)).detach()
    return open_store(LOOPBACK, port, count, is_master=True, master_listen_fd=listener)


def leave() -> None:
    """Take the process group down. At the end of a process that has joined."""
    global _waiting
    if dist.is_initialized():
        dist.destroy_process_group()
        _waiting = None


def rank() -> int:
    """0 in the process that logs, saves and writes; 1, 2, ... in the others."""
    return dist.get_rank() if count() > 1 else 0


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() and not _alone else 1


def by_first(work: Callable[[], None]) -> None:
    """The first process does `work` on its own; the others wait for it, and can be interrupted.

    Within `work` it is a single process, so that a model may be trained there.
    """
    global _alone
    if count() == 1:
        return work()
    if rank() == 0:
        _alone = True
        try:
            work()
        finally:
            _alone = False
    meet()


def meet() -> None:
    """Wait until all processes are here; Ctrl-C and SIGTERM end the waiting."""
    if count() == 1:
        return
    arrived = dist.barrier(group=_waiting, async_op=True)
    if arrived is None:
        return
    while not arrived.is_completed():
        time.sleep(POLL)
    arrived.wait()


def share(examples: int) -> int:
    """How many of a step's examples are this process's. ValueError where they do not divide."""
    if examples % count():
        raise ValueError(f"a batch of {examples} cannot be shared by {count()} workers evenly.")
    return examples // count()


def of_first(number: int) -> int:
    """Give every process the first process's number."""
    if count() == 1:
        return number
    told = torch.tensor(number)
    dist.broadcast(told, 0)
    return int(told)


def any_of(flag: bool) -> bool:
    """Whether the flag is set in one of the processes."""
    if count() == 1:
        return flag
    told = torch.tensor(int(flag))
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return bool(told)


@torch.no_grad()
def average_gradients(weights: Sequence[nn.Parameter]) -> None:
    """Every gradient becomes its mean over all processes.

    A weight that only some processes have used counts as 0 in the others; one that none has used
    keeps None.
    """
    if count() == 1:
        return
    used = torch.tensor([weight.grad is not None for weight in weights], dtype=torch.uint8)
    dist.all_reduce(used, dist.ReduceOp.MAX)
    gradients = []
    for weight in (weight for weight, there in zip(weights, used.tolist(), strict=True) if there):
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        gradients.append(weight.grad)
    if gradients:
        flat = _join_tensors(gradients)
        dist.all_reduce(flat)
        _part(flat.div_(count()), gradients)


def _join_tensors(tensors: Sequence[Tensor]) -> Tensor:
    """Join tensors, because one message is sent faster than many."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def _part(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Put the values of `flat` where `_join_tensors` took them from."""
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
    """Give every process each tensor as its owner holds it."""
    if count() == 1:
        return
    for owner in range(count()):
        owned = [one for one, process in zip(tensors, owners, strict=True) if process == owner]
        if not owned:
            continue
        flat = _join_tensors(owned)
        dist.broadcast(flat, owner)
        if owner != rank():
            _part(flat, owned)
