"""Who is drawn: all that makes one person, by seed, and nothing that changes between shots."""

from dataclasses import dataclass, fields

import numpy as np

AGES = ("child", "young", "middle-aged", "old")
GENDERS = ("woman", "man")
EYES = {
    "brown": (104, 62, 30),
    "dark": (52, 32, 24),
    "blue": (62, 128, 196),
    "green": (72, 140, 84),
    "grey": (126, 142, 152),
    "amber": (178, 118, 38),
}
HAIRS = {
    "black": (34, 29, 32),
    "dark brown": (66, 42, 30),
    "brown": (112, 70, 40),
    "blond": (226, 184, 104),
    "platinum blond": (240, 226, 184),
    "red": (186, 74, 30),
    "auburn": (124, 40, 32),
    "grey": (146, 146, 150),
    "white": (232, 230, 226),
    "blue": (50, 100, 190),
    "pink": (232, 110, 160),
    "purple": (112, 62, 150),
    "green": (52, 138, 92),
}
HAIR_STYLES = (
    "bald",
    "balding",
    "buzz",
    "short",
    "side part",
    "quiff",
    "spiky",
    "curly",
    "afro",
    "pixie",
    "bob",
    "fringe",
    "long straight",
    "long wavy",
    "long curly",
    "ponytail",
    "bun",
    "pigtails",
)
BEARDS = ("none", "stubble", "moustache", "goatee", "short beard", "full beard", "long beard")
GLASSES = ("none", "round", "square", "cat-eye", "aviator", "thick")
FRAMES = {
    "black": (28, 28, 32),
    "brown": (104, 60, 30),
    "gold": (196, 156, 60),
    "red": (190, 40, 44),
    "blue": (40, 84, 170),
}
MARKS = ("none", "mole", "freckles", "scar", "two moles", "birthmark")
EARRINGS = ("none", "studs", "hoops")

_SKIN = np.array(
    [
        (255, 226, 206),
        (247, 206, 174),
        (230, 180, 140),
        (202, 146, 104),
        (166, 110, 74),
        (124, 80, 54),
        (86, 56, 42),
    ],
    dtype=float,
)


@dataclass(frozen=True)
class Person:
    """One identity. Numbers are 0..1 between the least and the most that is drawn."""

    seed: int
    gender: str
    age: str
    eye_colour: str
    hair_colour: str
    hair_style: str
    beard: str
    glasses: str
    frame: str
    mark: str
    earrings: str
    face_width: float
    face_length: float
    jaw: float
    chin: float
    cheek: float
    forehead: float
    skin: float
    undertone: float
    eye_size: float
    eye_spacing: float
    eye_tilt: float
    eye_height: float
    lid: float
    iris: float
    brow_thickness: float
    brow_arch: float
    brow_height: float
    brow_tilt: float
    nose_width: float
    nose_length: float
    nose_bridge: float
    mouth_width: float
    mouth_height: float
    upper_lip: float
    lower_lip: float
    lip_colour: float
    ear_size: float
    ear_flare: float
    hair_shade: float
    hair_volume: float
    parting: float
    mark_x: float
    mark_y: float
    neck: float
    shoulders: float
    blush: float

    def vector(self) -> np.ndarray:
        """(IDENTITY_SIZE,) float32: every parameter at about unit variance, names as one-hots."""
        parts = [(getattr(self, name) - 0.5) * 12**0.5 for name in _NUMBERS]
        for name, choices in _CHOICES.items():
            parts += [float(getattr(self, name) == choice) for choice in choices]
        return np.array(parts, dtype=np.float32)

    @property
    def skin_rgb(self) -> tuple[int, int, int]:
        """The colour of the skin in even light, 0..255."""
        place = self.skin * (len(_SKIN) - 1)
        tone = [np.interp(place, np.arange(len(_SKIN)), _SKIN[:, k]) for k in range(3)]
        shift = (self.undertone - 0.5) * np.array([6.0, 10.0, -26.0])  # rosy .. olive
        red, green, blue = np.clip(tone + shift, 0, 255)
        return int(red), int(green), int(blue)

    @property
    def hair_rgb(self) -> tuple[int, int, int]:
        """The colour of the hair in even light, 0..255."""
        light = 0.78 + 0.44 * self.hair_shade
        red, green, blue = (min(255, int(value * light)) for value in HAIRS[self.hair_colour])
        return red, green, blue


