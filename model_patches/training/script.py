"""The life of a trainer's script: processes, ComfyUI, a stop, and errors as messages."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence

from . import distributed

STOPPED = "Stopped; the same command goes on from here."


def run_script(
    chosen: argparse.Namespace,
    command: Sequence[str],
    open_comfyui: Callable[..., None],
    run: Callable[[argparse.Namespace], None],
) -> None:
    """Train in this process, or in `chosen.workers` of them. Ends with the message of an error.

    command: the script and its words, for further processes; chosen has `workers` and `device`.
    """
    try:
        if chosen.workers > 1 and not distributed.is_launched():
            distributed.launch(chosen.workers, list(command))
            return
        raise_on_term()
        open_comfyui(cpu=chosen.device == "cpu")
        run(chosen)
    except KeyboardInterrupt:
        # Of several processes, the one that started them says it.
        sys.exit(1 if distributed.is_launched() else STOPPED)
    except (FloatingPointError, OSError, ValueError) as error:
        sys.exit(str(error))


def raise_on_term() -> Callable[[], bool]:
    """Let SIGTERM stop a script as Ctrl-C does.

    Returns a function that says whether it came: other people's code may swallow the interrupt and
    fail later because of it.
    """
    came = False

    def stop(*_: object) -> None:
        nonlocal came
        came = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    return lambda: came
