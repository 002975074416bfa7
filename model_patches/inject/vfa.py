"""Visual Feature Anchor (FlexID, section 3.3): identity cross-attention inside a diffusion model.

PuLID files anchor an identity on Flux (vfa_flux.py) and on SDXL (vfa_unet.py). All anchors of a
block read the same tokens and are summed in an order of their own, so their order in the graph
does not matter.
"""

from __future__ import annotations

import hashlib

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..adapters.pulid import PulidAdapter
from ..adapters.pulid_flux import IdentityAdapter
from ..adapters.pulid_sdxl import SdxlAdapter
from ..files.cache import tensor_key
from ..gates.gate import OPEN, Gate, describe_ends
from ..gates.numbers import check_weight
from ..identity.identity import Identity, check_widths, encoding_for
from .anchor import LABEL, NEGATIVES, VFA, Anchor, Negative
from .flux import flux_sites
from .lora import patch_flux_lora
from .query import QueryControl
from .region import region_of
from .vfa_flux import patch_flux
from .vfa_unet import METHODS, Method, orthogonality, patch_unet, sdxl_sites

__all__ = [
    "LABEL",
    "METHODS",
    "NEGATIVES",
    "VFA",
    "Method",
    "apply_vfa",
    "describe_anchor",
    "identity_tokens",
]


def apply_vfa(
    model: ModelPatcher,
    adapter: PulidAdapter,
    identity: Identity,
    *,
    weight: float = 1.0,
    gate: Gate = OPEN,
    mask: Tensor | None = None,
    negative: Negative = "unconditional",
    method: Method = "fidelity",
    query: QueryControl | None = None,
) -> ModelPatcher:
    """A clone of a Flux.1 or SDXL model that draws `identity`; the adapter says which it is.

    mask (H, W) or (B, H, W) in [0, 1] over the picture.
    negative: what rows of the negative prompt get: the encoder's answer to no identity (as the
    PuLID authors do under true CFG), the same identity, or nothing. method: of PuLID on SDXL.
    A LoRA in the file works at strength 1, whatever the weight, unless that is 0.
    query: a mix of the attention's queries, on Flux only; None, and a neutral one, leave them.
    Raises ValueError when model, adapter, identity, weight or mask do not fit each other.
    """
    check_weight(f"The weight of {LABEL}", weight)
    query = None if query is None or query.is_neutral else query
    how = None
    if isinstance(adapter, SdxlAdapter):
        if query is not None:
            raise ValueError(
                f"The query control of {LABEL} has the mode {query.mode}, but '{adapter.name}' is "
                "a PuLID file for SDXL, whose queries are the model's own. Disconnect query, or "
                "connect a Flux.1 model and a PuLID file for Flux."
            )
        how = orthogonality(method, adapter.version)
        sites = sdxl_sites(model, adapter)
    else:
        sites = flux_sites(model, adapter.count, adapter.dim, adapter.name, LABEL, adapter.blocks)
        if query is not None:
            query.courses(sites, adapter.name)
    tokens, null = identity_tokens(identity, adapter)
    region = None if mask is None else region_of(mask)
    patched = model.clone()
    if weight == 0.0 or (region is not None and region.is_empty):
        return patched
    contents = [tensor_key(value) for value in (tokens, null)]
    contents += ["" if region is None else tensor_key(region.mask)]
    facts = (adapter.digest, *contents, weight, gate, negative, how)
    facts = facts if query is None else (*facts, query)
    order = hashlib.sha256(repr(facts).encode()).hexdigest()
    anchor = Anchor(weight, gate, region, negative, order)
    if isinstance(adapter, SdxlAdapter) and how is not None:
        patch_unet(patched, sites, adapter, anchor, tokens, null, how)
    elif isinstance(adapter, IdentityAdapter):
        patched = patch_flux_lora(patched, adapter, 1.0, LABEL)
        patch_flux(patched, sites, adapter, anchor, tokens, null, query)
    return patched


def describe_anchor(
    weight: float, gate: Gate, mask: Tensor | None, query: QueryControl | None = None
) -> str:
    """What an anchor of these settings does, in a line for the user, and one for its queries."""
    if weight == 0.0:
        return "weight is 0: the model is unchanged"
    region = None if mask is None else region_of(mask)
    if region is not None and region.is_empty:
        return "the mask covers 0 % of the picture: the model is unchanged"
    course = f"w {describe_ends(gate, weight)}"
    queries = "" if query is None else f"\nqueries, {query.describe()}"
    if region is None:
        return f"{course} in the whole picture{queries}"
    percent = 100 * region.share
    shown = f"{percent:.0f}" if percent >= 1 else f"{percent:.2g}"
    return f"{course}; the mask covers {shown} % of the picture{queries}"


def identity_tokens(identity: Identity, adapter: PulidAdapter) -> tuple[Tensor, Tensor]:
    """The identity's tokens and null tokens for this adapter, (1, N, C) and (1, N0, C).

    Raises ValueError when there are none, when another encoder made them, or when they are
    misshapen or not finite.
    """
    reader = f"the adapter '{adapter.name}'"
    advice = "Encode the photo with this adapter (Encode Identity)."
    found = encoding_for(
        identity, adapter.family, adapter.encoder_digest, reader, advice, adapter.digest
    )
    return check_widths(found, adapter.token_dim, reader, advice)
