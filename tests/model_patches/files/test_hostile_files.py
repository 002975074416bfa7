"""Weight files made to break a loader: each is refused within two seconds, by name."""

import json
import os
import pickle
import struct
import time
import zipfile
from collections import OrderedDict

import pytest
import torch
from flexid.model_patches.files import tensor_file
from flexid.model_patches.files.tensor_file import digest, read_weights
from safetensors.torch import save_file

pytestmark = pytest.mark.pure

WANTED = "good.safetensors from https://example.org, in models/good"
SECONDS = 2
"""Of this process: other work on the machine does not count."""


def raw_safetensors(path, header, data=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def short_offsets(path):
    raw_safetensors(path, {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, bytes(4))


def deep_header(path):
    raw_safetensors(path, b'{"a":' * 100_000 + b"1" + b"}" * 100_000)


def deep_list(path):
    raw_safetensors(path, b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def too_many_tensors(path):
    empty_tensors(path, 90_000)


def far_too_many_tensors(path):
    empty_tensors(path, 200_000)


def empty_tensors(path, count):
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    raw_safetensors(path, {f"tensor.{index}": entry for index in range(count)})


def large_header(path):
    raw_safetensors(path, b'{"__metadata__":{"a":"' + b"x" * (20 << 20) + b'"}}')


def offsets_beyond_all_numbers(path):
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 1 << 70]}
    raw_safetensors(path, {"a": entry}, bytes(4))


def huge_bytearray(path):
    """A pickle of 40 bytes that asks for a terabyte, twice a thousand times over."""
    path.write_bytes(
        b"\x80\x02c__builtin__\nbytearray\n\x8a\x08" + struct.pack("<q", 1 << 60) + b"\x85R."
    )


def shared_dictionaries(path):
    value = {"a": torch.zeros(1)}
    for _ in range(30):
        value = {"x": value, "y": value}
    torch.save(value, path)


def shared_dictionaries_wide(path):
    value = {"a": torch.zeros(1)}
    for _ in range(4):
        value = {f"k{index}": value for index in range(60)}
    torch.save(value, path)


def dictionary_in_itself(path):
    value = {"a": torch.zeros(1)}
    value["again"] = value
    torch.save(value, path)


def replace_pickle(path, content):
    """A torch file with another pickle in it."""
    torch.save({"a": torch.zeros(1)}, path.with_name("plain.pt"))
    with zipfile.ZipFile(path.with_name("plain.pt")) as source, zipfile.ZipFile(path, "w") as file:
        for name in source.namelist():
            file.writestr(name, content if name.endswith("data.pkl") else source.read(name))


def large_pickle(path):
    replace_pickle(path, b"\x80\x02" + b"}0" * (4 << 20) + b"N.")


def deep_dictionaries(path):
    nested = b"\x80\x02" + b"}X\x01\x00\x00\x00a" * 50_000 + b"K\x01" + b"s" * 50_000 + b"."
    replace_pickle(path, nested)


def long_key(path):
    torch.save({"k" * 100_000: torch.zeros(1)}, path)


def sparse(path):
    torch.save({"a": torch.eye(3).to_sparse()}, path)


def meta(path):
    torch.save({"a": torch.empty(3, device="meta")}, path)


def expanded(path):
    torch.save({"a": torch.zeros(1).expand(1 << 20, 1 << 20)}, path)


def quantised(path):
    torch.save({"a": torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)}, path)


