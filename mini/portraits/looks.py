"""Expressions as moves of the parts of a face, in head units (see geometry)."""

from dataclasses import dataclass, fields, replace

from .shots import Shot


@dataclass(frozen=True)
class Look:
    """What an expression does; all zero is a neutral face.

    Lengths in head units, positive up for brows, lids and mouth corners; the rest are shares.
    """

    brow_inner: float = 0.0
    brow_outer: float = 0.0
    brow_pinch: float = 0.0
    lid_upper: float = 0.0
    lid_lower: float = 0.0
    lid_slant: float = 0.0
    iris: float = 0.0
    gaze: float = 0.0
    mouth_width: float = 0.0
    corners: float = 0.0
    skew: float = 0.0
    open_up: float = 0.0
    open_down: float = 0.0
    square: float = 0.0
    teeth: float = 0.0
    lower_teeth: float = 0.0
    tongue: float = 0.0
    lips_thin: float = 0.0
    jaw: float = 0.0
    cheeks: float = 0.0
    nose_wrinkle: float = 0.0
    frown: float = 0.0
    forehead: float = 0.0
    folds: float = 0.0
    flush: float = 0.0
    pale: float = 0.0
    tears: float = 0.0
    sweat: float = 0.0


_SMILE = Look(
    brow_inner=0.03,
    brow_outer=0.03,
    lid_upper=-0.02,
    lid_lower=0.05,
    mouth_width=0.26,
    corners=0.12,
    open_up=-0.015,
    open_down=0.17,
    teeth=1.0,
    cheeks=1.0,
    folds=1.0,
)
_CLOSED_SMILE = replace(_SMILE, open_up=0.0, open_down=0.0, teeth=0.0, corners=0.16)
_LAUGH = replace(_SMILE, lid_upper=-0.075, lid_lower=0.06, open_down=0.27, tongue=0.5, jaw=0.07)
_SAD = Look(
    brow_inner=0.15,
    brow_outer=-0.07,
    brow_pinch=0.04,
    lid_upper=-0.045,
    lid_slant=-0.045,
    gaze=-0.05,
    mouth_width=-0.06,
    corners=-0.13,
    tears=1.0,
    forehead=0.3,
    folds=0.3,
    frown=0.2,
)
_SURPRISED = Look(
    brow_inner=0.15,
    brow_outer=0.15,
    lid_upper=0.06,
    lid_lower=-0.02,
    iris=-0.14,
    mouth_width=-0.42,
    open_up=0.1,
    open_down=0.2,
    jaw=0.1,
    tongue=0.35,
    forehead=1.0,
)
_ANGRY = Look(
    brow_inner=-0.125,
    brow_outer=0.09,
    brow_pinch=0.09,
    lid_upper=-0.02,
    lid_lower=0.025,
    lid_slant=0.075,
    mouth_width=0.06,
    corners=-0.06,
    open_up=0.055,
    open_down=0.075,
    square=1.0,
    teeth=1.0,
    lower_teeth=1.0,
    lips_thin=0.35,
    frown=1.0,
    nose_wrinkle=0.3,
    flush=1.0,
    folds=0.5,
)
_GLARING = replace(_ANGRY, open_up=0.0, open_down=0.0, teeth=0.0, lower_teeth=0.0, corners=-0.1)
_DISGUSTED = Look(
    brow_inner=-0.09,
    brow_outer=-0.01,
    brow_pinch=0.05,
    lid_upper=-0.07,
    lid_lower=0.055,
    mouth_width=0.0,
    corners=-0.1,
    skew=0.035,
    open_up=0.04,
    open_down=0.13,
    teeth=0.0,
    tongue=1.0,
    cheeks=0.5,
    nose_wrinkle=1.0,
    frown=0.6,
    folds=1.0,
    pale=0.4,
)
_FEARFUL = Look(
    brow_inner=0.19,
    brow_outer=0.03,
    brow_pinch=0.06,
    lid_upper=0.05,
    lid_lower=-0.02,
    iris=-0.32,
    mouth_width=0.24,
    corners=-0.1,
    open_up=0.05,
    open_down=0.07,
    square=0.75,
    teeth=1.0,
    lower_teeth=1.0,
    lips_thin=0.4,
    jaw=0.03,
    forehead=0.8,
    sweat=1.0,
    pale=1.0,
)
_STRONG = {
    "neutral": Look(),
    "happy": _SMILE,
    "sad": _SAD,
    "surprised": _SURPRISED,
    "angry": _ANGRY,
    "disgusted": _DISGUSTED,
    "fearful": _FEARFUL,
}
_MILD = _STRONG | {"happy": _CLOSED_SMILE, "angry": _GLARING}


def _scale_look(look: Look, share: float) -> Look:
    return Look(**{field.name: getattr(look, field.name) * share for field in fields(Look)})


def look(shot: Shot) -> Look:
    """The moves of a shot's expression at its intensity.

    Teeth are shown or not, so that a weak smile is a closed one rather than a thin slit.
    """
    strong = shot.intensity >= 0.72
    if shot.expression == "happy" and shot.intensity > 0.9:
        return _scale_look(_LAUGH, shot.intensity)
    return _scale_look((_STRONG if strong else _MILD)[shot.expression], 0.4 + 0.6 * shot.intensity)
