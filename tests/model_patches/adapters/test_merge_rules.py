"""The arithmetic of a merge: the authors' tool, sums by hand, arcs, and weights that make none."""

import json
import math

import pytest
import torch
from flexid.model_patches.adapters.merge_rules import (
    METHODS,
    add_up,
    compat,
    linear_coefficients,
    shares_of,
    slerp_coefficients,
)
from safetensors import safe_open
from seeding import seeded_input

pytestmark = pytest.mark.pure

SHAPES = {
    "pulid_ca.0.norm1.weight": (16,),
    **{f"pulid_ca.{i}.to_q.weight": (16, 24) for i in range(4)},
}
TYPES = {
    ("A", "pulid_ca.1.to_q.weight"): torch.bfloat16,
    ("B", "pulid_ca.2.to_q.weight"): torch.bfloat16,
    ("A", "pulid_ca.3.to_q.weight"): torch.float16,
    ("B", "pulid_ca.3.to_q.weight"): torch.float16,
}
OPERATIONS = {
    "compat_average": "weighted_average",
    "compat_add": "add",
    "compat_multiply": "multiply",
}


def golden_file(name):
    """File A, B or C of the golden's README."""
    tensors = {}
    for key, shape in SHAPES.items():
        values = seeded_input(f"fuse.{name}.{key}", shape)
        values = 1 + 0.02 * values if len(shape) == 1 else values
        tensors[key] = values.to(TYPES.get((name, key), torch.float32))
    tensors["step"] = torch.tensor({"A": 3, "B": 8, "C": 0}[name])
    return tensors


@pytest.fixture(scope="module")
def vectors(golden):
    with safe_open(str(golden / "editidv2_fusion.safetensors"), "pt") as file:
        types = json.loads(file.metadata()["json"])["dtypes"]
        return {key: file.get_tensor(key) for key in file.keys()}, types  # noqa: SIM118


@pytest.mark.parametrize("amount", [0.0, 0.25, 0.3, 1.0])
@pytest.mark.parametrize("method", OPERATIONS)
def test_the_published_tool_bit_for_bit(vectors, method, amount):
    """All tensors that both files have in one shape; others make files that are refused."""
    stored, types = vectors
    first, second = golden_file("A"), golden_file("B")
    name = f"{OPERATIONS[method]}.a{amount}"
    for key in first:
        got, expected = compat(method, first[key], second[key], amount), stored[f"{name}:{key}"]
        assert str(got.dtype) == f"torch.{types[name][key]}"
        assert got.dtype == expected.dtype and torch.equal(got, expected), key
    rounded = second["pulid_ca.1.to_q.weight"].double()
    assert not torch.equal(
        compat(method, first["pulid_ca.1.to_q.weight"], second["pulid_ca.1.to_q.weight"], 0.3),
        first["pulid_ca.1.to_q.weight"].double() * 0.7 + 0.3 * rounded,
    ), "bfloat16 rounds"


@pytest.mark.parametrize("key", ["pulid_ca.0.to_q.weight", "pulid_ca.1.to_q.weight"])
def test_several_files_agree_with_the_vectors(vectors, key):
    files = [golden_file(name)[key] for name in "ABC"]
    shares = shares_of("lerp", [0.5, 0.3, 0.2], 3, True, False)
    got = add_up(files, shares).float()
    expected = vectors[0][f"derived.nway_0.5_0.3_0.2:{key}"]
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    weights = shares_of("task_arithmetic", [0.6, 0.4], 2, True, True)
    got = add_up(files, linear_coefficients("task_arithmetic", weights)).float()
    expected = vectors[0][f"derived.task_base_A_B0.6_C0.4:{key}"]
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_sums_by_hand():
    base, one, two = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 2.0]), torch.tensor([0.0, 8.0])
    assert linear_coefficients("lerp", [0.25, 0.75]) == [0.0, 0.25, 0.75]
    assert add_up([base, one, two], [0.0, 0.25, 0.75]).tolist() == [0.75, 6.5]
    # 1 + 0.5 (3 - 1) + 2 (0 - 1) = 0; -2 + 0.5 (2 + 2) + 2 (8 + 2) = 20
    coefficients = linear_coefficients("task_arithmetic", [0.5, 2.0])
    assert coefficients == [-1.5, 0.5, 2.0]
    assert add_up([base, one, two], coefficients).tolist() == [0.0, 20.0]


