"""The one way to build a module and to hand it to ComfyUI's memory management."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import comfy.model_management
import comfy.ops
import comfy.utils
from comfy import model_patcher
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from .checks import check_finite, check_floating, check_shapes, shapes_of

Rebuild = tuple[Callable[..., ModelPatcher], tuple]
"""A function and its arguments: makes the same patcher again from its file. The function also
takes the keyword `disable_dynamic`. ComfyUI calls it for a second device and for weight hooks."""


def wrap(
    module: nn.Module, rebuild: Rebuild | None = None, disable_dynamic: bool = False
) -> ModelPatcher:
    """Put a module, already on the offload device, under ComfyUI's memory management.

    The module is switched to evaluation and its parameters need no gradients. Weights may be
    loaded before or after; afterwards with `load_state_dict(..., assign=patcher.is_dynamic())`,
    which keeps memory-mapped weights on the disk until ComfyUI needs them.
    `disable_dynamic` asks for a plain ModelPatcher where ComfyUI would take its dynamic one.
    """
    kind = model_patcher.ModelPatcher if disable_dynamic else model_patcher.CoreModelPatcher
    patcher = kind(
        module.requires_grad_(False).eval(),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    patcher.cached_patcher_init = rebuild
    return patcher


def build(
    make: Callable[..., nn.Module],
    tensors: Mapping[str, Tensor],
    what: str,
    wanted: str,
    rebuild: Rebuild | None = None,
    disable_dynamic: bool = False,
) -> ModelPatcher:
    """A module with these weights, in their own number type, under ComfyUI's memory management.

    `make(operations, device=..., dtype=...)` returns the module without weights. `tensors` must
    match its state dict strictly: the same keys and shapes, floats where it has floats, all values
    finite. Otherwise raises ValueError, which names `what` was read and what is `wanted`.
    """
    expected = make(nn, device="meta").state_dict()
    integers = {key for key, tensor in expected.items() if not tensor.is_floating_point()}
    check_floating(tensors, what, wanted, integers)
    check_shapes(shapes_of(tensors), shapes_of(expected), what, wanted)
    check_finite(tensors, what, wanted)
    offload_device = comfy.model_management.unet_offload_device()
    dtype = comfy.utils.weight_dtype(tensors)
    patcher = wrap(
        make(comfy.ops.manual_cast, device=offload_device, dtype=dtype), rebuild, disable_dynamic
    )
    patcher.model.load_state_dict(dict(tensors), strict=True, assign=patcher.is_dynamic())
    return patcher
