"""Fusion rules: golden vectors, definitions, and what each refuses."""

import math

import pytest
import torch
from flexid.model_patches.identity.fusion import RULES, agreement, fuse, inliers
from safetensors.torch import load_file
from seeding import seeded_input

pytestmark = pytest.mark.pure

CLOSE = {"atol": 2e-5, "rtol": 0}


@pytest.fixture(scope="module")
def expected(golden):
    return load_file(golden / "pulid_fusion.safetensors")


@pytest.fixture(scope="module")
def embeds(expected):
    embeds = seeded_input("fuse_embeds", (3, 32, 2048)) * expected["token_gain"]
    torch.testing.assert_close(embeds[:, :, ::128], expected["embeds.probe"], **CLOSE)
    return list(embeds.split(1))


@pytest.mark.parametrize(
    ("rule", "key"),
    [
        ("mean", "mean"),
        ("norm_weighted", "norm_id"),
        ("max_norm_token", "max_token"),
        ("max", "max"),
    ],
)
def test_golden(embeds, expected, rule, key):
    fused = fuse(embeds, rule)
    torch.testing.assert_close(fused.tokens[:, :, ::4], expected[f"{key}.s4"], **CLOSE)
    assert math.isclose(sum(fused.shares), 1, abs_tol=1e-6)


def test_golden_concat(embeds, expected):
    fused = fuse(embeds, "concat")
    assert fused.tokens.shape == (1, 96, 2048)
    torch.testing.assert_close(fused.tokens[:, :, ::16], expected["concat.probe"], **CLOSE)


def test_golden_shares(embeds, expected):
    shares = torch.tensor(fuse(embeds, "norm_weighted").shares)
    torch.testing.assert_close(shares, expected["norm_id.weights"], **CLOSE)
    counts = expected["max_token.index"].bincount(minlength=3) / 32
    torch.testing.assert_close(torch.tensor(fuse(embeds, "max_norm_token").shares), counts.float())


def _person(seed, photos, spread=0.5):
    """Embeddings (photos, 512) around one direction, length about 20."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(512, generator=generator)
    noise = torch.randn(photos, 512, generator=generator)
    return torch.nn.functional.normalize(centre + spread * noise, dim=-1) * 20


def _tokens(count):
    generator = torch.Generator().manual_seed(9)
    return [torch.randn(1, 4, 8, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("rule", RULES)
def test_one_input_is_returned_as_it_is(rule):
    tokens = _tokens(1)
    fused = fuse(tokens, rule, _person(0, 1))
    torch.testing.assert_close(fused.tokens, tokens[0])
    assert fused.shares == (1.0,)


@pytest.mark.parametrize("rule", RULES)
def test_order_of_inputs_does_not_matter(rule):
    tokens, arcface = _tokens(3), _person(0, 3)
    forward = fuse(tokens, rule, arcface).tokens
    back = fuse(tokens[::-1], rule, arcface.flip(0)).tokens
    if rule == "concat":
        back = torch.cat(back.split(4, dim=1)[::-1], dim=1)
    torch.testing.assert_close(forward, back)


def test_quality_is_the_squared_length():
    tokens, arcface = _tokens(2), torch.eye(2, 512)
    fused = fuse(tokens, "quality_weighted", arcface * torch.tensor([[10.0], [20.0]]))
    torch.testing.assert_close(torch.tensor(fused.shares), torch.tensor([0.2, 0.8]))
    torch.testing.assert_close(fused.tokens, 0.2 * tokens[0] + 0.8 * tokens[1])


def test_outlier_is_left_out():
    arcface = torch.cat((_person(1, 4), _person(2, 1)))
    assert inliers(arcface).tolist() == [True, True, True, True, False]
    tokens = _tokens(5)
    fused = fuse(tokens, "reject_outliers", arcface)
    assert fused.shares == (0.25, 0.25, 0.25, 0.25, 0.0)
    torch.testing.assert_close(fused.tokens, torch.cat(tokens[:4]).mean(0, keepdim=True))


def test_outlier_among_three_is_left_out():
    assert inliers(torch.cat((_person(1, 2), _person(2, 1)))).tolist() == [True, True, False]


def test_two_strangers_are_both_kept():
    assert inliers(torch.cat((_person(1, 1), _person(2, 1)))).all()


@pytest.mark.parametrize("people", range(3, 9))
def test_strangers_are_never_all_rejected(people):
    arcface = torch.cat([_person(seed, 1) for seed in range(people)])
    assert inliers(arcface).any()


def test_photos_of_one_person_are_all_kept():
    for seed in range(20):
        assert inliers(_person(seed, 6, spread=0.8)).all()


def test_agreement_is_the_cosine_to_the_others():
    arcface = torch.tensor([[3.0, 0.0], [0.0, 5.0], [0.0, 1.0]])
    diagonal = 0.5**0.5
    torch.testing.assert_close(agreement(arcface), torch.tensor([0.0, diagonal, diagonal]))
    assert agreement(arcface[:1]).tolist() == [1.0]


def test_user_weights():
    tokens = _tokens(2)
    mean = fuse(tokens, "mean", weights=[3, 1])
    torch.testing.assert_close(mean.tokens, 0.75 * tokens[0] + 0.25 * tokens[1])
    assert fuse(tokens, "mean", weights=[0, 2]).tokens.equal(tokens[1])
    assert fuse(tokens, "max_norm_token", weights=[0, 1]).tokens.equal(tokens[1])
    assert fuse(tokens, "concat", weights=[2, 2]).tokens.shape == (1, 8, 8)


def test_concat_takes_different_token_counts():
    fused = fuse([torch.ones(1, 2, 8), torch.ones(1, 6, 8)], "concat")
    assert fused.tokens.shape == (1, 8, 8) and fused.shares == (0.25, 0.75)


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ((_tokens(2), "average"), ["'average'", "mean", "reject_outliers"]),
        ((_tokens(2), "quality_weighted"), ["2 inputs", "got 0", "'mean'"]),
        ((_tokens(3), "reject_outliers", _person(0, 2)), ["3 inputs", "got 2"]),
        ((_tokens(2), "mean", None, [1.0]), ["1 weights", "2 inputs"]),
        ((_tokens(2), "mean", None, [0.0, 0.0]), ["not all 0"]),
        ((_tokens(2), "mean", None, [1.0, -1.0]), ["-1.0", "0 or more"]),
        ((_tokens(2), "mean", None, [1.0, math.nan]), ["nan", "finite"]),
        ((_tokens(2), "concat", None, [1.0, 2.0]), ["'concat'", "[1.0, 2.0]", "'mean'"]),
        (([torch.ones(1, 2, 8), torch.ones(1, 3, 8)], "mean"), ["(1, 2, 8)", "'concat'"]),
        (([torch.ones(1, 2, 8), torch.ones(1, 2, 9)], "concat"), ["(1, 2, 9)", "widths"]),
        (
            (_tokens(3), "reject_outliers", torch.cat((_person(1, 2), _person(2, 1))), [0, 0, 1]),
            ["weight 0", "above 0"],
        ),
    ],
)
def test_refusals(arguments, facts):
    with pytest.raises(ValueError) as error:
        fuse(*arguments)
    for fact in facts:
        assert fact in str(error.value)


def test_every_rule_has_a_one_sentence_definition():
    for rule in RULES.values():
        assert 20 < len(rule.definition) < 220 and "." not in rule.definition.replace("0.2", "")