def test_one_part_at_weight_one_is_that_part():
    parts = [torch.tensor([-0.0, 1e-20]), torch.tensor([1.0, 1.0])]
    assert add_up(parts, [1.0, 0.0]) is parts[0], "minus zero and all"
    assert linear_coefficients("task_arithmetic", [1.0]) == [0.0, 1.0], "no difference is rounded"
    assert linear_coefficients("task_arithmetic", [0.1, 0.2, 0.7])[0] == 0.0


def test_the_arc_by_hand():
    """A right angle: half way both weigh sin 45°, and the length stays."""
    one, two = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    half = slerp_coefficients(one, two, [0.5, 0.5])
    assert half == pytest.approx([math.sqrt(0.5)] * 2)
    assert add_up([one, two], half).norm().item() == pytest.approx(2)
    third = slerp_coefficients(one, two, [2 / 3, 1 / 3])
    assert third == pytest.approx([math.sin(math.pi / 3), math.sin(math.pi / 6)])
    assert slerp_coefficients(one, two, [1.0, 0.0]) == [1.0, 0.0]
    assert slerp_coefficients(one, two, [0.0, 1.0]) == [0.0, 1.0]


def test_the_arc_between_parallel_opposite_and_empty_tensors():
    one = torch.tensor([2.0, 1.0])
    assert slerp_coefficients(one, 3 * one, [0.75, 0.25]) == [0.75, 0.25]
    assert slerp_coefficients(one, torch.zeros(2), [0.75, 0.25]) == [0.75, 0.25]
    with pytest.raises(ValueError, match="opposite directions. Use lerp"):
        slerp_coefficients(one, -one, [0.5, 0.5])
    assert slerp_coefficients(one, -one, [1.0, 0.0]) == [1.0, 0.0]


def test_a_long_tensor_is_read_in_pieces_with_the_same_angle():
    one, two = (torch.randn(3 << 20, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    cosine = (one.double() @ two.double() / one.double().norm() / two.double().norm()).item()
    angle = math.acos(cosine)
    expected = [math.sin(0.75 * angle) / math.sin(angle), math.sin(0.25 * angle) / math.sin(angle)]
    assert slerp_coefficients(one, two, [0.75, 0.25]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("method", "weights", "count", "normalise", "shares"),
    [
        ("lerp", None, 4, True, [0.25] * 4),
        ("lerp", None, 4, False, [0.25] * 4),
        ("lerp", [3, 1], 2, True, [0.75, 0.25]),
        ("lerp", [3, 1], 2, False, [3, 1]),
        ("lerp", [1.5, -0.5], 2, True, [1.5, -0.5]),
        ("slerp", [3, 1], 2, False, [0.75, 0.25]),
        ("compat_average", [0.7, 0.3], 2, True, [0.7, 0.3]),
        ("compat_add", [1, 0.3], 2, True, [1, 0.3]),
        ("compat_multiply", None, 2, True, [1, 1]),
        ("task_arithmetic", None, 2, True, [1, 1]),
        ("task_arithmetic", [-0.5], 1, True, [-0.5]),
    ],
)
def test_shares(method, weights, count, normalise, shares):
    assert shares_of(method, weights, count, normalise, method == "task_arithmetic") == shares


BAD = {
    "method": (("ties", None, 2, True, False), "'ties'.*task_arithmetic"),
    "one file": (("lerp", None, 1, True, False), "1 files to merge, expected at least 2"),
    "three files": (("slerp", None, 3, True, False), "slerp merges 2 files, and 3"),
    "no base": (("task_arithmetic", None, 2, True, False), "needs base, and nothing"),
    "no files": (("task_arithmetic", None, 0, True, True), "0 files.*at least 1"),
    "too few": (("lerp", [1], 2, True, False), "1 weights .1. for 2 files"),
    "nan": (("lerp", [1, math.nan], 2, True, False), "weight of file 2 is nan"),
    "sum": (("lerp", [1, -1], 2, True, False), "sum to 0"),
    "negative": (("slerp", [1, -0.5], 2, True, False), "slerp are 1 and -0.5.*0 or more"),
    "amount": (("compat_add", [1, 1.5], 2, True, False), r"1, 1.5; expected 1, a .*\[0, 1\]"),
    "first": (("compat_multiply", [0.5, 1], 2, True, False), "0.5, 1; expected 1, a"),
}


@pytest.mark.parametrize("case", BAD)
def test_weights_that_make_no_merge(case):
    given, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        shares_of(*given)


def test_every_method_is_explained():
    assert len(METHODS) == 6 and all(METHODS.values())
