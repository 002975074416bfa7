"""The small world as a user meets it: time to load, seconds per picture, memory.

In a process of its own, so that memory counts nothing else. The process loads, tries one picture,
writes its plan as a line of JSON, and measures once it reads a line.
"""

from __future__ import annotations

import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .plan import Allowance, Plan, Row

ROOT = Path(__file__).resolve().parents[1]


def prepare(options: Namespace, allowance: Allowance) -> Plan:
    from .plan import Plan

    asked = {"rounds": options.rounds, "seconds": allowance.left()}
    child = subprocess.Popen(
        [sys.executable, __file__, json.dumps(asked)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    stated = _line_of(child)
    return Plan(stated["seconds"], stated["what"], lambda: _measure(child))


def _measure(child: subprocess.Popen) -> list[Row]:
    with child:
        child.stdin.write("\n")
        child.stdin.flush()
        return _line_of(child)


def _line_of(child: subprocess.Popen) -> object:
    line = child.stdout.readline()
    if not line:
        raise RuntimeError(f"the small world did not run: its process ended with {child.wait()}")
    return json.loads(line)


class _Painting:
    """One person in the small world, and the rows that are painted of it."""

    def __init__(self, folder: Path) -> None:
        from flexid.mini import world
        from flexid.mini.study import rows
        from flexid.mini.study.people import reference
        from flexid.mini.study.studio import Studio

        world.build_world(folder)
        self.kind = "trained" if world.is_trained() else "random"
        self.made = rows.settings()
        self.rows = (rows.ALONE, rows.rigid_row(1.0), rows.VFA_CAG, rows.WHOLE)
        started = time.perf_counter()
        self.studio = studio = Studio(folder, self.made)
        _ = (studio.model, studio.clip, studio.vae, studio.analyser, studio.adapter)
        _ = (studio.tower, studio.projector)
        self.loading = time.perf_counter() - started
        started = time.perf_counter()
        self.sitter = studio.sitter(reference(900_000, self.made.side))
        self.encoding = time.perf_counter() - started

    def seconds(self, row: object, seed: int) -> float:
        from flexid.mini.study import prompts

        started = time.perf_counter()
        self.studio.paint(row, self.sitter, prompts.all_prompts()[:1], [seed])
        return time.perf_counter() - started

    def measure(self, row: object, allowance: Allowance, rounds: int) -> Row:
        times = [self.seconds(row, seed) for seed in allowance.rounds(rounds)]
        return {
            "weights": self.kind,
            "row": row.title,
            "rounds": len(times),
            "load s": self.loading,
            "encode person s": self.encoding,
            f"s per picture ({self.made.steps} steps)": statistics.median(times),
            "peak MB": _peak_megabytes(),
        }


def _peak_megabytes() -> float | None:
    """Of this process; unknown where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def _main(rounds: int, seconds: float) -> None:
    from flexid.bench.plan import MARGIN, Allowance, rounds_in

    allowance = Allowance(seconds)
    with tempfile.TemporaryDirectory() as folder:
        painting = _Painting(Path(folder))
        painting.seconds(painting.rows[0], 0)  # the first picture also moves weights
        # The first one of each row, which is not counted, also folds.
        one = sum(painting.seconds(row, 0) for row in painting.rows)
        rounds = rounds_in(MARGIN * allowance.left(), one, rounds)
        made, count = painting.made, len(painting.rows)
        what = (
            f"{rounds} rounds of {count} rows, {made.side}x{made.side} pixels, {made.steps} steps"
        )
        _say({"seconds": rounds * one, "what": what})
        if not sys.stdin.readline():
            return
        found = []
        for row in painting.rows:
            share = Allowance(allowance.left() / (count - len(found)))
            found.append(painting.measure(row, share, rounds))
        _say(found)


def _say(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    bootstrap = runpy.run_path(str(ROOT / "setup" / "pack.py"))
    bootstrap["open_pack"]()
    bootstrap["open_comfyui"]()
    import torch

    torch.set_grad_enabled(False)
    _main(**json.loads(sys.argv[1]))
