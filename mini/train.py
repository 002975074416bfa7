"""`python mini/train.py --work DIR` draws the data and trains the small world's models.

Every stage goes on where it was stopped and is skipped once it is done. COMFYUI_PATH names the
ComfyUI tree. Run as a file: setup/pack.py says why.
"""

import argparse
import importlib
import runpy
import sys
import time
from functools import partial
from pathlib import Path

STAGES = {
    "data": "data:build",
    "detector": "detector:train_detector",
    "recogniser": "recogniser:train_recogniser",
    "estimators": "estimators:train_estimators",
    "faces": "faces_evaluate:evaluate_faces",
    "vae": "vae:train_vae",
    "latents": "vae_latents:encode_all",
    "text": "text:train_text",
    "base": "base:train_base",
    "identity_inputs": "identity_inputs:build",
    "adapter_tokens": "adapter_tokens:train_tokens",
    "adapter": "adapter_diffusion:train_adapter",
    "adapter_drawn": "adapter_drawn:train_drawn",
    "sip_face": "sip_face:train_face",
    "critic": "estimators:train_critic",
    "sip": "sip_diffusion:train_sip",
    "flexip": "flexip:train_flexip",
    "flexip_plain": "flexip:train_plain",
    "saa": "saa:train_saa",
    "saa_motion": "saa_motion:train_motion",
    "saa_lora": "saa_lora:train_lora",
    "imr": "imr:train_imr",
    "judge_data": "judge_data:build",
    "judge_recogniser": "judge_recogniser:train_recogniser",
    "judge_estimators": "judge_estimators:train_estimators",
    "judge_faces": "judge_evaluate:evaluate_judges",
}
"""In this order. Name -> "module:function" in mini/training, called as (work, device, options)."""

MADE = {
    "detector": ("DETECTOR",),
    "recogniser": ("RECOGNISER",),
    "estimators": ("ESTIMATORS",),
    "vae": ("VAE",),
    "text": ("T5", "CLIP_L"),
    "base": ("FLUX",),
    "adapter_tokens": ("EVA", "PULID"),
    "adapter": ("EVA", "PULID"),
    "adapter_drawn": ("EVA", "PULID"),
    "sip_face": ("FACE_T5",),
    "critic": ("FACE_T5",),
    "sip": ("FACE_T5",),
    "flexip": ("FLEXIP",),
    "flexip_plain": ("FLEXIP_PLAIN",),
    "saa": ("SAA",),
    "saa_motion": ("SAA",),
    "saa_lora": ("SAA",),
    "imr": ("IMR", "KEY_POINTS"),
    "judge_recogniser": ("JUDGE_RECOGNISER",),
    "judge_estimators": ("JUDGE_ESTIMATORS",),
}
"""Stage -> its finished files, by their names in mini/world.py; where they are, it is done."""

SHARED = (
    "text", "base", "adapter_tokens", "adapter", "adapter_drawn", "sip_face", "sip", "flexip",
    "flexip_plain", "saa", "saa_motion", "saa_lora",
)  # fmt: skip
"""Stages that several processes train together; the first one does the others alone."""

PREVIEWS = {
    "base": "base_preview:preview",
    "adapter": "adapter_preview:preview_adapter",
    "sip": "adapter_preview:preview_sip",
}
"""Stage -> "module:function", called as (work, PNG, device); the first unless --only names another.
"""
NUMBERS = {"steps": int, "batch": int, "people": int, "groups": int, "processes": int}
NUMBERS |= {"likeness": float, "likeness_pictures": int, "likeness_start": float}


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train", description="Train the small world's models.")
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder for data, checkpoints and models")
    add("--only", nargs="+", choices=STAGES, help="these stages and no other")
    add("--device", default="cpu", help="torch device: cpu (default), cuda, cuda:1, ...")
    add("--preview", type=Path, metavar="PNG", help="paint with the weights so far, then stop")
    add("--from-weights", action="store_true", help="what mini/weights holds is trained already")
    add("--install", action="store_true", help="copy what is trained into mini/, then stop")
    add("--threads", type=int, help="cores for torch; without it all")
    add(
        "--workers",
        type=int,
        default=1,
        help="processes that train together, each on a core or a GPU",
    )
    for name, kind in NUMBERS.items():
        option = "--" + name.replace("_", "-")
        add(option, type=kind, help="changes the recipe, see mini/training/options.py")
    add("--compile", action="store_true", help="faster training; needs a C++ compiler")
    return parser.parse_args(arguments)


