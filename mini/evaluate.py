"""`python mini/evaluate.py --models DIR --cache DIR [options]` measures the small world.

COMFYUI_PATH names the ComfyUI tree. `python mini/evaluate.py sheet FILE` lays out the demo's
contact sheet, `python mini/evaluate.py face FILE` finds the face of its photo, `python
mini/evaluate.py reference FILE` draws its person again. Run as a file; `start.py evaluate` and
`start.py demo` do it.
"""

import argparse
import importlib
import runpy
import sys
import time
from pathlib import Path


def parse(arguments: list[str]) -> argparse.Namespace:
    options = importlib.import_module("flexid.mini.study.options")
    parser = argparse.ArgumentParser(prog="evaluate", description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="a ComfyUI models folder")
    parser.add_argument("--cache", type=Path, required=True, help="keeps pictures and measures")
    options.add_options(parser)
    chosen = parser.parse_args(arguments)
    try:
        options.check(chosen)
    except ValueError as error:
        parser.error(str(error))
    return chosen


def say(text: str) -> None:
    """One line, at once, also into a file."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    bootstrap = runpy.run_path(str(Path(__file__).resolve().parents[1] / "setup" / "pack.py"))
    bootstrap["open_pack"]()
    verbs = {
        "sheet": "sheet_job:make",
        "face": "face_job:find",
        "reference": "people:draw_reference",
    }
    if len(sys.argv) == 3 and sys.argv[1] in verbs:
        module, name = verbs[sys.argv[1]].split(":")
        getattr(importlib.import_module(f"flexid.mini.study.{module}"), name)(Path(sys.argv[2]))
        return
    chosen = parse(sys.argv[1:])
    bootstrap["open_comfyui"]()
    import torch

    torch.set_grad_enabled(False)
    job = importlib.import_module("flexid.mini.study.job")
    progress = importlib.import_module("flexid.mini.study.progress")
    if chosen.suite:
        suite = importlib.import_module(f"flexid.mini.study.{chosen.suite}_job")
        with progress.Progress("evaluating") as shown:
            text = suite.run(chosen, shown.note, say)
        return say(text)
    prepared = job.prepare(chosen)
    count, seconds = prepared.estimate()
    for line in job.announcement(prepared, count, seconds):
        say(line)
    started = time.monotonic()
    with progress.Progress("evaluating") as shown:
        prepared.evaluation.note = shown.note
        study = prepared.evaluation.run()
    job.write(study, chosen)
    say(f"\n{job.table(study)}")
    for path in filter(None, (chosen.json, chosen.csv, chosen.png)):
        say(f"wrote {path}")
    say(f"took {job.duration(time.monotonic() - started)}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nStopped; the same command goes on from here.")
