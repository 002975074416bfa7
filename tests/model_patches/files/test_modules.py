"""One way to build a module into ComfyUI's memory management."""

import comfy.memory_management
import comfy.model_management
import comfy.model_patcher
import pytest
import torch
from flexid.model_patches.files.modules import build, wrap
from torch import nn

pytestmark = pytest.mark.comfy

WANTED = "good.safetensors from https://example.org, in models/good"


class Small(nn.Module):
    """A layer, a bare parameter and an integer buffer."""

    def __init__(self, operations, **factory):
        super().__init__()
        self.layer = operations.Linear(3, 2, **factory)
        self.scale = nn.Parameter(torch.empty(2, **factory))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=factory["device"]))

    def forward(self, x):
        return self.layer(x) * self.scale.to(x)


def tensors(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = {"layer.weight": (2, 3), "layer.bias": (2,), "scale": (2,)}
    state = {k: torch.randn(s, generator=generator).to(dtype) for k, s in shapes.items()}
    return {**state, "steps": torch.tensor(7)}


def rebuild(seed, disable_dynamic=False):
    return build(Small, tensors(), "x", WANTED, (rebuild, (seed,)), disable_dynamic)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_build_keeps_dtype_and_values(dtype):
    patcher = build(Small, tensors(dtype), "x", WANTED)
    assert isinstance(patcher, comfy.model_patcher.ModelPatcher)
    assert patcher.offload_device == comfy.model_management.unet_offload_device()
    assert patcher.load_device == comfy.model_management.get_torch_device()
    assert not patcher.model.training
    assert not any(parameter.requires_grad for parameter in patcher.model.parameters())
    for key, tensor in patcher.model.state_dict().items():
        assert tensor.dtype == tensors(dtype)[key].dtype and torch.equal(
            tensor, tensors(dtype)[key]
        )


def test_float32_inputs_run_through_half_precision_weights():
    patcher = build(Small, tensors(torch.bfloat16), "x", WANTED)
    assert patcher.model(torch.ones(1, 3)).dtype == torch.float32


def test_comfyui_can_rebuild_it():
    patcher = rebuild(1)
    assert patcher.cached_patcher_init == (rebuild, (1,))
    make, arguments = patcher.cached_patcher_init
    again = make(*arguments, disable_dynamic=True)
    assert type(again) is comfy.model_patcher.ModelPatcher
    assert again.model is not patcher.model
    assert patcher.clone(force_deepcopy=True).model is not patcher.model


def test_lazily_created_weights_load_the_same(monkeypatch):
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
    patcher = build(Small, tensors(), "x", WANTED)
    monkeypatch.undo()
    for key, tensor in patcher.model.state_dict().items():
        assert torch.equal(tensor, tensors()[key])


BAD = {
    "quantised": ({"scale": torch.ones(2, dtype=torch.int8)}, "scale is torch.int8"),
    "complex": ({"scale": torch.ones(2, dtype=torch.complex64)}, "scale is torch.complex64"),
    "misshapen": ({"scale": torch.ones(3)}, r"scale is \(3,\), expected \(2,\)"),
    "foreign": ({"more": torch.ones(3)}, "1 tensors do not belong to it"),
    "NaN": ({"scale": torch.tensor([0, float("nan")])}, r"NaN or infinite.* 1 of 4 .*\(scale\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tensors_are_refused(case):
    change, fact = BAD[case]
    with pytest.raises(ValueError, match=f"^the file .*{fact}") as error:
        build(Small, {**tensors(), **change}, "the file", WANTED)
    assert WANTED in str(error.value)


def test_wrap_takes_a_finished_module():
    module = nn.Linear(2, 2)
    patcher = wrap(module)
    assert patcher.model is module and patcher.cached_patcher_init is None
    assert not module.weight.requires_grad and not module.training
    assert type(wrap(module, disable_dynamic=True)) is comfy.model_patcher.ModelPatcher
