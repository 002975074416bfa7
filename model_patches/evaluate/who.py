"""Who is who among the faces of one picture."""

from __future__ import annotations

from collections.abc import Sequence

from .likeness import ALIKE


def assign_people(alike: Sequence[Sequence[float]], least: float = ALIKE) -> tuple[int | None, ...]:
    """Likeness of each person to each face -> each person's face, None for who is not there.

    No face is two people. Of all ways to do so, the one with the largest sum of likeness counts,
    in which a pair below `least` is none. Meant for few people: it tries every set of them.
    """
    best: dict[int, tuple[float, tuple[tuple[int, int], ...]]] = {0: (0.0, ())}
    faces = len(alike[0]) if alike else 0
    for face in range(faces):
        grown = dict(best)
        for taken, (total, pairs) in best.items():
            for person, row in enumerate(alike):
                if taken >> person & 1 or not row[face] >= least:
                    continue
                both, sum_ = taken | 1 << person, total + row[face]
                if both not in grown or sum_ > grown[both][0]:
                    grown[both] = sum_, (*pairs, (person, face))
        best = grown
    found = dict(max(best.values(), key=lambda one: one[0])[1])
    return tuple(found.get(person) for person in range(len(alike)))
