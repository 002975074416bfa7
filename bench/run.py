"""`start.py bench`: ratios within one run, printed as a table, `--json FILE` for the figures."""

import argparse
import json
import os
import platform
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]
from pack import open_pack  # noqa: E402

SECTIONS = ("share", "fold", "steps", "requeue", "intent", "sip", "mini")


def main() -> int:
    options = _options()
    comfyui = os.environ.get("COMFYUI_PATH")
    if not comfyui:
        sys.exit("bench needs COMFYUI_PATH; run it as `python3 start.py bench`.")
    open_pack(comfyui)
    import torch

    torch.set_grad_enabled(False)
    figures = {"machine": _machine(torch)}
    for section in options.only or SECTIONS:
        rows = __import__(section).measure(options)
        figures[section] = rows
        _print_table(section, rows)
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="start.py bench", description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="measure only these")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16", help="of `steps`")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions; medians are shown")
    parser.add_argument("--double", type=int, help="double blocks (CPU 2, GPU 19)")
    parser.add_argument("--single", type=int, help="single blocks (CPU 4, GPU 38)")
    return parser.parse_args()


def _machine(torch) -> dict:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"torch": torch.__version__, "cpu": platform.machine(), "gpu": gpu}


def _print_table(section: str, rows: list[dict]) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[_cell(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(map(len, [c, *(r[i] for r in cells)])) for i, c in enumerate(columns)]
    lines = [columns, ["-" * width for width in widths], *cells]
    text = "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in lines)
    sys.stdout.write(f"\n{section}\n{text}\n")
    sys.stdout.flush()


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
