"""Search of merge weights over people and prompts: which trial is which, and what it paints."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from ..adapters.merge import Watch
from ..adapters.merge_plan import Settings
from ..adapters.merge_points import Point, label, list_points
from ..adapters.merge_rules import Method
from ..adapters.merge_scope import EncoderRule, Scope
from ..adapters.merge_trial import merge_in_memory
from ..adapters.pulid import PulidAdapter
from ..adapters.pulid_flux import IdentityAdapter
from ..files.cache import tensor_key
from .identity import Identity, check_widths, encoding_for

LABEL = "Search Merge"
MOST_PEOPLE = 32
MOST_PROMPTS = 32


@dataclass(frozen=True)
class Trial:
    """One picture of a search: a set of weights for a person and a prompt."""

    search: str
    """Digest of all that the search is made of: files, weights, people, prompts, seed."""
    number: int
    points: tuple[Point, ...]
    people: int
    prompts: tuple[str, ...]

    @property
    def total(self) -> int:
        """How many trials the search has."""
        return len(self.points) * self.people * len(self.prompts)

    @property
    def point(self) -> int:
        """All weights come one after the other, so that what is done can be compared in pairs."""
        return self.number % len(self.points)

    @property
    def cell(self) -> int:
        """Which pair of person and prompt; people first, as the intervals are over people."""
        return self.number // len(self.points)

    @property
    def person(self) -> int:
        return self.cell % self.people

    @property
    def prompt(self) -> int:
        return self.cell // self.people

    @property
    def weights(self) -> str:
        """As Merge Identity Adapters reads them."""
        return label(self.points[self.point])

    def describe(self) -> str:
        """A line for the user; people and trials as they are counted on the nodes."""
        return (
            f"trial {self.number} of 0 to {self.total - 1}: weights {self.weights}, identity"
            f"{self.person}, prompt {self.prompt + 1} of {len(self.prompts)}"
        )


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a trial paints with."""

    adapter: IdentityAdapter
    identity: Identity
    prompt: str
    seed: int
    """The same for all weights of one person and prompt."""
    trial: Trial


@dataclass(frozen=True)
class Setup:
    """What a search tries. weights and steps: as `merge_points.list_points` reads them."""

    method: Method
    weights: str
    steps: int
    prompts: str
    """One a line."""
    seed: int
    layers: str = "all"
    paths: str = "all"
    encoder: EncoderRule = "equal"

    def list_prompts(self) -> tuple[str, ...]:
        """Raises ValueError for none, for too many and for one that is there twice."""
        found = tuple(line.strip() for line in self.prompts.splitlines() if line.strip())
        if not 1 <= len(found) <= MOST_PROMPTS:
            raise ValueError(
                f"{len(found)} prompts, expected 1 to {MOST_PROMPTS}. Write one prompt a line."
            )
        if len(set(found)) < len(found):
            again = next(one for one in found if found.count(one) > 1)
            raise ValueError(f"The prompt {again!r} is there twice, expected once. Delete a line.")
        return found


def prepare_trial(
    setup: Setup,
    number: int,
    adapters: Sequence[PulidAdapter],
    identities: Sequence[Identity],
    base: PulidAdapter | None = None,
    watch: Watch | None = None,
) -> Prepared:
    """Choose the trial of this number, from 0, and merge its adapter in memory.

    Everything is checked before the first tensor is merged, also what later trials need. Raises
    ValueError for a number beyond the last trial, the same person twice, identities that the
    adapters' encoder did not make, prompts and weights that cannot be used, and as
    `merge_in_memory`.
    """
    points = list_points(setup.method, len(adapters), setup.steps, setup.weights, base is not None)
    prompts = setup.list_prompts()
    reference = base or adapters[0]
    people = [_know_person(i, one, reference) for i, one in enumerate(identities)]
    _check_people(people)
    scope = Scope(setup.encoder, setup.layers, setup.paths)
    files = [one.digest for one in (*adapters, *([] if base is None else [base]))]
    facts = (files, base is not None, setup.method, points, scope, people, prompts, setup.seed)
    search = hashlib.sha256(repr(facts).encode()).hexdigest()
    trial = Trial(search, number, tuple(points), len(people), prompts)
    if not 0 <= number < trial.total:
        raise ValueError(
            f"trial is {number}, and this search has the trials 0 to {trial.total - 1}: "
            f"{len(points)} sets of weights x {len(people)} people x {len(prompts)} prompts. All "
            f"of them were queued; {LABEL} Report names those that are missing."
        )
    settings = Settings(setup.method, points[trial.point], True, scope)
    adapter = merge_in_memory(adapters, settings, base, watch)
    return Prepared(
        adapter, identities[trial.person], prompts[trial.prompt], setup.seed + trial.cell, trial
    )


def _know_person(number: int, identity: Identity, adapter: PulidAdapter) -> str:
    """Digest of a person's tokens. Raises ValueError for those of another encoder."""
    reader, advice = f"the adapter '{adapter.name}'", "Encode the photo with this adapter."
    try:
        found = encoding_for(
            identity, adapter.family, adapter.encoder_digest, reader, advice, adapter.digest
        )
        tokens, _ = check_widths(found, adapter.token_dim, reader, advice)
    except ValueError as error:
        raise ValueError(f"identity{number} cannot be used: {error}") from error
    return tensor_key(tokens)


def _check_people(people: Sequence[str]) -> None:
    for number, one in enumerate(people):
        if one in people[:number]:
            raise ValueError(
                f"identity{people.index(one)} and identity{number} are the same, expected "
                "different people: intervals are over people. Disconnect one of them."
            )
