"""Small towers through the real loader: formats, dtypes, dimensions, refusals."""

import comfy.memory_management
import comfy.model_patcher
import pytest
import torch
from flexid.mini.random_adapter import write_adapter, write_eva_clip
from flexid.model_patches.encoders.eva_clip import WANTED, encode, load_eva_clip, load_patcher
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_eva_clip(tmp_path_factory.mktemp("eva") / "small.safetensors", 1)


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))


def test_small_tower(small, pixels):
    vision = load_eva_clip(small)
    assert (vision.name, len(vision.digest)) == ("small.safetensors", 64)
    assert (vision.dims.width, vision.dims.depth, vision.dims.image_size) == (128, 6, 112)
    assert vision.dims.taps == (1, 2, 3, 4, 5)
    pooled, hidden = encode(vision, pixels)
    assert pooled.shape == (2, 768) and hidden.shape == (2, 5, 65, 128)
    assert pooled.dtype == hidden.dtype == torch.float32
    assert pooled.device.type == hidden.device.type == "cpu"
    torch.testing.assert_close(pooled.norm(dim=-1), torch.ones(2))


def test_first_tap_is_the_input_of_its_block(small, pixels):
    vision = load_eva_clip(small)
    seen = []
    block = vision.patcher.model.blocks[1]
    hook = block.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    hidden = encode(vision, pixels)[1]
    hook.remove()
    assert torch.equal(hidden[:, 0], seen[0])


