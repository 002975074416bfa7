"""Visual Feature Anchor (FlexID, section 3.3): identity cross-attention inside a Flux DiT.

After the blocks that PuLID-FLUX was trained for, image tokens attend to the identity:
img ← img + w(t)·CrossAttention(img, identity). All anchors of a block read the same tokens and are
summed in an order of their own, so their order in the graph does not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..adapters.pulid_flux import IdentityAdapter
from ..files.cache import tensor_key
from ..gates.gate import OPEN, Gate, describe_ends
from ..gates.numbers import check_weight
from ..identity.identity import Identity, check_tokens, encoding_for
from .attention import FoldedAttention
from .call import Call, PromptRows, Site, Term
from .flux import flux_sites, wrap_blocks
from .pulid import folded_for
from .region import EVERYWHERE, Coverage, Region, region_of
from .run import register

VFA = "vfa"
LABEL = "Apply VFA"

Negative = Literal["unconditional", "same", "none"]
NEGATIVES: tuple[Negative, ...] = ("unconditional", "same", "none")


@dataclass(frozen=True, eq=False)
class Anchor:
    """One identity on one model: an Injection."""

    positive: ModelPatcher
    """A ModuleList of FoldedAttention, one per site."""
    negative: ModelPatcher | None
    weight: float
    gate: Gate
    region: Region | None
    sites: Sequence[Site]
    order: str

    kind = VFA
    label = LABEL

    def models(self) -> list[ModelPatcher]:
        negative = [] if self.negative in (None, self.positive) else [self.negative]
        return [self.positive, *negative]

    def to(self, device_or_dtype: Any) -> Anchor:
        return self

    def check_run(self, prompts: Sequence[PromptRows]) -> None:
        """Accept any run."""

    def edit_text(self, call: Call, text: Tensor) -> Tensor:
        return text

    def terms(self, call: Call) -> list[Term]:
        """One per prompt that has an identity and covered tokens."""
        weights = [self.gate.weight(moment, self.weight) for moment in call.moments]
        if not any(weights):
            return []
        return [
            term
            for number, prompt in enumerate(call.prompts)
            if (term := self._term(call, prompt, call.rows_of(number), weights)) is not None
        ]

    def _term(
        self, call: Call, prompt: PromptRows, rows: slice, weights: Sequence[float]
    ) -> Term | None:
        stack = self.positive if prompt.role == "positive" else self.negative
        coverage = self._coverage(call, prompt)
        if stack is None or coverage is None:
            return None
        factor = _factor(weights[rows], coverage, call)
        return Term(self._layers(stack), rows, coverage.index, factor)

    def _layers(self, stack: ModelPatcher) -> Mapping[Site, FoldedAttention]:
        return dict(zip(self.sites, stack.model, strict=True))

    def _coverage(self, call: Call, prompt: PromptRows) -> Coverage | None:
        """Worked out once per run; a Flux has one grid for all sites."""
        if self.region is None:
            return EVERYWHERE
        key = (VFA, self, prompt.area, call.latent_size, call.batch)
        if key not in call.run.cache:
            _check_tiles(call, prompt)
            size = call.run.latent_size or call.latent_size
            grid = call.grid(self.sites[0].cell)
            coverage = self.region.cover(grid, size, prompt.area, call.batch)
            call.run.cache[key] = coverage and coverage.to(call.device, call.dtype)
        return call.run.cache[key]


def _check_tiles(call: Call, prompt: PromptRows) -> None:
    """A mask needs the place of a tile in the picture, and tiling nodes do not give it."""
    whole = call.run.latent_size
    if prompt.area is None and whole not in (None, call.latent_size):
        raise ValueError(
            f"{LABEL} has a mask for a latent of {whole[0]}x{whole[1]}, but another node runs the "
            f"model on tiles of {call.latent_size[0]}x{call.latent_size[1]} without saying where. "
            "Disconnect the mask, or remove the tiling node."
        )


def _factor(weights: Sequence[float], coverage: Coverage, call: Call) -> float | Tensor:
    """One factor for every row and token when there is one, else a (rows or 1, tokens or 1)."""
    if len(set(weights)) == 1:
        return weights[0] if coverage.weights is None else coverage.weights * weights[0]
    per_row = torch.tensor(weights, device=call.device, dtype=call.dtype).unsqueeze(1)
    return per_row if coverage.weights is None else coverage.weights * per_row


def apply_vfa(
    model: ModelPatcher,
    adapter: IdentityAdapter,
    identity: Identity,
    *,
    weight: float = 1.0,
    gate: Gate = OPEN,
    mask: Tensor | None = None,
    negative: Negative = "unconditional",
) -> ModelPatcher:
    """A clone of a Flux.1 model that draws `identity`.

    mask (H, W) or (B, H, W) in [0, 1] over the picture: only covered tokens are computed.
    negative: what rows of the negative prompt get: the encoder's answer to no identity (as the
    PuLID authors do under true CFG), the same identity, or nothing.
    Raises ValueError when model, adapter, identity, weight or mask do not fit each other.
    """
    check_weight("The weight of Apply VFA", weight)
    sites = flux_sites(model, adapter.count, adapter.dim, adapter.name, LABEL)
    tokens, null = identity_tokens(identity, adapter)
    region = None if mask is None else region_of(mask)
    patched = model.clone()
    if weight == 0.0 or (region is not None and region.is_empty):
        return patched
    dtype = model.model.get_dtype_inference()
    positive = folded_for(adapter, tokens, dtype)
    folded = {"same": positive, "none": None}
    if negative == "unconditional":
        folded["unconditional"] = folded_for(adapter, null, dtype)
    contents = [tensor_key(value) for value in (tokens, null)]
    contents += ["" if region is None else tensor_key(region.mask)]
    order = repr((adapter.digest, *contents, weight, gate, negative))
    order = hashlib.sha256(order.encode()).hexdigest()
    register(patched, Anchor(positive, folded[negative], weight, gate, region, sites, order))
    wrap_blocks(patched, sites)
    return patched


def describe_anchor(weight: float, gate: Gate, mask: Tensor | None) -> str:
    """What an anchor of these settings does, in one line for the user."""
    if weight == 0.0:
        return "weight is 0: the model is unchanged"
    course = f"w {describe_ends(gate, weight)}"
    if mask is None:
        return f"{course} in the whole picture"
    region = region_of(mask)
    if region.is_empty:
        return "the mask covers 0 % of the picture: the model is unchanged"
    percent = 100 * region.share
    shown = f"{percent:.0f}" if percent >= 1 else f"{percent:.2g}"
    return f"{course}; the mask covers {shown} % of the picture"


def identity_tokens(identity: Identity, adapter: IdentityAdapter) -> tuple[Tensor, Tensor]:
    """The identity's tokens and null tokens for this adapter, (1, N, C) and (1, N0, C).

    Raises ValueError when there are none, when another encoder made them, or when they are
    misshapen or not finite.
    """
    reader = f"the adapter '{adapter.name}'"
    advice = "Encode the photo with this adapter (Encode Identity)."
    found = encoding_for(
        identity, adapter.family, adapter.encoder_digest, reader, advice, adapter.digest
    )
    tokens = check_tokens("The identity's tokens", found.tokens)
    null = check_tokens("The identity's null tokens", found.null)
    for width in (tokens.shape[-1], null.shape[-1]):
        if width != adapter.token_dim:
            raise ValueError(
                f"The identity's tokens are {width} wide; {reader} reads {adapter.token_dim}. "
                f"{advice}"
            )
    return tokens, null
