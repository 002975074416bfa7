"""What a face is to do, in words and numbers: one line of text for each target.

Words are written as the authors of DynamicID (arXiv 2503.06505) write them for the text encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..face.landmark_pose import FURTHEST, SLIDERS, Angles, Sliders

EXPRESSIONS = ("neutral", "happy", "surprised", "sad", "angry", "disgusted", "afraid")
"""The seven that the authors trained with."""
ORIENTATIONS: Mapping[str, tuple[float, float]] = {
    "front view": (0.0, 0.0),
    "slightly left": (-30.0, 0.0),
    "slightly right": (30.0, 0.0),
    "side view left": (-FURTHEST, 0.0),
    "side view right": (FURTHEST, 0.0),
    "facing up": (0.0, 20.0),
    "facing down": (0.0, -20.0),
}
"""Yaw and pitch in degrees; left and right are those of the picture."""
SAME = "as in the source"
MOST_TARGETS = 64
TURNED = 10.0
"""Degrees from which the authors' prompt writer calls a face turned."""


@dataclass(frozen=True)
class Target:
    """One face to make. None: as in the source, or as in the driving photo."""

    expression: str | None = None
    orientation: str | None = None
    words: str = ""
    """Free words, which then are all that the text encoder reads."""
    sliders: Sliders = Sliders()


def parse_targets(text: str, base: Target) -> list[Target]:
    """Lines -> targets; what a line does not say is as in `base`. No line: `base` alone.

    A line is words, then numbers behind semicolons: "happy, slightly left; mouth 0.5; brows 0.3".
    Words from EXPRESSIONS and ORIENTATIONS, by commas, are meant as such; any other words are free.
    Raises ValueError, naming the line, for what is no slider or no number in its range.
    """
    lines = [line.strip() for line in text.splitlines()]
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line]
    if len(numbered) > MOST_TARGETS:
        raise ValueError(
            f"{len(numbered)} targets, expected at most {MOST_TARGETS}. Make two sheets."
        )
    return [_parse_line(number, line, base) for number, line in numbered] or [base]


def parse_words(text: str) -> tuple[str | None, str | None, str]:
    """Expression, orientation, and the text itself where it is anything else."""
    expression = orientation = None
    for part in filter(None, (part.strip().casefold() for part in text.split(","))):
        if part in EXPRESSIONS and expression is None:
            expression = part
        elif part in ORIENTATIONS and orientation is None:
            orientation = part
        else:
            return None, None, text.strip()
    return expression, orientation, ""


def angles_for(target: Target, angles: Angles) -> Angles:
    """A face with these angles, turned to the target's orientation and then by its sliders."""
    if target.orientation is not None:
        yaw, pitch = ORIENTATIONS[target.orientation]
        angles = yaw, pitch, angles[2]
    turns = target.sliders.turns
    return (angles[0] + turns[0], angles[1] + turns[1], angles[2] + turns[2])


def write_words(expression: str | None, angles: Angles) -> str:
    """A prompt by the rule of the authors' code; without an expression it tells the view alone.

    angles: yaw, pitch, roll in degrees.
    """
    yaw, pitch, _ = angles
    view = []
    if abs(pitch) > TURNED:
        view.append("facing up" if pitch > 0 else "facing down")
    view.append("in front view" if abs(yaw) < TURNED else "in side view")
    said = [f"in a {expression} expression"] if expression else []
    if expression and expression[0] in "aeiou":
        said = [f"in an {expression} expression"]
    return ", ".join([*said, *view])


def pair_targets(targets: Sequence[Target], photos: int) -> list[Target]:
    """One target for each driving photo; a single one, or a single photo, serves all others.

    Without photos the targets as they are. Raises ValueError for numbers that do not pair.
    """
    if photos <= 1:
        return list(targets)
    if len(targets) not in (1, photos):
        raise ValueError(
            f"{len(targets)} lines of targets and {photos} driving photos, expected as many of "
            "both, or 1 of either. Remove lines, or photos."
        )
    if photos > MOST_TARGETS:
        raise ValueError(
            f"{photos} driving photos, expected at most {MOST_TARGETS}. Make two sheets."
        )
    return [*targets] * (photos if len(targets) == 1 else 1)


def _parse_line(number: int, line: str, base: Target) -> Target:
    words, *settings = (part.strip() for part in line.split(";"))
    found = {}
    for setting in filter(None, settings):
        name, _, value = setting.partition(" ")
        if name.casefold() not in SLIDERS:
            raise ValueError(
                f"Line {number} of the targets sets {name!r}, expected one of {', '.join(SLIDERS)}."
            )
        try:
            found[name.casefold()] = float(value)
        except ValueError as error:
            raise ValueError(
                f"Line {number} of the targets has {setting!r}, expected a name and a number such "
                f"as '{name} 0.5'."
            ) from error
    try:
        sliders = replace(base.sliders, **found)
    except ValueError as error:
        raise ValueError(f"Line {number} of the targets: {error}") from error
    expression, orientation, free = parse_words(words)
    return Target(
        expression or (None if free else base.expression),
        orientation or base.orientation,
        free,
        sliders,
    )