_CHOICES: dict[str, tuple[str, ...]] = {
    "gender": GENDERS,
    "age": AGES,
    "eye_colour": tuple(EYES),
    "hair_colour": tuple(HAIRS),
    "hair_style": HAIR_STYLES,
    "beard": BEARDS,
    "glasses": GLASSES,
    "frame": tuple(FRAMES),
    "mark": MARKS,
    "earrings": EARRINGS,
}
_NUMBERS = tuple(field.name for field in fields(Person) if field.type is float)
IDENTITY_SIZE = len(_NUMBERS) + sum(len(choices) for choices in _CHOICES.values())

_MEN = {
    "bald": 6, "balding": 4, "buzz": 11, "short": 16, "side part": 15, "quiff": 11, "spiky": 7,
    "curly": 11, "afro": 6, "long straight": 3, "long wavy": 4, "bun": 3, "fringe": 3,
}  # fmt: skip
_WOMEN = {
    "buzz": 2, "short": 3, "curly": 7, "afro": 7, "pixie": 9, "bob": 13, "fringe": 10,
    "long straight": 13, "long wavy": 13, "long curly": 9, "ponytail": 10, "bun": 9,
}  # fmt: skip
_HAIR_BY_SKIN = (
    {"black": 10, "dark brown": 18, "brown": 22, "blond": 20, "platinum blond": 7, "red": 12,
     "auburn": 8},
    {"black": 32, "dark brown": 28, "brown": 16, "blond": 6, "red": 3, "auburn": 6},
    {"black": 60, "dark brown": 22, "brown": 6, "blond": 3, "auburn": 3},
)  # fmt: skip
_EYES_BY_SKIN = (
    {"brown": 20, "dark": 6, "blue": 34, "green": 20, "grey": 12, "amber": 8},
    {"brown": 42, "dark": 26, "blue": 8, "green": 10, "grey": 4, "amber": 10},
    {"brown": 48, "dark": 40, "green": 4, "amber": 8},
)


def _choose(rng: np.random.Generator, weights: dict[str, int]) -> str:
    share = np.array(list(weights.values()), dtype=float)
    return str(rng.choice(list(weights), p=share / share.sum()))


def _hair_style(rng: np.random.Generator, gender: str, age: str) -> str:
    weights = dict(_MEN if gender == "man" else _WOMEN)
    if age == "child":
        weights = {k: v for k, v in weights.items() if k not in ("bald", "balding")}
        weights |= {"pigtails": 16} if gender == "woman" else {"fringe": 10}
    if age == "old" and gender == "man":
        weights |= {"bald": 12, "balding": 22}
    return _choose(rng, weights)


def _hair_colour(rng: np.random.Generator, tone: int, age: str) -> str:
    grey = {"child": 0.0, "young": 0.0, "middle-aged": 0.2, "old": 0.88}[age]
    if rng.random() < grey:
        return _choose(rng, {"grey": 6, "white": 5 if age == "old" else 0})
    if age == "young" and rng.random() < 0.09:
        return _choose(rng, {"blue": 1, "pink": 1, "purple": 1, "green": 1})
    return _choose(rng, _HAIR_BY_SKIN[tone])


def _beard(rng: np.random.Generator, gender: str, age: str) -> str:
    if gender == "woman" or age == "child" or rng.random() < 0.42:
        return "none"
    return str(rng.choice(BEARDS[1:]))


def _choices(rng: np.random.Generator, skin: float) -> dict[str, str]:
    """The named parameters; skin is 0 pale .. 1 dark."""
    gender = str(rng.choice(GENDERS))
    age = _choose(rng, {"child": 14, "young": 38, "middle-aged": 28, "old": 20})
    tone = min(2, int(skin * 3))
    glassy = {"child": 0.12, "young": 0.28, "middle-aged": 0.34, "old": 0.42}[age]
    ringed = 0.45 if gender == "woman" and age != "child" else 0.05
    return {
        "gender": gender,
        "age": age,
        "eye_colour": _choose(rng, _EYES_BY_SKIN[tone]),
        "hair_colour": _hair_colour(rng, tone, age),
        "hair_style": _hair_style(rng, gender, age),
        "beard": _beard(rng, gender, age),
        "glasses": str(rng.choice(GLASSES[1:])) if rng.random() < glassy else "none",
        "frame": str(rng.choice(list(FRAMES))),
        "mark": str(rng.choice(MARKS[1:])) if rng.random() < 0.42 else "none",
        "earrings": str(rng.choice(EARRINGS[1:])) if rng.random() < ringed else "none",
    }


def person(seed: int) -> Person:
    """The person of a seed; the same on every machine.

    The numbers are even over their whole range: the widest spread that can be drawn tells most
    people apart.
    """
    rng = np.random.default_rng([0x0FACE, seed])
    numbers = {name: float(rng.random()) for name in _NUMBERS}
    return Person(seed=seed, **_choices(rng, numbers["skin"]), **numbers)
