"""`start.py ibench`: IBench with the user's own models. See options.py for the command line.

Runs inside the environment; COMFYUI_PATH names the ComfyUI tree. torchrun may start it, too:
`torchrun --nproc-per-node 4 ibench/run.py --data DIR --models DIR --out SHARED`.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BOOTSTRAP = runpy.run_path(str(ROOT / "setup" / "pack.py"))


def say(text: str) -> None:
    """One line, at once, also into a file."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    BOOTSTRAP["open_pack"]()
    from flexid.ibench.options import parse

    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    options = parse(words[:cut])
    from flexid.model_patches.training import distributed

    if options.workers > 1 and not distributed.is_launched():
        try:
            distributed.launch(options.workers, [__file__, *words])
        except KeyboardInterrupt:
            sys.exit(130)
        except RuntimeError as error:
            sys.exit(str(error))
        return
    from flexid.model_patches.training.script import raise_on_term

    run(options, words[cut + 1 :], raise_on_term())


def run(options: object, comfyui_words: list[str], is_stopped: Callable[[], bool]) -> None:
    """One process's part. comfyui_words: options of ComfyUI's own command line.

    is_stopped: whether the process was told to stop; ComfyUI swallows the interrupt in places, and
    another error follows from it.
    """
    import torch
    from flexid.model_patches.training import distributed

    on_gpu = torch.cuda.is_available() and not options.cpu
    distributed.join(torch.device("cuda" if on_gpu else "cpu"))
    BOOTSTRAP["open_comfyui"](cpu=not on_gpu)
    import comfy.cli_args

    comfy.cli_args.parser.parse_args(comfyui_words, namespace=comfy.cli_args.args)
    torch.set_grad_enabled(False)
    from flexid.ibench.graphs import GraphError
    from flexid.ibench.job import run as run_job
    from flexid.ibench.painter import PaintError

    try:
        run_job(options, say)
        distributed.leave()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if is_stopped():
            sys.exit(130)
        if isinstance(error, GraphError | PaintError | ValueError | OSError):
            sys.exit(f"\n{error}")
        raise


if __name__ == "__main__":
    main()
