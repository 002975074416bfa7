"""What ID guidance does in a sampling run: one wrapper around each prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import numpy as np
import torch
from torch import Tensor

from ...face.boxes import Detection
from ...gates.gate import Moment
from ..call import Run
from ..run import RUN, injections_of, moments_of
from .correction import blur, unit_direction
from .faces import Places, choose_points
from .judge import Decoding, Judge, take_weights
from .settings import ID_GUIDANCE, IdGuidance


@dataclass
class _Person:
    """What a run knows of one person."""

    judge: Judge
    places: Places = field(default_factory=Places)
    evaluations: int = 0
    direction: Tensor | None = None
    """(B, C, h, w): the last one, 0 for pictures without a face."""


@dataclass
class _Glance:
    """What the detectors see in one prediction: each picture is decoded and searched once."""

    latents: Tensor
    pictures: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    faces: dict[tuple[int, int, int], list[Detection]] = field(default_factory=dict)

    def look(self, person: _Person, guidance: IdGuidance, row: int) -> np.ndarray:
        """(H, W, 3) uint8."""
        key = id(guidance.vae), row
        if key not in self.pictures:
            self.pictures[key] = person.judge.look(self.latents[row])
        return self.pictures[key]

    def find(self, person: _Person, guidance: IdGuidance, row: int) -> list[Detection]:
        detector = guidance.analyser.detector
        key = id(guidance.vae), id(detector), row
        if key not in self.faces:
            self.faces[key] = detector.find(self.look(person, guidance, row))
        return self.faces[key]


def guide_prediction(
    executor: Any, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None
) -> Tensor:
    """PREDICT_NOISE wrapper: the denoised picture, moved towards every person of this moment.

    It is called once in each evaluation, after whatever the guider does with several prompts.
    """
    options = model_options["transformer_options"]
    run = options.get(RUN) or Run()
    run.cache.setdefault(ID_GUIDANCE, {})
    denoised = executor(x, timestep, model_options, seed)
    model = executor.class_obj.inner_model
    sigma = timestep.flatten()[0].item()
    schedule = options.get("sample_sigmas")
    (moment,) = moments_of(run, model.model_sampling, [sigma], schedule)
    active = [
        (one, weight)
        for one in injections_of(options)
        if isinstance(one, IdGuidance) and (weight := _weight(one, moment))
    ]
    if not active:
        return denoised
    with torch.inference_mode(False), torch.no_grad():
        latents = denoised.detach().float().clone()
        glance = _Glance(latents)
        people = run.cache[ID_GUIDANCE]
        moves = [
            _direction(_person(people, one, model, latents.device), one, glance) * weight
            for one, weight in active
        ]
    return denoised + torch.stack(moves).sum(0).to(denoised)


def _weight(guidance: IdGuidance, moment: Moment) -> float:
    """strength x β x t: as a change of the velocity it is strength x β."""
    return guidance.gate.weight(moment, guidance.guiding.strength) * moment.t


def _person(
    people: dict[IdGuidance, _Person], guidance: IdGuidance, model: Any, device: torch.device
) -> _Person:
    if guidance not in people:
        others = {id(one.vae): person.judge for one, person in people.items()}
        decoding = Decoding(guidance.vae.first_stage_model)
        shared = others.get(id(guidance.vae))
        decoder: Mapping[str, Tensor] = shared.decoder if shared else take_weights(decoding, device)
        judge = Judge(
            guidance.vae,
            decoding,
            decoder,
            guidance.recogniser,
            take_weights(guidance.recogniser.model, device),
            model.process_latent_out,
        )
        people[guidance] = _Person(judge)
    return people[guidance]


def _direction(person: _Person, guidance: IdGuidance, glance: _Glance) -> Tensor:
    """(B, C, h, w): the unit direction of this evaluation, or of one of the last `every`."""
    number, latents = person.evaluations, glance.latents
    person.evaluations += 1
    kept = person.direction
    if kept is not None and kept.shape == latents.shape and number % guidance.guiding.every:
        return kept
    rows = [_row_direction(person, guidance, glance, row, number) for row in range(len(latents))]
    person.direction = torch.stack(rows)
    return person.direction


def _row_direction(
    person: _Person, guidance: IdGuidance, glance: _Glance, row: int, number: int
) -> Tensor:
    """(C, h, w) for one picture; 0 where there is no face of the person."""
    comfy.model_management.throw_exception_if_processing_interrupted()
    latent = glance.latents[row]
    height, width = glance.look(person, guidance, row).shape[:2]
    mask = None
    if guidance.region is not None:
        masks = guidance.region.mask
        mask = masks[row % len(masks)]
    found = choose_points(glance.find(person, guidance, row), (width, height), mask)
    points = person.places.follow(row, found, number // guidance.guiding.every)
    if points is None:
        return torch.zeros_like(latent)
    gradient, numbers = person.judge.gradient(
        latent, points, (height, width), guidance.wanted, guidance.guiding.jitters, number
    )
    return unit_direction(blur(gradient, guidance.guiding.low_pass), numbers)
