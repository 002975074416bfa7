"""Trains DynamicID for SD 1.5 on your own pictures, in two stages.

anchor: face encoder and attention (SAA) learn to draw one person; each picture is its own
reference. reconfigure: with these frozen, the reconfigurator (IMR) and its keypoint encoder learn
to put the expression and pose of one picture of a person into the face tokens of another.

docs/training_dynamicid.md describes the data. The same command goes on where it was stopped.
Several GPUs: --workers N, or your own torchrun with COMFYUI_PATH set.
"""

import argparse
import runpy
import sys
from pathlib import Path

STAGES = ("anchor", "reconfigure")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dynamicid", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parsers = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    anchor = parsers.add_parser(STAGES[0], help="the first stage: SAA")
    reconfigure = parsers.add_parser(STAGES[1], help="the second stage: IMR")
    for one in (anchor, reconfigure):
        add_files(one.add_argument)
        add_course(one.add_argument)
        add_output(one.add_argument)
    add_anchor(anchor.add_argument)
    add_reconfigure(reconfigure.add_argument)
    chosen = parser.parse_args(arguments)
    check(anchor if chosen.stage == "anchor" else reconfigure, chosen)
    return chosen


def add_files(add) -> None:
    add("--base", type=Path, required=True, help="a checkpoint of SD 1.5")
    add("--clip-vision", type=Path, required=True, help="CLIP ViT-H/14")
    add("--faces", type=Path, required=True, help="folder of the face pack, buffalo_l")
    add("--out", type=Path, required=True, help="the file to write (.safetensors)")
    add("--work", type=Path, required=True, help="folder for features, checkpoints and sheets")
    add("--features", type=Path, help="folder of features that trainings share; default in --work")


def add_course(add) -> None:
    add("--rate", type=float, default=1e-5, help="learning rate; default 1e-5, as in the paper")
    add(
        "--last-rate", type=float, default=1.0,
        help="the rate at the end, as a share of it; default 1: constant, as in the paper",
    )  # fmt: skip
    add("--warmup", type=int, default=0, help="steps until the full rate; default 0")
    add("--decay", type=float, default=0.01, help="weight decay; default 0.01")
    add("--average", type=float, default=0.0, help="decay of the average; default 0: no average")
    add("--size", type=int, default=512, help="pixels a side; default 512")
    add("--threshold", type=float, default=0.3, help="of the activation; default 0.3, as published")


def add_output(add) -> None:
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    add("--export-every", type=int, default=1000, help="steps between files; 0: only at the end")
    add("--seed", type=int, default=0)
    add("--device", default="cpu", help="torch device: cpu (default), cuda, ...")
    add("--workers", type=int, default=1, help="processes on this machine, each on a core or GPU")


def add_anchor(add) -> None:
    add("--data", type=Path, required=True, help="a JSON list or JSONL file, or a folder of people")
    add("--init", type=Path, help="an SAA file to begin with; default: fresh weights")
    add("--rank", type=int, default=0, help="of the LoRA; default 128, or that of --init")
    add(
        "--steps", type=int, default=62_500, help="default 62500: 100 times through 10,000 pictures"
    )
    add("--batch", type=int, default=16, help="rows of a step, over all processes; default 16")
    add("--part", type=int, default=4, help="rows computed at once; 0: all; default 4")
    add("--dropout", type=float, default=0.05, help="chance of no caption, nobody, and neither")
    add("--sheet-rows", type=int, default=4, help="rows kept for sample sheets; 0: none")


def add_reconfigure(add) -> None:
    add("--data", type=Path, required=True, help="a folder of people, or the published layout")
    add("--saa", type=Path, required=True, help="the SAA file of the first stage")
    add("--out-keypoints", type=Path, help="the keypoint encoder's file; default beside --out")
    add("--landmarker", type=Path, help="MediaPipe's landmarker: names expressions without words")
    add("--init", type=Path, help="an IMR file to begin with; needs --init-keypoints")
    add("--init-keypoints", type=Path, help="the keypoint encoder of --init")
    add("--steps", type=int, default=50_000, help="default 50000; the paper names no number")
    add("--batch", type=int, default=1, help="people of a step, over all processes; default 1")
    add("--targets", type=int, default=32, help="pictures that each is to become; default 32")
    add("--part", type=int, default=4, help="targets that the base computes at once; default 4")
    add("--kdef-share", type=float, default=0.05, help="chance of a person of KDEF; default 0.05")
    add(
        "--lambda", dest="weight", type=float, default=1.0,
        help="of equation 7; 0: feature matching alone; default 1, as in the paper",
    )  # fmt: skip
    add(
        "--perturb", type=float, default=3.0,
        help="by how many pixels of 512 landmarks are moved at random; 0: not; default 3",
    )  # fmt: skip
    add("--dim", type=int, default=1024, help="width of the reconfigurator; default 1024")
    add("--depth", type=int, default=1, help="blocks of each of its halves; default 1")
    add("--motion", type=int, default=4, help="motion tokens; default 4")
    add("--sheet-people", type=int, default=4, help="people kept for sample sheets; 0: none")


