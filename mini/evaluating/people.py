"""The people of an evaluation: drawn by seed, with one reference photo and no other."""

from __future__ import annotations

import numpy as np

SHOT = 77
"""Seeds what a reference photo shows besides its person."""
TURN = {"yaw": 12.0, "pitch": 7.0, "roll": 6.0}
"""Largest angles of a reference photo, in degrees: people look about straight into a camera."""


def reference(seed: int, side: int) -> np.ndarray:
    """(side, side, 3) uint8: a neutral photo of the person of this seed, place and clothes drawn.

    Raises ModuleNotFoundError without the drawing library.
    """
    from ..portraits import person, picture, render, shot

    rng = np.random.default_rng((seed, SHOT))
    turned = {axis: float(rng.uniform(-most, most)) for axis, most in TURN.items()}
    view = shot(rng, expression="neutral", style="photo", **turned)
    return render(picture(rng, ((person(seed), view),)), side).image