def pipe(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


def folder(path):
    path.mkdir()


HOSTILE = {
    short_offsets: ["no readable safetensors header", "expected a tuple of size 2"],
    deep_header: ["no readable safetensors header", "recursion limit"],
    deep_list: ["no readable safetensors header", "recursion limit"],
    too_many_tensors: ["90000 tensors", "at most 20000"],
    far_too_many_tensors: ["header of", "at most 8388608"],
    large_header: ["header of 20971545 bytes", "at most 8388608"],
    offsets_beyond_all_numbers: ["cut short: 94 bytes"],
    huge_bytearray: ["cut short or damaged", "download again"],
    shared_dictionaries: ["nests dictionaries 17 deep", "at most 16"],
    shared_dictionaries_wide: ["values", "at most 16 and 100000"],
    dictionary_in_itself: ["nests dictionaries 17 deep", "at most 16"],
    deep_dictionaries: ["nests dictionaries 17 deep", "at most 16"],
    large_pickle: ["8388612 bytes of pickle", "at most 4194304"],
    long_key: ["a key of 100000 characters", "at most 1000"],
    sparse: ["tensor a is torch.sparse_coo", "expected torch.strided"],
    meta: ["tensor a is torch.strided, meta", "cpu"],
    expanded: ["states tensors of 4398046511104 bytes", "times its size"],
    quantised: ["tensor a is quantised"],
}


@pytest.mark.parametrize("write", HOSTILE, ids=lambda write: write.__name__)
def test_hostile_files_are_refused_in_time(tmp_path, write):
    path = tmp_path / "hostile.safetensors"
    write(path)
    start = time.process_time()
    with pytest.raises(ValueError) as error:
        read_weights(path, WANTED)
    assert time.process_time() - start < SECONDS
    for fact in ["hostile.safetensors", WANTED, *HOSTILE[write]]:
        assert fact in str(error.value), str(error.value)


@pytest.mark.parametrize(
    ("write", "kind"), [(pipe, "a named pipe"), (device, "a device"), (folder, "a folder")]
)
@pytest.mark.parametrize("read", [lambda path: read_weights(path, WANTED), digest])
def test_only_regular_files_are_opened(tmp_path, write, kind, read):
    write(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=f"x.safetensors is {kind}, expected a regular file"):
        read(tmp_path / "x.safetensors")


def test_metadata_may_have_any_key(tmp_path):
    """`dtype` in the metadata once made the reader take it for a tensor."""
    metadata = {"dtype": "bf16", "data_offsets": "[0]", "shape": '"data_offsets":[0,99999]'}
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors", metadata)
    file = read_weights(tmp_path / "x.safetensors", WANTED)
    assert file.metadata == metadata and file.tensors["a"].equal(torch.ones(2))


def test_a_checkpoint_of_a_training_run_still_opens(tmp_path):
    weights = OrderedDict((f"layer.{index}", torch.ones(1)) for index in range(500))
    state = {index: {"step": 3, "average": torch.ones(1)} for index in range(500)}
    torch.save({"weights": weights, "optimizer": {"state": state}, "x": [1]}, tmp_path / "x.pt")
    file = read_weights(tmp_path / "x.pt", WANTED)
    assert [key for key in file.tensors if key.startswith("weights.")] == [
        f"weights.layer.{index}" for index in range(500)
    ]


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="counts memory as Linux does")
@pytest.mark.parametrize("name", ["x.safetensors", "x.pt"])
def test_large_files_stay_on_the_disk(tmp_path, name):
    """400 MB are mapped, not read: memory hardly grows until a tensor is used."""
    path = tmp_path / name
    tensors = {"a": torch.zeros(100 << 20)}
    save_file(tensors, path) if name == "x.safetensors" else torch.save(tensors, path)
    del tensors
    before = resident_bytes()
    file = read_weights(path, WANTED)
    assert resident_bytes() - before < 40 << 20
    assert file.shapes == {"a": (100 << 20,)}


def test_the_pickle_reader_runs_nothing(tmp_path, monkeypatch):
    class Code:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "code_ran"),))

    path = tmp_path / "x.pt"
    path.write_bytes(pickle.dumps({"a": Code()}, protocol=2))
    with pytest.raises(ValueError, match="was not opened"):
        tensor_file.read_weights(path, WANTED)
    assert not (tmp_path / "code_ran").exists()
