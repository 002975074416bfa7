"""Anchors on an SDXL UNet: inside every cross-attention, PuLID's attention to the identity is added
to the text's, before the output projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..adapters.pulid_sdxl import SdxlAdapter
from .anchor import LABEL, VFA, Anchor
from .call import Call, PromptRows, Site, Term
from .cover import cover_tokens, spread_tokens, token_factor
from .decoupled import Table, match_sites, project_tokens
from .ortho import OrthoAttention, Orthogonality
from .run import Neutral, register
from .unet import check_hidden, cross_attention_of, inside_of, unet_of, unet_sites, wrap_attention

Method = Literal["fidelity", "style", "neutral"]
METHODS: tuple[Method, ...] = ("fidelity", "style", "neutral")
"""fidelity keeps the likeness and as much of the prompt as goes with it; style leaves the prompt
more; neutral adds the identity as it is."""

_ZEROS = {"1": {"fidelity": 8.0, "style": 16.0}, "1.1": {"fidelity": 20.0, "style": 16.0}}


def orthogonality(method: Method, version: str) -> Orthogonality:
    """The authors' settings of a method, for files of PuLID `version` 1 or 1.1.

    Raises ValueError for an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"Unknown method {method!r}; choose one of {', '.join(METHODS)}.")
    if method == "neutral":
        return Orthogonality()
    zeros = _ZEROS[version][method]
    return Orthogonality("ortho_v2" if method == "fidelity" else "ortho", zeros)


@dataclass(frozen=True, eq=False)
class UNetAnchor(Neutral):
    """One identity on one UNet: an Injection."""

    anchor: Anchor
    positive: Table
    negative: Table | None
    how: Orthogonality
    sites: Sequence[Site]
    """Inside the attention, in the order of the tables."""

    kind = VFA
    label = LABEL

    @property
    def order(self) -> str:
        return self.anchor.order

    def check_run(self, prompts: Sequence[PromptRows], options: Mapping[str, Any]) -> None:
        check_hidden(options, LABEL)

    def terms(self, call: Call) -> list[Term]:
        """One per prompt that has an identity and grid that has covered tokens."""
        found = []
        for prompt, rows, weights in self.anchor.prompts(call):
            table = self.positive if prompt.has_person else self.negative
            if table is None:
                continue
            layers = self._place(call, table)
            for cell in dict.fromkeys(site.cell for site in self.sites):
                coverage = cover_tokens(call, prompt, self.anchor.region, cell, LABEL)
                if coverage is not None:
                    here = {site: layer for site, layer in layers.items() if site.cell == cell}
                    whole = spread_tokens(call, coverage, cell)
                    found.append(Term(here, rows, None, token_factor(call, weights, whole)))
        return found

    def _place(self, call: Call, table: Table) -> dict[Site, OrthoAttention]:
        """The layers on the call's device, once per run."""
        key = (VFA, table, self.how, call.device)
        if key not in call.run.cache:
            heads = {site: layer.heads for site, layer in cross_attention_of(call.diffusion_model)}
            inside = dict(zip(inside_of(heads), heads.values(), strict=True))
            call.run.cache[key] = {
                site: OrthoAttention(
                    table.keys[site].to(call.device, call.dtype),
                    table.values[site].to(call.device, call.dtype),
                    inside[site],
                    self.how,
                )
                for site in self.sites
            }
        return call.run.cache[key]


def sdxl_sites(model: ModelPatcher, adapter: SdxlAdapter) -> list[Site]:
    """Sites inside the attention, in the order of the adapter's layers.

    Raises ValueError when the model is none of PuLID's: another architecture, number of blocks or
    width.
    """
    sites = unet_sites(model, LABEL)
    unet = unet_of(model)
    return inside_of(match_sites(adapter.name, adapter.stream, sites, unet, LABEL))


def patch_unet(
    patched: ModelPatcher,
    sites: Sequence[Site],
    adapter: SdxlAdapter,
    anchor: Anchor,
    tokens: Tensor,
    null: Tensor,
    how: Orthogonality,
) -> None:
    """Put an anchor on a clone of an SDXL UNet. tokens, null (1, N, C)."""
    positive, nobody = (
        project_tokens(f"{adapter.digest} vfa", adapter.stream, sites, one)
        for one in (tokens, null)
    )
    negative = {"same": positive, "none": None, "unconditional": nobody}[anchor.negative]
    register(patched, UNetAnchor(anchor, positive, negative, how, sites))
    wrap_attention(patched, sites)
