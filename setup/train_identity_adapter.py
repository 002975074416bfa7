"""Trains a PuLID-FLUX adapter on, with your own pictures: its cross-attention, by flow matching and
by an identity loss.

The data are a JSON list, a JSONL file or a folder of people (docs/training_identity_adapter.md);
`start.py train check-data` lists what is wrong with them. The same command goes on where it was
stopped. Several GPUs: --workers N, or your own torchrun with COMFYUI_PATH set.
"""

import argparse
import runpy
import sys
from pathlib import Path

SETS = ("ca_all", "ca_out", "ca_qo", "ca_kv", "lora")
SIGMAS = ("resolution", "paper", "logit_normal", "uniform")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="identity-adapter",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_files(parser.add_argument)
    add_course(parser.add_argument)
    add_likeness(parser.add_argument)
    add_output(parser.add_argument)
    chosen = parser.parse_args(arguments)
    check(parser, chosen)
    return chosen


def add_files(add) -> None:
    add("--data", type=Path, required=True, help="a JSON list or JSONL file, or a folder of people")
    add("--base", type=Path, required=True, help="Flux.1, as Load Diffusion Model opens it")
    add("--adapter", type=Path, required=True, help="the PuLID-FLUX file to begin with")
    add("--eva", type=Path, required=True, help="EVA02-CLIP, PuLID's vision tower")
    add("--faces", type=Path, required=True, help="folder of the face pack, antelopev2")
    add("--parsing", type=Path, help="facexlib's parsing_bisenet.pth, for the background of faces")
    add("--vae", type=Path, required=True, help="Flux's VAE")
    add("--decoder", type=Path, help="decoder of the identity loss: TAEF1's; default the VAE's")
    add("--t5", type=Path, required=True, help="Flux's T5")
    add("--clip-l", type=Path, required=True, help="Flux's CLIP-L")
    add("--out", type=Path, required=True, help="the adapter file to write (.safetensors)")
    add("--work", type=Path, required=True, help="folder for features, checkpoints and sheets")
    add("--features", type=Path, help="folder of features that trainings share; default in --work")


def add_course(add) -> None:
    add("--train", choices=SETS, default="ca_all", help="what of the cross-attention is trained")
    add("--layers", default="all", help='layers to train, such as "0-9, 12"; default all')
    add("--rank", type=int, default=16, help="of LoRA; default 16")
    add("--steps", type=int, default=5000, help="default 5000, as published")
    add("--batch", type=int, default=2, help="rows of a step, over all processes; default 2")
    add("--part", type=int, default=1, help="rows computed at once; default 1")
    add("--rate", type=float, help="learning rate; default 1e-5 as published, LoRA 1e-4")
    add("--warmup", type=int, default=10, help="steps until the full rate; default 10")
    add("--decay", type=float, default=0.01, help="weight decay; default 0.01")
    add("--average", type=float, default=0.0, help="decay of the average; default 0: no average")
    add("--size", type=int, default=512, help="pixels a side, in the picture's shape; default 512")
    add("--sigmas", choices=SIGMAS, default="resolution", help="how noise levels are drawn")
    add("--guidance", type=float, default=1.0, help="the base's guidance input; default 1")
    add("--dropout", type=float, default=0.05, help="chance of no caption, nobody, and neither")
    add(
        "--reference", choices=("other", "target"), default="other",
        help="another photo of the person (default), or the picture itself",
    )  # fmt: skip
    add("--face-weight", type=float, default=0.0, help="what errors in the face count beyond 1")
    add(
        "--no-checkpointing", dest="checkpointing", action="store_false",
        help="keep all activations: faster, and far more memory",
    )  # fmt: skip


def add_likeness(add) -> None:
    add("--likeness", type=float, default=0.1, help="weight of the identity loss; 0: none")
    add("--likeness-until", type=float, default=0.6, help="sigma from which it is 0; default 0.6")
    add(
        "--likeness-to", choices=("target", "reference"), default="target",
        help="whom the face should be like: the picture's own (default), or the reference's",
    )  # fmt: skip


def add_output(add) -> None:
    add("--export", choices=("full", "delta"), default="full", help="a whole file, or what changed")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    add("--export-every", type=int, default=500, help="steps between files; 0: only at the end")
    add("--sheet-rows", type=int, default=4, help="rows kept for sample sheets; 0: none")
    add("--seed", type=int, default=0)
    add("--device", default="cpu", help="torch device: cpu (default), cuda, ...")
    add("--workers", type=int, default=1, help="processes on this machine, each on a core or GPU")


LIMITS = (
    ("rank", 1, 1024), ("steps", 1, 1e9), ("batch", 1, 1e6), ("part", 1, 1e6), ("rate", 1e-9, 1),
    ("warmup", 0, 1e9), ("decay", 0, 1), ("average", 0, 1), ("size", 64, 4096),
    ("guidance", 0, 100), ("dropout", 0, 0.33), ("face_weight", 0, 100), ("likeness", 0, 10),
    ("likeness_until", 0.01, 1), ("export_every", 0, 1e9), ("sheet_rows", 0, 64),
    ("workers", 1, 1024),
)  # fmt: skip
FILES = ("data", "base", "adapter", "eva", "faces", "parsing", "vae", "decoder", "t5", "clip_l")


def check(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    """End with a message that names value and range, before anything is opened."""
    if chosen.rate is None:
        chosen.rate = 1e-4 if chosen.train == "lora" else 1e-5
    for name, low, high in LIMITS:
        value = getattr(chosen, name)
        if not low <= value <= high:  # also false for NaN
            parser.error(f"{option(name)} is {value:g}, expected {low:g} to {high:g}")
    if chosen.size % 16:
        parser.error(f"--size is {chosen.size}, expected a multiple of 16")
    if chosen.out.suffix != ".safetensors":
        parser.error(f"--out is {chosen.out.name}, expected a name that ends in .safetensors")
    for name in FILES:
        path = getattr(chosen, name)
        if path is not None and not path.exists():
            parser.error(f"{option(name)}: {path} does not exist")
    if not chosen.faces.is_dir():
        parser.error(f"--faces: {chosen.faces} is a file, the face pack's folder is needed")
    if chosen.out.exists() and chosen.out.samefile(chosen.adapter):
        parser.error("--out is the file of --adapter, which is kept as it is; choose another name")


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


def run(chosen: argparse.Namespace) -> None:
    import torch
    from flexid.model_patches.training import distributed
    from flexid.model_patches.training.pulid_job import Job, run_job

    device = distributed.join(torch.device(chosen.device))
    options = {name: value for name, value in vars(chosen).items() if name not in OWN}
    run_job(Job(**options), device)
    distributed.leave()


def main() -> None:
    chosen = parse(sys.argv[1:])
    from flexid.model_patches.training.script import run_script

    run_script(chosen, [__file__, *sys.argv[1:]], BOOTSTRAP["open_comfyui"], run)


OWN = ("device", "workers")
BOOTSTRAP = runpy.run_path(str(Path(__file__).with_name("pack.py")))
BOOTSTRAP["open_pack"]()

if __name__ == "__main__":
    main()
