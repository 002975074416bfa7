"""The LoRA that a PuLID-FLUX file may hold for the base model, as the loader reads it."""

import pytest
import torch
from flexid.mini.random_adapter import write_adapter
from flexid.model_patches.adapters.flux_lora import DOWN, LORA, UP, weight_patches
from flexid.model_patches.adapters.pulid_flux import load_adapter, open_without_lora
from flexid.model_patches.training.flux_lora import FluxLora, stored_lora
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.comfy

QKV = f"{LORA}double_blocks.0.img_attn.qkv"
LINEAR = f"{LORA}single_blocks.1.linear1"


def pair(stem, out=768, entry=256, rank=4):
    return {f"{stem}{DOWN}": torch.ones(rank, entry), f"{stem}{UP}": torch.ones(out, rank)}


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    return write_adapter(tmp_path_factory.mktemp("lora") / "bare.safetensors", 1)


@pytest.fixture
def write(bare, tmp_path):
    def made(tensors):
        path = tmp_path / "with_lora.safetensors"
        save_file(load_file(bare) | tensors, path, {})
        return path

    return made


def test_the_tensors_are_the_files_and_become_weight_patches(bare, write):
    tensors = pair(QKV) | pair(LINEAR, 1792)
    adapter = load_adapter(write(tensors))
    assert set(adapter.lora) == set(tensors)
    assert all(torch.equal(adapter.lora[key], value) for key, value in tensors.items())
    assert set(weight_patches(adapter.lora)) == {f"{QKV}.weight", f"{LINEAR}.weight"}
    with pytest.raises(TypeError):
        adapter.lora[QKV] = None
    plain = load_adapter(bare)
    assert not plain.lora and adapter.encoder_digest == plain.encoder_digest
    assert adapter.digest != plain.digest and adapter.count == plain.count


WRONG = {
    "half": (
        {f"{QKV}{DOWN}": torch.ones(4, 256)},
        r"img_attn.qkv has halves .*\(4, 256\) and \(\)",
    ),
    "ranks": (
        {f"{QKV}{DOWN}": torch.ones(4, 256), f"{QKV}{UP}": torch.ones(768, 5)},
        r"\(4, 256\) and \(768, 5\), expected \(rank, channels\)",
    ),
    "foreign": ({f"{QKV}.weight": torch.ones(768, 256)}, r"qkv.weight has halves .*\(\) and \(\)"),
    "infinite": (
        {f"{QKV}{DOWN}": torch.full((4, 256), torch.inf), f"{QKV}{UP}": torch.ones(768, 4)},
        "diffusion_model",
    ),
    "integers": (
        {f"{QKV}{DOWN}": torch.ones(4, 256).int(), f"{QKV}{UP}": torch.ones(768, 4)},
        "torch.int32",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_pair_is_refused(write, kind):
    tensors, message = WRONG[kind]
    with pytest.raises(ValueError, match=message):
        load_adapter(write(tensors))


def test_merges_and_trainings_refuse_such_a_file(write):
    with pytest.raises(ValueError, match=r"with_lora.safetensors holds a LoRA.*neither be merged"):
        open_without_lora(write(pair(QKV)))


def test_what_is_trained_is_what_the_file_holds(write):
    shapes = {"double_blocks.0.img_attn.qkv": (768, 256), "single_blocks.1.linear1": (1792, 256)}
    trained = FluxLora(shapes, 4)
    with torch.no_grad():
        for layer in trained.layers:
            layer.up.weight.normal_()
    tensors = {key: value.detach().clone() for key, value in trained.tensors().items()}
    stored = load_file(write(tensors))
    again = stored_lora(stored)
    for one, other in zip(trained.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert set(load_adapter(write(tensors)).lora) == set(tensors)
    assert stored_lora({key: one for key, one in stored.items() if key not in tensors}) is None
