"""EditIDv2's query control (arXiv 2509.05659, equations 6 to 8) on PuLID's cross-attention.

Image tokens ask and identity tokens answer, so q comes from the picture. Equation 7 mixes it with a
compensation term: q' = α·q + (1 - α)·q_noise. Scores are linear in q, so the same mix of the folded
scores is the same attention, and nothing of the size of q is made or kept. Only soft_append makes
queries (query_append.py). The paper does not define q_noise: MODES are the definitions at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..adapters.pulid_flux import IdentityAdapter
from ..gates.numbers import check_number
from ..gates.schedule import Schedule, Selection, parse_blocks
from .anchor import LABEL
from .attention import Activation, FoldedAttention
from .call import Call, Layer, PromptRows, Site
from .cover import check_tiles
from .query_append import Appendix, make_appendix

Mode = Literal["off", "initial", "token_mean", "zero", "soft_append"]
MODES: tuple[Mode, ...] = ("off", "initial", "token_mean", "zero", "soft_append")
"""initial: q_noise is the query of the run's first active step. token_mean: the mean query of the
picture. zero: 0, so α is the inverse of a softmax temperature. soft_append: q stays, and a summary
of the picture's queries stands beside the identity's tokens with the weight 1 - α."""

MOST_TOKENS = 16
WHOLE: tuple[Mode, ...] = ("token_mean", "soft_append")
"""Modes that read all of the picture's tokens, whatever a mask covers."""


@dataclass(frozen=True)
class QueryControl:
    """What a user asks of an anchor's queries. Neutral as it is."""

    mode: Mode = "off"
    schedule: Schedule = Schedule()
    blocks: str = "all"
    """Which layers, as `parse_blocks` reads it; later items go before earlier ones."""
    tokens: int = 4
    """Summary tokens; mode soft_append only."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"Unknown query mode {self.mode!r}; choose one of {', '.join(MODES)}.")
        check_number("tokens of the query control", self.tokens, 1, MOST_TOKENS)
        largest = max(course.largest for course in self._courses)
        if self.mode == "soft_append" and largest > 1.0:
            raise ValueError(
                f"alpha reaches {largest:g} with the mode soft_append, expected at most 1: the "
                "summary has the weight 1 - alpha. Lower alpha, or choose another mode."
            )

    @cached_property
    def selections(self) -> tuple[Selection, ...]:
        return parse_blocks(self.blocks)

    @property
    def _courses(self) -> list[Schedule]:
        return [self._course_of(one) for one in self.selections]

    def _course_of(self, selection: Selection) -> Schedule:
        if selection.alpha is None:
            return self.schedule
        return replace(self.schedule, alpha=selection.alpha)

    @property
    def is_neutral(self) -> bool:
        """Whether it changes nothing, whatever the model and the moment."""
        return self.mode == "off" or all(course.is_neutral for course in self._courses)

    def courses(self, sites: Sequence[Site], adapter: str) -> dict[Site, Schedule]:
        """The schedule of each site that is mixed, in the order of the adapter's layers.

        adapter: the file, for messages. Raises ValueError for a layer that it does not have.
        """
        highest = max(one.last for one in self.selections)
        if highest >= len(sites):
            raise ValueError(
                f"blocks of the query control names layer {highest}; '{adapter}' has the layers 0 "
                f"to {len(sites) - 1}. Correct the number."
            )
        found = {}
        for number, site in enumerate(sites):
            group = site.kind.removesuffix("_block")
            for selection in self.selections:
                if selection.holds(number, group):
                    found[site] = self._course_of(selection)
        return found

    def describe(self) -> str:
        """What it does, in one line for the user."""
        if self.mode == "off":
            return "mode is off: the queries stay as they are"
        if self.is_neutral:
            return f"{self.mode}: alpha is 1 all the time, so the queries stay as they are"
        size = f" of {self.tokens} tokens" if self.mode == "soft_append" else ""
        return f"{self.mode}{size}: alpha {self.schedule.describe()} at blocks {self.blocks}"


@dataclass(frozen=True, eq=False)
class QueryMix:
    """A query control on one anchor: puts mixing layers in the place of folded ones."""

    mode: Mode
    courses: Mapping[Site, Schedule]
    """Of the sites that it works at."""
    appendix: Appendix | None = None
    """Of the mode soft_append."""

    def models(self) -> list[ModelPatcher]:
        return [] if self.appendix is None else [self.appendix.stack]

    def alphas(self, call: Call, rows: slice) -> dict[Site, float | Tensor]:
        """α of each site that is mixed in this call: one number, or (R, 1, 1, 1).

        Empty while α is 1 everywhere.
        """
        values: dict[Schedule, float | Tensor] = {}
        for course in dict.fromkeys(self.courses.values()):
            each = [course.value(moment) for moment in call.moments[rows]]
            if set(each) != {1.0}:
                values[course] = _alpha_of(each, call)
        return {site: values[one] for site, one in self.courses.items() if one in values}

    def mix(
        self,
        call: Call,
        prompt: PromptRows,
        rows: slice,
        layers: Mapping[Site, FoldedAttention],
        alphas: Mapping[Site, float | Tensor],
        tokens: Tensor,
    ) -> dict[Site, Layer]:
        """One prompt's layers; those that are mixed now stand in the place of their originals.

        tokens (1, N, C): the identity that the layers are folded for. Raises ValueError where the
        first step's queries are wanted on tiles whose place is unknown.
        """
        if self.appendix is not None:
            return {**layers, **self.appendix.layers(call, alphas, tokens)}
        mixed: dict[Site, Activation] = {}
        if self.mode == "initial":
            reader = f"{LABEL} mixes queries with those of the first step"
            check_tiles(call, prompt, reader, "Choose another mode of the query control")
            kept = self._first_scores(call, prompt, rows)
            sigmas = tuple(moment.sigma for moment in call.moments[rows])
            for site in self.courses:  # also where α is 1 now: later steps need the first one
                mixed[site] = MixWithFirst(kept, site, sigmas, alphas.get(site))
        else:
            mix = mix_with_zero if self.mode == "zero" else mix_with_mean
            mixed = {site: partial(mix, alpha) for site, alpha in alphas.items()}
        return {
            site: MixedAttention(layer, mixed[site]) if site in mixed else layer
            for site, layer in layers.items()
        }

    def _first_scores(self, call: Call, prompt: PromptRows, rows: slice) -> dict[Site, First]:
        """What one prompt's first active call has left, by site; dies with the run."""
        prompt_facts = (call.prompt_key(rows), prompt.role, prompt.area)
        key = (self, "first", *prompt_facts, call.latent_size, call.batch)
        return call.run.cache.setdefault(key, {})


