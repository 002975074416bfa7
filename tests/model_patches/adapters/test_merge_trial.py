"""Merges that are tried in memory: which weights, and that they are what a file would hold."""

import pytest
import torch
from flexid.mini.random_adapter import write_adapter
from flexid.model_patches.adapters.merge import merge_loaded
from flexid.model_patches.adapters.merge_plan import Settings
from flexid.model_patches.adapters.merge_points import label, list_points
from flexid.model_patches.adapters.merge_scope import Scope
from flexid.model_patches.adapters.merge_trial import merge_in_memory
from flexid.model_patches.adapters.pulid_flux import load_adapter
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pulid")


@pytest.fixture(scope="module")
def files(folder):
    """A in bfloat16, B trained from it in float32, C with another encoder."""
    first = load_file(write_adapter(folder / "a.safetensors", 1))
    second = load_file(write_adapter(folder / "other.safetensors", 2))
    trained = {
        key: second[key].float() if key.startswith("pulid_ca.") else value
        for key, value in first.items()
    }
    save_file(trained, folder / "b.safetensors")
    return [load_adapter(folder / f"{name}.safetensors") for name in ("a", "b", "other")]


def same(adapter, other):
    assert adapter.cross_attention.keys() == other.cross_attention.keys()
    for key, value in adapter.cross_attention.items():
        assert value.dtype == other.cross_attention[key].dtype, key
        assert torch.equal(value, other.cross_attention[key]), key


@pytest.mark.parametrize(
    ("method", "weights", "scope", "based"),
    [
        ("lerp", (0.28, 0.72), Scope(), False),
        ("lerp", (0.0, 1.0), Scope(), False),
        ("slerp", (0.5, 0.5), Scope(layers="1", paths="q, v"), False),
        ("task_arithmetic", (0.4,), Scope(paths="out"), True),
    ],
)
def test_memory_and_file_hold_the_same_bits(files, tmp_path, method, weights, scope, based):
    settings = Settings(method, weights, True, scope)
    adapters, base = (files[1:2], files[0]) if based else (files[:2], None)
    tried = merge_in_memory(adapters, settings, base)
    written = load_adapter(merge_loaded(adapters, settings, tmp_path, "m", base).path)
    same(tried, written)
    assert tried.encoder is files[0].encoder and tried.encoder_digest == written.encoder_digest
    assert tried.heads == written.heads and tried.path is None
    assert label(weights) in tried.name


def test_other_weights_are_another_adapter(files):
    one, again, other = (
        merge_in_memory(files[:2], Settings("lerp", weights))
        for weights in ((0.5, 0.5), (1.0, 1.0), (0.4, 0.6))
    )
    assert one.digest == again.digest != other.digest
    same(one, again)


def test_encoders_stay_those_of_the_people(files):
    with pytest.raises(ValueError, match="encoder is 'merge', expected equal or first"):
        merge_in_memory(files[:2], Settings(scope=Scope(encoder="merge")))
    with pytest.raises(ValueError, match="different encoders"):
        merge_in_memory(files[::2], Settings())
    first = merge_in_memory(files[::2], Settings(scope=Scope(encoder="first")))
    assert first.encoder_digest == files[0].encoder_digest


def test_cancel_stops_between_tensors(files):
    def stop(done, total):
        assert 0 <= done <= total
        if done:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        merge_in_memory(files[:2], Settings(), watch=stop)


def test_points_run_from_the_first_file_to_the_last():
    assert list_points("lerp", 2, 3) == [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]
    three = list_points("lerp", 3, 3)
    assert len(three) == 6 and three[0] == (1, 0, 0) and three[-1] == (0, 0, 1)
    assert all(sum(point) == pytest.approx(1) for point in three)
    assert list_points("slerp", 2, 2) == [(1.0, 0.0), (0.0, 1.0)]
    assert list_points("task_arithmetic", 1, 3, has_base=True) == [(0.0,), (0.5,), (1.0,)]
    assert len(list_points("task_arithmetic", 2, 4, has_base=True)) == 16


def test_own_points_are_read_as_the_merge_reads_them():
    assert list_points("lerp", 2, 6, "1, 0\n\n3, 1\n") == [(1.0, 0.0), (0.75, 0.25)]
    own = list_points("task_arithmetic", 1, 6, "0.6\n1.3", has_base=True)
    assert own == [(0.6,), (1.3,)] and label((0.75, 0.25)) == "0.75, 0.25"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lerp", 2, 6, "1, 0\n2, 0"), r"hold 1, 0 more than once"),
        (("lerp", 2, 6, "1, 0"), "1 sets of weights, expected 2 to 64"),
        (("lerp", 8, 64), r"\d+ sets of weights, expected 2 to 64"),
        (("lerp", 2, 1), "steps is 1"),
        (("lerp", 2, 6, "1, a\n0, 1"), "weights are '1, a'"),
        (("lerp", 2, 6, "1\n2"), "1 weights .* for 2 files"),
        (("task_arithmetic", 1, 3), "needs base"),
    ],
)
def test_points_that_cannot_be_tried(arguments, message):
    with pytest.raises(ValueError, match=message):
        list_points(*arguments)