@pytest.mark.parametrize(("width", "depth", "patch", "image"), [(64, 12, 16, 64), (192, 7, 14, 84)])
def test_other_sizes(tmp_path, width, depth, patch, image):
    path = write_eva_clip(tmp_path / "x.safetensors", 0, width, depth, patch, image, output=96)
    vision = load_eva_clip(path)
    assert vision.dims.heads == width // 64 and vision.dims.depth == depth
    pooled, hidden = encode(vision, torch.zeros(1, 3, image, image))
    assert pooled.shape == (1, 96)
    assert hidden.shape == (1, 5, (image // patch) ** 2 + 1, width)


def _as_checkpoint(tensors):
    """The layout of the public .pt: wrapper, module prefix, text half, rotary buffers."""
    extra = {
        "logit_scale": torch.ones(()),
        "text.transformer.resblocks.0.mlp.c_fc.weight": torch.ones(4, 4),
        "visual.rope.freqs_cos": torch.ones(64, 64),
        "visual.blocks.0.attn.rope.freqs_sin": torch.ones(64, 64),
    }
    return {"model": {f"module.{k}": t for k, t in {**tensors, **extra}.items()}, "epoch": 1}


@pytest.mark.parametrize("layout", ["checkpoint", "flat", "without prefix"])
def test_pt_gives_the_same_as_safetensors(tmp_path, small, pixels, layout):
    tensors = load_file(small)
    bare = {key.removeprefix("visual."): tensor for key, tensor in tensors.items()}
    value = {"checkpoint": _as_checkpoint(tensors), "flat": tensors, "without prefix": bare}
    torch.save(value[layout], tmp_path / "x.pt")
    got, expected = (encode(load_eva_clip(p), pixels) for p in (tmp_path / "x.pt", small))
    assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_files_are_close(tmp_path, small, pixels, dtype):
    full = {key: tensor.float() for key, tensor in load_file(small).items()}
    save_file(full, tmp_path / "full.safetensors")
    save_file({k: t.to(dtype) for k, t in full.items()}, tmp_path / "half.safetensors")
    names = ("half.safetensors", "full.safetensors")
    half, exact = (encode(load_eva_clip(tmp_path / name), pixels) for name in names)
    assert torch.cosine_similarity(half[0], exact[0]).min() > 0.999
    assert (half[1] - exact[1]).norm() < 0.02 * exact[1].norm()


def test_rope_stays_float32_when_everything_else_is_bf16(small, pixels):
    tower = load_eva_clip(small).patcher.model.to(torch.bfloat16)
    with torch.no_grad():
        rough = tower(pixels.bfloat16())[0].float()
    assert not list(tower.buffers())
    exact = encode(load_eva_clip(small), pixels)[0]
    assert torch.cosine_similarity(rough, exact).min() > 0.999


def test_comfyui_can_rebuild_the_patcher(small):
    patcher = load_eva_clip(small).patcher
    build, arguments = patcher.cached_patcher_init
    again = build(*arguments, disable_dynamic=True)
    assert type(again) is comfy.model_patcher.ModelPatcher
    for key, tensor in patcher.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[key])
    assert build is load_patcher
    assert patcher.clone(force_deepcopy=True).model is not patcher.model


def test_lazily_created_weights_load_the_same(small, pixels, monkeypatch):
    """With dynamic VRAM on, ComfyUI's layers have no weight until the state dict arrives."""
    expected = encode(load_eva_clip(small), pixels)
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
    vision = load_eva_clip(small)
    monkeypatch.undo()
    for got, want in zip(encode(vision, pixels), expected, strict=True):
        assert torch.equal(got, want)


def _without(tensors, *keys):
    return {k: t for k, t in tensors.items() if k not in keys}


def _wide(tensors):
    return {**tensors, "visual.head.weight": torch.zeros(768, 129)}


BAD = {
    "NaN": (
        lambda t: {**t, "visual.head.bias": torch.full_like(t["visual.head.bias"], float("nan"))},
        ["NaN or infinite values in 1 of", "(head.bias)"],
    ),
    "a gap": (
        lambda t: {**t, "visual.blocks.99999999.norm1.bias": torch.ones(1)},
        ["not numbered 0 to", "blocks.99999999"],
    ),
    "text only": (
        lambda t: {"text.transformer.resblocks.0.mlp.c_fc.weight": torch.ones(4, 4)},
        ["text encoder", "models/text_encoders"],
    ),
    "open clip": (
        lambda t: {"visual.transformer.resblocks.0.attn.in_proj_weight": torch.ones(3, 1)},
        ["OpenCLIP", "Load CLIP Vision"],
    ),
    "hugging face clip": (
        lambda t: {"vision_model.encoder.layers.0.mlp.fc1.weight": torch.ones(4, 1)},
        ["Hugging Face", "Load CLIP Vision"],
    ),
    "eva 01": (
        lambda t: {"visual.blocks.0.attn.qkv.weight": torch.ones(3, 1)},
        ["another EVA"],
    ),
    "dino": (
        lambda t: {"encoder.layer.0.layer_scale1.lambda1": torch.ones(3)},
        ["DINOv2"],
    ),
    "lora": (lambda t: {"x.lora_A.weight": torch.ones(3, 1)}, ["LoRA", "models/loras"]),
    "nothing": (lambda t: {}, ["no tensors"]),
    "unknown": (lambda t: {"foo": torch.ones(1)}, ["no known kind", "1 tensors", "foo"]),
    "missing tensors": (
        lambda t: _without(t, "visual.norm.bias", "visual.blocks.3.attn.q_bias"),
        ["2 of ", "missing", "blocks.3.attn.q_bias", "norm.bias"],
    ),
    "missing positions": (lambda t: _without(t, "visual.pos_embed"), ["no tensor pos_embed"]),
    "foreign tensor": (
        lambda t: {**t, "visual.extra.weight": torch.ones(1)},
        ["1 tensors do not belong", "extra.weight"],
    ),
    "wrong shape": (_wide, ["head.weight is (768, 129), expected (768, 128)"]),
    "odd positions": (
        lambda t: {**t, "visual.pos_embed": torch.zeros(1, 64, 128)},
        ["64 positions", "square"],
    ),
    "integers": (
        lambda t: {**t, "visual.norm.bias": torch.zeros(128, dtype=torch.int8)},
        ["1 tensors", "norm.bias is torch.int8"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_named(tmp_path, small, case):
    change, facts = BAD[case]
    path = tmp_path / "odd.safetensors"
    save_file(change(load_file(small)), path)
    with pytest.raises(ValueError) as error:
        load_eva_clip(path)
    for fact in ["odd.safetensors", WANTED, *facts]:
        assert fact in str(error.value)


def test_adapter_in_place_of_the_tower(tmp_path):
    path = write_adapter(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="a PuLID adapter for Flux.*Load Identity Adapter"):
        load_eva_clip(path)


def test_wrong_image_size(small):
    with pytest.raises(ValueError, match=r"\(B, 3, 112, 112\), got \(1, 3, 224, 224\)"):
        encode(load_eva_clip(small), torch.zeros(1, 3, 224, 224))
