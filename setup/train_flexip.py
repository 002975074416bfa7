"""Trains a FlexIP adapter for a Stable Diffusion checkpoint, on your own pictures.

The data are a JSONL file or a folder of people, see `start.py train check-data`. A row without
references or group is a still, which is its own reference; the others show the person of another
photo. The same command goes on where it was stopped. Several GPUs: --workers N, or your own
torchrun with COMFYUI_PATH set.
"""

import argparse
import runpy
import signal
import sys
from pathlib import Path


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="flexip", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="a JSONL file, or a folder of people")
    add("--base", type=Path, required=True, help="a checkpoint of SD 1.5 or SDXL")
    add("--clip-vision", type=Path, required=True, help="CLIP ViT-H/14")
    add("--dino", type=Path, help="DINOv2-L; needed unless --context is clip")
    add("--context", choices=("dino", "clip"), default="dino", help="what the detail tokens read")
    add("--out", type=Path, required=True, help="the adapter file to write (.safetensors)")
    add("--work", type=Path, required=True, help="folder for features, checkpoints and sheets")
    add("--init", type=Path, help="an IP-Adapter plus file to begin with; needs --context clip")
    add("--steps", type=int, default=140_000, help="default 140000, as in the paper")
    add("--batch", type=int, default=16, help="rows of a step, over all processes; default 16")
    add("--rate", type=float, default=1e-4, help="learning rate; default 1e-4, as in the paper")
    add("--warmup", type=int, default=1000, help="steps until the full rate; default 1000")
    add("--muon", action="store_true", help="Muon for the layers, in place of the paper's AdamW")
    add("--average", type=float, default=0.9999, help="decay of the average; default 0.9999")
    add("--size", type=int, default=512, help="pixels a side; default 512")
    add("--alpha", type=float, default=0.8, help="preservation's weight on stills; default 0.8")
    add("--beta", type=float, default=0.8, help="personalisation's on other photos; default 0.8")
    add("--spread", type=float, default=0.2, help="how far both are drawn around that; default 0.2")
    add("--learn-gates", action="store_true", help="learn alpha and beta instead")
    add("--video-share", type=float, default=0.5, help="part of a batch with another photo")
    add("--dropout", type=float, default=0.05, help="chance of no caption, no photo, and neither")
    add("--dim", type=int, default=768, help="width of the resamplers; default 768")
    add("--depth", type=int, default=4, help="layers of the resamplers; default 4")
    add("--latents", type=int, default=16, help="detail tokens; default 16")
    add("--export-every", type=int, default=1000, help="steps between files; 0: only at the end")
    add("--sheet-rows", type=int, default=4, help="rows kept for sample sheets; 0: none")
    add("--seed", type=int, default=0)
    add("--device", default="cpu", help="torch device: cpu (default), cuda, ...")
    add("--workers", type=int, default=1, help="processes on this machine, each on a core or GPU")
    chosen = parser.parse_args(arguments)
    check(parser, chosen)
    return chosen


def check(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    """End with a message that names value and range, before anything is opened."""
    for name, low, high in (
        ("alpha", 0, 1), ("beta", 0, 1), ("spread", 0, 1), ("video_share", 0, 1),
        ("dropout", 0, 0.33), ("average", 0, 1), ("rate", 1e-9, 1), ("steps", 1, 1e9),
        ("batch", 1, 1e6), ("size", 64, 4096), ("export_every", 0, 1e9), ("sheet_rows", 0, 64),
        ("warmup", 0, 1e9), ("depth", 1, 64), ("latents", 1, 1024), ("dim", 64, 8192),
        ("workers", 1, 1024),
    ):  # fmt: skip
        value = getattr(chosen, name)
        if not low <= value <= high:
            option = "--" + name.replace("_", "-")
            parser.error(f"{option} is {value:g}, expected {low:g} to {high:g}")
    for name, step in (("size", 64), ("dim", 64)):
        if getattr(chosen, name) % step:
            parser.error(f"--{name} is {getattr(chosen, name)}, expected a multiple of {step}")
    if chosen.context == "dino" and chosen.dino is None:
        parser.error("--context dino needs --dino FILE; without DINOv2, use --context clip")
    if chosen.init and chosen.context != "clip":
        parser.error("--init begins with an IP-Adapter file, which reads CLIP: add --context clip")
    if chosen.out.suffix != ".safetensors":
        parser.error(f"--out is {chosen.out.name}, expected a name that ends in .safetensors")
    for name in ("data", "base", "clip_vision", "dino", "init"):
        path = getattr(chosen, name)
        if path is not None and not path.exists():
            parser.error(f"--{name.replace('_', '-')}: {path} does not exist")


def run(chosen: argparse.Namespace) -> None:
    import torch
    from flexid.model_patches.training import distributed
    from flexid.model_patches.training.flexip_job import Job, run_job

    device = distributed.join(torch.device(chosen.device))
    options = {name: value for name, value in vars(chosen).items() if name not in OWN}
    run_job(Job(**options), device)
    distributed.leave()


def main() -> None:
    chosen = parse(sys.argv[1:])
    from flexid.model_patches.training import distributed
    from flexid.model_patches.training.data import DataError

    try:
        if chosen.workers > 1 and not distributed.is_launched():
            distributed.launch(chosen.workers, [__file__, *sys.argv[1:]])
            return
        signal.signal(signal.SIGTERM, stop)
        BOOTSTRAP["open_comfyui"](cpu=chosen.device == "cpu")
        run(chosen)
    except KeyboardInterrupt:
        sys.exit(1 if distributed.is_launched() else "Stopped; the same command goes on from here.")
    except (DataError, FileNotFoundError, FloatingPointError, OSError, ValueError) as error:
        sys.exit(str(error))


def stop(*_: object) -> None:
    raise KeyboardInterrupt


OWN = ("device", "workers")
BOOTSTRAP = runpy.run_path(str(Path(__file__).with_name("pack.py")))
BOOTSTRAP["open_pack"]()

if __name__ == "__main__":
    main()
