"""What EditIDv2 adds to an anchor, against the line of constant weights.

A constant weight of the anchor trades identity for edits. A way leaves that line where it obeys
more edits at the same FaceSim, or keeps more of the person at the same edits. FaceSim and edits by
one judge; both judges are asked. Source of the ways: EditIDv2 (arXiv 2509.05659), sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import product

import numpy as np

from ...model_patches.evaluate.sliders import course_means
from ...model_patches.evaluate.statistics import Figure
from ..ablate import REFERENCES, WEIGHTS, name_of
from .curves import Curve, figure_of, meet_or_end
from .figures import TRAINED, draws
from .report import Study, as_document
from .rows import (
    ALONE,
    Row,
    adapter_row,
    editid_row,
    flexip_row,
    guided_row,
    id_cfg_row,
    mix_row,
    paired_row,
    query_row,
    rigid_row,
)

LINE = (0.5, 0.625, 0.75, 0.875, 1.0, 1.25)
"""Constant weights; 0, the prompt alone, begins the line."""
CONTROLS = (
    editid_row("balanced"),
    editid_row("editability"),
    query_row("token_mean", 0.8),
    query_row("zero", 0.8),
    query_row("soft_append", 0.7),
    mix_row("editable"),
    mix_row("loose"),
)
"""Without the preset consistency, which is the constant weight 1 bit for bit."""
GUIDANCE = (guided_row(0.1), guided_row(0.3), guided_row(0.1, 0.75), id_cfg_row(0.5))
BESIDE = (
    flexip_row(0.5),
    *(paired_row(vfa, flexip_row(0.5)) for vfa in (0.3, 0.5)),
)
"""FlexIP, trained on the same base, alone and beside a light anchor."""
ABLATION = tuple(name_of(*pair) for pair in product(WEIGHTS, REFERENCES))
ABLATED_AT = (0.75, 1.0)
"""Weights of the ablation's adapters."""
MERGED_AT = 0.75
AIM = 0.05
"""Edits, as a share, or FaceSim that a way is to gain on the line."""
MEASURES = ("similarity", "edit")


@dataclass(frozen=True)
class Merge:
    """A merge of the small world's adapter with trained ones, by Merge Identity Adapters."""

    method: str
    weights: tuple[float, ...]
    adapters: tuple[str, ...]
    """Of the ablation. lerp takes the small world's own before them, task_arithmetic as base."""


TRAINED_ON, COPIED = name_of(0.1, "other"), name_of(0.1, "target")
MERGES = {
    "lerp_half": Merge("lerp", (0.5, 0.5), (TRAINED_ON,)),
    "lerp_all": Merge("lerp", (1.0,) * (1 + len(ABLATION)), ABLATION),
    "task_double": Merge("task_arithmetic", (2.0,), (TRAINED_ON,)),
    "task_contrast": Merge("task_arithmetic", (1.0, -1.0), (TRAINED_ON, COPIED)),
}
"""Half of the way to the adapter that was trained with the identity loss and other photos; the mean
of all; twice that way; and that way less the way of the same training without other photos."""


WAYS = (
    *CONTROLS,
    *GUIDANCE,
    *BESIDE,
    *(adapter_row(*pair) for pair in product(ABLATION, ABLATED_AT)),
    *(adapter_row(name, MERGED_AT) for name in MERGES),
)
"""All that is held against the line, in the order of the tables."""


def line() -> Curve:
    return Curve((ALONE, *map(rigid_row, LINE)))


def choose_rows(asked: Iterable[Row] | None, adapters: Iterable[str]) -> tuple[Row, ...]:
    """What is held against the line: what is asked for, else everything that can be painted with
    these adapters and their merges. Raises ValueError where all that is asked for is of the line.
    """
    known = set(adapters)
    rows = tuple(asked or (r for r in WAYS if r.anchor != "adapter" or r.adapter in known))
    found = tuple(row for row in dict.fromkeys(rows) if row not in line().rows)
    if not found:
        raise ValueError(
            f"0 of {len(rows)} rows are beside the line, expected at least 1; the line is "
            f"{', '.join(row.key for row in line().rows)}. Name another row."
        )
    return found


@dataclass(frozen=True)
class Gain:
    """How far a way lies off the line, by one judge. None where it lies beyond the line's end: it
    obeys fewer edits than the largest weight, or is less like the person than the prompt alone."""

    edits: Figure | None
    """Edits obeyed more than by the constant weight of the same FaceSim. A way that keeps more of
    the person than any weight is compared with the one that keeps most."""
    similarity: Figure | None
    """FaceSim more than the constant weight's with the same edits. A way that obeys more edits than
    any weight is compared with the one that obeys most."""

    @property
    def meets_aim(self) -> bool:
        """Whether one of them is AIM or more, and above 0 with its whole interval."""
        known = [one for one in (self.edits, self.similarity) if one is not None]
        return any(one.mean >= AIM and one.low > 0 for one in known)


def gain_of(study: Study, row: Row, prefix: str = "") -> Gain:
    """prefix: TRAINED for training's judge."""
    people = draws(len(study.people))
    kept, obeyed = (line().means(study, prefix + one, people) for one in MEASURES)
    values = [study.measured[row.key][prefix + one] for one in MEASURES]
    like, edits = (course_means(one[None], people)[:, 0] for one in values)
    at_like = [meet_or_end(*three) for three in zip(kept, obeyed, like, strict=True)]
    # From the largest weight down, so that edits rise along the way.
    at_edits = [
        meet_or_end(*three) for three in zip(obeyed[:, ::-1], kept[:, ::-1], edits, strict=True)
    ]
    count = min(int(np.isfinite(one).sum()) for one in values)
    return Gain(figure_of(edits - at_like, count), figure_of(like - at_edits, count))


Gains = Mapping[str, Mapping[str, Gain]]
"""Row key -> "" for the independent judge, TRAINED for training's -> gain."""


def measure(study: Study, rows: Iterable[Row]) -> Gains:
    """Of an evaluation that has run. Raises ValueError without the independent judge."""
    if np.isnan(study.measured[ALONE.key]["edit"]).all():
        raise ValueError(
            "the models have no independent judge, which this suite stands on; expected the "
            "trained small world. Put mini/weights back (git checkout)."
        )
    return {row.key: {one: gain_of(study, row, one) for one in ("", TRAINED)} for row in rows}


def to_json(study: Study, gains: Gains, adapters: Mapping[str, object]) -> dict:
    """The study's document, after `line`, `beats_line` and what is known of the adapters."""
    figures = study.figures
    both = [prefix + one for prefix in ("", TRAINED) for one in MEASURES]
    points = [
        {"row": row.key, "weight": row.weight, **{m: asdict(figures[row.key][m]) for m in both}}
        for row in line().rows
    ]
    beaten = {
        key: {
            prefix + name: value
            for prefix, gain in of_row.items()
            for name, value in (*asdict(gain).items(), ("meets_aim", gain.meets_aim))
        }
        for key, of_row in gains.items()
    }
    return {
        "aim": AIM,
        "line": points,
        "beats_line": beaten,
        "adapters": dict(adapters),
        **as_document(study),
    }
