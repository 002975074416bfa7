"""Trains a FlexIP adapter for a Stable Diffusion checkpoint or a Flux, on your own pictures.

The data are a JSONL file or a folder of people, see `start.py train check-data`. A row without
references or group is a still, which is its own reference; the others show the person of another
photo. The same command goes on where it was stopped. Several GPUs: --workers N, or your own
torchrun with COMFYUI_PATH set.
"""

import argparse
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

KINDS = {"unet": "Stable Diffusion checkpoints", "flux": "Flux"}
OWN_OPTIONS = {
    "unet": {"clip_vision": None, "dino": None, "context": "dino", "init": None},
    "flux": {
        "vae": None, "t5": None, "clip_l": None, "eva": None, "faces": None, "parsing": None,
        "features": None, "blocks": "pulid", "heads": 0, "tokens": 2048, "sigmas": "resolution",
        "guidance": 1.0, "checkpointing": True,
    },
}  # fmt: skip
"""What one kind of base alone has, with its default."""
NEEDED = {"unet": ("clip_vision",), "flux": ("vae", "t5", "clip_l", "eva", "faces")}
PART = {"unet": 0, "flux": 1}
SIDES = {"unet": 64, "flux": 16}
"""Sides of pictures are multiples of it."""


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="flexip", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_files(parser.add_argument)
    add_course(parser.add_argument)
    add_unet(parser.add_argument_group("for a Stable Diffusion checkpoint").add_argument)
    add_flux(parser.add_argument_group("for a Flux").add_argument)
    chosen = parser.parse_args(arguments)
    check_paths(parser, chosen, ("data", "base"))
    settle_kind(parser, chosen)
    check(parser, chosen)
    return chosen


def add_files(add) -> None:
    add("--data", type=Path, required=True, help="a JSONL file, or a folder of people")
    add(
        "--base", type=Path, required=True,
        help="a checkpoint of SD 1.5 or SDXL, or a Flux.1 as Load Diffusion Model opens it",
    )  # fmt: skip
    add("--out", type=Path, required=True, help="the adapter file to write (.safetensors)")
    add("--work", type=Path, required=True, help="folder for features, checkpoints and sheets")


def add_course(add) -> None:
    add("--steps", type=int, default=140_000, help="default 140000, as in the paper")
    add("--batch", type=int, default=16, help="rows of a step, over all processes; default 16")
    add("--part", type=int, help="rows computed at once; 0: all; default 0, for a Flux 1")
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


def add_unet(add) -> None:
    add("--clip-vision", type=Path, help="CLIP ViT-H/14")
    add("--dino", type=Path, help="DINOv2-L; needed unless --context is clip")
    add("--context", choices=("dino", "clip"), help="what the detail tokens read; default dino")
    add("--init", type=Path, help="an IP-Adapter plus file to begin with; needs --context clip")


def add_flux(add) -> None:
    add("--vae", type=Path, help="Flux's VAE")
    add("--t5", type=Path, help="Flux's T5")
    add("--clip-l", type=Path, help="Flux's CLIP-L")
    add("--eva", type=Path, help="EVA02-CLIP, PuLID's vision tower")
    add("--faces", type=Path, help="folder of the face pack, antelopev2")
    add("--parsing", type=Path, help="facexlib's parsing_bisenet.pth, for the background of faces")
    add("--features", type=Path, help="folder of features that trainings share; default in --work")
    add(
        "--blocks", choices=("pulid", "all"),
        help="after which blocks both streams work: where PuLID-FLUX does (default), or all",
    )  # fmt: skip
    add("--heads", type=int, help="attention heads of a layer; default 0: of 128 channels each")
    add("--tokens", type=int, help="channels of preservation tokens; default 2048")
    add(
        "--sigmas", choices=("resolution", "logit_normal", "uniform"),
        help="how noise levels are drawn; default resolution, as Flux samples that size",
    )  # fmt: skip
    add("--guidance", type=float, help="the base's guidance input; default 1")
    add(
        "--no-checkpointing", dest="checkpointing", action="store_false", default=None,
        help="keep all activations: faster, and far more memory",
    )  # fmt: skip


