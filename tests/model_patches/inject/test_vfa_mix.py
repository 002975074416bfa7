"""Several adapters on one model while sampling: the sum of what each adds, with its own gate."""

import pytest
import tiny
import torch
from flexid.model_patches.gates.gate import OPEN, Gate
from flexid.model_patches.gates.window import Window
from flexid.model_patches.inject.pulid import cross_attention, layer_weights
from flexid.model_patches.inject.vfa import apply_vfa
from identities import identity_of
from vfa_world import after_first_block

pytestmark = pytest.mark.comfy

HALF = Gate((Window(points=((0.0, 0.5),)),))
EARLY, LATE = Gate((Window(0.0, 0.3),)), Gate((Window(0.5, 1.0),))


@pytest.fixture(scope="module")
def model():
    return tiny.flux()


@pytest.fixture(scope="module")
def adapters():
    """Two with different encoders."""
    return tiny.adapter(), tiny.adapter(seed=4, encoder_digest="another")


@pytest.fixture(scope="module")
def people(adapters):
    """One person, encoded by each adapter's own encoder."""
    return [
        identity_of({"pulid_flux": tokens_of(seed)}, encoder=adapter.encoder_digest)
        for seed, adapter in enumerate(adapters)
    ]


def tokens_of(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, tiny.TOKENS, tiny.TOKEN_DIM, generator=generator)


def mix(model, adapters, people, weights, gates=(OPEN, OPEN), order=(0, 1)):
    for one in order:
        model = apply_vfa(model, adapters[one], people[one], weight=weights[one], gate=gates[one])
    return model


def test_outputs_add_up_with_their_weights_and_gates(model, adapters, people):
    """img + Σ w(t)·CA(img, identity), by the definition; 0.6·0.5 and 0.7 at the first step."""
    plain = after_first_block(model)
    expected = plain.clone()
    for adapter, seed, share in zip(adapters, (0, 1), (0.6 * 0.5, 0.7), strict=True):
        layer = layer_weights(adapter.cross_attention, 0)
        expected += share * cross_attention(layer, adapter.heads, tokens_of(seed), plain)
    mixed = after_first_block(mix(model, adapters, people, (0.6, 0.7), (HALF, EARLY)))
    assert (expected - plain).abs().mean() > 0.1 * plain.std()
    torch.testing.assert_close(mixed, expected, atol=1e-4, rtol=1e-4)


def test_one_adapter_early_and_another_late(model, adapters, people):
    """While a gate is closed the other adapter is alone, bit for bit; later both have acted."""
    relay = mix(model, adapters, people, (1.0, 1.0), (EARLY, LATE))
    alone = mix(model, adapters, people, (1.0, 0.0), (EARLY, LATE))
    assert torch.equal(after_first_block(relay), after_first_block(alone))
    assert not torch.allclose(tiny.sample(relay), tiny.sample(alone), atol=1e-2)


def test_order_and_one_hot_shares(model, adapters, people):
    swapped = mix(model, adapters, people, (0.3, 0.7), (HALF, LATE), order=(1, 0))
    ordered = mix(model, adapters, people, (0.3, 0.7), (HALF, LATE))
    assert torch.equal(tiny.sample(swapped), tiny.sample(ordered))
    second = apply_vfa(model, adapters[1], people[1])
    assert torch.equal(tiny.sample(mix(model, adapters, people, (0.0, 1.0))), tiny.sample(second))


def test_each_adapter_wants_its_own_encoders_identity(model, adapters, people):
    with pytest.raises(ValueError, match="Encode the photo with this adapter"):
        apply_vfa(model, adapters[0], people[1])
