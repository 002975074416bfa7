"""FlexIP (arXiv 2504.07405) on a UNet: two streams of identity tokens beside the text's attention.

At every cross-attention, out = (y + w_P·A(q; P) + w_S·A(q; S))·W_o + b. P preserves the photo; S is
the prompt's own text, grounded in the photo. A public IP-Adapter file is the same without S. Each
prompt carries its own tables, so positive and negative prompts are told by where they passed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..adapters.flexip import FAMILY, FlexIPAdapter, FluxStream
from ..files.cache import tensor_key
from ..gates.balance import Balance, Law, weigh
from ..gates.gate import OPEN, Gate, Moment
from ..gates.numbers import check_number, check_weight
from ..identity.identity import Encoding, Identity, check_widths, encoding_for
from .call import Call, PromptRows, Site, Term
from .decoupled import match_sites
from .flexip_flux import FluxShareMaker, FluxStreams, flux_places, make_stacks
from .flexip_fusion import Fusion, make_terms
from .flexip_shares import ShareMaker, check_prompts, shares_of
from .flux import wrap_blocks
from .lora import patch_lora
from .region import Region
from .run import Neutral, register
from .text import Edit, edit_rows
from .unet import patch_attention, unet_of, unet_sites
from .unet_blocks import Blocks, weigh_blocks

FLEXIP = FAMILY
LABEL = "Apply FlexIP"
STRONGEST = 2.0


@dataclass(frozen=True, eq=False)
class Applied:
    """What Apply FlexIP hands on."""

    model: ModelPatcher
    positive: list
    negative: list
    report: str


@dataclass(frozen=True, eq=False)
class Streams(Neutral):
    """One adapter and identity on one model: an Injection."""

    binding: object
    """Which of the shares on a prompt are its own."""
    strength: float
    preserve: Gate
    personal: Gate
    fusion: Fusion
    region: Region | None
    sites: Sequence[Site]
    order: str

    kind = FLEXIP
    label = LABEL

    def check_run(self, prompts: Sequence[PromptRows], options: Mapping[str, Any]) -> None:
        check_prompts(prompts, self.binding, LABEL)

    def edit_text(self, call: Call, text: Tensor) -> Tensor:
        return edit_rows(call, text, self._edits, LABEL)

    def terms(self, call: Call) -> list[Term]:
        """None while both gates are closed, and none for a prompt that did not pass through."""
        shares = []
        for number, prompt in enumerate(call.prompts):
            rows = call.rows_of(number)
            weights = [
                (
                    self.preserve.weight(moment, self.strength),
                    self.personal.weight(moment, self.strength),
                )
                for moment in call.moments[rows]
            ]
            shares += [
                (share, prompt, rows, [(share.factor * keep, follow) for keep, follow in weights])
                for share in shares_of(prompt, self.binding)
            ]
        return make_terms(call, shares, self.fusion, self.region, LABEL)

    def _edits(self, prompt: PromptRows, moments: Sequence[Moment]) -> list[Edit]:
        weights = [self.personal.weight(moment, self.strength) for moment in moments]
        return [
            Edit(share.direction, weights)
            for share in shares_of(prompt, self.binding)
            if share.direction is not None
        ]


def apply_flexip(
    model: ModelPatcher,
    positive: Sequence,
    negative: Sequence,
    adapter: FlexIPAdapter,
    identity: Identity,
    *,
    value: float = 0.5,
    strength: float = 1.0,
    law: Law | Literal["auto"] = "auto",
    preserve_gate: Gate = OPEN,
    personal_gate: Gate = OPEN,
    region: Region | None = None,
    lora_strength: float = 1.0,
    blocks: Blocks = "all",
) -> Applied:
    """A clone of a model that draws `identity`, and prompts bound to it. The adapter's file says
    whether it is a Stable Diffusion model or a Flux.

    value: the balance in [0, 1]: 0 follows the prompt, 1 keeps the photo; law auto is the file's.
    strength in [0, 2] scales both streams; the two gates multiply their own. region: where
    in the picture both work. lora_strength: of FaceID's weight patches. blocks: the
    layers in which the preservation stream works. What has nothing to add is handed on as it came.
    Raises ValueError when model, prompts, adapter, identity or numbers do not fit each other.
    """
    chosen = cast(Law, adapter.settings.law) if law == "auto" else law
    weights = weigh(value, chosen)
    check_number(f"The strength of {LABEL}", strength, 0.0, STRONGEST)
    check_weight(f"The LoRA strength of {LABEL}", lora_strength)
    fit = _Fit(model, adapter, blocks)
    encoding = _find_encoding(identity, adapter)
    patched = patch_lora(model, adapter.lora, adapter.name, lora_strength)
    report = _report(adapter, value, chosen, weights, strength, blocks)
    streams = Balance(weights.preserve, weights.personal if adapter.has_personal else 0.0)
    closed = strength == 0.0 or not (streams.preserve or streams.personal)
    if closed or (region is not None and region.is_empty):
        return Applied(patched, list(positive), list(negative), report)
    binding = object()
    maker = fit.share_maker(encoding, streams, binding)
    bound = [
        [maker.bind(entry, number, name) for number, entry in enumerate(prompts, 1)]
        for name, prompts in (("positive", positive), ("negative", negative))
    ]
    if patched is model:
        patched = model.clone()
    preserve, personal = streams.gates
    gates = (preserve * preserve_gate, personal * personal_gate)
    contents = [tensor_key(encoding.tokens), tensor_key(encoding.null)]
    contents += ["" if region is None else tensor_key(region.mask)]
    parts = (adapter.digest, *contents, strength, gates, blocks)
    order = hashlib.sha256(repr(parts).encode()).hexdigest()
    if isinstance(fit.kept, FluxStream):
        stacks = make_stacks(model, adapter, encoding, streams)
        facts = (binding, strength, *gates, region, fit.sites, stacks, order, LABEL)
        register(patched, FluxStreams(*facts))
        wrap_blocks(patched, fit.sites)
    else:
        fusion = cast(Fusion, adapter.settings.fusion)
        register(patched, Streams(binding, strength, *gates, fusion, region, fit.sites, order))
        patch_attention(patched, fit.sites)
    return Applied(patched, bound[0], bound[1], report)


class _Fit:
    """The places of an adapter's layers in a model. Raises ValueError when they do not fit."""

    def __init__(self, model: ModelPatcher, adapter: FlexIPAdapter, blocks: Blocks) -> None:
        self.adapter, self.kept = adapter, adapter.preserve
        if isinstance(self.kept, FluxStream):
            if blocks != "all":
                raise ValueError(
                    f"The blocks of {LABEL} are '{blocks}', which are known for Stable Diffusion "
                    f"only; '{adapter.name}' is for a Flux. Choose all."
                )
            self.sites = flux_places(model, adapter, self.kept, LABEL)
            return
        sites = unet_sites(model, LABEL)
        self.sites = match_sites(adapter.name, self.kept, sites, unet_of(model), LABEL)
        self.factors = weigh_blocks(sites, blocks, LABEL)

    def share_maker(
        self, encoding: Encoding, weights: Balance, binding: object
    ) -> ShareMaker | FluxShareMaker:
        if isinstance(self.kept, FluxStream):
            return FluxShareMaker(self.adapter, encoding, weights, binding)
        return ShareMaker(self.adapter, encoding, self.sites, self.factors, weights, binding)


def _find_encoding(identity: Identity, adapter: FlexIPAdapter) -> Encoding:
    """The identity's encoding for this adapter, checked."""
    reader = f"the adapter '{adapter.name}'"
    advice = "Encode the photo with this adapter (Encode Reference (FlexIP))."
    found = encoding_for(identity, FAMILY, adapter.encoder_digest, reader, advice, adapter.digest)
    check_widths(found, adapter.width, reader, advice)
    return found


def _report(
    adapter: FlexIPAdapter,
    value: float,
    law: str,
    weights: Balance,
    strength: float,
    blocks: Blocks,
) -> str:
    head = f"{adapter.variant} ({adapter.name}): balance {value:g}, law {law}"
    if blocks != "all":
        head += f", preservation in the {blocks} layers only"
    preserve, personal = (strength * one for one in (weights.preserve, weights.personal))
    if adapter.has_personal:
        return f"{head}: preservation {preserve:.3g}, personalisation {personal:.3g}"
    return f"{head}: no personalisation stream, acts as an IP-Adapter of weight {preserve:.3g}"
