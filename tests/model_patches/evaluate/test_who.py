"""Who is who: no face twice, the best sum, nobody by force."""

import itertools

import numpy as np
import pytest
from flexid.model_patches.evaluate.who import assign_people

pytestmark = pytest.mark.pure


def test_each_face_is_one_person_and_the_sum_counts():
    assert assign_people([[0.9, 0.8], [0.85, 0.1]]) == (1, 0)  # the greedy way would lose Bob
    assert assign_people([[0.9, 0.3], [0.2, 0.8]]) == (0, 1)


def test_who_is_like_nobody_is_missing():
    assert assign_people([[0.19, 0.1], [0.5, 0.21]]) == (None, 0)
    assert assign_people([[0.4], [0.6]]) == (None, 0)
    assert assign_people([[], []]) == (None, None)
    assert assign_people([]) == ()
    assert assign_people([[0.1]], least=0.05) == (0,)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_best_of_all_ways(seed):
    alike = np.random.default_rng(seed).uniform(-0.2, 1, (3, 4))
    found = assign_people(alike.tolist())
    mine = sum(alike[person, face] for person, face in enumerate(found) if face is not None)
    options = [None, *range(4)]
    sums = [
        sum(alike[person, face] for person, face in enumerate(faces) if face is not None)
        for faces in itertools.product(options, repeat=3)
        if len({face for face in faces if face is not None})
        == sum(face is not None for face in faces)
        and all(face is None or alike[person, face] >= 0.2 for person, face in enumerate(faces))
    ]
    assert mine == pytest.approx(max(sums))
