"""`start.py bench`: ratios within one run, printed as tables, `--json FILE` for the figures.

Sizes and rounds are chosen so that all sections together end within `--minutes`. Each says how
long it will take before it begins.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import runpy
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = {
    "requeue": 0.3, "intent": 0.3, "fold": 1, "mini": 2, "share": 3, "steps": 6, "sip": 2,
    "couple": 4, "references": 1, "flexip": 2, "saa": 2, "vfa_sdxl": 4,
}  # fmt: skip
"""Section -> its weight in sharing out the time. `sip` and `couple` use the model of `steps`."""


def main() -> int:
    options = parse(sys.argv[1:])
    bootstrap = runpy.run_path(str(ROOT / "setup" / "pack.py"))
    bootstrap["open_pack"]()
    bootstrap["open_comfyui"](pytorch_attention=False)
    import torch

    torch.set_grad_enabled(False)
    options.dtype = dtype_of(options.dtype)
    figures = measure(options, {"machine": machine()})
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="start.py bench", description=__doc__)
    add = parser.add_argument
    add("--json", metavar="FILE", help="write the figures there")
    add("--only", nargs="+", choices=list(SECTIONS), help="measure only these")
    add("--minutes", type=float, default=15.0, help="for all sections together; default 15")
    add(
        "--dtype",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="of all sections at real width; auto: what this machine multiplies fastest",
    )
    add("--rounds", type=int, default=5, help="repetitions at most, 3 at least; medians are shown")
    add("--double", type=int, help="double blocks of steps, sip and couple (CPU 2, GPU 19)")
    add("--single", type=int, help="single blocks of steps, sip and couple (CPU 4, GPU 38)")
    chosen = parser.parse_args(arguments)
    if not chosen.minutes > 0:
        parser.error(f"--minutes is {chosen.minutes:g}; give a number above 0")
    if chosen.rounds < 3:
        parser.error(f"--rounds is {chosen.rounds}; a median needs 3 or more")
    return chosen


def dtype_of(name: str) -> object:
    import torch
    from flexid.model_patches.training.precision import fastest_dtype

    if name == "auto":
        return fastest_dtype("cuda" if torch.cuda.is_available() else "cpu")
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[name]


def machine() -> dict[str, object]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    found = {"torch": torch.__version__, "cpu": platform.machine(), "gpu": gpu}
    return found | {"threads": torch.get_num_threads()}


def measure(options: argparse.Namespace, figures: dict[str, object]) -> dict[str, object]:
    """The figures, with a list of rows and the plan of every section."""
    from flexid.bench.plan import Budget, duration

    chosen = [name for name in SECTIONS if not options.only or name in options.only]
    budget = Budget(60 * options.minutes, {name: SECTIONS[name] for name in chosen})
    shares = ", ".join(f"{name} {duration(part)}" for name, part in budget.shares().items())
    say(f"at most about {duration(60 * options.minutes)}: {shares}")
    plans: dict[str, object] = {}
    for name in chosen:
        say(f"\n{name}: trying how fast this machine is")
        section = importlib.import_module(f"flexid.bench.{name}")
        plan = section.prepare(options, budget.begin(name))
        say(f"{name}: about {duration(plan.seconds)}: {plan.what}")
        started = time.monotonic()
        figures[name] = plan.measure()
        taken = time.monotonic() - started
        plans[name] = {"estimate s": plan.seconds, "took s": taken, "what": plan.what}
        say(f"{table(figures[name])}\n{name}: took {duration(taken)}")
    return figures | {"plans": plans}


def table(rows: list[dict]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[_cell(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(map(len, [c, *(r[i] for r in cells)])) for i, c in enumerate(columns)]
    lines = [columns, ["-" * width for width in widths], *cells]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in lines)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