@dataclass(frozen=True, eq=False)
class MixedAttention:
    """A folded layer whose scores are mixed before the softmax."""

    layer: FoldedAttention
    mix: Activation

    def __call__(
        self, image: Tensor, weight: float | Tensor = 1.0, activate: Activation | None = None
    ) -> Tensor:
        """As FoldedAttention; `activate` must be None, for the mix is in its place."""
        if activate is not None:
            raise ValueError("MixedAttention got an activation, expected None. Mix it in there.")
        return self.layer(image, weight, self.mix)


def mix_with_zero(alpha: float | Tensor, scores: Tensor) -> tuple[Tensor, float]:
    """q_noise = 0: scores (R, L, H, N) times α."""
    return scores * alpha, 1.0


def mix_with_mean(alpha: float | Tensor, scores: Tensor) -> tuple[Tensor, float]:
    """q_noise = the mean query over all L tokens of the picture."""
    return torch.lerp(scores.mean(1, keepdim=True).expand_as(scores), scores, alpha), 1.0


First = tuple[tuple[float, ...], Tensor]
"""Sigmas of the rows in the first call, and its scores (R, L, H, N)."""


@dataclass(frozen=True, eq=False)
class MixWithFirst:
    """q_noise = the query that the same place asked with in the run's first active call.

    A call with the first one's sigma is the first step once more, whose mix with itself is itself.
    """

    kept: dict[Site, First]
    site: Site
    sigmas: tuple[float, ...]
    alpha: float | Tensor | None
    """None: 1."""

    def __call__(self, scores: Tensor) -> tuple[Tensor, float]:
        sigmas, first = self.kept.setdefault(self.site, (self.sigmas, scores))
        if self.alpha is None or sigmas == self.sigmas:
            return scores, 1.0
        return torch.lerp(first, scores, self.alpha), 1.0


def _alpha_of(each: Sequence[float], call: Call) -> float | Tensor:
    """One number for all rows when there is one, else (R, 1, 1, 1)."""
    if len(set(each)) == 1:
        return each[0]
    values = torch.tensor(each, device=call.device, dtype=call.dtype)
    return values.view(-1, 1, 1, 1)


def mix_queries(
    control: QueryControl, sites: Sequence[Site], adapter: IdentityAdapter, dtype: torch.dtype
) -> QueryMix | None:
    """A query control for an adapter's sites; None when it is neutral.

    dtype: the number format that the model computes in. Raises ValueError when the adapter has no
    such layer, or when soft_append cannot read its queries as tokens.
    """
    if control.is_neutral:
        return None
    courses = control.courses(sites, adapter.name)
    appendix = None
    if control.mode == "soft_append":
        numbers = {site: sites.index(site) for site in courses}
        appendix = make_appendix(adapter, numbers, control.tokens, dtype)
    return QueryMix(control.mode, courses, appendix)
