"""Paints one or two people with the adapter that was trained for SAA, by ComfyUI's own sampler."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, reduce

import node_helpers
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher

from ...model_patches.adapters.pulid_flux import IdentityAdapter, load_adapter
from ...model_patches.identity.identity import Identity
from ...model_patches.inject.region import Box, box_region
from ...model_patches.inject.saa import apply_saa
from ...model_patches.inject.saa_people import Person
from ...model_patches.inject.saa_settings import SaaSettings
from ...model_patches.inject.vfa import apply_vfa
from .. import world
from ..portraits.captions import hide_motion
from .dynamicid_rows import BETA, PLACES, Scene, way_of
from .edits import Edits
from .prompts import Prompt
from .rows import ALONE, Row
from .studio import FACTOR, Inputs, Sitter, Studio, join_conditionings

SETTINGS = SaaSettings(beta=BETA)
"""Apply SAA's own but for that."""


class PeoplePainter:
    """A Painter (evaluation.py) of rows with the anchor "people", and of couples."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    @cached_property
    def adapter(self) -> IdentityAdapter:
        return load_adapter(self.studio.models / world.SAA)

    @cached_property
    def edits(self) -> Edits:
        return Edits(self.studio.models, self.studio.clip, self.studio.analyser)

    def sitter(self, photo: np.ndarray, sip: bool = False) -> Sitter:
        """(H, W, 3) uint8 -> the largest face in it, encoded. Raises ValueError without a face."""
        return self.studio.sitter(photo, sip, self.adapter)

    @torch.inference_mode()
    def paint(
        self, row: Row, sitter: Sitter | None, prompts: Sequence[Prompt], seeds: Sequence[int]
    ) -> np.ndarray:
        """One picture per prompt, (P, side, side, 3) uint8; the noise of each is its own seed's."""
        if row == ALONE:
            return self.studio.paint(row, None, prompts, seeds)
        if way_of(row).edited:  # the tokens are another prompt's, too
            each = [self._paint(row, sitter, [prompt], [seed])
                    for prompt, seed in zip(prompts, seeds, strict=True)]  # fmt: skip
            return np.concatenate(each)
        return self._paint(row, sitter, prompts, seeds)

    def _paint(
        self, row: Row, sitter: Sitter, prompts: Sequence[Prompt], seeds: Sequence[int]
    ) -> np.ndarray:
        """Prompts that share an identity."""
        studio = self.studio
        model = self.inject(row, [self._identity_for(row, sitter, prompts[0])])
        said = hide_motion if way_of(row).unsaid else str
        positive = join_conditionings([studio.encode(said(prompt.text)) for prompt in prompts])
        return studio.sample(Inputs(model, positive, studio.encode("")), seeds)

    @torch.inference_mode()
    def paint_couple(
        self, row: Row, sitters: Sequence[Sitter], scene: Scene, seed: int
    ) -> np.ndarray:
        """Two people side by side: (side, 2 · side, 3) uint8."""
        studio, model = self.studio, self.studio.model
        if row != ALONE:
            wanted = zip(sitters, scene.halves, strict=True)
            model = self.inject(row, [self._identity_for(row, *one) for one in wanted])
        edge = studio.settings.side // FACTOR
        positive = []
        for number, half in enumerate(scene.halves):  # as core's Conditioning (Set Area)
            area = {"area": (edge, edge, 0, number * edge), "strength": 1.0}
            area["set_area_to_bounds"] = False
            positive += node_helpers.conditioning_set_values(studio.encode(half.text), area)
        return studio.sample(Inputs(model, positive, studio.encode("")), [seed], across=2)[0]

    def inject(self, row: Row, identities: Sequence[Identity]) -> ModelPatcher:
        """The model that draws these people, from left to right."""
        way = way_of(row)
        boxes = PLACES if way.placed else [None] * len(identities)
        if way.activated:
            people = [
                Person(identity, region=None if box is None else box_region(box))
                for identity, box in zip(identities, boxes, strict=True)
            ]
            return apply_saa(self.studio.model, self.adapter, people, SETTINGS).model

        def add(model: ModelPatcher, person: tuple[Identity, Box | None]) -> ModelPatcher:
            identity, box = person
            mask = None if box is None else box_region(box).mask
            return apply_vfa(model, self.adapter, identity, mask=mask)

        return reduce(add, zip(identities, boxes, strict=True), self.studio.model)

    def _identity_for(self, row: Row, sitter: Sitter, prompt: Prompt) -> Identity:
        """With the prompt's motion in the tokens where the row edits them."""
        return self.edits.edited(sitter, prompt) if way_of(row).edited else sitter.identity
