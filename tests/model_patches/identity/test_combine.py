"""Combining identities: arithmetic, features, refusals."""

import pytest
import torch
from flexid.model_patches.identity.combine import combine_identities
from flexid.model_patches.identity.identity import Identity
from identities import identity_of

pytestmark = pytest.mark.comfy


def _identity(seed, photos=1, family="pulid_flux", encoder="e" * 64, **recipe):
    generator = torch.Generator().manual_seed(seed)
    return identity_of(
        {family: torch.randn(1, 32, 16, generator=generator)},
        {family: torch.ones(1, 32, 16)},
        encoder,
        {"adapter": "a", "adapter_digest": "1", **recipe},
        features={"arcface": torch.randn(photos, 512, generator=generator)},
        thumbnail=torch.full((32, 32, 3), seed, dtype=torch.uint8),
        provenance={"photos": f"p{seed}"},
    )


def _tokens(encoded):
    return encoded.identity.encodings["pulid_flux"].tokens


def test_mean_with_weights():
    a, b = _identity(1), _identity(2)
    combined = combine_identities([a, b], "mean", "3, 1")
    expected = 0.75 * a.encodings["pulid_flux"].tokens + 0.25 * b.encodings["pulid_flux"].tokens
    torch.testing.assert_close(_tokens(combined), expected)
    assert "identity 1: share 75%" in combined.report
    assert "identity 2: share 25%" in combined.report


def test_parts_are_kept():
    combined = combine_identities([_identity(1, photos=2), _identity(2)], "concat").identity
    assert combined.encodings["pulid_flux"].tokens.shape == (1, 64, 16)
    assert combined.encodings["pulid_flux"].null.shape == (1, 32, 16)
    assert combined.features["arcface"].shape == (3, 512)
    assert combined.thumbnail.shape == (32, 64, 3)
    assert combined.provenance["photos"] == "p1, p2"
    assert combined.encodings["pulid_flux"].recipe["adapter"] == "a"
    assert combined.encodings["pulid_flux"].encoder == "e" * 64
    assert combined.provenance["combined"] == "concat"


def test_thumbnails_of_different_height():
    tall = identity_of(
        {"pulid_flux": torch.ones(1, 32, 16)},
        thumbnail=torch.full((64, 32, 3), 9, dtype=torch.uint8),
    )
    combined = combine_identities([_identity(1), tall], "mean").identity
    assert combined.thumbnail.shape == (32, 48, 3)
    assert combined.thumbnail[0, -1].tolist() == [9, 9, 9]


def test_outlier_among_identities_is_rejected():
    base = _identity(1)
    same = [
        Identity(_identity(i).encodings, {"arcface": base.features["arcface"] + 0.1 * i})
        for i in range(3)
    ]
    report = combine_identities([*same, _identity(9)], "reject_outliers").report
    assert "identity 4: share 0%" in report and "identity 1: share 33%" in report


def test_combining_a_combination():
    inner = combine_identities([_identity(1), _identity(2)], "concat").identity
    assert _tokens(combine_identities([inner, _identity(3)], "concat")).shape == (1, 96, 16)


def test_one_identity_passes_through():
    one = _identity(1)
    assert torch.equal(
        _tokens(combine_identities([one], "mean")), one.encodings["pulid_flux"].tokens
    )


def _featureless(seed):
    whole = _identity(seed)
    return Identity(whole.encodings, provenance=whole.provenance)


BAD = {
    "none": ([], "mean", "", ["0 identities", "Encode Identity"]),
    "families": (
        [_identity(1), _identity(2, family="sip")],
        "mean",
        "",
        ["no adapter family", "pulid_flux", "sip"],
    ),
    "encoders": (
        [_identity(1), _identity(2, encoder="f" * 64, adapter="b")],
        "mean",
        "",
        ["different encoders", "eeeeeeeeeeee and ffffffffffff", "a, b"],
    ),
    "files of version 1": (
        [_identity(1, encoder=""), _identity(2, adapter_digest="2")],
        "mean",
        "",
        ["different encoders", "1 and 2"],
    ),
    "features not finite": (
        [
            _identity(1),
            Identity(_identity(2).encodings, {"arcface": torch.full((1, 512), torch.nan)}),
        ],
        "quality_weighted",
        "",
        ["1 of 2 are not finite", "input 2"],
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


def test_another_file_with_the_same_encoder_mixes():
    """An adapter fine-tuned behind its encoder makes the same tokens."""
    tuned = _identity(2, adapter="tuned", adapter_digest="2")
    combined = combine_identities([_identity(1), tuned], "mean").identity
    assert combined.encodings["pulid_flux"].recipe["adapter"] == "a, tuned"
