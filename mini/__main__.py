"""`python mini --models DIR` builds the demo's models.

Run as a folder, so that only this folder is on the path: the pack's own `nodes` package would
hide ComfyUI's `nodes.py`.
"""

import argparse
import importlib
import sys
import types
from pathlib import Path

if __name__ == "__main__":
    package = types.ModuleType("flexid")
    package.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["flexid"] = package
    parser = argparse.ArgumentParser(prog="mini", description="Build the demo's models.")
    parser.add_argument("--models", type=Path, required=True, help="a ComfyUI models folder")
    world = importlib.import_module("flexid.mini.world")
    for path in world.build_world(parser.parse_args().models):
        sys.stdout.write(f"{path}\n")
