"""A merge of PuLID-FLUX files that is held in memory, to be tried before a file is written."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from types import MappingProxyType

from torch import Tensor

from .merge import Watch, merge_tensor, plan_loaded
from .merge_drift import Drift
from .merge_plan import Plan, Settings
from .merge_points import label
from .pulid import PulidAdapter
from .pulid_flux import ATTENTION, FAMILY, IdentityAdapter


def merge_in_memory(
    adapters: Sequence[PulidAdapter],
    settings: Settings,
    base: PulidAdapter | None = None,
    watch: Watch | None = None,
) -> IdentityAdapter:
    """The adapter that `merge_loaded` would write, bit for bit, without a file.

    Its layers are held in memory, in the number type that the file would have; the encoder is
    that of base or of the first adapter, so that its identities fit. watch: told of the values
    that are done and of all, before each tensor. Raises as `merge_loaded`, and ValueError where
    the encoder is to be merged.
    """
    plan = plan_loaded(adapters, settings, base)
    if settings.scope.encoder == "merge":
        raise ValueError(
            "encoder is 'merge', expected equal or first: a merged encoder makes other tokens, and "
            "each trial would need its own identities. Write it with Merge Identity Adapters."
        )
    reference = adapters[0] if base is None else base
    assert isinstance(reference, IdentityAdapter)  # plan_loaded refuses others
    names = ", ".join(file.file.path.name for file in plan.files)
    return IdentityAdapter(
        family=FAMILY,
        name=f"{settings.method} {label(tuple(plan.shares))} of {names}",
        digest=hashlib.sha256(f"in memory {plan.recipe}".encode()).hexdigest(),
        encoder_digest=reference.encoder_digest,
        encoder=reference.encoder,
        cross_attention=MappingProxyType(_merge_layers(plan, watch)),
        heads=reference.heads,
        blocks=reference.blocks,
    )


def _merge_layers(plan: Plan, watch: Watch | None) -> dict[str, Tensor]:
    tensors = plan.reference.file.tensors
    keys = [key for key in tensors if key.startswith(ATTENTION)]
    total = sum(tensors[key].numel() for key in keys)
    drift = Drift([*(f"file {number}" for number in plan.measured), "merged"])
    merged, done = {}, 0
    for key in keys:
        if watch is not None:
            watch(done, total)
        name = key.removeprefix(ATTENTION)
        merged[name] = merge_tensor(plan, key, plan.dtype_of(key), drift)
        done += merged[name].numel()
    if watch is not None:
        watch(total, total)
    return merged
