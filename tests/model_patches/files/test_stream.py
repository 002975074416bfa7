"""A file written tensor by tensor is the one that the safetensors library would write."""

import gc
import weakref

import pytest
import torch
from flexid.model_patches.files import stream
from flexid.model_patches.files.stream import count_bytes, require_space, write_streamed
from flexid.model_patches.files.tensor_file import read_weights
from safetensors import safe_open
from safetensors.torch import save_file

pytestmark = pytest.mark.pure

TENSORS = {
    "b.weight": torch.arange(6.0).reshape(2, 3),
    "a.weight": torch.arange(3.0).to(torch.bfloat16),
    "half": torch.arange(5.0).half(),
    "double": torch.arange(2.0).double(),
    "eight": torch.arange(3.0).to(torch.float8_e4m3fn),
    "turned": torch.arange(8.0).reshape(2, 4).T,
    "number": torch.tensor(3.0),
    "none": torch.zeros(0, 4),
    "ünïcode": torch.ones(1),
}
LAYOUT = {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in TENSORS.items()}


def test_what_is_read_back(tmp_path):
    path = tmp_path / "a.safetensors"
    write_streamed(path, LAYOUT, TENSORS.__getitem__, {"heads": "2", "name": "é"})
    read = read_weights(path, "a file")
    assert read.metadata == {"heads": "2", "name": "é"}
    assert read.tensors.keys() == TENSORS.keys()
    for key, tensor in TENSORS.items():
        assert read.tensors[key].dtype == tensor.dtype and read.tensors[key].shape == tensor.shape
        assert torch.equal(read.tensors[key].double(), tensor.double()), key
    with safe_open(str(path), "pt") as file:
        assert len(list(file.keys())) == len(TENSORS)


def test_same_bytes_as_the_library(tmp_path):
    """Its order and alignment: the widest types first, then by key."""
    kept = {k: t.contiguous() for k, t in TENSORS.items() if t.element_size() != 1}
    write_streamed(tmp_path / "a", {k: LAYOUT[k] for k in kept}, kept.__getitem__, {"heads": "2"})
    save_file(kept, tmp_path / "b", {"heads": "2"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_without_metadata(tmp_path):
    write_streamed(tmp_path / "a", {"x": (torch.float32, (2,))}, lambda _: torch.ones(2), {})
    with safe_open(str(tmp_path / "a"), "pt") as file:
        assert not file.metadata() and file.get_tensor("x").tolist() == [1, 1]


def test_one_tensor_lives_at_a_time(tmp_path):
    alive = []

    def make(key):
        gc.collect()
        assert all(one() is None for one in alive), "an earlier tensor is still held"
        tensor = torch.ones(4)
        alive.append(weakref.ref(tensor))
        return tensor

    layout = {str(i): (torch.float32, (4,)) for i in range(5)}
    write_streamed(tmp_path / "a", layout, make, {})
    assert len(alive) == 5


@pytest.mark.parametrize("wrong", [torch.ones(3), torch.ones(2).half()])
def test_a_tensor_that_was_not_announced(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"x is .*expected \(torch.float32, \(2,\)\)"):
        write_streamed(tmp_path / "a", {"x": (torch.float32, (2,))}, lambda _: wrong, {})


def test_a_type_that_the_format_lacks(tmp_path):
    layout = {"x": (torch.int64, (2,)), "y": (torch.float32, (2,))}
    with pytest.raises(ValueError, match=r"a cannot hold 1 of its tensors .x is torch.int64"):
        write_streamed(tmp_path / "a", layout, TENSORS.__getitem__, {})
    assert not (tmp_path / "a").exists()


def test_a_header_that_nobody_would_read(tmp_path):
    with pytest.raises(ValueError, match="header of a would have 9[0-9]+ bytes.*8388608"):
        write_streamed(tmp_path / "a", {}, TENSORS.__getitem__, {"long": "x" * 9_000_000})
    assert not (tmp_path / "a").exists()


def test_size_and_space(tmp_path, monkeypatch):
    needed = count_bytes(LAYOUT)
    assert needed == sum(t.numel() * t.element_size() for t in TENSORS.values())
    require_space(tmp_path / "not" / "there", needed)

    class Usage:
        free = needed - 1

    monkeypatch.setattr(stream.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(OSError, match=f"needs {needed} bytes.*{needed - 1} bytes free"):
        require_space(tmp_path, needed)
