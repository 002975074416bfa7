"""Ctrl-C and SIGTERM while a model trains: the step under way is finished and the state saved."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from . import distributed

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def defer_stop() -> Iterator[Callable[[], bool]]:
    """Within the block these signals interrupt nothing; the yielded function says whether one came.

    A second signal raises KeyboardInterrupt at once, except under torchrun: a Ctrl-C can reach its
    processes twice, from the terminal and from torchrun, and must not break off the saving. Only
    the main thread receives signals; in others the function always says no.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = False

    def note(*_: object) -> None:
        nonlocal asked
        if asked and not distributed.is_launched():
            raise KeyboardInterrupt
        if not asked and not distributed.rank():
            sys.stderr.write("\nstopping after this step, then saving\n")
        asked = True

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
