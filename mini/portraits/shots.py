"""How people are shown: expression, pose, clothes, place, light, style, and the framing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .persons import Person

EXPRESSIONS = ("neutral", "happy", "sad", "surprised", "angry", "disgusted", "fearful")
STYLES = ("photo", "sketch", "oil", "comic", "watercolour")
SCENES = (
    "studio",
    "park",
    "beach",
    "city",
    "library",
    "kitchen",
    "mountains",
    "snow",
    "cafe",
    "space",
    "desert",
    "garden",
)
CLOTHES = (
    "t-shirt",
    "shirt",
    "hoodie",
    "suit",
    "tank top",
    "sweater",
    "denim jacket",
    "striped top",
)
LIGHTS = ("soft", "warm", "cold", "dramatic")
COLOURS = {
    "red": (204, 48, 50),
    "blue": (52, 104, 200),
    "green": (54, 138, 80),
    "yellow": (240, 194, 56),
    "white": (240, 240, 238),
    "black": (44, 44, 50),
    "pink": (238, 140, 172),
    "purple": (126, 72, 164),
    "orange": (236, 128, 44),
    "grey": (140, 144, 150),
    "brown": (128, 84, 54),
}


@dataclass(frozen=True)
class Shot:
    """One view of somebody.

    Angles in degrees: yaw -45..45, positive looks to the picture's right; pitch -25..25, positive
    looks up; roll -25..25, positive leans clockwise. intensity 0.6..1 scales the expression.
    `variant` seeds what has no name (the trees of a park, the side the light comes from).
    """

    expression: str
    intensity: float
    yaw: float
    pitch: float
    roll: float
    scene: str
    clothing: str
    colour: str
    light: str
    style: str
    variant: int


@dataclass(frozen=True)
class Framing:
    """Where a head is: its middle x, y and the length of its unit, in shares of the picture.

    A head is about two units high; its face, forehead to chin, about 1.65.
    """

    x: float
    y: float
    scale: float


@dataclass(frozen=True)
class Picture:
    """One to three people from left to right; scene, light and style are the first one's."""

    people: tuple[tuple[Person, Shot], ...]
    framing: tuple[Framing, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.people) <= 3 or len(self.people) != len(self.framing):
            raise ValueError(
                f"a picture shows 1 to 3 people with a framing each, "
                f"got {len(self.people)} people and {len(self.framing)} framings"
            )


def _yaw(rng: np.random.Generator) -> float:
    return float(rng.uniform(-12, 12) if rng.random() < 0.5 else rng.uniform(-45, 45))


def _small_or_wide(rng: np.random.Generator, small: float, wide: float, share: float) -> float:
    return float(rng.uniform(-small, small) if rng.random() < share else rng.uniform(-wide, wide))


def _check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")


def shot(rng: np.random.Generator, **fixed: object) -> Shot:
    """Draw a view; what is given in `fixed` is kept. ValueError for names that are not drawn."""
    drawn: dict[str, object] = {
        "expression": str(rng.choice(EXPRESSIONS, p=[0.22] + [0.13] * 6)),
        "intensity": float(rng.uniform(0.6, 1.0)),
        "yaw": _yaw(rng),
        "pitch": _small_or_wide(rng, 7, 25, 0.55),
        "roll": _small_or_wide(rng, 6, 25, 0.65),
        "scene": str(rng.choice(SCENES)),
        "clothing": str(rng.choice(CLOTHES)),
        "colour": str(rng.choice(list(COLOURS))),
        "light": str(rng.choice(LIGHTS, p=[0.46, 0.2, 0.17, 0.17])),
        "style": str(rng.choice(STYLES, p=[0.45, 0.14, 0.14, 0.14, 0.13])),
        "variant": int(rng.integers(1 << 30)),
    }
    unknown = set(fixed) - set(drawn)
    if unknown:
        raise ValueError(f"a shot has no {sorted(unknown)}; it has {sorted(drawn)}")
    drawn |= fixed
    names = {"expression": EXPRESSIONS, "scene": SCENES, "clothing": CLOTHES, "light": LIGHTS}
    for name, choices in {**names, "style": STYLES, "colour": tuple(COLOURS)}.items():
        _check_choice(name, drawn[name], choices)
    return Shot(**drawn)  # type: ignore[arg-type]


def picture(rng: np.random.Generator, people: Sequence[tuple[Person, Shot]]) -> Picture:
    """Place one to three people, left to right in their order."""
    count = len(people)
    framing = []
    for index in range(count):
        if count == 1:
            scale, x = rng.uniform(0.33, 0.355), rng.uniform(0.48, 0.52)
        elif count == 2:
            scale, x = rng.uniform(0.158, 0.178), (0.27, 0.73)[index] + rng.uniform(-0.02, 0.02)
        else:
            scale, x = (
                rng.uniform(0.125, 0.142),
                (0.18, 0.5, 0.82)[index] + rng.uniform(-0.01, 0.01),
            )
        y = 0.47 + (0.285 - scale) * 0.22 + rng.uniform(-0.02, 0.02)
        framing.append(Framing(float(x), float(y), float(scale)))
    return Picture(tuple(people), tuple(framing))
