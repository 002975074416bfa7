"""The small world as a user meets it: time to load, seconds per picture, memory.

In a process of its own, so that memory counts nothing else.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

HERE = Path(__file__).resolve().parent


def measure(options: Namespace) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(HERE / "mini.py"), folder, str(options.rounds)]
        result = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if result.returncode:
        raise RuntimeError(f"the small world did not run:\n{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def _rows(folder: Path, rounds: int) -> list[dict]:
    import statistics

    from flexid.mini import world
    from flexid.mini.evaluating import prompts, rows
    from flexid.mini.evaluating.people import reference
    from flexid.mini.evaluating.studio import Studio

    world.build_world(folder)
    started = time.perf_counter()
    studio, made = Studio(folder, rows.settings()), rows.settings()
    _ = (studio.model, studio.clip, studio.vae, studio.analyser, studio.adapter)
    _ = (studio.tower, studio.projector)
    loading = time.perf_counter() - started
    started = time.perf_counter()
    sitter = studio.sitter(reference(900_000, made.side))
    encoding = time.perf_counter() - started
    kind = "trained" if world.is_trained() else "random"
    found = []
    for row in (rows.ALONE, rows.rigid(1.0), rows.VFA_CAG, rows.WHOLE):
        times = []
        for seed in range(rounds + 1):  # the first one also moves weights and folds
            started = time.perf_counter()
            studio.paint(row, sitter, prompts.all_prompts()[:1], [seed])
            times.append(time.perf_counter() - started)
        found.append(
            {
                "weights": kind,
                "row": row.title,
                "load s": loading,
                "encode person s": encoding,
                f"s per picture ({made.steps} steps)": statistics.median(times[1:]),
                "peak MB": _peak_megabytes(),
            }
        )
    return found


def _peak_megabytes() -> float | None:
    """Of this process; unknown where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def _main() -> None:
    sys.path[0] = str(HERE.parent / "tests")  # bench/ holds names that ComfyUI uses, too
    from pack import open_pack

    tree = os.environ["COMFYUI_PATH"]
    sys.path.insert(0, tree)
    import comfy.options

    comfy.options.enable_args_parsing(False)
    import comfy.cli_args

    comfy.cli_args.args.use_pytorch_cross_attention = True
    open_pack(tree)
    import torch

    torch.set_grad_enabled(False)
    rows = _rows(Path(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.write(json.dumps(rows) + "\n")


if __name__ == "__main__":
    _main()
