"""The vision tower against the golden vectors, at full size and in float32."""

import comfy.model_management
import pytest
import torch
from flexid.model_patches.encoders.eva_clip import VisionEncoder, build_patcher, encode
from flexid.model_patches.encoders.eva_tower import TowerDims, rope_tables
from safetensors.torch import load_file
from seeding import golden_shapes, seeded, seeded_input

pytestmark = pytest.mark.comfy

POOLED = {"atol": 5e-5, "rtol": 0}
HIDDEN = {"atol": 4e-4, "rtol": 0}


@pytest.fixture(scope="module")
def expected(golden):
    return load_file(golden / "eva_l336.safetensors")


@pytest.fixture(scope="module")
def vision(golden):
    shapes = golden_shapes(golden, "eva_visual")
    tensors = {key.removeprefix("visual."): seeded(key, shape) for key, shape in shapes.items()}
    patcher = build_patcher(tensors, "seeded")
    del tensors
    yield VisionEncoder(patcher, "seeded", "0", patcher.model.dims)
    comfy.model_management.unload_all_models()


@pytest.fixture(scope="module")
def trace(vision):
    """Everything one forward passes through, by name."""
    tower = vision.patcher.model
    seen = {}
    block = tower.blocks[0]
    points = {"attn": block.attn, "mlp": block.mlp, "block": block, "norm": tower.norm}
    points["head"] = tower.head
    hooks = [
        module.register_forward_hook(lambda m, i, out, name=name: seen.__setitem__(name, out))
        for name, module in points.items()
    ]
    pixels = seeded_input("pixels", (1, 3, 336, 336))
    seen["pooled"], seen["hidden"] = encode(vision, pixels)
    seen["embed"] = tower.embed(pixels)
    for hook in hooks:
        hook.remove()
    return seen


def test_input_generator(expected):
    pixels = seeded_input("pixels", (1, 3, 336, 336))
    torch.testing.assert_close(pixels[:, :, ::24, ::24], expected["pixels.probe"], atol=0, rtol=0)


def test_dims(vision):
    dims = TowerDims(width=1024, depth=24, patch=14, grid=24, mlp=2730, output=768)
    assert vision.dims == dims
    assert (dims.heads, dims.image_size, dims.tokens) == (16, 336, 577)
    assert dims.taps == (4, 8, 12, 16, 20)


def test_pooled(trace, expected):
    torch.testing.assert_close(trace["head"], expected["pooled"], **POOLED)
    torch.testing.assert_close(trace["pooled"], expected["pooled_l2"], **POOLED)


@pytest.mark.parametrize("level", range(5))
def test_hidden(trace, expected, level):
    hidden = trace["hidden"][:, level]
    torch.testing.assert_close(hidden[:, ::4, ::4], expected[f"hidden.{level}.s4"], **HIDDEN)
    torch.testing.assert_close(hidden[:, :1], expected[f"hidden.{level}.cls"], **HIDDEN)


def test_inside(trace, expected):
    names = {"embed": "embed", "attn": "block0_attn", "mlp": "block0_mlp", "block": "block0_out"}
    for ours, theirs in {**names, "norm": "final_norm"}.items():
        got = trace[ours][:, ::8, ::8]
        assert (got - expected[f"{theirs}.s8"]).abs().max() < HIDDEN["atol"], theirs
    torch.testing.assert_close(trace["embed"][:, :1], expected["embed_cls"], **HIDDEN)


def test_batch_of_two(vision, expected):
    pixels = [seeded_input(name, (1, 3, 336, 336)) for name in ("pixels", "pixels.b1")]
    pooled, hidden = encode(vision, torch.cat(pixels))
    raw = expected["batch2.pooled"]
    torch.testing.assert_close(pooled, raw / raw.norm(dim=-1, keepdim=True), **POOLED)
    assert hidden.shape == (2, 5, 577, 1024)


def test_zero_pixels(vision, expected):
    pooled, hidden = encode(vision, torch.zeros(1, 3, 336, 336))
    raw = expected["zero_pixels.pooled"]
    torch.testing.assert_close(pooled, raw / raw.norm(dim=-1, keepdim=True), **POOLED)
    torch.testing.assert_close(
        hidden[:, 0, ::8, ::8], expected["zero_pixels.hidden.0.s8"], **HIDDEN
    )


def test_rope(expected):
    cos, sin = rope_tables(24)
    torch.testing.assert_close(cos[::5], expected["rope.cos.s5"], atol=1e-6, rtol=0)
    torch.testing.assert_close(sin[::5], expected["rope.sin.s5"], atol=1e-6, rtol=0)
