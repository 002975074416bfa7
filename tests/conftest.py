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

REQUIREMENTS = {
    "comfy": (bool(COMFYUI), "needs COMFYUI_PATH; `python3 start.py test` sets it"),
    "server": (bool(COMFYUI), "needs COMFYUI_PATH; `python3 start.py test` sets it"),
}


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker, (met, reason) in REQUIREMENTS.items():
            if item.get_closest_marker(marker) and not met:
                item.add_marker(pytest.mark.skip(reason=reason))
        if item.get_closest_marker("gpu") and not _cuda():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN
