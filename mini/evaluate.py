"""`python mini/evaluate.py --models DIR --cache DIR [options]` measures the small world.

COMFYUI_PATH names the ComfyUI tree. `python mini/evaluate.py sheet FILE` lays out the demo's
contact sheet, `python mini/evaluate.py reference FILE` draws its person again. Run as a file;
`start.py evaluate` and `start.py demo` do it.
"""

import argparse
import importlib
import os
import sys
import time
import types
from pathlib import Path


def open_pack() -> None:
    """Make the pack importable as `flexid`; this folder leaves the path again."""
    del sys.path[0]
    package = types.ModuleType("flexid")
    package.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["flexid"] = package


def open_comfyui() -> None:
    path = os.environ.get("COMFYUI_PATH")
    if not path or not (Path(path) / "comfy").is_dir():
        sys.exit(f"COMFYUI_PATH is {path!r}; set it to a ComfyUI folder (it contains comfy/).")
    sys.path.insert(0, path)
    import comfy.options

    comfy.options.enable_args_parsing(False)
    import comfy.cli_args
    import torch

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    # ComfyUI's choice for a CPU computes attention in slices, three times slower at this size.
    comfy.cli_args.args.use_pytorch_cross_attention = True
    torch.set_grad_enabled(False)


def parse(arguments: list[str]) -> argparse.Namespace:
    options = importlib.import_module("flexid.mini.evaluating.options")
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


def main() -> None:
    open_pack()
    verbs = {"sheet": "sheet_job:make", "reference": "people:draw_reference"}
    if len(sys.argv) == 3 and sys.argv[1] in verbs:
        module, name = verbs[sys.argv[1]].split(":")
        getattr(importlib.import_module(f"flexid.mini.evaluating.{module}"), name)(
            Path(sys.argv[2])
        )
        return
    chosen = parse(sys.argv[1:])
    open_comfyui()
    job = importlib.import_module("flexid.mini.evaluating.job")
    console = importlib.import_module("flexid.setup.console")
    prepared = job.prepare(chosen)
    count, seconds = prepared.estimate()
    for line in job.announcement(prepared, count, seconds):
        console.say(line)
    started = time.monotonic()
    with console.Live("evaluating") as live:
        prepared.evaluation.note = lambda text: setattr(live, "detail", text)
        study = prepared.evaluation.run()
    job.write(study, chosen)
    console.say(f"\n{job.table(study)}")
    for path in filter(None, (chosen.json, chosen.csv, chosen.png)):
        console.say(f"wrote {path}")
    console.say(f"took {job.duration(time.monotonic() - started)}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nStopped; the same command goes on from here.")
