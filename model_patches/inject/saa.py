"""Semantic-activated attention on SD 1.5: several people in one picture (DynamicID, 2503.06505).

At every cross-attention, out = (z + w * A(q; all people's tokens)) * W_o + b, where z is the text's
attention, w the activation of the image token, and q, W_o the base's layers with the file's LoRA.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..adapters.dynamicid import FAMILY, DynamicIDAdapter
from ..files.cache import tensor_key
from ..gates.gate import Moment
from ..gates.numbers import check_weight
from ..identity.identity import Identity, check_widths, encoding_for
from .call import Call, PromptRows, Site, Term
from .decoupled import Table, layers_of, match_sites, project_tokens
from .lora import patch_lora
from .run import Neutral, register
from .saa_activation import Activate, Layout, Shares, shares_of
from .saa_layout import corrected_layout, published_layout
from .saa_people import MOST_PEOPLE, Person, describe_person, name_of
from .saa_places import place_people
from .saa_settings import SaaSettings
from .saa_watch import ActivationWatch, Show, Who
from .unet import patch_attention, unet_of, unet_sites

SAA = "saa"
LABEL = "Apply SAA"
_LATE = 1e-6
"""A step that begins exactly at alpha is outside, whatever the rounding of its progress."""


@dataclass(frozen=True, eq=False)
class Member:
    """One person as the injection reads them."""

    person: Person
    positive: Table
    negative: Table
    """Of nobody, for rows of the negative prompt."""
    who: Who

    def table(self, prompt: PromptRows) -> Table:
        return self.positive if prompt.role == "positive" else self.negative


@dataclass(frozen=True, eq=False)
class Group(Neutral):
    """The people of one Apply SAA: an Injection."""

    members: Sequence[Member]
    """In the order of their digests."""
    settings: SaaSettings
    sites: Sequence[Site]
    order: str

    kind = SAA
    label = LABEL

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
        table = self._join(call, prompt, members)
        counts = [one.table(prompt).tokens for one in members]
        shares = self._shares(call, [weight for _, weight in present], counts)
        settings = self.settings
        raised = moment.progress < settings.alpha - _LATE
        threshold = settings.threshold if settings.activation else None
        layers = layers_of(call, [table], always_fold=True)[0]
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

    def _join(self, call: Call, prompt: PromptRows, members: Sequence[Member]) -> Table:
        """All tokens side by side, once per run and set of people."""
        key = (SAA, self, members, prompt.role)
        if key not in call.run.cache:
            first, *others = (one.table(prompt) for one in members)
            for other in others:
                first = first.join(other)
            call.run.cache[key] = first
        return call.run.cache[key]

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


@dataclass(frozen=True, eq=False)
class SaaResult:
    """What Apply SAA hands on."""

    model: ModelPatcher
    report: str


def apply_saa(
    model: ModelPatcher,
    adapter: DynamicIDAdapter,
    people: Sequence[Person],
    settings: SaaSettings | None = None,
    *,
    lora_strength: float = 1.0,
) -> SaaResult:
    """A clone of an SD 1.5 model that draws these people, 1 to 8, all with their own face.

    The order of people means something only for strips. lora_strength: of the file's weight
    patches. A person of weight 0 or with an empty region is left out; when nobody is left, the
    model is handed on as it came, without LoRA. Raises ValueError when model, adapter, identities,
    regions or numbers do not fit each other.
    """
    settings = settings or SaaSettings()
    check_weight(f"The LoRA strength of {LABEL}", lora_strength)
    if not 0 < len(people) <= MOST_PEOPLE:
        raise ValueError(
            f"{LABEL} got {len(people)} people, expected 1 to {MOST_PEOPLE}. Connect Make Person."
        )
    sites = unet_sites(model, LABEL)
    layers = match_sites(adapter.name, adapter.stream, sites, unet_of(model), LABEL)
    tokens = [_find_tokens(person.identity, adapter) for person in people]
    placed = place_people(people, settings)
    report = _report(placed, settings)
    present = [
        (number, person, pair)
        for number, (person, pair) in enumerate(zip(placed, tokens, strict=True), 1)
        if person.weight and not (person.region is not None and person.region.is_empty)
    ]
    if not present:
        return SaaResult(model, f"{report}\nNobody is left: the model is unchanged.")
    members = [_make_member(adapter, layers, *one) for one in present]
    members.sort(key=lambda one: one.who.order)
    facts = (adapter.digest, [one.who.order for one in members], settings)
    order = hashlib.sha256(repr(facts).encode()).hexdigest()
    patched = patch_lora(model, adapter.lora, adapter.name, lora_strength)
    if patched is model:
        patched = model.clone()
    register(patched, Group(tuple(members), settings, layers, order))
    patch_attention(patched, sites)
    return SaaResult(patched, report)


def _find_tokens(identity: Identity, adapter: DynamicIDAdapter) -> tuple[Tensor, Tensor]:
    """The identity's tokens and null tokens for this adapter, (1, N, width) each."""
    reader = f"the adapter '{adapter.name}'"
    advice = "Encode the photo with this adapter (Encode Identity (DynamicID))."
    found = encoding_for(identity, FAMILY, adapter.encoder_digest, reader, advice, adapter.digest)
    return check_widths(found, adapter.width, reader, advice)


def _make_member(
    adapter: DynamicIDAdapter,
    sites: Sequence[Site],
    number: int,
    person: Person,
    tokens: tuple[Tensor, Tensor],
) -> Member:
    """number: the person's place in the node's list, from 1. tokens: theirs, and nobody's."""
    positive, negative = (
        project_tokens(f"{adapter.digest} saa", adapter.stream, sites, one) for one in tokens
    )
    facts = (*map(tensor_key, tokens), person.key())
    order = hashlib.sha256(repr(facts).encode()).hexdigest()
    return Member(person, positive, negative, Who(number, name_of(person, number), order))


def _report(people: Sequence[Person], settings: SaaSettings) -> str:
    placed = sum(one.region is not None for one in people)
    how = f"threshold {settings.threshold:g}" if settings.activation else "off"
    lines = [f"{len(people)} people, mode {settings.mode}, activation {how}"]
    if placed:
        lines[0] += f", beta {settings.beta:g} in the first {settings.alpha:.0%} of the steps"
    lines += [describe_person(one, name_of(one, number)) for number, one in enumerate(people, 1)]
    return "\n".join(lines)
