"""FlexIP's slider against the weight of a plain IP-Adapter: the claims of the paper, measured.

Both were trained alike. The balance takes eleven values from 0 to 1; the plain adapter's weight as
many from 0 to the weight at which it keeps the person as well as balance 1 does. Source of the
claims: FlexIP (arXiv 2504.07405), section 3.3 and figure 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from ...model_patches.evaluate.sliders import (
    course_correlation,
    gain_at_equal,
    largest_jump,
    read_at,
)
from ...model_patches.evaluate.statistics import Figure, Values
from .curves import Curve
from .evaluation import Evaluation
from .figures import draws, figure
from .judge import largest
from .judges import INDEPENDENT
from .report import Study, as_document
from .rows import Row, flexip_row, plain_row

POINTS = 11
MIDDLE = POINTS // 2
TRIED = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Weights of the plain adapter among which its last one is sought, on people to tune with."""
ROUND = 0.05
NEUTRAL = "neutral"
"""The expression of every reference photo."""


def balances() -> Curve:
    return Curve(tuple(flexip_row(round(number / (POINTS - 1), 6)) for number in range(POINTS)))


def weights_to(top: float) -> Curve:
    """From 0 to `top`."""
    steps = [round(top * number / (POINTS - 1), 6) for number in range(POINTS)]
    return Curve(tuple(plain_row(weight) for weight in steps))


def find_top(study: Study) -> float:
    """The weight at which the plain adapter keeps the person as well as balance 1.

    study: of flexip-1 and of plain-W at TRIED. The last weight tried where none keeps as much.
    """
    wanted = float(np.nanmean(study.measured[flexip_row(1.0).key]["similarity"]))
    kept = [
        float(np.nanmean(study.measured[plain_row(weight).key]["similarity"])) for weight in TRIED
    ]
    found = read_at(kept, TRIED, wanted)
    if np.isfinite(found):
        return round(round(found / ROUND) * ROUND, 2)
    return TRIED[0] if wanted <= kept[0] else TRIED[int(np.argmax(kept))]


@dataclass(frozen=True)
class Found:
    """What the suite says, beside the study's own figures."""

    rho_identity: Figure
    """Spearman's correlation of the balance with the mean FaceSim; aim: 0.95 at least."""
    rho_edit: Figure
    """Of the balance with the share of edits obeyed; aim: -0.9 at most."""
    jump: Figure
    """Largest step between neighbouring pictures over the mean step; 1 is even."""
    baseline_jump: Figure
    jump_gain: Figure
    """How much larger the plain adapter's jump is, picture by picture."""
    edits_gained: Figure | None
    """Edits at balance 0.5 more than the plain adapter's at the same FaceSim; None where it
    never keeps that much."""
    copied: Mapping[str, Figure | None]
    """Row -> share of the pictures that keep the photo's neutral expression although the prompt
    asks for another."""


def measure(evaluation: Evaluation, study: Study, top: float) -> Found:
    """The claims on an evaluation that has run. top: the plain adapter's last weight."""
    ours, plain = balances(), weights_to(top)
    people = draws(len(study.people))
    jumps = {name: jump_values(evaluation, curve) for name, curve in
             (("ours", ours), ("plain", plain))}  # fmt: skip
    return Found(
        rho_identity=course_correlation(ours.stack(study, "similarity"), people),
        rho_edit=course_correlation(ours.stack(study, "edit"), people),
        jump=_need(jumps["ours"], people),
        baseline_jump=_need(jumps["plain"], people),
        jump_gain=_need(jumps["plain"] - jumps["ours"], people),
        edits_gained=gain_at_equal(ours.course(study), plain.course(study), MIDDLE, people),
        copied={
            row.key: figure(copied_values(evaluation, row), people)
            for row in (*ours.rows, *plain.rows)
        },
    )


def _need(values: Values, people: np.ndarray) -> Figure:
    """Raises ValueError where no picture could be measured."""
    found = figure(values, people)
    if found is None:
        raise ValueError(
            "0 of the pictures have a face at every value of the slider; expected at least 1"
        )
    return found


def jump_values(evaluation: Evaluation, curve: Curve) -> Values:
    """(people, prompts) largest over mean distance of neighbouring pictures, by the independent
    judge's embeddings; NaN where a picture has no face."""
    study = evaluation.study
    return np.array(
        [
            [
                largest_jump(_embeddings(evaluation, curve, person, prompt))
                for prompt in study.prompts
            ]
            for person in study.people
        ]
    )


def _embeddings(evaluation: Evaluation, curve: Curve, person: int, prompt) -> list:
    judge = evaluation.judges[INDEPENDENT]
    found = []
    for row in curve.rows:
        picture = evaluation.store.load(row, person, prompt)
        face = largest(judge.detector.find(picture))
        found.append(None if face is None else judge.embed(picture, face))
    return found


def copied_values(evaluation: Evaluation, row: Row) -> Values:
    """(people, prompts) 1 where a picture keeps the neutral expression, NaN where none is asked
    for or no face is found."""
    study = evaluation.study
    rows = []
    for person in study.people:
        seen = evaluation.store.load_seen(row, person, INDEPENDENT)
        told = [seen[prompt.file_name].expression for prompt in study.prompts]
        rows.append(
            [
                float(one == NEUTRAL) if one is not None and prompt.expression else np.nan
                for one, prompt in zip(told, study.prompts, strict=True)
            ]
        )
    return np.array(rows, float)


def to_json(study: Study, found: Found, top: float) -> dict:
    """The study's document with the claims and both curves at its top level."""
    figures = study.figures
    points = [
        {
            "row": row.key,
            "value": row.weight,
            "identity": asdict(figures[row.key]["similarity"]),
            "edit": asdict(figures[row.key]["edit"]),
            "copied": found.copied[row.key] and asdict(found.copied[row.key]),
        }
        for row in (*balances().rows, *weights_to(top).rows)
    ]
    claims = {name: value for name, value in asdict(found).items() if name != "copied"}
    return {**claims, "top": top, "points": points, **as_document(study)}