def settle_kind(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    """Keep the options of the base's kind, with their defaults; end with a message for others."""
    from flexid.model_patches.files.header import peek

    header = peek(chosen.base)
    chosen.kind = kind = "flux" if header is not None and header.kind == "flux" else "unet"
    other = "flux" if kind == "unet" else "unet"
    for name in OWN_OPTIONS[other]:
        if getattr(chosen, name) is not None:
            what = "a Flux" if kind == "flux" else "no Flux"
            parser.error(
                f"{option(name)} is for {KINDS[other]}, and {chosen.base.name} is {what}. Leave it "
                "out, or name another --base"
            )
        delattr(chosen, name)
    for name, default in OWN_OPTIONS[kind].items():
        if getattr(chosen, name) is None:
            if name in NEEDED[kind]:
                parser.error(f"{option(name)} FILE is needed for {KINDS[kind]}")
            setattr(chosen, name, default)
    if chosen.part is None:
        chosen.part = PART[kind]


def option(name: str) -> str:
    return "--no-checkpointing" if name == "checkpointing" else "--" + name.replace("_", "-")


LIMITS = (
    ("alpha", 0, 1), ("beta", 0, 1), ("spread", 0, 1), ("video_share", 0, 1), ("dropout", 0, 0.33),
    ("average", 0, 1), ("rate", 1e-9, 1), ("steps", 1, 1e9), ("batch", 1, 1e6), ("part", 0, 1e6),
    ("size", 64, 4096), ("export_every", 0, 1e9), ("sheet_rows", 0, 64), ("warmup", 0, 1e9),
    ("depth", 1, 64), ("latents", 1, 1024), ("dim", 64, 8192), ("workers", 1, 1024),
    ("heads", 0, 1024), ("tokens", 16, 16384), ("guidance", 0, 100),
)  # fmt: skip
FILES = (
    "clip_vision", "dino", "init", "vae", "t5", "clip_l", "eva", "faces", "parsing"
)  # fmt: skip


def check(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    """End with a message that names value and range, before anything is opened."""
    for name, low, high in LIMITS:
        value = getattr(chosen, name, low)
        if not low <= value <= high:  # also false for NaN
            parser.error(f"{option(name)} is {value:g}, expected {low:g} to {high:g}")
    for name, step in (("size", SIDES[chosen.kind]), ("dim", 64)):
        if getattr(chosen, name) % step:
            parser.error(f"--{name} is {getattr(chosen, name)}, expected a multiple of {step}")
    if chosen.kind == "unet":
        check_unet(parser, chosen)
    if chosen.out.suffix != ".safetensors":
        parser.error(f"--out is {chosen.out.name}, expected a name that ends in .safetensors")
    check_paths(parser, chosen, FILES)
    if chosen.kind == "flux" and not chosen.faces.is_dir():
        parser.error(f"--faces: {chosen.faces} is a file, the face pack's folder is needed")


def check_unet(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    if chosen.context == "dino" and chosen.dino is None:
        parser.error("--context dino needs --dino FILE; without DINOv2, use --context clip")
    if chosen.init and chosen.context != "clip":
        parser.error("--init begins with an IP-Adapter file, which reads CLIP: add --context clip")


def check_paths(
    parser: argparse.ArgumentParser, chosen: argparse.Namespace, names: Sequence[str]
) -> None:
    for name in names:
        path = getattr(chosen, name, None)
        if path is not None and not path.exists():
            parser.error(f"{option(name)}: {path} does not exist")


def run(chosen: argparse.Namespace) -> None:
    import torch
    from flexid.model_patches.training import distributed, flexip_flux_job, flexip_job

    device = distributed.join(torch.device(chosen.device))
    options = {name: value for name, value in vars(chosen).items() if name not in OWN}
    if chosen.kind == "flux":
        flexip_flux_job.run_job(flexip_flux_job.FluxJob(**options), device)
    else:
        flexip_job.run_job(flexip_job.Job(**options), device)
    distributed.leave()


def main() -> None:
    chosen = parse(sys.argv[1:])
    from flexid.model_patches.training.script import run_script

    run_script(chosen, [__file__, *sys.argv[1:]], BOOTSTRAP["open_comfyui"], run)


OWN = ("device", "workers", "kind")
BOOTSTRAP = runpy.run_path(str(Path(__file__).with_name("pack.py")))
BOOTSTRAP["open_pack"]()

if __name__ == "__main__":
    main()
