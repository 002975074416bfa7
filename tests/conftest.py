"""The tiers: what can be collected depends on whether there is a ComfyUI."""

import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # for the builders that several rooms share
from pack import ROOT, open_pack  # noqa: E402

GOLDEN = ROOT / "tests" / "golden"
COMFYUI = os.environ.get("COMFYUI_PATH")
open_pack(COMFYUI)


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
