"""Make the pack importable as `flexid` without a ComfyUI, and ComfyUI importable when there is one.

ComfyUI loads the pack by path; here a stub package whose `__path__` is the repository stands in
for it. The repository root itself never goes on `sys.path`: its `nodes/` would hide ComfyUI's
`nodes.py`.
"""

import os
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(os.environ.get("FLEXID_GOLDEN", ROOT / "tests" / "golden"))

package = types.ModuleType("flexid")
package.__path__ = [str(ROOT)]
sys.modules.setdefault("flexid", package)
sys.path.append(str(ROOT / "tests"))  # for seeding.py and tiny.py, which several rooms use

COMFYUI = os.environ.get("COMFYUI_PATH")
if COMFYUI:
    sys.path.insert(0, COMFYUI)
    import comfy.options

    comfy.options.enable_args_parsing(False)
    import comfy.cli_args
    import torch

    comfy.cli_args.args.cpu = not torch.cuda.is_available()


def pytest_report_header() -> str:
    if COMFYUI:
        return f"ComfyUI: {COMFYUI}"
    return "ComfyUI: none (COMFYUI_PATH is not set), only the pure tier is collected"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Tests of the other tiers import ComfyUI at the top: without one they cannot be collected."""
    if COMFYUI or not collection_path.name.startswith("test_"):
        return None
    return "pytest.mark.pure" not in collection_path.read_text(encoding="utf-8") or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN
