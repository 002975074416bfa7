"""Merging files: what is written, what is copied, what is refused, and how far it drifts."""

import gc
import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch
from flexid.mini.random_adapter import write_adapter, write_eva_clip
from flexid.model_patches.adapters import merge
from flexid.model_patches.adapters.merge import merge_into, write_merge
from flexid.model_patches.adapters.merge_plan import RECIPE_KEY, Settings, plan_merge
from flexid.model_patches.adapters.merge_scope import PATHS, Scope, parts_of
from flexid.model_patches.adapters.pulid_flux import (
    BLOCKS_KEY,
    HEADS_KEY,
    load_adapter,
    open_adapter_file,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.comfy

HEADS = {HEADS_KEY: "2"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A, and B to D that share its encoder; E with another one."""
    folder = tmp_path_factory.mktemp("pulid")
    first = load_file(write_adapter(folder / "a.safetensors", 1, dtype=torch.float32))
    save_file(first, folder / "a.safetensors", HEADS)
    for seed, name in enumerate("bcd", 2):
        generator = torch.Generator().manual_seed(seed)
        trained = {
            key: t + 0.1 * seed * t.std() * torch.randn(t.shape, generator=generator)
            if key.startswith("pulid_ca.")
            else t
            for key, t in first.items()
        }
        save_file(trained, folder / f"{name}.safetensors", HEADS)
    write_adapter(folder / "e.safetensors", 9, dtype=torch.float32)
    return folder


def run(files, names, target, base=None, watch=None, **settings):
    paths = [files / f"{name}.safetensors" for name in names]
    base = None if base is None else files / f"{base}.safetensors"
    return write_merge(plan_merge(paths, Settings(**settings), base), target, watch)


def tensors_of(files, name):
    return load_file(files / f"{name}.safetensors")


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype, key
        assert torch.equal(a[key].view(torch.uint8), b[key].view(torch.uint8)), key


# What is written


@pytest.mark.parametrize("method", ["lerp", "slerp", "task_arithmetic"])
def test_all_weight_on_one_file_is_that_file(files, tmp_path, method):
    base = "c" if method == "task_arithmetic" else None
    run(files, "ab", tmp_path / "x", base, method=method, weights=(0.0, 1.0))
    same(load_file(tmp_path / "x"), tensors_of(files, "b"))
    run(files, "ab", tmp_path / "y", base, method=method, weights=(1.0, 0.0))
    same(load_file(tmp_path / "y"), tensors_of(files, "a"))


def test_mixed_types_do_not_spoil_it(files, tmp_path):
    half = {k: t.to(torch.bfloat16) for k, t in tensors_of(files, "a").items()}
    encoder = {k: t for k, t in tensors_of(files, "a").items() if "encoder" in k}
    save_file({**half, **encoder}, tmp_path / "half.safetensors", HEADS)
    paths = [tmp_path / "half.safetensors", files / "b.safetensors"]
    write_merge(plan_merge(paths, Settings(weights=(1.0, 0.0))), tmp_path / "x")
    same(load_file(tmp_path / "x"), {**half, **encoder})
    write_merge(plan_merge(paths, Settings()), tmp_path / "y")
    assert load_file(tmp_path / "y")["pulid_ca.0.to_q.weight"].dtype == torch.float32


def test_the_sum_in_float64(files, tmp_path):
    run(files, "abc", tmp_path / "x", weights=(5.0, 3.0, 2.0))
    parts = [tensors_of(files, name) for name in "abc"]
    for key, got in load_file(tmp_path / "x").items():
        each = [part[key].double() for part in parts]
        expected = 0.5 * each[0] + 0.3 * each[1] + 0.2 * each[2]
        torch.testing.assert_close(got.double(), expected, atol=0, rtol=2**-23)


def test_task_arithmetic(files, tmp_path):
    run(files, "bc", tmp_path / "x", "a", method="task_arithmetic", weights=(0.6, 0.8))
    a, b, c = (tensors_of(files, name) for name in "abc")
    for key, got in load_file(tmp_path / "x").items():
        base = a[key].double()
        expected = base + 0.6 * (b[key].double() - base) + 0.8 * (c[key].double() - base)
        torch.testing.assert_close(got.double(), expected, atol=1e-6, rtol=1e-6)


def test_compat_has_the_tool_s_roundings(files, tmp_path):
    """In bfloat16 three roundings differ from one."""
    for name in "ab":
        half = {k: t.to(torch.bfloat16) for k, t in tensors_of(files, name).items()}
        save_file(half, tmp_path / f"{name}.safetensors", HEADS)
    run(tmp_path, "ab", tmp_path / "x", method="compat_average", weights=(0.7, 0.3))
    run(tmp_path, "ab", tmp_path / "y", method="lerp", weights=(0.7, 0.3))
    key = "pulid_ca.0.to_q.weight"
    a, b = tensors_of(tmp_path, "a")[key], tensors_of(tmp_path, "b")[key]
    tool, once = load_file(tmp_path / "x")[key], load_file(tmp_path / "y")[key]
    assert torch.equal(tool, (1 - 0.3) * a + 0.3 * b)
    assert torch.equal(once, (0.7 * a.double() + 0.3 * b.double()).to(torch.bfloat16))
    assert not torch.equal(tool, once)
    key = "pulid_encoder.latents"
    a = tensors_of(tmp_path, "a")[key]
    assert torch.equal(load_file(tmp_path / "x")[key], a), "a shared encoder is copied"
    scope = Scope("merge")
    run(tmp_path, "ab", tmp_path / "z", method="compat_add", weights=(1.0, 0.3), scope=scope)
    assert torch.equal(load_file(tmp_path / "z")[key], a + 0.3 * a), "the tool adds it up, too"


def test_the_order_of_files_changes_no_bit(files, tmp_path):
    run(files, "abcd", tmp_path / "x", weights=(0.1, 0.2, 0.3, 0.4))
    run(files, "dbac", tmp_path / "y", weights=(0.4, 0.2, 0.1, 0.3))
    same(load_file(tmp_path / "x"), load_file(tmp_path / "y"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_number_type_of_choice(files, tmp_path, dtype):
    run(files, "ab", tmp_path / "x", dtype=dtype)
    tensors, wanted = load_file(tmp_path / "x"), getattr(torch, dtype)
    assert {t.dtype for k, t in tensors.items() if k.startswith("pulid_ca.")} == {wanted}
    encoder = open_adapter_file(tmp_path / "x").encoder_digest
    assert encoder == open_adapter_file(files / "a.safetensors").encoder_digest, "copied as it was"
    scope = Scope("merge")
    run(files, "ae", tmp_path / "y", dtype=dtype, scope=scope)
    assert {t.dtype for t in load_file(tmp_path / "y").values()} == {wanted}


def test_the_merge_loads_and_states_how_it_was_made(files, tmp_path):
    target = tmp_path / "merged.safetensors"
    done = run(files, "ab", target, weights=(3.0, 1.0), scope=Scope(layers="1"))
    adapter = load_adapter(target)
    original = load_adapter(files / "a.safetensors")
    assert adapter.path == done.path == target and adapter.heads == original.heads
    assert adapter.encoder_digest == original.encoder_digest, "tokens of either fit the merge"
    assert adapter.digest != original.digest
    with safe_open(str(target), "pt") as file:
        recipe = json.loads(file.metadata()[RECIPE_KEY])
        assert file.metadata()[HEADS_KEY] == "2"
    facts = [(one["name"], one["digest"], one["weight"]) for one in recipe["files"]]
    expected = [open_adapter_file(files / f"{name}.safetensors").digest for name in "ab"]
    assert facts == [
        ("a.safetensors", expected[0], 0.75),
        ("b.safetensors", expected[1], 0.25),
    ]
    assert (recipe["method"], recipe["layers"], recipe["base"]) == ("lerp", "1", None)
    paths = [target, files / "c.safetensors"]
    again = write_merge(
        plan_merge(paths, Settings(method="task_arithmetic"), target), tmp_path / "y"
    )
    with safe_open(str(again.path), "pt") as file:
        nested = json.loads(file.metadata()[RECIPE_KEY])
    assert nested["files"][0]["recipe"] == nested["base"]["recipe"] == recipe
    assert "recipe" not in nested["files"][1]


# Scopes


def changed_parts(files, target, name="a"):
    found, original = load_file(target), tensors_of(files, name)
    changed = set()
    for key, tensor in found.items():
        for part in parts_of(key, tensor.numel()):
            values, before = (
                x.reshape(-1)[part.start : part.stop] for x in (tensor, original[key])
            )
            if not torch.equal(values, before):
                changed.add((part.layer, part.path))
    return changed


@pytest.mark.parametrize(
    ("layers", "paths", "expected"),
    [
        ("all", "all", {(layer, path) for layer in (0, 1) for path in PATHS}),
        ("1", "all", {(1, path) for path in PATHS}),
        ("0-1", "q, out", {(layer, path) for layer in (0, 1) for path in ("q", "out")}),
        ("0", "k", {(0, "k")}),
        ("0, 1", "v", {(0, "v"), (1, "v")}),
    ],
)
def test_the_rest_stays_as_it_was(files, tmp_path, layers, paths, expected):
    run(files, "ab", tmp_path / "x", scope=Scope(layers=layers, paths=paths))
    assert changed_parts(files, tmp_path / "x") == expected


def test_outside_the_scope_is_the_base(files, tmp_path):
    scope = Scope(layers="0")
    run(files, "bc", tmp_path / "x", "a", method="task_arithmetic", scope=scope)
    assert changed_parts(files, tmp_path / "x") == {(0, path) for path in PATHS}


def test_other_encoders(files, tmp_path):
    """Refused, kept, or merged: the layers read what their encoder makes."""
    with pytest.raises(ValueError, match=r"a.safetensors and e.safetensors have different enc"):
        run(files, "ae", tmp_path / "x")
    run(files, "ae", tmp_path / "first", scope=Scope("first"))
    assert None not in {layer for layer, _ in changed_parts(files, tmp_path / "first")}
    run(files, "ae", tmp_path / "merged", scope=Scope("merge"))
    assert (None, "") in changed_parts(files, tmp_path / "merged")


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        ({"layers": "2"}, "names layer 2; 'a.safetensors' has the layers 0 to 1"),
        ({"layers": "1-0"}, "runs from 1 to 0"),
        ({"layers": "x"}, "Cannot read 'x' in layers"),
        ({"layers": " "}, "layers is ' '"),
        ({"paths": "q, kv"}, "Cannot read 'kv' in paths"),
        ({"paths": ""}, "paths is ''"),
        ({"encoder": "none"}, "encoder is 'none', expected one of equal, first, merge"),
    ],
)
def test_a_scope_that_cannot_be_read(files, tmp_path, scope, message):
    with pytest.raises(ValueError, match=message):
        run(files, "ab", tmp_path / "x", scope=Scope(**scope))


# What is refused


def altered(files, path, change):
    tensors = tensors_of(files, "b")
    change(tensors)
    save_file(tensors, path, HEADS)
    return path


CHANGES = {
    "a layer less": (
        lambda t: [t.pop(k) for k in list(t) if k.startswith("pulid_ca.1.")],
        "x.safetensors cannot be merged with a.safetensors: it lacks 7 of ",
    ),
    "an infinite value": (
        lambda t: t["pulid_ca.1.to_out.weight"].view(-1)[5].fill_(math.inf),
        "x.safetensors has NaN or infinite values in pulid_ca.1.to_out.weight",
    ),
    "foreign tensors": (
        lambda t: t.update(step=torch.ones(1)),
        "1 tensors that do not belong to it .step",
    ),
    "half a layer": (
        lambda t: t.pop("pulid_ca.1.to_q.weight"),
        "incomplete or altered: 1 of 14 tensors are missing",
    ),
    "half an encoder": (lambda t: t.pop("pulid_encoder.latents"), "no tensor latents"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_files_that_do_not_fit(files, tmp_path, case):
    change, message = CHANGES[case]
    path = altered(files, tmp_path / "x.safetensors", change)
    with pytest.raises(ValueError, match=message):
        write_merge(plan_merge([files / "a.safetensors", path], Settings()), tmp_path / "y")
    assert [one.name for one in tmp_path.iterdir()] == ["x.safetensors"], "nothing is left"


def test_other_widths_and_heads(files, tmp_path):
    wide = write_adapter(tmp_path / "w.safetensors", 1, hidden=384, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"w.safetensors cannot.*10 have another shape .*expected"):
        plan_merge([files / "a.safetensors", wide], Settings())
    save_file(tensors_of(files, "b"), tmp_path / "h.safetensors", {HEADS_KEY: "4"})
    with pytest.raises(ValueError, match="it has 4 heads, expected 2"):
        plan_merge([files / "a.safetensors", tmp_path / "h.safetensors"], Settings())
    elsewhere = {**HEADS, BLOCKS_KEY: "double 1, single 2"}
    save_file(tensors_of(files, "b"), tmp_path / "p.safetensors", elsewhere)
    with pytest.raises(
        ValueError, match=r"behind other blocks \(double 1, single 2; not PuLID's\)"
    ):
        plan_merge([files / "a.safetensors", tmp_path / "p.safetensors"], Settings())


def test_other_kinds_of_files(files, tmp_path):
    tower = write_eva_clip(tmp_path / "eva.safetensors")
    with pytest.raises(ValueError, match="eva.safetensors is an EVA02-CLIP vision tower"):
        plan_merge([files / "a.safetensors", tower], Settings())
    with pytest.raises(FileNotFoundError, match="gone"):
        plan_merge([files / "a.safetensors", tmp_path / "gone"], Settings())


def test_values_too_large_for_the_type(files, tmp_path):
    huge = {"pulid_ca.0.to_q.weight": 1e6}
    path = altered(files, tmp_path / "x.safetensors", lambda t: [t[k].fill_(huge[k]) for k in huge])
    plan = plan_merge([files / "a.safetensors", path], Settings(dtype="float16"))
    with pytest.raises(ValueError, match="pulid_ca.0.to_q.weight are beyond what torch.float16"):
        write_merge(plan, tmp_path / "y")


def test_one_file_alone_makes_no_merge(files, tmp_path):
    with pytest.raises(ValueError, match=r"All files are the same, a.safetensors .digest \w{8}"):
        run(files, "aa", tmp_path / "x")
    run(files, "aa", tmp_path / "y", "b", method="task_arithmetic", weights=(0.3, 0.7))
    same(load_file(tmp_path / "y"), tensors_of(files, "a"))


def test_a_base_for_a_tool_of_two_files_and_an_unknown_type(files, tmp_path):
    with pytest.raises(ValueError, match="base is connected, and compat_add has none"):
        run(files, "ab", tmp_path / "x", "c", method="compat_add")
    with pytest.raises(ValueError, match="dtype is 'int8', expected one of auto"):
        Settings(dtype="int8")


def test_nothing_is_overwritten(files, tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        run(files, "ab", tmp_path / "x")
    assert (tmp_path / "x").read_text() == "mine"
    with pytest.raises(ValueError, match="b.safetensors is one of the files"):
        run(files, "ab", files / "b.safetensors")


def test_the_disk_is_looked_at_first(files, tmp_path, monkeypatch):
    def full(folder, needed):
        raise OSError(f"needs {needed}")

    monkeypatch.setattr(merge, "require_space", full)
    size = sum(t.numel() * 4 for t in tensors_of(files, "a").values())
    with pytest.raises(OSError, match=f"needs {size}"):
        run(files, "ab", tmp_path / "new" / "x")
    assert not (tmp_path / "new").exists()


def test_an_interrupt_leaves_nothing(files, tmp_path):
    seen = []

    def watch(done, total):
        seen.append((done, total))
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(files, "ab", tmp_path / "x", watch=watch)
    assert list(tmp_path.iterdir()) == []
    assert [done for done, _ in seen] == sorted({done for done, _ in seen}), "it rises"


# Names


def test_names_that_are_free(files, tmp_path):
    plan = plan_merge([files / f"{name}.safetensors" for name in "ab"], Settings())
    first = merge_into(plan, tmp_path)
    assert first.path.name == "lerp_a_b.safetensors"
    before = first.path.stat().st_mtime_ns
    again = merge_into(plan, tmp_path, "  ")
    assert again.path == first.path and "already" in again.report
    assert first.path.stat().st_mtime_ns == before, "the same merge is not written twice"
    other = plan_merge([files / f"{name}.safetensors" for name in "ab"], Settings(weights=(3, 1)))
    assert merge_into(other, tmp_path).path.name == "lerp_a_b_2.safetensors"
    assert merge_into(other, tmp_path).path.name == "lerp_a_b_2.safetensors"
    mine = merge_into(other, tmp_path, " ../mine ").path
    assert mine == tmp_path / "mine.safetensors"
    with pytest.raises(FileExistsError, match="mine.safetensors exists already"):
        merge_into(plan, tmp_path, "mine")
    assert merge_into(other, tmp_path, "mine.safetensors").path == mine, "with its ending, too"


# Drift and memory


def test_drift_by_hand(files, tmp_path):
    """B is A with the queries of layer 0 doubled and all keys turned round: those are 200 % away at
    cosine -1, half way 100 % and 0; the rest stays."""
    tensors = tensors_of(files, "a")
    tensors["pulid_ca.0.to_q.weight"] *= 2
    for layer in (0, 1):
        both = tensors[f"pulid_ca.{layer}.to_kv.weight"]
        both[: len(both) // 2] *= -1
    save_file(tensors, tmp_path / "x.safetensors", HEADS)
    plan = plan_merge([files / "a.safetensors", tmp_path / "x.safetensors"], Settings())
    lines = write_merge(plan, tmp_path / "y").report.splitlines()
    start = lines.index("Change from a.safetensors, relative and as cosine:")
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in lines[start + 1 :])
    rows = {name: re.split(r"  +", row) for name, row in rows.items()}
    still = "0.00 % 1.0000"
    assert rows["part"] == ["file 2", "merged"]
    assert rows["encoder"] == rows["all v"] == rows["all out"] == rows["all norm1"] == [still] * 2
    assert rows["all k"] == ["200.00 % -1.0000", "100.00 % nan"], "half way nothing is left"
    a = {k: v.double() for k, v in tensors_of(files, "a").items()}
    one, other = a["pulid_ca.0.to_q.weight"].norm(), a["pulid_ca.1.to_q.weight"].norm()
    relative = 100 * one / (one**2 + other**2).sqrt()
    cosine = (2 * one**2 + other**2) / ((4 * one**2 + other**2) * (one**2 + other**2)).sqrt()
    assert rows["all q"][0] == f"{relative:.2f} % {cosine:.4f}"
    assert rows["all q"][1].startswith(f"{relative / 2:.2f} %")
    assert len(rows) == 1 + 1 + 2 + len(PATHS) + 1, "title, encoder, layers, paths, all"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_files(tmp_path):
    """Two files of 40 MB: beside the mapped files, less than half of one is held at any time."""
    path = write_adapter(tmp_path / "a.safetensors", 1, hidden=1024, token_dim=1024)
    tensors = load_file(path)
    wide = {k: t.float() for k, t in tensors.items()}
    save_file(wide, path, {HEADS_KEY: "8"})
    moved = {k: t + 0.1 if k.startswith("pulid_ca.") else t for k, t in wide.items()}
    save_file(moved, tmp_path / "b.safetensors", {HEADS_KEY: "8"})
    size = path.stat().st_size
    del tensors, wide, moved
    gc.collect()
    plan = plan_merge([path, tmp_path / "b.safetensors"], Settings())
    held = []
    write_merge(plan, tmp_path / "c", lambda done, total: held.append(_anonymous_memory()))
    assert max(held) - held[0] < size / 2, (size, max(held) - held[0])


def _anonymous_memory():
    """Bytes that belong to this process alone: what is mapped from files does not count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