LIMITS = (
    ("rank", 0, 1024), ("steps", 1, 1e9), ("batch", 1, 1e6), ("rate", 1e-9, 1), ("last_rate", 0, 1),
    ("warmup", 0, 1e9), ("decay", 0, 1), ("average", 0, 1), ("size", 128, 4096),
    ("threshold", 0, 1), ("dropout", 0, 0.33), ("targets", 1, 1e4), ("kdef_share", 0, 1),
    ("weight", 0, 100), ("perturb", 0, 64), ("dim", 64, 8192), ("depth", 1, 64), ("motion", 1, 64),
    ("export_every", 0, 1e9), ("sheet_rows", 0, 64), ("sheet_people", 0, 64), ("workers", 1, 1024),
)  # fmt: skip
FILES = (
    "data", "base", "clip_vision", "faces", "saa", "landmarker", "init", "init_keypoints"
)  # fmt: skip
STEPS = {"size": 64, "dim": 64}
"""Options that are multiples of something."""


def check(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    """End with a message that names value and range, before anything is opened."""
    part = ("part", 0 if chosen.stage == "anchor" else 1, 1e6)
    for name, low, high in (*LIMITS, part):
        value = getattr(chosen, name, low)
        if not low <= value <= high:  # also false for NaN
            parser.error(f"{option(name)} is {value:g}, expected {low:g} to {high:g}")
    for name, step in STEPS.items():
        if getattr(chosen, name, 0) % step:
            parser.error(f"--{name} is {getattr(chosen, name)}, expected a multiple of {step}")
    for name in FILES:
        path = getattr(chosen, name, None)
        if path is not None and not path.exists():
            parser.error(f"{option(name)}: {path} does not exist")
    if not chosen.faces.is_dir():
        parser.error(f"--faces: {chosen.faces} is a file, the face pack's folder is needed")
    if chosen.stage == "reconfigure":
        check_pair(parser, chosen)
    check_outputs(parser, chosen)


def check_pair(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    if (chosen.init is None) != (chosen.init_keypoints is None):
        parser.error("--init and --init-keypoints belong together; name both, or neither")
    if chosen.out_keypoints is None:
        chosen.out_keypoints = keypoints_beside(chosen.out)


def keypoints_beside(path: Path) -> Path:
    """The name that the authors' code derives: "key_point_encoder" in place of "IMR"."""
    if "IMR" in path.stem:
        return path.with_stem(path.stem.replace("IMR", "key_point_encoder"))
    return path.with_stem(f"{path.stem}_key_point_encoder")


def check_outputs(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    outputs = [name for name in ("out", "out_keypoints") if hasattr(chosen, name)]
    for name in outputs:
        path = getattr(chosen, name)
        if path.suffix != ".safetensors":
            parser.error(
                f"{option(name)} is {path.name}, expected a name that ends in .safetensors"
            )
        for given in ("init", "init_keypoints", "saa"):
            other = getattr(chosen, given, None)
            if other is not None and path.exists() and path.samefile(other):
                parser.error(
                    f"{option(name)} is the file of {option(given)}, which is kept as it is; "
                    "choose another name"
                )
    if len({getattr(chosen, name) for name in outputs}) < len(outputs):
        parser.error(f"--out and --out-keypoints are both {chosen.out}, two names are needed")


def option(name: str) -> str:
    return "--lambda" if name == "weight" else "--" + name.replace("_", "-")


def open_landmarker(path: Path | None):
    """ComfyUI's MediaPipe landmarker. Raises ValueError in a ComfyUI that has none."""
    if path is None:
        return None
    import comfy.utils
    from flexid.model_patches.face.mesh import MeshFinder

    try:
        from comfy_extras.mediapipe.face_geometry import transformation_matrix_from_detection
        from comfy_extras.nodes_mediapipe import FaceLandmarkerModel
    except ImportError as error:
        raise ValueError(
            "--landmarker needs ComfyUI's MediaPipe nodes, and this ComfyUI has none. Update it, "
            "or write the words of each picture into a .txt file."
        ) from error
    model = FaceLandmarkerModel(comfy.utils.load_torch_file(str(path), safe_load=True))
    return MeshFinder(model, transformation_matrix_from_detection)


def run(chosen: argparse.Namespace) -> None:
    import torch
    from flexid.model_patches.training import distributed, imr_job, saa_job

    device = distributed.join(torch.device(chosen.device))
    options = {name: value for name, value in vars(chosen).items() if name not in OWN}
    if chosen.stage == "anchor":
        saa_job.run_job(saa_job.Job(**options), device)
    else:
        finder = open_landmarker(chosen.landmarker)
        imr_job.run_job(imr_job.Job(**options), device, finder)
    distributed.leave()


def main() -> None:
    chosen = parse(sys.argv[1:])
    from flexid.model_patches.training.script import run_script

    run_script(chosen, [__file__, *sys.argv[1:]], BOOTSTRAP["open_comfyui"], run)


OWN = ("device", "workers", "stage")
BOOTSTRAP = runpy.run_path(str(Path(__file__).with_name("pack.py")))
BOOTSTRAP["open_pack"]()

if __name__ == "__main__":
    main()
