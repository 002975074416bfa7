"""Find the face in the demo's photo before anything is painted, and say what was found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .console import Live, SetupError, say
from .contact import BUNDLED, run_tool
from .environment import Environment


def find_face(
    environment: Environment, models: Path, photo: Path, detector: str, folder: Path
) -> dict[str, Any]:
    """What mini/study/face_job.py writes, with the crop's file under "crop".

    It runs the code of the nodes, so the graph takes the same face. Raises SetupError when there
    is none.
    """
    wanted = {
        "models": str(models),
        "photo": str(photo),
        "detector": detector,
        "crop": str(folder / "face.png"),
        "found": str(folder / "found.json"),
    }
    with Live("looking for a face"):
        run_tool(environment, "face", wanted, folder, f"{photo} could not be searched for a face")
    found = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    if not found["count"]:
        raise SetupError(_explain_missing(photo, found, detector))
    say(describe(found))
    return found | {"crop": wanted["crop"]}


def describe(found: dict[str, Any]) -> str:
    """One line for the console."""
    share = found["share"] * 100
    size = f"{share:.0f} %" if share >= 1 else "under 1 %"
    line = (
        f"face: {found['count']} found, took number {found['number']}, "
        f"score {found['score']:.2f}, {size} of the picture"
    )
    return f"{line}; to take another, crop the picture to it" if found["count"] > 1 else line


def _explain_missing(photo: Path, found: dict[str, Any], detector: str) -> str:
    width, height = found["size"]
    known = "upright faces seen from the front, at least 5 % as wide as the picture"
    if detector != BUNDLED:
        known = "the small world's own drawings"
    return (
        f"no face was found in {photo.name} ({width} x {height} pixels), so nothing was painted. "
        f"The detector knows {known}.\n"
        "Next: crop the picture to one face that looks into the camera and run the demo again; or "
        "run it without --photo to see its own person."
    )
