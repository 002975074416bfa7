"""Exported files hold what they should, in the format asked for, readable by others."""

import os
import stat
import sys

import pytest
import torch
from flexid.model_patches.training.export import write_safetensors, write_torch
from safetensors import safe_open
from safetensors.torch import load_file

pytestmark = pytest.mark.pure

TENSORS = {
    "turned": torch.arange(6.0).view(2, 3).T.requires_grad_(),
    "number": torch.tensor(3, dtype=torch.int64),
}


def test_safetensors_files(tmp_path):
    path = tmp_path / "models" / "a.safetensors"
    write_safetensors(path, {"turned": TENSORS["turned"]}, torch.float16, {"heads": "2"})
    stored = load_file(path)["turned"]
    assert stored.dtype == torch.float16 and torch.equal(stored.float(), TENSORS["turned"])
    with safe_open(str(path), "pt") as file:
        assert file.metadata() == {"heads": "2"}
    write_safetensors(path, TENSORS, None)
    assert [load_file(path)[name].dtype for name in TENSORS] == [torch.float32, torch.int64]


def test_torch_files(tmp_path):
    write_torch(tmp_path / "a.pt", {"turned": TENSORS["turned"]}, torch.bfloat16)
    stored = torch.load(tmp_path / "a.pt", weights_only=True)["turned"]
    assert stored.dtype == torch.bfloat16 and not stored.requires_grad
    assert torch.equal(stored.float(), TENSORS["turned"])


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_others_may_read_them(tmp_path):
    """safetensors itself makes private files."""
    plain = tmp_path / "plain"
    plain.touch()
    write_safetensors(tmp_path / "a", TENSORS, None)
    write_torch(tmp_path / "b", {"x": torch.ones(1)}, torch.float32)
    modes = {stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("plain", "a", "b")}
    assert len(modes) == 1
