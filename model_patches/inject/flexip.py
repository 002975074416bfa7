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

from ..adapters.flexip import FAMILY, FlexIPAdapter
from ..files.cache import tensor_key
from ..gates.balance import Balance, Law, weigh
from ..gates.gate import OPEN, Gate, Moment
from ..gates.numbers import check_number, check_weight
from ..identity.identity import Encoding, Identity, check_widths, encoding_for
from .call import Call, PromptRows, Site, Term
from .decoupled import match_sites
from .flexip_fusion import Fusion, Share, make_terms
from .flexip_shares import ShareMaker
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
        if not any(self._shares(prompt) for prompt in prompts):
            raise RuntimeError(
                f"The MODEL comes from {LABEL}, but 0 of the run's prompts do. Connect positive "
                f"and negative as {LABEL} returns them, or the MODEL from before it."
            )

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
                for share in self._shares(prompt)
            ]
        return make_terms(call, shares, self.fusion, self.region, LABEL)

    def _shares(self, prompt: PromptRows) -> list[Share]:
        held = prompt.payloads.get(FLEXIP, ())
        return [one for one in held if one.binding is self.binding]

    def _edits(self, prompt: PromptRows, moments: Sequence[Moment]) -> list[Edit]:
        weights = [self.personal.weight(moment, self.strength) for moment in moments]
        return [
            Edit(share.direction, weights)
            for share in self._shares(prompt)
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
    """A clone of a Stable Diffusion model that draws `identity`, and prompts bound to it.

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
    sites = unet_sites(model, LABEL)
    unet = unet_of(model)
    layers = match_sites(adapter.name, adapter.preserve, sites, unet, LABEL)
    factors = weigh_blocks(sites, blocks, LABEL)
    encoding = _find_encoding(identity, adapter)
    patched = patch_lora(model, adapter.lora, adapter.name, lora_strength)
    report = _report(adapter, value, chosen, weights, strength, blocks)
    streams = Balance(weights.preserve, weights.personal if adapter.has_personal else 0.0)
    closed = strength == 0.0 or not (streams.preserve or streams.personal)
    if closed or (region is not None and region.is_empty):
        return Applied(patched, list(positive), list(negative), report)
    binding = object()
    maker = ShareMaker(adapter, encoding, layers, factors, streams, binding)
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
    fusion = cast(Fusion, adapter.settings.fusion)
    register(patched, Streams(binding, strength, *gates, fusion, region, layers, order))
    patch_attention(patched, sites)
    return Applied(patched, bound[0], bound[1], report)


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
