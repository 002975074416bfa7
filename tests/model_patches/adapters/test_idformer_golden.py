"""The identity encoder against the golden vectors, at full size."""

import pytest
import torch
from flexid.model_patches.adapters.idformer import IDFormerDims
from idformer_world import reference, seeded_idformer
from safetensors.torch import load_file

pytestmark = pytest.mark.pure

CLOSE = {"atol": 5e-5, "rtol": 0}


@pytest.fixture(scope="module")
def expected(golden):
    return load_file(golden / "pulid_idformer.safetensors")


@pytest.fixture(scope="module")
def encoder(golden):
    return seeded_idformer(golden)


@pytest.fixture(scope="module")
def run(encoder):
    @torch.no_grad()
    def forward(condition, hidden):
        return encoder(condition, hidden)

    return forward


def test_dims(encoder):
    assert encoder.dims == IDFormerDims(
        queries=32,
        dim=1024,
        output=2048,
        layers=10,
        groups=5,
        inner=1024,
        hidden=4096,
        id_tokens=5,
        condition=1280,
        vision=1024,
    )
    assert encoder.dims.heads == 16


def test_inputs_are_the_golden_ones(expected):
    condition, hidden = reference()
    torch.testing.assert_close(condition[:, 0], expected["id_cond"], atol=1e-6, rtol=0)
    for level in range(5):
        probe = hidden[:, level, ::64, ::128]
        assert torch.equal(probe, expected[f"eva_hidden.{level}.probe"])


def test_singlereference(run, expected):
    torch.testing.assert_close(run(*reference()), expected["id_embedding"], **CLOSE)


def test_every_stage(encoder, run, expected):
    condition, hidden = reference()
    seen = []
    hooks = [
        layer.register_forward_hook(lambda m, i, out: seen.append(out)) for layer in encoder.layers
    ]
    run(condition, hidden)
    for hook in hooks:
        hook.remove()
    assert len(seen) == 10
    for index, latents in enumerate(seen):
        got = latents[:, :, ::16]
        torch.testing.assert_close(got, expected[f"latents_after_layer.{index}"], **CLOSE)
    with torch.no_grad():
        torch.testing.assert_close(encoder.id_tokens(condition), expected["id_tokens"], **CLOSE)
        for level in range(5):
            mapped = encoder.get_submodule(f"mapping_{level}")(hidden[:, level])[:, ::32, ::32]
            torch.testing.assert_close(mapped, expected[f"mapped_vit.{level}.probe"], **CLOSE)


def test_unconditional_is_not_zero(run, expected):
    tokens = run(torch.zeros(1, 1, 1280), torch.zeros(1, 5, 577, 1024))
    torch.testing.assert_close(tokens, expected["uncond_id_embedding"], **CLOSE)
    assert tokens.std() > 0.1


def test_batch_of_two(run, expected):
    first, second = reference(), reference(".ref1")
    tokens = run(*(torch.cat(pair) for pair in zip(first, second, strict=True)))
    torch.testing.assert_close(tokens[:, :, ::2], expected["id_embedding_batch2"], **CLOSE)


def test_two_photos_of_one_person(run, expected):
    first, second = reference(), reference(".ref1")
    condition = torch.cat((first[0], second[0]), dim=1)
    hidden = torch.cat((first[1], second[1]), dim=2)
    tokens = run(condition, hidden)
    torch.testing.assert_close(tokens, expected["id_embedding_multiref2"], **CLOSE)


def test_bf16_is_close(golden, expected):
    module = seeded_idformer(golden, torch.bfloat16)
    with torch.no_grad():
        tokens = module(*(x.bfloat16() for x in reference())).float()
    whole = expected["id_embedding"]
    assert (tokens - whole).abs().max() < 1.2e-1
    assert torch.cosine_similarity(tokens.flatten(), whole.flatten(), dim=0) > 0.9997
