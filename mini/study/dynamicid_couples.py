"""Two people side by side, painted and looked at: who is like whom, and who does what was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .dynamicid_painter import PeoplePainter
from .dynamicid_rows import SCENES, TWO, Scene
from .evaluation import Clock, Evaluation, noise_seed
from .figures import TRAINED, Measured
from .judge import Seen, disruption, hits
from .judges import TRAINING
from .rows import ALONE, Row

TABLE = {
    "similarity": "likeness to the person",
    "other": "likeness to the other",
    "expression": "own expression",
    "detected": "face found",
    "disruption": "background changed",
}
"""What is measured of each person, or of each picture; likeness is 0 without a face."""
Pair = tuple[int, int]
"""Seeds of two people; in the first scene the first one is on the left, in every scene."""


def pair_people(people: Sequence[int]) -> tuple[Pair, ...]:
    """Neighbours, each person once; one who is left over is left out."""
    return tuple(zip(people[::2], people[1::2], strict=False))


@dataclass
class Couples:
    """All pairs by all scenes and rows; the evaluation's store, judges and photos."""

    evaluation: Evaluation
    painter: PeoplePainter
    pairs: tuple[Pair, ...]
    rows: tuple[Row, ...] = TWO

    def to_paint(self) -> int:
        """How many pictures are missing."""
        return sum(len(self._missing(row, pair)) for row in self.rows for pair in self.pairs)

    def run(self) -> Measured:
        """Paint and look at what is missing; row key -> metric -> (pairs, people in scenes), and
        (pairs, scenes) for what is measured of whole pictures. NaN where a metric says nothing."""
        clock = Clock(self.to_paint(), self.evaluation.note)
        told = []
        for number, pair in enumerate(self.pairs, 1):
            clock.where = f"pair {number} of {len(self.pairs)}"
            self._paint(pair, clock)
            told.append({row.key: self._measure(row, pair) for row in self.rows})
        return {
            row.key: {
                metric: np.array([one[row.key][metric] for one in told], float)
                for metric in told[0][row.key]
            }
            for row in self.rows
        }

    def _missing(self, row: Row, pair: Pair) -> list[Scene]:
        store = self.evaluation.store
        return [one for one in SCENES if store.missing_prompts(row, pair[0], [one.whole])]

    def _paint(self, pair: Pair, clock: Clock) -> None:
        missing = {row: self._missing(row, pair) for row in self.rows}
        if not any(missing.values()):
            return
        sitters = [self.painter.sitter(self.evaluation.photo(person)) for person in pair]
        for row, scenes in missing.items():
            for scene in scenes:
                seed = noise_seed(pair[0], scene.whole)
                picture = self.painter.paint_couple(row, sitters, scene, seed)
                self.evaluation.store.save(row, pair[0], [scene.whole], picture[None])
                clock.count_painted(1, row.title)

    def _measure(self, row: Row, pair: Pair) -> dict[str, list[float]]:
        """Metric -> its values in order of scenes, from left to right."""
        told: dict[str, list[float]] = {}
        for judge in self.evaluation.judges:
            prefix = TRAINED if judge == TRAINING else ""
            for scene, faces in self._look(row, pair, judge).items():
                for half, (own, other) in zip(scene.halves, faces, strict=True):
                    obeyed = hits(half, own)["expression"]
                    values = {
                        "similarity": own.similarity,
                        "other": other.similarity,
                        "expression": np.nan if obeyed is None else float(obeyed),
                        "detected": float(own.box is not None),
                    }
                    for metric, value in values.items():
                        told.setdefault(prefix + metric, []).append(value)
        told["disruption"] = [self._compare_background(row, pair, scene) for scene in SCENES]
        return told

    def _compare_background(self, row: Row, pair: Pair, scene: Scene) -> float:
        """NaN for the row that the others are compared with."""
        if row == ALONE:
            return np.nan
        first = next(iter(self.evaluation.judges))
        side = self.painter.studio.settings.side
        faces = [_in_whole(self._look(one, pair, first)[scene], side) for one in (row, ALONE)]
        pictures = [self.evaluation.store.load(one, pair[0], scene.whole) for one in (row, ALONE)]
        changed = disruption(*pictures, [*faces[0], *faces[1]])
        return np.nan if changed is None else changed

    def _look(self, row: Row, pair: Pair, judge: str) -> Mapping[Scene, list[tuple[Seen, Seen]]]:
        """Scene -> of each half, from left to right, its largest face beside the person who should
        be there and beside the other one; looked up or looked at."""
        store, eyes = self.evaluation.store, self.evaluation.judges[judge]
        seen = store.load_seen(row, pair[0], judge)
        wanted = None
        for scene in SCENES:
            if _name(scene, 0, 0) in seen:
                continue
            if wanted is None:
                wanted = [eyes.remember(self.evaluation.photo(person)) for person in pair]
            halves = np.split(store.load(row, pair[0], scene.whole), 2, axis=1)
            for side, half in enumerate(halves):
                for who in (0, 1):
                    found = eyes.look(np.ascontiguousarray(half), wanted[side ^ who])
                    seen[_name(scene, side, who)] = found
        if wanted is not None:
            store.note(row, pair[0], judge, seen)
        return {
            scene: [(seen[_name(scene, side, 0)], seen[_name(scene, side, 1)]) for side in (0, 1)]
            for scene in SCENES
        }


def _name(scene: Scene, side: int, who: int) -> str:
    """Of what was seen in a half; who: 0 for its own person, 1 for the other."""
    return f"{scene.whole.file_name} {'left' if side == 0 else 'right'} {who}"


def _in_whole(faces: Sequence[tuple[Seen, Seen]], side: int) -> list[Seen]:
    """The faces of both halves where they are in the whole picture."""
    placed = []
    for number, (own, _) in enumerate(faces):
        if own.box is not None:
            x0, y0, x1, y1 = own.box
            own = replace(own, box=(x0 + number * side, y0, x1 + number * side, y1))
        placed.append(own)
    return placed
