"""Checks on tensors: what they refuse, what they say, and what they let pass."""

import time

import pytest
import torch
from flexid.model_patches.files.checks import (
    check_finite,
    check_floating,
    check_shapes,
    count_layers,
    shape_of,
)

pytestmark = pytest.mark.pure

WANTED = "good.safetensors from https://example.org, in models/good"
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SMALL_FLOATS = (torch.float8_e4m3fn, torch.float8_e5m2)


def test_check_shapes_counts_and_names():
    expected = {f"k{i}": (2, 2) for i in range(8)}
    found = {"k0": (2, 2), "k1": (2, 3), "k2": (2, 2), "x": (1,)}
    with pytest.raises(ValueError) as error:
        check_shapes(found, expected, "the file", WANTED)
    for fact in ["5 of 8 tensors are missing (k3, k4, k5, ...)", "1 tensors do not belong", "(x)"]:
        assert fact in str(error.value)
    assert "1 tensors have another shape (k1 is (2, 3), expected (2, 2))" in str(error.value)
    check_shapes(expected, expected, "the file", WANTED)


@pytest.mark.parametrize("shape", [(), (3,), (3, 0), (1, 2, 3)])
def test_dimensions_are_read_from_usable_shapes_only(shape):
    with pytest.raises(ValueError, match="expected 2 dimensions"):
        shape_of({"a": shape}, "a", 2, "the file", WANTED)


@pytest.mark.parametrize("dtype", FLOATS + SMALL_FLOATS)
def test_finite_values_pass(dtype):
    limits = torch.finfo(dtype)
    largest = torch.tensor([limits.max, limits.min, -0.0], dtype=torch.float64)
    check_finite({"a": largest.to(dtype), "b": torch.zeros(0).to(dtype)}, "x", WANTED)
    check_finite({"steps": torch.tensor(7), "flag": torch.ones(2, dtype=torch.bool)}, "x", WANTED)


@pytest.mark.parametrize("value", [float("nan"), -float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", FLOATS + SMALL_FLOATS)
def test_every_bad_value_is_found_wherever_it_is(dtype, value):
    if dtype is torch.float8_e4m3fn and value in (float("inf"), -float("inf")):
        value = float("nan")  # this type has no infinity
    tensors = {name: torch.zeros(3, 700_000).to(dtype) for name in ("a", "b", "c")}
    tensors["b"][2, -1] = value
    tensors["c"] = torch.tensor(value).to(dtype)
    with pytest.raises(ValueError) as error:
        check_finite(tensors, "the file", WANTED)
    for fact in ["the file has NaN or infinite values in 2 of 3 tensors (b, c)", WANTED]:
        assert fact in str(error.value)


def test_transposed_tensors_are_read_whole():
    tensor = torch.zeros(4, 5).T
    tensor[4, 3] = float("inf")
    with pytest.raises(ValueError, match="1 of 1 tensors"):
        check_finite({"a": tensor}, "x", WANTED)


def test_the_check_for_finite_values_is_cheap():
    """100 MB in much less than torch.isfinite takes; the bound leaves room for slower CPUs."""
    tensors = {"a": torch.zeros(50 << 20, dtype=torch.bfloat16)}
    check_finite({"a": tensors["a"][:10]}, "x", WANTED)
    start = time.process_time()
    check_finite(tensors, "x", WANTED)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.complex64, torch.bool])
def test_only_floats_pass(dtype):
    tensors = {"a": torch.zeros(2), "b": torch.zeros(2).to(dtype)}
    with pytest.raises(ValueError, match=rf"1 tensors that are not .*b is {dtype}"):
        check_floating(tensors, "x", WANTED)


def test_counters_may_be_integers_but_not_complex():
    check_floating({"steps": torch.tensor(1)}, "x", WANTED, {"steps"})
    with pytest.raises(ValueError, match="steps is torch.complex64"):
        check_floating({"steps": torch.tensor(1j)}, "x", WANTED, {"steps"})


def test_layers_are_counted():
    assert count_layers(["a.0.x", "a.1.x", "a.1.y", "a.more", "b.7.x"], "a.", "x", WANTED) == 2
    assert count_layers(["b.0"], "a.", "x", WANTED) == 0


@pytest.mark.parametrize(
    ("keys", "facts"),
    [
        (["a.0.x", "a.99999999.x"], ["2 layers a.*", "not numbered 0 to 1", "a.99999999"]),
        (["a.1.x"], ["not numbered 0 to 0", "it has a.1"]),
        (["a.00.x"], ["it has a.00"]),
        (["a.0.x", "a.١.x"], ["2 layers"]),
        ([f"a.{'9' * 5000}.x"], ["it has a.9"]),
        ([f"a.{index}.x" for index in range(500)], ["500 layers", "at most 128"]),
    ],
)
def test_layers_without_plain_numbers_are_refused(keys, facts):
    with pytest.raises(ValueError) as error:
        count_layers(keys, "a.", "the file", WANTED)
    for fact in ["the file", WANTED, *facts]:
        assert fact in str(error.value)
