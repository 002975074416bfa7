"""The mouth."""

from dataclasses import dataclass

import numpy as np

from .colour import WHITE, mix, shade, tint
from .geometry import Head, lerp
from .ink import Ink, smooth
from .skin import Skin

_ALONG = np.linspace(-1, 1, 9)
_INSIDE = (84, 18, 26)
_TONGUE = (222, 96, 104)
_TEETH = (252, 250, 244)


@dataclass(frozen=True)
class Mouth:
    """(9, 2) curves in head units from the corner on the picture's left to the other one."""

    upper_out: np.ndarray
    upper_in: np.ndarray
    lower_in: np.ndarray
    lower_out: np.ndarray

    @property
    def gap(self) -> float:
        """How far it is open in the middle, head units."""
        return float(self.lower_in[4, 1] - self.upper_in[4, 1])


def mouth(head: Head) -> Mouth:
    """The curves of a head's mouth with its expression."""
    who, moves = head.who, head.look
    half = head.width * lerp(0.3, 0.47, who.mouth_width) * (1 + moves.mouth_width)
    thin = 1 - moves.lips_thin
    upper = lerp(0.025, 0.085, who.upper_lip) * thin
    lower = lerp(0.04, 0.115, who.lower_lip) * thin
    if who.gender == "woman":
        upper, lower = upper + 0.012, lower + 0.012
    corner = head.mouth_y - moves.corners
    round_ = 2.0 + 2.2 * moves.square
    bow = (1 - np.abs(_ALONG) ** round_) ** (1 / 1.0)
    # a corner that moves takes less of the lips' middle with it: the line between them bends
    line = corner + (head.mouth_y - 0.35 * moves.corners - corner) * (1 - _ALONG**2)
    skew = moves.skew * np.clip(_ALONG + 0.2, 0, 1) * (1 - _ALONG**4)
    top = line - moves.open_up * bow - 1.6 * skew
    low = line + moves.open_down * bow - 0.3 * skew
    full = (1 - _ALONG**2) ** 0.75
    notch = 1 - 0.3 * np.exp(-((_ALONG / 0.14) ** 2))
    x = half * _ALONG * (1 - 0.04 * moves.square)

    def curve(y: np.ndarray) -> np.ndarray:
        return np.stack([x, y], 1)

    return Mouth(
        curve(top - upper * full * notch), curve(top), curve(low), curve(low + lower * full)
    )


def corners(head: Head) -> np.ndarray:
    """(2, 3) the corners in head units, the one on the picture's left first."""
    found = mouth(head).upper_in[[0, -1]]
    return head.surface(found, 0.02)


def _ring(head: Head, one: np.ndarray, other: np.ndarray, lift: float = 0.03) -> str:
    """A closed path along one curve and back along the other."""
    points = head.map(np.concatenate([one, other[::-1][1:-1]]), lift)
    return smooth(points, tension=0.85)


def draw_mouth(ink: Ink, head: Head, skin: Skin) -> None:
    """Lips, and what is seen between them."""
    shape, size = mouth(head), head.pose.scale
    under = head.map([shape.lower_out[4] + (0, 0.06)])[0]
    wide = float(np.ptp(shape.lower_out[:, 0])) * size
    ink.soft(under, 0.36 * wide, 0.085 * size, shade(skin.base, 0.6), 0.6, head.shot.roll)
    ink.shape(_ring(head, shape.upper_out, shape.lower_out), skin.lips, outline=0.45)
    ink.shape(_ring(head, shape.upper_out, shape.upper_in), shade(skin.lips, 0.22), outline=0)
    if shape.gap > 0.03:
        _draw_inside(ink, head, shape)
    else:
        middle = smooth(head.map(shape.upper_in, 0.03), False)
        ink.line(middle, shade(skin.lips, 0.7), 0.042 * size)
    if head.look.tongue > 0.6:
        _draw_tongue(ink, head, shape)
    shine = (shape.lower_in[4] + shape.lower_out[4]) / 2
    at = head.map([shine + (0, 0.005)], 0.04)[0]
    tall = float(shape.lower_out[4, 1] - shape.lower_in[4, 1])
    ink.soft(at, 0.2 * wide, 0.36 * tall * size, tint(skin.lips, 0.65), 0.75, head.shot.roll)
    ends = np.array([shape.upper_in[0], shape.upper_in[-1]])
    for point in head.map(ends, 0.02):
        ink.soft(point, 0.07 * size, 0.055 * size, shade(skin.base, 0.75), 0.6)


def _draw_inside(ink: Ink, head: Head, shape: Mouth) -> None:
    moves, size = head.look, head.pose.scale
    path = _ring(head, shape.upper_in, shape.lower_in)
    ink.shape(path, _INSIDE, outline=0)
    ink.open_clip(path)
    if 0 < moves.tongue <= 0.6:
        low = shape.lower_in[4]
        tongue = head.disc(low[0], low[1], 0.62 * shape.lower_in[-1, 0], 0.42 * shape.gap)
        ink.shape(smooth(tongue), _TONGUE, outline=0)
    both = moves.lower_teeth > 0.5
    if moves.teeth > 0.25:
        deep = shape.gap * (0.5 if both else 0.4)
        ink.shape(
            _ring(head, shape.upper_in - (0, 0.02), shape.upper_in + (0, deep)), _TEETH, outline=0
        )
    if both:
        deep = shape.gap * 0.52
        ink.shape(
            _ring(head, shape.lower_in - (0, deep), shape.lower_in + (0, 0.02)),
            mix(_TEETH, _INSIDE, 0.08),
            outline=0,
        )
        _gaps(ink, head, shape)
    ink.close()
    ink.line(path, shade(_INSIDE, 0.4), 0.026 * size)


def _gaps(ink: Ink, head: Head, shape: Mouth) -> None:
    """The lines of clenched teeth."""
    middle = (shape.upper_in + shape.lower_in) / 2
    lines = [smooth(head.map(middle, 0.03), False)]
    for k in range(1, 8):
        lines.append(smooth(head.map([shape.upper_in[k], shape.lower_in[k]], 0.03), False))
    ink.line("".join(lines), mix(_TEETH, _INSIDE, 0.55), 0.022 * head.pose.scale)


def _draw_tongue(ink: Ink, head: Head, shape: Mouth) -> None:
    """Stuck out over the lower lip."""
    size = head.pose.scale
    top, low = shape.upper_in[4, 1] + 0.6 * shape.gap, shape.lower_out[4, 1] + 0.13
    half = 0.5 * shape.lower_in[-1, 0]
    outline = [
        [-half, top],
        [-half, low - 0.07],
        [-0.5 * half, low],
        [0.5 * half, low],
        [half, low - 0.07],
        [half, top],
    ]
    ink.shape(smooth(head.map(outline, 0.07), tension=0.8), _TONGUE, outline=0.5)
    groove = head.map([[0, top + 0.03], [0, low - 0.06]], 0.07)
    ink.line(smooth(groove, False), shade(_TONGUE, 0.4), 0.03 * size)
    ink.soft(groove[1] + (0, 0.02 * size), 0.1 * size, 0.05 * size, WHITE, 0.5)
