"""The people of an evaluation: drawn by seed, with one reference photo and no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np

DEMO = 1_000_016
"""The person of the demo's contact sheet: held out, and chosen by this photo alone."""
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


def draw_reference(path: Path) -> None:
    """Write the demo's reference photo, as an evaluation would draw it."""
    from PIL import Image

    from .rows import settings

    Image.fromarray(reference(DEMO, settings().side)).save(path, optimize=True)
