"""Combining identities: arithmetic, features, refusals."""

import pytest
import torch
from flexid.model_patches.identity.combine import combine_identities, parse_weights
from flexid.model_patches.identity.identity import Identity

pytestmark = pytest.mark.comfy


def _identity(seed, photos=1, family="pulid_flux", **provenance):
    generator = torch.Generator().manual_seed(seed)
    return Identity(
        tokens={family: torch.randn(1, 32, 16, generator=generator)},
        unconditional={family: torch.ones(1, 32, 16)},
        features={"arcface": torch.randn(photos, 512, generator=generator)},
        thumbnail=torch.full((32, 32, 3), seed, dtype=torch.uint8),
        provenance={"adapter": "a", "adapter_digest": "1", "photos": f"p{seed}", **provenance},
    )


def _tokens(encoded):
    return encoded.identity.tokens["pulid_flux"]


def test_mean_with_weights():
    a, b = _identity(1), _identity(2)
    combined = combine_identities([a, b], "mean", "3, 1")
    expected = 0.75 * a.tokens["pulid_flux"] + 0.25 * b.tokens["pulid_flux"]
    torch.testing.assert_close(_tokens(combined), expected)
    assert "identity 1: share 75%" in combined.report
    assert "identity 2: share 25%" in combined.report


def test_parts_are_kept():
    combined = combine_identities([_identity(1, photos=2), _identity(2)], "concat").identity
    assert combined.tokens["pulid_flux"].shape == (1, 64, 16)
    assert combined.unconditional["pulid_flux"].shape == (1, 32, 16)
    assert combined.features["arcface"].shape == (3, 512)
    assert combined.thumbnail.shape == (32, 64, 3)
    assert combined.provenance["photos"] == "p1, p2"
    assert combined.provenance["adapter"] == "a"
    assert combined.provenance["combined"] == "concat"


def test_thumbnails_of_different_height():
    tall = Identity(
        {"pulid_flux": torch.ones(1, 32, 16)},
        {"pulid_flux": torch.ones(1, 32, 16)},
        thumbnail=torch.full((64, 32, 3), 9, dtype=torch.uint8),
    )
    combined = combine_identities([_identity(1), tall], "mean").identity
    assert combined.thumbnail.shape == (32, 48, 3)
    assert combined.thumbnail[0, -1].tolist() == [9, 9, 9]


def test_outlier_among_identities_is_rejected():
    base = _identity(1)
    same = [
        Identity(
            _identity(i).tokens, base.unconditional, {"arcface": base.features["arcface"] + 0.1 * i}
        )
        for i in range(3)
    ]
    report = combine_identities([*same, _identity(9)], "reject_outliers").report
    assert "identity 4: share 0%" in report and "identity 1: share 33%" in report


def test_combining_a_combination():
    inner = combine_identities([_identity(1), _identity(2)], "concat").identity
    assert _tokens(combine_identities([inner, _identity(3)], "concat")).shape == (1, 96, 16)


def test_one_identity_passes_through():
    one = _identity(1)
    assert torch.equal(_tokens(combine_identities([one], "mean")), one.tokens["pulid_flux"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", None), ("  ", None), ("1", [1.0]), ("1, 0.5", [1.0, 0.5]), ("1;2", [1.0, 2.0])],
)
def test_parse_weights(text, expected):
    assert parse_weights(text) == expected


def _featureless(seed):
    whole = _identity(seed)
    return Identity(whole.tokens, whole.unconditional, provenance=whole.provenance)


BAD = {
    "none": ([], "mean", "", ["0 identities", "Encode Identity"]),
    "families": (
        [_identity(1), _identity(2, family="sip")],
        "mean",
        "",
        ["no adapter family", "pulid_flux", "sip"],
    ),
    "adapters": (
        [_identity(1), _identity(2, adapter="b")],
        "mean",
        "",
        ["different adapter files", "a and b"],
    ),
    "digests": (
        [_identity(1), _identity(2, adapter_digest="2")],
        "mean",
        "",
        ["different adapter files", "1 and 2"],
    ),
    "weights count": ([_identity(1), _identity(2)], "mean", "1", ["1 weights", "2 inputs"]),
    "weights text": ([_identity(1), _identity(2)], "mean", "a, b", ["'a, b'", "commas"]),
    "weights infinite": ([_identity(1), _identity(2)], "mean", "1, inf", ["finite"]),
    "trailing comma": ([_identity(1), _identity(2)], "mean", "1, 2,", ["'1, 2,'"]),
    "no features": ([_featureless(1), _featureless(2)], "quality_weighted", "", ["got 0"]),
    "token counts": (
        [_identity(1), combine_identities([_identity(2), _identity(3)], "concat").identity],
        "mean",
        "",
        ["(1, 32, 16)", "(1, 64, 16)", "'concat'"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_refusals(case):
    identities, fusion, weights, facts = BAD[case]
    with pytest.raises(ValueError) as error:
        combine_identities(identities, fusion, weights)
    for fact in facts:
        assert fact in str(error.value)
