"""Folded attention: with and without norm, from matrices and from layers, with an activation."""

import pytest
import tiny
import torch
from flexid.model_patches.inject.attention import FoldedAttention, Norm, fold, matrix_of
from flexid.model_patches.inject.pulid import folded_for
from torch import nn

pytestmark = pytest.mark.comfy

DIM, HEADS, HEAD, TOKENS = 24, 3, 4, 5


def _random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _layers():
    """Query and output layers of a base model; the output has a bias, as UNets' have."""
    query, out = nn.Linear(DIM, HEADS * HEAD, bias=False), nn.Linear(HEADS * HEAD, DIM)
    with torch.no_grad():
        query.weight.copy_(_random(HEADS * HEAD, DIM, seed=1))
        out.weight.copy_(_random(DIM, HEADS * HEAD, seed=2))
        out.bias.copy_(_random(DIM, seed=3))
    return query.requires_grad_(False), out.requires_grad_(False)


KEYS, VALUES = _random(TOKENS, HEADS * HEAD, seed=4), _random(TOKENS, HEADS * HEAD, seed=5)
IMAGE = _random(2, 7, DIM, seed=6)


def _define(image, keys=KEYS, values=VALUES):
    query, out = _layers()
    q, k, v = (
        x.unflatten(-1, (HEADS, HEAD)).transpose(-3, -2)
        for x in (query(image), keys[None], values[None])
    )
    scores = (q @ k.transpose(-1, -2)) / HEAD**0.5
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2) @ out.weight.T


def _module(state, tokens=TOKENS):
    norm = "key.bias" in state
    module = FoldedAttention(DIM, HEADS, tokens, norm=norm)
    module.load_state_dict(state)
    return module.requires_grad_(False)


def test_matrices_and_layers_fold_to_the_same_attention():
    query, out = _layers()
    by_matrix = fold(KEYS, VALUES, query.weight, out.weight, HEADS)
    by_layer = fold(KEYS, VALUES, query, out, HEADS, width=DIM)
    for state in (by_matrix, by_layer):
        torch.testing.assert_close(_module(state)(IMAGE), _define(IMAGE), atol=1e-5, rtol=1e-5)


def test_the_bias_of_a_layer_is_no_part_of_its_matrix():
    _, out = _layers()
    torch.testing.assert_close(matrix_of(out, HEADS * HEAD, KEYS), out.weight, atol=1e-6, rtol=0)


def test_a_norm_on_image_tokens_is_folded_in():
    query, out = _layers()
    norm = Norm(1 + 0.1 * _random(DIM, seed=7), 0.1 * _random(DIM, seed=8))
    state = fold(KEYS, VALUES, query.weight, out.weight, HEADS, norm)
    normed = nn.functional.layer_norm(IMAGE, (DIM,), norm.weight, norm.bias)
    torch.testing.assert_close(_module(state)(IMAGE), _define(normed), atol=1e-5, rtol=1e-5)


def test_two_people_side_by_side_share_one_softmax_that_an_activation_can_divide():
    """Suppressed tokens get no attention: what is left is attention to the others alone."""
    query, out = _layers()
    other = _random(3, HEADS * HEAD, seed=9)
    both = fold(
        torch.cat([KEYS, other]), torch.cat([VALUES, other]), query.weight, out.weight, HEADS
    )
    seen = []

    def only_the_first(scores):
        seen.append(scores.shape)
        scores = scores.clone()
        scores[..., TOKENS:] = float("-inf")
        return scores, torch.tensor([[1.0], [0.5]])

    got = _module(both, TOKENS + 3)(IMAGE, 0.8, only_the_first)
    assert seen == [(2, 7, HEADS, TOKENS + 3)]
    expected = 0.8 * _define(IMAGE) * torch.tensor([1.0, 0.5])[:, None, None]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_weights_per_token_multiply():
    query, out = _layers()
    module = _module(fold(KEYS, VALUES, query.weight, out.weight, HEADS))
    weight = torch.rand(1, 7, generator=torch.Generator().manual_seed(1))
    expected = module(IMAGE) * weight[..., None]
    torch.testing.assert_close(module(IMAGE, weight), expected, atol=1e-6, rtol=1e-5)


def test_each_identity_token_may_have_a_weight_at_each_image_token():
    """The same as weighing the values, here of the first three tokens and the last two."""
    query, out = _layers()
    module = _module(fold(KEYS, VALUES, query.weight, out.weight, HEADS))
    one, two = torch.rand(2, 7, 1, generator=torch.Generator().manual_seed(1))
    weight = torch.cat([one.expand(7, 3), two.expand(7, 2)], dim=-1)[None]
    first, last = VALUES.clone(), VALUES.clone()
    first[3:], last[:3] = 0, 0
    expected = one * _define(IMAGE, values=first) + two * _define(IMAGE, values=last)
    found = module(IMAGE, 0.5, lambda scores: (scores, weight))
    torch.testing.assert_close(found, 0.5 * expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("scale", "dtype", "largest"),
    [(1e6, torch.float16, "65504"), (float("nan"), torch.float32, "nan")],
)
def test_layers_that_are_not_finite_in_the_models_type_are_refused(scale, dtype, largest):
    weights = {name: value * scale for name, value in tiny.adapter().cross_attention.items()}
    adapter = tiny.adapter(cross_attention=weights, digest=f"too large {scale}")
    tokens = tiny.identity().encodings["pulid_flux"].tokens
    with pytest.raises(ValueError, match=f"Layer 0 of 'tiny.safetensors'.*{largest}"):
        folded_for(adapter, tokens, dtype)
