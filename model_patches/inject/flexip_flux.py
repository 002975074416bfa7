"""FlexIP's two streams after the blocks of a Flux.

img ← img + w_P·CA(img; P) + w_S·CA(img; S), eq. 4 of FlexIP (arXiv 2504.07405) where a Flux has a
place for it. The photo's few tokens P are folded once for the run; the prompt's own S are as many
as its text and run unfolded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..adapters.flexip import FAMILY, FlexIPAdapter, FluxStream
from ..gates.balance import Balance
from ..gates.gate import Gate
from ..identity.identity import Encoding
from .attention import Activation, scale
from .call import Call, PromptRows, Site, Term
from .cover import cover_tokens, token_factor
from .flexip_fusion import Share
from .flexip_shares import check_prompts, check_text, class_token, personalise, shares_of
from .flux import block_sites
from .pulid import fold_stack
from .region import Region
from .run import Neutral, payload_of, with_payload
from .unfolded import UnfoldedAttention, unfold


@dataclass(frozen=True, eq=False)
class FluxShare:
    """What one injection put on one prompt."""

    binding: object
    is_negative: bool
    personal: Tensor | None
    """(B, T, c) tokens of the prompt's text; None when that stream is off."""


@dataclass(frozen=True, eq=False)
class FluxStacks:
    """The layers of both streams; None where a stream is off."""

    photo: ModelPatcher | None
    """Folded for the photo's tokens, a FoldedAttention for each site."""
    nobody: ModelPatcher | None
    personal: ModelPatcher | None
    """An UnfoldedAttention for each site."""


@dataclass(frozen=True, eq=False)
class PromptAttention:
    """One layer for the tokens of one prompt."""

    module: UnfoldedAttention
    keys: Tensor
    """(B, N, C)."""
    values: Tensor

    def __call__(
        self, image: Tensor, weight: float | Tensor = 1.0, activate: Activation | None = None
    ) -> Tensor:
        """image (R, L, D) -> weight × attention; rows take the prompt's texts in turn."""
        if activate is not None:
            raise ValueError("PromptAttention got an activation, expected None. Fold the layer.")
        keys, values = (_in_turn(x, len(image)) for x in (self.keys, self.values))
        return scale(self.module.attend(self.module.queries(image), keys, values), weight)


def _in_turn(tensor: Tensor, rows: int) -> Tensor:
    """(B, N, C) -> (rows, N, C), its rows again and again; without a copy for one row."""
    if len(tensor) == 1:
        return tensor.expand(rows, -1, -1)
    return tensor[[number % len(tensor) for number in range(rows)]]


@dataclass(frozen=True, eq=False)
class FluxStreams(Neutral):
    """One adapter and identity on one Flux: an Injection."""

    binding: object
    strength: float
    preserve: Gate
    personal: Gate
    region: Region | None
    sites: Sequence[Site]
    stacks: FluxStacks
    order: str
    label: str

    kind = FAMILY

    def models(self) -> list[ModelPatcher]:
        stacks = (self.stacks.photo, self.stacks.nobody, self.stacks.personal)
        return [stack for stack in stacks if stack is not None]

    def check_run(self, prompts: Sequence[PromptRows], options: Mapping[str, Any]) -> None:
        check_prompts(prompts, self.binding, self.label)

    def terms(self, call: Call) -> list[Term]:
        """None while both gates are closed, and none for a prompt that did not pass through."""
        found = []
        for number, prompt in enumerate(call.prompts):
            rows = call.rows_of(number)
            for share in shares_of(prompt, self.binding):
                found += self._terms_of(call, prompt, rows, share)
        return found

    def _terms_of(
        self, call: Call, prompt: PromptRows, rows: slice, share: FluxShare
    ) -> list[Term]:
        coverage = cover_tokens(call, prompt, self.region, self.sites[0].cell, self.label)
        if coverage is None:
            return []
        moments = call.moments[rows]
        streams = (
            (self.preserve, lambda: self._photo_layers(share)),
            (self.personal, lambda: self._prompt_layers(call, share)),
        )
        found = []
        for gate, make in streams:
            weights = [gate.weight(moment, self.strength) for moment in moments]
            layers = make() if any(weights) else {}
            if layers:
                factor = token_factor(call, weights, coverage)
                found.append(Term(layers, rows, coverage.index, factor))
        return found

    def _photo_layers(self, share: FluxShare) -> dict[Site, Any]:
        stack = self.stacks.nobody if share.is_negative else self.stacks.photo
        return {} if stack is None else dict(zip(self.sites, stack.model, strict=True))

    def _prompt_layers(self, call: Call, share: FluxShare) -> dict[Site, PromptAttention]:
        """Keys and values of the prompt's tokens, once per run."""
        if share.personal is None or self.stacks.personal is None:
            return {}
        key = ("flexip prompt", share, call.device)
        if key not in call.run.cache:
            tokens = share.personal.to(call.device, call.dtype)
            modules = dict(zip(self.sites, self.stacks.personal.model, strict=True))
            call.run.cache[key] = {
                site: PromptAttention(module, *module.project(tokens))
                for site, module in modules.items()
            }
        return call.run.cache[key]


def flux_places(
    model: ModelPatcher, adapter: FlexIPAdapter, stream: FluxStream, label: str
) -> list[Site]:
    """Where the streams work. Raises ValueError when the model does not fit the file."""
    text = adapter.text_width if adapter.has_personal else 0
    return block_sites(model, stream.blocks, stream.hidden, text, adapter.name, label)


def make_stacks(
    model: ModelPatcher, adapter: FlexIPAdapter, encoding: Encoding, weights: Balance
) -> FluxStacks:
    """The layers of the streams that are on, in the number format that the model computes in."""
    dtype = model.model.get_dtype_inference()
    photo = nobody = personal = None
    kept, own = adapter.preserve, adapter.personal
    if weights.preserve and isinstance(kept, FluxStream):
        digest = f"{adapter.digest} preserve"
        photo, nobody = (
            fold_stack(digest, adapter.name, kept.layers, kept.heads, tokens, dtype)
            for tokens in (encoding.tokens, encoding.null)
        )
    if weights.personal and isinstance(own, FluxStream):
        personal = unfold(f"{adapter.digest} personal", own.layers, own.heads, dtype)
    return FluxStacks(photo, nobody, personal)


@dataclass(frozen=True, eq=False)
class FluxShareMaker:
    """Puts one injection on its prompts."""

    adapter: FlexIPAdapter
    encoding: Encoding
    weights: Balance
    binding: object

    def bind(self, entry: Sequence, number: int, name: str) -> list:
        """A conditioning entry with its share. name: which input, for messages."""
        text, extra = entry[0], entry[1]
        personal = None
        if self.weights.personal:
            check_text(text, self.adapter, number, name)
            personal = self._personalise(text.detach().float().cpu(), name == "negative")
        share = FluxShare(self.binding, name == "negative", personal)
        held: tuple[Share | FluxShare, ...] = payload_of(extra, FAMILY) or ()
        return [text, with_payload(extra, FAMILY, (*held, share))]

    def _personalise(self, text: Tensor, is_negative: bool) -> Tensor:
        photo = class_token(self.adapter, self.encoding)
        return personalise(self.adapter, text, photo * 0 if is_negative else photo)
