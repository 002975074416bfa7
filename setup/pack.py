"""Make the pack importable as `flexid`, and ComfyUI beside it, outside a running ComfyUI.

ComfyUI loads the pack by its path; here a stub package whose `__path__` is the repository takes
its place. Scripts load this file with `runpy.run_path`, because the repository must not be on
`sys.path`: its `nodes/` would hide ComfyUI's `nodes.py`, and `server.py` in this folder would
hide ComfyUI's. Standard library only.
"""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HIDING = {ROOT, *(ROOT / room for room in ("bench", "mini", "setup"))}
"""Folders whose modules have names that ComfyUI uses, too. Python puts a script's own folder on
the path."""


def open_pack() -> None:
    """Register the stub package, and take the pack's folders off the path."""
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() not in HIDING]
    if "flexid" not in sys.modules:
        package = types.ModuleType("flexid")
        package.__path__ = [str(ROOT)]
        sys.modules["flexid"] = package


def open_comfyui(*, cpu: bool | None = None, pytorch_attention: bool = True) -> None:
    """Put the tree that COMFYUI_PATH names on the path, set up for use without a server.

    cpu: without it, whether there is no CUDA. pytorch_attention: what ComfyUI chooses for a CPU
    by itself computes attention in slices, which is up to three times slower for small models.
    Ends the process with a message when COMFYUI_PATH names no tree.
    """
    path = os.environ.get("COMFYUI_PATH")
    if not path or not (Path(path) / "comfy").is_dir():
        sys.exit(f"COMFYUI_PATH is {path!r}; set it to a ComfyUI folder (it contains comfy/).")
    sys.path.insert(0, path)
    import comfy.options

    comfy.options.enable_args_parsing(False)
    import comfy.cli_args
    import torch
    import utils.extra_config  # noqa: F401  as main.py does: older ones then hide it by comfy/utils

    arguments = comfy.cli_args.args
    arguments.cpu = not torch.cuda.is_available() if cpu is None else cpu
    if pytorch_attention:
        arguments.use_pytorch_cross_attention = True
