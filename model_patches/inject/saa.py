"""Semantic-activated attention (DynamicID, 2503.06505): several people in one picture.

DynamicID's files draw people on SD 1.5 (saa_unet.py), PuLID's on a Flux (saa_flux.py). What people
do to activation, softmax and regions is the same on both (saa_group.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..adapters.dynamicid import DynamicIDAdapter
from ..adapters.pulid import PulidAdapter
from ..adapters.pulid_flux import IdentityAdapter
from ..files.cache import tensor_key
from ..gates.numbers import check_weight
from .call import Site
from .flux import flux_sites, wrap_blocks
from .lora import patch_flux_lora, patch_lora
from .run import register
from .saa_flux import FluxGroup, flux_tokens
from .saa_group import LABEL, Group, Member, Tokens
from .saa_people import MOST_PEOPLE, Person, describe_person, name_of
from .saa_places import place_people
from .saa_settings import SaaSettings
from .saa_unet import UNetGroup, dynamicid_tokens, sd15_sites, unet_tokens
from .saa_watch import Who
from .unet import patch_attention
from .vfa import identity_tokens

SaaAdapter = DynamicIDAdapter | PulidAdapter
"""What Apply SAA's socket takes; of PuLID's files, those for Flux."""


@dataclass(frozen=True, eq=False)
class SaaResult:
    """What Apply SAA hands on."""

    model: ModelPatcher
    report: str


@dataclass(frozen=True, eq=False)
class _Place:
    """The kind of model that an adapter draws people on, and how."""

    sites: Sequence[Site]
    tokens: Sequence[tuple[Tensor, Tensor]]
    """Of each person, and of nobody: (1, N, width)."""
    prepare: Callable[[Tensor], Tokens]
    """Tokens as the layers see them."""
    group: type[Group]
    wrap: Callable[[ModelPatcher, Sequence[Site]], None]
    """Puts the sites' callbacks on a clone."""


def apply_saa(
    model: ModelPatcher,
    adapter: SaaAdapter,
    people: Sequence[Person],
    settings: SaaSettings | None = None,
    *,
    lora_strength: float = 1.0,
) -> SaaResult:
    """A clone of an SD 1.5 or Flux.1 model that draws these people, 1 to 8, each with their face.

    The adapter says which model it is: a DynamicID file, or a PuLID file for Flux. The order of
    people means something only for strips. lora_strength: of the weight patches in the file, which
    a second node with the same file for Flux does not add again. A person of weight 0 or with an
    empty region is left out; when nobody is left, the model is handed on as it came, without LoRA.
    Raises ValueError when model, adapter, identities,
    regions, mode or numbers do not fit each other.
    """
    settings = settings or SaaSettings()
    check_weight(f"The LoRA strength of {LABEL}", lora_strength)
    if not 0 < len(people) <= MOST_PEOPLE:
        raise ValueError(
            f"{LABEL} got {len(people)} people, expected 1 to {MOST_PEOPLE}. Connect Make Person."
        )
    where = _find_place(model, adapter, people, settings)
    placed = place_people(people, settings)
    report = _report(placed, settings)
    present = [
        (number, person, pair)
        for number, (person, pair) in enumerate(zip(placed, where.tokens, strict=True), 1)
        if person.weight and not (person.region is not None and person.region.is_empty)
    ]
    if not present:
        return SaaResult(model, f"{report}\nNobody is left: the model is unchanged.")
    members = [_make_member(where.prepare, *one) for one in present]
    members.sort(key=lambda one: one.who.order)
    facts = (adapter.digest, [one.who.order for one in members], settings)
    order = hashlib.sha256(repr(facts).encode()).hexdigest()
    patched = model
    if isinstance(adapter, DynamicIDAdapter):
        patched = patch_lora(model, adapter.lora, adapter.name, lora_strength)
    elif isinstance(adapter, IdentityAdapter):
        patched = patch_flux_lora(model, adapter, lora_strength, LABEL)
    if patched is model:
        patched = model.clone()
    register(patched, where.group(tuple(members), settings, where.sites, order))
    where.wrap(patched, where.sites)
    return SaaResult(patched, report)


def _find_place(
    model: ModelPatcher, adapter: SaaAdapter, people: Sequence[Person], settings: SaaSettings
) -> _Place:
    """Raises ValueError when model, adapter, mode and identities do not fit each other."""
    if isinstance(adapter, DynamicIDAdapter):
        sites = sd15_sites(model, adapter)
        tokens = [dynamicid_tokens(person.identity, adapter) for person in people]
        return _Place(
            sites,
            tokens,
            lambda one: unet_tokens(adapter, sites, one),
            UNetGroup,
            patch_attention,
        )
    if not isinstance(adapter, IdentityAdapter):
        raise ValueError(
            f"'{adapter.name}' is a PuLID file for SDXL; {LABEL} expects one for Flux.1, or a "
            "DynamicID file for SD 1.5. Load such a file and its model, or use Apply VFA on SDXL, "
            "once for each person and with masks."
        )
    if settings.mode == "published":
        raise ValueError(
            f"The mode of {LABEL} is published, which is the authors' code for SD 1.5; on Flux it "
            "knows corrected alone. Set mode to corrected."
        )
    sites = flux_sites(model, adapter.count, adapter.dim, adapter.name, LABEL, adapter.blocks)
    tokens = [identity_tokens(person.identity, adapter) for person in people]
    dtype = model.model.get_dtype_inference()
    return _Place(
        sites, tokens, lambda one: flux_tokens(adapter, dtype, one), FluxGroup, wrap_blocks
    )


def _make_member(
    prepare: Callable[[Tensor], Tokens], number: int, person: Person, tokens: tuple[Tensor, Tensor]
) -> Member:
    """number: the person's place in the node's list, from 1. tokens: theirs, and nobody's."""
    facts = (*map(tensor_key, tokens), person.key())
    order = hashlib.sha256(repr(facts).encode()).hexdigest()
    positive, negative = map(prepare, tokens)
    return Member(person, positive, negative, Who(number, name_of(person, number), order))


def _report(people: Sequence[Person], settings: SaaSettings) -> str:
    placed = sum(one.region is not None for one in people)
    how = f"threshold {settings.threshold:g}" if settings.activation else "off"
    count = "1 person" if len(people) == 1 else f"{len(people)} people"
    lines = [f"{count}, mode {settings.mode}, activation {how}"]
    if placed:
        lines[0] += f", beta {settings.beta:g} in the first {settings.alpha:.0%} of the steps"
    lines += [describe_person(one, name_of(one, number)) for number, one in enumerate(people, 1)]
    return "\n".join(lines)
