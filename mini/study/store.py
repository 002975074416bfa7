"""Painted pictures and what was seen in them, kept by content, so that nothing is done twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .. import world
from .adapter_files import digest_name
from .dynamicid_rows import PLACES, way_of
from .judge import Seen
from .judges import INDEPENDENT, TRAINING
from .prompts import Prompt
from .rows import Row, Settings, as_json

PAINTING, LOOKING = 1, 1
"""Raise one of them when code changes what is painted, or what is seen in it."""
BASE = (world.FLUX, world.VAE, world.T5, world.CLIP_L)
FACES = (world.RECOGNISER, world.DETECTOR)
PERSON = (*FACES, world.EVA, world.PULID)
JUDGES = {
    TRAINING: (*FACES, world.ESTIMATORS),
    INDEPENDENT: (world.DETECTOR, world.JUDGE_RECOGNISER, world.JUDGE_ESTIMATORS),
}
"""Judge -> its files."""


def file_digests(models: Path) -> dict[str, str]:
    """SHA-256 of every file of the small world below `models`; absent ones are left out."""
    digests = {}
    for name in world.TRAINED:
        if (models / name).is_file():
            digests[name] = hashlib.sha256((models / name).read_bytes()).hexdigest()
    return digests


class Store:
    """One folder: pictures/<what paints them>/<person>/<prompt>.png and seen/<also who looks>/."""

    def __init__(
        self,
        folder: Path,
        digests: Mapping[str, str],
        settings: Settings,
        knobs: Mapping[str, float],
    ) -> None:
        self.folder, self.digests = folder, digests
        self.settings, self.knobs = settings, knobs

    def painter(self, row: Row) -> str:
        """Name of all that decides what a row looks like: files, settings, its own recipe."""
        files = BASE
        if row.anchor != "none":
            files += PERSON
        if row.sip:
            files += (*PERSON, world.FACE_T5)
        files += {"flexip": (world.FLEXIP,), "plain": (world.FLEXIP_PLAIN,)}.get(row.anchor, ())
        if row.anchor == "adapter":
            files += (digest_name(row.adapter),)
        if row.anchor == "people":
            files = (*BASE, *FACES, world.EVA, world.SAA)
            files += (world.IMR, world.KEY_POINTS) if way_of(row).edited else ()
        gated = row.sip or row.anchor == "gated"
        recipe = as_json(row) | {"title": "", "knobs": dict(self.knobs) if gated else {}}
        if row.anchor in ("editid", "queried", "mixed"):
            # Here, because the rest of this file needs no ComfyUI.
            from .controls import controls_of

            recipe["preset"] = controls_of(row).describe()
        if row.anchor == "guided":
            from ...model_patches.inject.id_guidance.settings import Guiding

            recipe["guiding"] = Guiding(row.strength).describe()
        if row.anchor == "people":
            from .dynamicid_painter import SETTINGS

            recipe["way"] = [repr(way_of(row)), repr(SETTINGS), PLACES]
        what = [PAINTING, as_json(self.settings), recipe, self._files(files)]
        return f"{row.key}-{_digest(what)}"

    def judge(self, name: str) -> str:
        """Name of all that decides what a judge sees in a picture."""
        return _digest([LOOKING, self._files(JUDGES[name])])

    def _files(self, names: Sequence[str]) -> list[str]:
        return [self.digests.get(name, "") for name in dict.fromkeys(names)]

    def picture(self, row: Row, person: int, prompt: Prompt) -> Path:
        return self._picture_folder(row, person) / f"{prompt.file_name}.png"

    def _picture_folder(self, row: Row, person: int) -> Path:
        return self.folder / "pictures" / self.painter(row) / str(person)

    def missing_prompts(self, row: Row, person: int, prompts: Sequence[Prompt]) -> list[Prompt]:
        """The prompts that are not painted yet."""
        return [prompt for prompt in prompts if not self.picture(row, person, prompt).is_file()]

    def save(self, row: Row, person: int, prompts: Sequence[Prompt], pictures: np.ndarray) -> None:
        self._picture_folder(row, person).mkdir(parents=True, exist_ok=True)
        for prompt, pixels in zip(prompts, pictures, strict=True):
            path = self.picture(row, person, prompt)
            partial = path.with_suffix(f".{os.getpid()}.part")
            Image.fromarray(pixels).save(partial, format="png")
            os.replace(partial, path)

    def load(self, row: Row, person: int, prompt: Prompt) -> np.ndarray:
        with Image.open(self.picture(row, person, prompt)) as picture:
            return np.array(picture.convert("RGB"))

    def load_seen(self, row: Row, person: int, judge: str) -> dict[str, Seen]:
        """Prompt.file_name -> what a judge saw in this person's pictures of a row so far."""
        path = self._notes(row, person, judge)
        if not path.is_file():
            return {}
        notes = json.loads(path.read_text(encoding="utf-8"))
        return {name: Seen.from_json(values) for name, values in notes.items()}

    def note(self, row: Row, person: int, judge: str, seen: Mapping[str, Seen]) -> None:
        """Keep what was seen; it replaces what was kept."""
        path = self._notes(row, person, judge)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.part")
        notes = {name: one.as_json() for name, one in seen.items()}
        partial.write_text(json.dumps(notes), encoding="utf-8")
        os.replace(partial, path)

    def _notes(self, row: Row, person: int, judge: str) -> Path:
        return self.folder / "seen" / self.painter(row) / self.judge(judge) / f"{person}.json"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
