"""What Apply FlexIP puts on a prompt: tables of the photo's tokens and of the prompt's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..adapters.flexip import CHUNK, FAMILY, FlexIPAdapter, make_personal
from ..files.cache import TensorCache, tensor_key
from ..gates.balance import Balance
from ..identity.identity import Encoding
from .call import PromptRows, Site
from .decoupled import Table, project_tokens
from .flexip_fusion import Share
from .run import payload_of, with_payload

_personal_cache = TensorCache(64 << 20)


@dataclass(frozen=True, eq=False)
class ShareMaker:
    """Makes what one injection puts on its prompts: one share for each factor of the blocks."""

    adapter: FlexIPAdapter
    encoding: Encoding
    sites: Sequence[Site]
    factors: Mapping[Site, float]
    """Of the preservation stream, in [0, 1]."""
    weights: Balance
    binding: object

    def bind(self, entry: Sequence, number: int, name: str) -> list:
        """A conditioning entry with its share. name: which input, for messages."""
        text, extra = entry[0], entry[1]
        self._check(text, number, name)
        shares = self._make_shares(text.detach().float().cpu(), name == "negative")
        held = payload_of(extra, FAMILY) or ()
        return [text, with_payload(extra, FAMILY, (*held, *shares))]

    def _check(self, text: Any, number: int, name: str) -> None:
        check_text(text, self.adapter, number, name)
        shape = text.shape
        single = self.adapter.settings.fusion == "tokens"
        if self.weights.personal and (shape[1] % CHUNK or (single and shape[1] != CHUNK)):
            expected = str(CHUNK) if single else f"a multiple of {CHUNK}"
            raise ValueError(
                f"The {name} prompt {number} has {shape[1]} tokens; the personalisation stream of "
                f"'{self.adapter.name}' reads {expected}. Encode it with this model's CLIP"
                + (", and keep it short." if single else ".")
            )

    def _make_shares(self, text: Tensor, is_negative: bool) -> list[Share]:
        tokens = self.encoding.null if is_negative else self.encoding.tokens
        preserve = self._project("preserve", tokens) if self.weights.preserve else None
        personal, direction = self._make_personal(text, is_negative)
        shares = [
            Share(
                self.binding,
                preserve.only(sites) if preserve is not None and factor else None,
                tuple(table.only(sites) for table in personal),
                factor=factor,
            )
            for factor, sites in self._sites_by_factor().items()
            if personal or (preserve is not None and factor)
        ]
        return shares if direction is None else [*shares, Share(self.binding, direction=direction)]

    def _sites_by_factor(self) -> dict[float, list[Site]]:
        groups: dict[float, list[Site]] = {}
        for site in self.sites:
            groups.setdefault(self.factors[site], []).append(site)
        return groups

    def _make_personal(
        self, text: Tensor, is_negative: bool
    ) -> tuple[tuple[Table, ...], Tensor | None]:
        """Of the personalisation stream: a table for each row of text, or what is added to it."""
        if not self.weights.personal:
            return (), None
        photo = class_token(self.adapter, self.encoding)
        nobody = torch.zeros_like(photo)
        if self.adapter.settings.personal_path == "text":
            if is_negative:
                return (), None
            kept, lost = (personalise(self.adapter, text, one) for one in (photo, nobody))
            return (), kept - lost
        rows = personalise(self.adapter, text, nobody if is_negative else photo)
        stream = "personal" if self.adapter.personal is not None else "preserve"
        return tuple(self._project(stream, row.unsqueeze(0)) for row in rows), None

    def _project(self, name: str, tokens: Tensor) -> Table:
        stream = getattr(self.adapter, name)
        return project_tokens(f"{self.adapter.digest} {name}", stream, self.sites, tokens)


def check_text(text: Any, adapter: FlexIPAdapter, number: int, name: str) -> None:
    """Raise ValueError unless the text of a prompt is what the adapter reads."""
    shape, width = tuple(getattr(text, "shape", ())), adapter.text_width
    if not isinstance(text, Tensor) or text.ndim != 3 or text.shape[-1] != width:
        raise ValueError(
            f"The {name} prompt {number} holds text of shape {shape}; '{adapter.name}' reads "
            f"(batch, tokens, {width}). Encode it with this model's CLIP."
        )


def class_token(adapter: FlexIPAdapter, encoding: Encoding) -> Tensor:
    """(1, E), which the text asks. Raises ValueError when the identity has none that fits."""
    photo = encoding.extra.get("pooled")
    width = adapter.reads["pooled"]
    if photo is None or tuple(photo.shape) != (1, width):
        found = "none" if photo is None else tuple(photo.shape)
        raise ValueError(
            f"The identity's class token is {found}, expected (1, {width}) for '{adapter.name}'. "
            "Encode the photo with this adapter."
        )
    return photo.float()


def personalise(adapter: FlexIPAdapter, text: Tensor, pooled: Tensor) -> Tensor:
    """Personalisation tokens (B, T, c); a move of the slider computes nothing."""
    key = (adapter.digest, tensor_key(text), tensor_key(pooled))
    entry = _personal_cache.get(key)
    if entry is None:
        entry = _personal_cache.put(key, (make_personal(adapter, text, pooled),))
    return entry[0]


def shares_of(prompt: PromptRows, binding: object) -> list[Any]:
    """What one injection put on a prompt."""
    return [one for one in prompt.payloads.get(FAMILY, ()) if one.binding is binding]


def check_prompts(prompts: Sequence[PromptRows], binding: object, label: str) -> None:
    """Raise RuntimeError when none of a run's prompts came through the node that is `label`."""
    if not any(shares_of(prompt, binding) for prompt in prompts):
        raise RuntimeError(
            f"The MODEL comes from {label}, but 0 of the run's prompts do. Connect positive "
            f"and negative as {label} returns them, or the MODEL from before it."
        )
