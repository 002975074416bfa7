"""The shared perceiver layer against IP-Adapter's resampler, whose layers FlexIP and DynamicID use.

The golden vectors come from the public IP-Adapter code, with seeded weights at SD 1.5's sizes.
"""

import pytest
import torch
import torch.nn.functional as F
from flexid.model_patches.adapters.perceiver import PerceiverAttention, PerceiverLayer
from safetensors.torch import load_file
from seeding import seeded, seeded_input
from torch import nn

pytestmark = pytest.mark.pure

DIM, HEADS, WIDTH, HIDDEN, DEPTH, CONTEXT = 768, 12, 64, 3072, 4, 1280
CLOSE = {"atol": 2e-5, "rtol": 0}


@pytest.fixture(scope="module")
def expected(golden):
    return load_file(golden / "flexip_ipadapter.safetensors")


def resampler():
    """IP-Adapter's resampler around our layers, under the published names."""
    module = nn.Module()
    module.proj_in = nn.Linear(CONTEXT, DIM)
    module.layers = nn.ModuleList(PerceiverLayer(DIM, HEADS, WIDTH, HIDDEN) for _ in range(DEPTH))
    module.proj_out = nn.Linear(DIM, DIM)
    module.norm_out = nn.LayerNorm(DIM)
    return module.eval().requires_grad_(False)


def seed(module, sharp=False):
    state = {key: seeded(f"image_proj.{key}", t.shape) for key, t in module.state_dict().items()}
    scale = 16 if sharp else 1
    module.load_state_dict({k: t * scale if "to_q" in k else t for k, t in state.items()})
    return module


def run(module, latents):
    context = torch.cat([seeded_input(name, (1, 257, CONTEXT)) for name in ("clip_uncond", "clip")])
    context = module.proj_in(context)
    latents = latents.expand(2, -1, -1)
    for layer in module.layers:
        latents = layer(latents, context)
    return module.norm_out(module.proj_out(latents))


@pytest.mark.parametrize("name", ["plus", "plus_sharp"])
def test_a_resampler_of_these_layers_is_ip_adapters(expected, name):
    module = seed(resampler(), name == "plus_sharp")
    tolerance = {"atol": 1e-4, "rtol": 0} if name == "plus_sharp" else CLOSE
    tokens = run(module, seeded("image_proj.latents", (1, 16, DIM)))
    torch.testing.assert_close(tokens, expected[f"{name}.tokens"], **tolerance)
    tokens = run(module, seeded_input("query", (2, 5, DIM)))
    torch.testing.assert_close(tokens, expected[f"{name}.external_queries"], **tolerance)


def test_every_layer_adds_what_the_authors_add(expected):
    module, seen = seed(resampler()), {}
    for index, layer in enumerate(module.layers):
        for part, kind in zip(layer, ("attn", "ff"), strict=True):
            part.register_forward_hook(
                lambda m, i, out, key=f"plus.layer{index}_{kind}_s": seen.update({key: out})
            )
    run(module, seeded("image_proj.latents", (1, 16, DIM)))
    assert len(seen) == 2 * DEPTH
    for key, increment in seen.items():
        torch.testing.assert_close(increment[..., ::4], expected[key], **CLOSE)


def test_key_names_are_the_published_ones():
    shapes = {key: tuple(t.shape) for key, t in PerceiverLayer(48, 3, 20, 96).state_dict().items()}
    assert shapes == {
        "0.norm1.weight": (48,),
        "0.norm1.bias": (48,),
        "0.norm2.weight": (48,),
        "0.norm2.bias": (48,),
        "0.to_q.weight": (60, 48),
        "0.to_kv.weight": (120, 48),
        "0.to_out.weight": (48, 60),
        "1.0.weight": (48,),
        "1.0.bias": (48,),
        "1.1.weight": (96, 48),
        "1.3.weight": (48, 96),
    }


def test_heads_are_as_wide_as_asked_for():
    """Against softmax(q kᵀ / √width) v written out, one head after the other."""
    torch.manual_seed(0)
    layer = PerceiverAttention(48, 3, 20).requires_grad_(False)
    latents, context = torch.randn(2, 4, 48), torch.randn(2, 7, 48)
    normed, own = layer.norm1(context), layer.norm2(latents)
    q, (k, v) = (
        layer.to_q(own),
        layer.to_kv(torch.cat((normed, own), dim=1)).split(60, dim=-1),
    )
    heads = [slice(20 * head, 20 * (head + 1)) for head in range(3)]
    out = [F.softmax(q[..., h] @ k[..., h].mT / 20**0.5, dim=-1) @ v[..., h] for h in heads]
    torch.testing.assert_close(layer(latents, context), layer.to_out(torch.cat(out, dim=-1)))
