"""`python mini --models DIR` builds the demo's models.

Run as a folder: setup/pack.py says why.
"""

import argparse
import importlib
import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    bootstrap = runpy.run_path(str(Path(__file__).resolve().parents[1] / "setup" / "pack.py"))
    bootstrap["open_pack"]()
    parser = argparse.ArgumentParser(prog="mini", description="Build the demo's models.")
    parser.add_argument("--models", type=Path, required=True, help="a ComfyUI models folder")
    world = importlib.import_module("flexid.mini.world")
    if not world.is_trained():
        bootstrap["open_comfyui"](cpu=True)
    for path in world.build_world(parser.parse_args().models):
        sys.stdout.write(f"{path}\n")
