"""FlexIP (arXiv 2504.07405) on a UNet: two streams of identity tokens beside the text's attention.

At every cross-attention, out = (y + w_P·A(q; P) + w_S·A(q; S))·W_o + b. P preserves the photo; S is
the prompt's own text, grounded in the photo. A public IP-Adapter file is the same without S. Each
prompt carries its own tables, so positive and negative prompts are told by where they passed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..adapters.flexip import CHUNK, FAMILY, FlexIPAdapter, make_personal
from ..files.cache import TensorCache, tensor_key
from ..gates.balance import Balance, Law, weigh
from ..gates.gate import OPEN, Gate, Moment
from ..gates.numbers import check_number, check_weight
from ..identity.identity import Encoding, Identity, check_widths, encoding_for
from .call import Call, PromptRows, Site, Term
from .decoupled import Table, match_sites, project_tokens
from .flexip_fusion import Fusion, Share, make_terms
from .lora import patch_lora
from .region import Region, region_of
from .run import Neutral, payload_of, register, with_payload
from .text import Edit, edit_rows
from .unet import patch_attention, unet_of, unet_sites

FLEXIP = FAMILY
LABEL = "Apply FlexIP"
STRONGEST = 2.0

_personal_cache = TensorCache(64 << 20)


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

    def check_run(self, prompts: Sequence[PromptRows]) -> None:
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
            shares += [(share, prompt, rows, weights) for share in self._shares(prompt)]
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
    mask: Tensor | None = None,
    lora_strength: float = 1.0,
) -> Applied:
    """A clone of a Stable Diffusion model that draws `identity`, and prompts bound to it.

    value: the balance in [0, 1]: 0 follows the prompt, 1 keeps the photo; law auto is the file's.
    strength in [0, 2] scales both streams; the two gates multiply their own. mask (H, W) or
    (B, H, W) in [0, 1] over the picture. lora_strength: of FaceID's weight patches. What has
    nothing to add is handed on as it came.
    Raises ValueError when model, prompts, adapter, identity or numbers do not fit each other.
    """
    chosen = cast(Law, adapter.settings.law) if law == "auto" else law
    weights = weigh(value, chosen)
    check_number(f"The strength of {LABEL}", strength, 0.0, STRONGEST)
    check_weight(f"The LoRA strength of {LABEL}", lora_strength)
    sites = unet_sites(model, LABEL)
    unet = unet_of(model)
    layers = match_sites(adapter.name, adapter.preserve, sites, unet, LABEL)
    encoding = _find_encoding(identity, adapter)
    region = None if mask is None else region_of(mask)
    patched = patch_lora(model, adapter.lora, adapter.name, lora_strength)
    report = _report(adapter, value, chosen, weights, strength)
    streams = Balance(weights.preserve, weights.personal if adapter.has_personal else 0.0)
    closed = strength == 0.0 or not (streams.preserve or streams.personal)
    if closed or (region is not None and region.is_empty):
        return Applied(patched, list(positive), list(negative), report)
    binding = object()
    maker = _ShareMaker(adapter, encoding, layers, streams, binding)
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
    order = hashlib.sha256(repr((adapter.digest, *contents, strength, gates)).encode()).hexdigest()
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


@dataclass(frozen=True, eq=False)
class _ShareMaker:
    """Makes what one injection puts on its prompts."""

    adapter: FlexIPAdapter
    encoding: Encoding
    sites: Sequence[Site]
    weights: Balance
    binding: object

    def bind(self, entry: Sequence, number: int, name: str) -> list:
        """A conditioning entry with its share. name: which input, for messages."""
        text, extra = entry[0], entry[1]
        self._check(text, number, name)
        share = self._make_share(text.detach().float().cpu(), name == "negative")
        held = payload_of(extra, FLEXIP) or ()
        return [text, with_payload(extra, FLEXIP, (*held, share))]

    def _check(self, text: Any, number: int, name: str) -> None:
        shape = [int(size) for size in getattr(text, "shape", ())]
        width = self.adapter.width
        if not isinstance(text, Tensor) or text.ndim != 3 or shape[-1] != width:
            raise ValueError(
                f"The {name} prompt {number} holds text of shape {tuple(shape)}; "
                f"'{self.adapter.name}' reads (batch, tokens, {width}). Encode it with this "
                "model's CLIP."
            )
        single = self.adapter.settings.fusion == "tokens"
        if self.weights.personal and (shape[1] % CHUNK or (single and shape[1] != CHUNK)):
            expected = str(CHUNK) if single else f"a multiple of {CHUNK}"
            raise ValueError(
                f"The {name} prompt {number} has {shape[1]} tokens; the personalisation stream of "
                f"'{self.adapter.name}' reads {expected}. Encode it with this model's CLIP"
                + (", and keep it short." if single else ".")
            )

    def _make_share(self, text: Tensor, is_negative: bool) -> Share:
        tokens = self.encoding.null if is_negative else self.encoding.tokens
        preserve = self._project("preserve", tokens) if self.weights.preserve else None
        if not self.weights.personal:
            return Share(self.binding, preserve)
        photo = self._class_token()
        pooled = torch.zeros_like(photo) if is_negative else photo
        personal = self._personalise(text, pooled)
        if self.adapter.settings.personal_path == "text":
            direction = personal - self._personalise(text, torch.zeros_like(photo))
            return Share(self.binding, preserve, direction=None if is_negative else direction)
        stream = "personal" if self.adapter.personal is not None else "preserve"
        rows = tuple(self._project(stream, row.unsqueeze(0)) for row in personal)
        return Share(self.binding, preserve, rows)

    def _class_token(self) -> Tensor:
        """(1, E), which the text asks."""
        photo = self.encoding.extra.get("pooled")
        width = self.adapter.reads["pooled"]
        if photo is None or tuple(photo.shape) != (1, width):
            found = "none" if photo is None else tuple(photo.shape)
            raise ValueError(
                f"The identity's class token of CLIP is {found}, expected (1, {width}) for "
                f"'{self.adapter.name}'. Encode the photo with this adapter."
            )
        return photo.float()

    def _personalise(self, text: Tensor, pooled: Tensor) -> Tensor:
        """Personalisation tokens (B, T, c); a move of the slider computes nothing."""
        key = (self.adapter.digest, tensor_key(text), tensor_key(pooled))
        entry = _personal_cache.get(key)
        if entry is None:
            entry = _personal_cache.put(key, (make_personal(self.adapter, text, pooled),))
        return entry[0]

    def _project(self, name: str, tokens: Tensor) -> Table:
        stream = getattr(self.adapter, name)
        return project_tokens(f"{self.adapter.digest} {name}", stream, self.sites, tokens)


def _report(
    adapter: FlexIPAdapter, value: float, law: str, weights: Balance, strength: float
) -> str:
    head = f"{adapter.variant} ({adapter.name}): balance {value:g}, law {law}"
    preserve, personal = (strength * one for one in (weights.preserve, weights.personal))
    if adapter.has_personal:
        return f"{head}: preservation {preserve:.3g}, personalisation {personal:.3g}"
    return f"{head}: no personalisation stream, acts as an IP-Adapter of weight {preserve:.3g}"