def open_comfyui(device: str, threads: int | None) -> None:
    BOOTSTRAP["open_comfyui"](cpu=device == "cpu")
    if threads:
        import torch

        torch.set_num_threads(threads)


def call(place: str, *arguments: object) -> None:
    module, name = place.split(":")
    getattr(importlib.import_module(f"flexid.mini.training.{module}"), name)(*arguments)


def is_done(stage: str, work: Path) -> bool:
    from flexid.mini import world
    from flexid.mini.training.options import models

    files = [models(work) / getattr(world, name) for name in MADE.get(stage, ())]
    return bool(files) and all(path.is_file() for path in files)


def run(chosen: argparse.Namespace) -> None:
    import torch
    from flexid.mini.training.options import Options
    from flexid.model_patches.training import distributed

    numbers = {name: getattr(chosen, name) for name in NUMBERS}
    options = Options(**numbers, compile=chosen.compile)
    if chosen.install or chosen.preview:
        return install_or_preview(chosen)
    device = distributed.join(torch.device(chosen.device))
    if chosen.from_weights:
        distributed.by_first(partial(call, "install:adopt", chosen.work))
    for name in chosen.only or STAGES:
        train_stage(name, chosen.work, device, options)
    distributed.leave()


def install_or_preview(chosen: argparse.Namespace) -> None:
    import torch

    if chosen.install:
        return call("install:install", chosen.work)
    stage = chosen.only[0] if chosen.only else "base"
    if stage not in PREVIEWS:
        sys.exit(f"--preview knows {', '.join(PREVIEWS)}, not {stage}.")
    call(PREVIEWS[stage], chosen.work, chosen.preview, torch.device(chosen.device))


def train_stage(name: str, work: Path, device: object, options: object) -> None:
    """In all processes, or in the first one while the others wait. Only the first one writes."""
    from flexid.model_patches.training import distributed

    first, started = not distributed.rank(), time.monotonic()
    if distributed.of_first(is_done(name, work)):
        if first:
            sys.stdout.write(f"{name}: its files are there\n")
        return
    stage = partial(call, STAGES[name], work, device, options)
    if name in SHARED:
        stage()
        distributed.meet()
    else:
        distributed.by_first(stage)
    if first:
        sys.stdout.write(f"{name}: done after {time.monotonic() - started:.0f} s\n")
        sys.stdout.flush()


def train_together(chosen: argparse.Namespace) -> None:
    """The same command in --workers processes, by torchrun."""
    from flexid.model_patches.training import distributed

    try:
        distributed.launch(chosen.workers, [__file__, *sys.argv[1:]])
    except RuntimeError as error:
        sys.exit(str(error))


def main() -> None:
    chosen = parse(sys.argv[1:])
    chosen.work.mkdir(parents=True, exist_ok=True)
    from flexid.model_patches.training import distributed
    from flexid.model_patches.training.script import STOPPED, raise_on_term

    together = chosen.workers > 1 and not (chosen.install or chosen.preview)
    try:
        if together and not distributed.is_launched():
            return train_together(chosen)
        raise_on_term()
        open_comfyui(chosen.device, chosen.threads)
        run(chosen)
    except KeyboardInterrupt:
        # Of several processes, the one that started them says it.
        sys.exit(1 if distributed.is_launched() else STOPPED)


# Not only below: processes that draw pictures import this file under another name.
BOOTSTRAP = runpy.run_path(str(Path(__file__).resolve().parents[1] / "setup" / "pack.py"))
BOOTSTRAP["open_pack"]()

if __name__ == "__main__":
    main()
