"""Open the pack as `flexid`, and ComfyUI beside it, outside a running ComfyUI.

ComfyUI loads the pack by path; here a stub package whose `__path__` is the repository stands in
for it. The repository root itself never goes on `sys.path`: its `nodes/` would hide ComfyUI's
`nodes.py`.
"""

import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def open_pack(comfyui: str | None) -> None:
    package = types.ModuleType("flexid")
    package.__path__ = [str(ROOT)]
    sys.modules.setdefault("flexid", package)
    if comfyui:
        sys.path.insert(0, comfyui)
        _open_comfyui()


def _open_comfyui() -> None:
    import comfy.options

    comfy.options.enable_args_parsing(False)
    import comfy.cli_args
    import torch

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    from flexid.nodes.model_files import register_folders

    register_folders()
