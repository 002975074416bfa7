"""Hair styles as measures, in head units."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cut:
    """How a hair style grows.

    top, side, back: thickness over the skull. line: the shape of the hairline. sideburn: how low
    it ends before the ear. edge: its outline. hang: down to where it falls, below the eyes (0: it
    does not). extra: what is tied. ears: whether they show.
    """

    top: float
    side: float
    back: float
    line: str = "square"
    sideburn: float = 0.12
    edge: str = "smooth"
    hang: float = 0.0
    extra: str = ""
    ears: bool = True


CUTS = {
    "balding": Cut(0.02, 0.05, 0.04, "receding", 0.12),
    "buzz": Cut(0.03, 0.012, 0.03, "square", 0.14),
    "short": Cut(0.13, 0.045, 0.06, "jagged", 0.16, "tufts"),
    "side part": Cut(0.12, 0.05, 0.06, "swept", 0.2, "sweep"),
    "quiff": Cut(0.09, 0.03, 0.05, "square", 0.1, "quiff"),
    "spiky": Cut(0.12, 0.04, 0.06, "jagged", 0.12, "spikes"),
    "curly": Cut(0.24, 0.14, 0.12, "curls", 0.14, "curls"),
    "afro": Cut(0.5, 0.44, 0.3, "curls", 0.1, "fuzz"),
    "pixie": Cut(0.16, 0.07, 0.08, "swept", 0.34, "tufts"),
    "bob": Cut(0.16, 0.13, 0.12, "swept", hang=0.86, ears=False),
    "fringe": Cut(0.17, 0.13, 0.12, "fringe", hang=1.12, ears=False),
    "long straight": Cut(0.13, 0.11, 0.1, "curtain", hang=2.1, ears=False),
    "long wavy": Cut(0.17, 0.15, 0.12, "curtain", edge="waves", hang=1.95, ears=False),
    "long curly": Cut(0.27, 0.26, 0.2, "curls", edge="curls", hang=1.55, ears=False),
    "ponytail": Cut(0.08, 0.03, 0.06, "pulled", 0.08, extra="tail"),
    "bun": Cut(0.07, 0.03, 0.05, "pulled", 0.08, extra="bun"),
    "pigtails": Cut(0.1, 0.05, 0.06, "fringe", 0.14, extra="pigtails"),
}
