"""Where the pack is, and how the tests open it."""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BOOTSTRAP = ROOT / "setup" / "pack.py"


def open_pack(comfyui: str | None) -> None:
    """The pack as `flexid`; with a ComfyUI (COMFYUI_PATH) also that, as its users start it."""
    bootstrap = runpy.run_path(str(BOOTSTRAP))
    bootstrap["open_pack"]()
    if comfyui:
        bootstrap["open_comfyui"](pytorch_attention=False)
        from flexid.nodes.model_files import register_folders

        register_folders()
