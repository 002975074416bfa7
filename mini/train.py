"""`python mini/train.py --work DIR` draws the data and trains the small world's models.

Every stage goes on where it was stopped and is skipped once it is done. COMFYUI_PATH names the
ComfyUI tree. Run as a file, so that only this folder is on the path: the pack's own `nodes`
package would hide ComfyUI's `nodes.py`.
"""

import argparse
import importlib
import os
import signal
import sys
import time
import types
from pathlib import Path

STAGES = {
    "data": "data:build",
    "detector": "detector:train_detector",
    "recogniser": "recogniser:train_recogniser",
    "estimators": "estimators:train_estimators",
    "faces": "faces_evaluate:evaluate_faces",
    "vae": "vae:train_vae",
    "latents": "vae_latents:encode_all",
    "base": "base:train_base",
}
"""In this order. Name -> "module:function" in mini/training, called as (work, device, options)."""


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train", description="Train the small world's models.")
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder for data, checkpoints and models")
    add("--only", nargs="+", choices=STAGES, help="these stages and no other")
    add("--device", default="cpu", help="torch device: cpu (default), cuda, cuda:1, ...")
    add("--preview", type=Path, metavar="PNG", help="paint with the weights so far, then stop")
    add("--threads", type=int, help="cores for torch; without it all")
    for name in ("steps", "batch", "people", "groups", "processes"):
        add(f"--{name}", type=int, help="changes the recipe, see mini/training/options.py")
    return parser.parse_args(arguments)


def open_pack() -> None:
    package = types.ModuleType("flexid")
    package.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["flexid"] = package


def open_comfyui(device: str, threads: int | None) -> None:
    path = os.environ.get("COMFYUI_PATH")
    if not path or not (Path(path) / "comfy").is_dir():
        sys.exit(f"COMFYUI_PATH is {path!r}; set it to a ComfyUI folder (it contains comfy/).")
    sys.path.insert(0, path)
    import comfy.options

    comfy.options.enable_args_parsing(False)
    import comfy.cli_args
    import torch

    comfy.cli_args.args.cpu = device == "cpu"
    # Without it, ComfyUI computes attention in slices on a CPU, which is slower to train.
    comfy.cli_args.args.use_pytorch_cross_attention = True
    if threads:
        torch.set_num_threads(threads)


def call(place: str, *arguments: object) -> None:
    module, name = place.split(":")
    getattr(importlib.import_module(f"flexid.mini.training.{module}"), name)(*arguments)


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def run(chosen: argparse.Namespace) -> None:
    import torch
    from flexid.mini.training.options import Options

    names = ("steps", "batch", "people", "groups", "processes")
    options = Options(**{name: getattr(chosen, name) for name in names})
    device = torch.device(chosen.device)
    if chosen.preview:
        return call("base_preview:preview", chosen.work, chosen.preview, device)
    for name in chosen.only or STAGES:
        started = time.monotonic()
        call(STAGES[name], chosen.work, device, options)
        sys.stdout.write(f"{name}: done after {time.monotonic() - started:.0f} s\n")
        sys.stdout.flush()


def main() -> None:
    chosen = parse(sys.argv[1:])
    chosen.work.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, stop)
    open_comfyui(chosen.device, chosen.threads)
    try:
        run(chosen)
    except KeyboardInterrupt:
        sys.exit("Stopped; the same command goes on from here.")


open_pack()  # not only below: processes that draw pictures import this file under another name

if __name__ == "__main__":
    main()
