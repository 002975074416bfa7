"""What tests of several nodes share."""

import folder_paths
import pytest


@pytest.fixture
def dynamicid_home(tmp_path, monkeypatch):
    """A ComfyUI whose folder of DynamicID files is empty."""
    folder = tmp_path / "dynamicid"
    folder.mkdir()
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "dynamicid", ([str(folder)], {".bin", ".safetensors"})
    )
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return folder
