"""People on SD 1.5: at every cross-attention, out = (z + w * A(q; all people's tokens)) * W_o + b,
where z is the text's attention, and q, W_o are the base's layers with the file's LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..adapters.dynamicid import FAMILY, DynamicIDAdapter
from ..identity.identity import Identity, check_widths, encoding_for
from .call import Call, Role, Site
from .decoupled import Layers, Table, layers_of, match_sites, project_tokens
from .saa_group import LABEL, SAA, Group, Member
from .unet import unet_of, unet_sites


@dataclass(frozen=True, eq=False)
class UNetGroup(Group[Table]):
    """Members hold a Table each."""

    def layers(self, call: Call, role: Role, members: Sequence[Member[Table]]) -> Layers:
        return layers_of(call, [self._join(call, role, members)], always_fold=True)[0]

    def _join(self, call: Call, role: Role, members: Sequence[Member[Table]]) -> Table:
        """All tokens side by side, once per run and set of people."""
        key = (SAA, self, members, role)
        if key not in call.run.cache:
            first, *others = (one.tokens(role) for one in members)
            for other in others:
                first = first.join(other)
            call.run.cache[key] = first
        return call.run.cache[key]


def sd15_sites(model: ModelPatcher, adapter: DynamicIDAdapter) -> list[Site]:
    """In the order of the adapter's layers. Raises ValueError for another kind of model."""
    sites = unet_sites(model, LABEL)
    return match_sites(adapter.name, adapter.stream, sites, unet_of(model), LABEL)


def dynamicid_tokens(identity: Identity, adapter: DynamicIDAdapter) -> tuple[Tensor, Tensor]:
    """The identity's tokens and null tokens for this adapter, (1, N, width) each."""
    reader = f"the adapter '{adapter.name}'"
    advice = "Encode the photo with this adapter (Encode Identity (DynamicID))."
    found = encoding_for(identity, FAMILY, adapter.encoder_digest, reader, advice, adapter.digest)
    return check_widths(found, adapter.width, reader, advice)


def unet_tokens(adapter: DynamicIDAdapter, sites: Sequence[Site], tokens: Tensor) -> Table:
    """tokens (1, N, width) as every layer sees them."""
    return project_tokens(f"{adapter.digest} saa", adapter.stream, sites, tokens)
