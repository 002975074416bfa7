"""The people of one Apply SAA as an injection, whatever kind of model they are on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ..gates.gate import Moment
from .call import Call, Layer, PromptRows, Role, Site, Term
from .run import Neutral
from .saa_activation import Activate, Layout, Shares, shares_of
from .saa_layout import corrected_layout, published_layout
from .saa_people import Person
from .saa_settings import SaaSettings
from .saa_watch import ActivationWatch, Show, Who

SAA = "saa"
LABEL = "Apply SAA"
_LATE = 1e-6
"""A step that begins exactly at alpha is outside, whatever the rounding of its progress."""


class Tokens(Protocol):
    """A person's tokens as the layers of a model see them."""

    @property
    def tokens(self) -> int:
        """How many."""
        ...


T = TypeVar("T", bound=Tokens)


@dataclass(frozen=True, eq=False)
class Member(Generic[T]):
    """One person as the injection reads them."""

    person: Person
    positive: T
    negative: T
    """Of nobody, for rows of the negative prompt."""
    who: Who

    def tokens(self, role: Role) -> T:
        return self.positive if role == "positive" else self.negative


@dataclass(frozen=True, eq=False)
class Group(Neutral, Generic[T]):
    """The people of one Apply SAA: an Injection. Each kind of model has its own `layers`."""

    members: Sequence[Member[T]]
    """In the order of their digests."""
    settings: SaaSettings
    sites: Sequence[Site]
    order: str

    kind = SAA
    label = LABEL

    def layers(self, call: Call, role: Role, members: Sequence[Member[T]]) -> Mapping[Site, Layer]:
        """Attention to these people for prompts of this role, all in one softmax, in the order of
        `members`."""
        raise NotImplementedError

    def terms(self, call: Call) -> list[Term]:
        """One for each prompt and grid; none while every gate is closed."""
        found = []
        for number, prompt in enumerate(call.prompts):
            rows = call.rows_of(number)
            for span in _equal_moments(call.moments[rows]):
                moment = call.moments[rows][span.start]
                found += self._terms_of(call, prompt, rows.start, span, moment)
        return found

    def _terms_of(
        self, call: Call, prompt: PromptRows, start: int, span: slice, moment: Moment
    ) -> Iterator[Term]:
        """Of some rows of a prompt that begins at row `start`."""
        weighed = [(one, one.person.gate.weight(moment, one.person.weight)) for one in self.members]
        present = [(one, weight) for one, weight in weighed if weight > 0.0]
        if not present:
            return
        members = tuple(one for one, _ in present)
        counts = [one.tokens(prompt.role).tokens for one in members]
        shares = self._shares(call, [weight for _, weight in present], counts)
        settings = self.settings
        raised = moment.progress < settings.alpha - _LATE
        threshold = settings.threshold if settings.activation else None
        layers = self.layers(call, prompt.role, members)
        rows = slice(start + span.start, start + span.stop)
        for cell in dict.fromkeys(site.cell for site in layers):
            layout = self._layout(call, prompt, members, counts, cell, raised).of_rows(span)
            here = {site: layer for site, layer in layers.items() if site.cell == cell}
            show = self._watch(call, prompt, members, counts, cell, moment, span)
            yield Term(here, rows, None, 1.0, Activate(shares, layout, threshold, show))

    def _watch(
        self,
        call: Call,
        prompt: PromptRows,
        members: Sequence[Member],
        counts: Sequence[int],
        cell: int,
        moment: Moment,
        span: slice,
    ) -> Show | None:
        """What is shown the attention at sites of this grid; None in ordinary sampling."""
        if not isinstance(call.watch, ActivationWatch) or prompt.role != "positive":
            return None
        people = [(one.who, one.person.region) for one in members]
        return call.watch.at(call, prompt.area, call.grid(cell), moment, span, people, counts)

    def _shares(self, call: Call, weights: Sequence[float], counts: Sequence[int]) -> Shares:
        key = (SAA, "shares", tuple(weights), tuple(counts), call.device)
        if key not in call.run.cache:
            call.run.cache[key] = shares_of(weights, counts, call.device)
        return call.run.cache[key]

    def _layout(
        self,
        call: Call,
        prompt: PromptRows,
        members: Sequence[Member],
        counts: Sequence[int],
        cell: int,
        raised: bool,
    ) -> Layout:
        """Once per run, set of people, area and grid, with beta and without."""
        settings = self.settings
        if settings.mode == "published" and not settings.activation:
            return Layout()  # the authors' code then leaves out all that regions do
        place = (cell, prompt.area, prompt.role, call.latent_size, call.batch, raised)
        key = (SAA, self, "layout", members, place)
        if key not in call.run.cache:
            regions = [one.person.region for one in members]
            beta = settings.beta if raised else 0.0
            facts = (call, prompt, regions, counts, cell, beta)
            call.run.cache[key] = (
                published_layout(*facts, settings.mix)
                if settings.mode == "published"
                else corrected_layout(*facts, LABEL)
            )
        return call.run.cache[key]


def _equal_moments(moments: Sequence[Moment]) -> Iterator[slice]:
    """All rows at once where their moments are equal, as in ordinary sampling; else one by one."""
    count = len(moments)
    if len(set(moments)) == 1:
        yield slice(0, count)
    else:
        yield from (slice(row, row + 1) for row in range(count))
