"""The byte-bounded cache and the face's content key."""

import dataclasses

import pytest
import torch
from flexid.model_patches.face.face import face_key
from flexid.model_patches.files.cache import Statistics, TensorCache
from people import face, labels

pytestmark = pytest.mark.pure


def _entry(count=100):
    return (torch.zeros(count),)


def test_least_recently_used_goes_first():
    cache = TensorCache(800)
    cache.put("a", _entry())
    cache.put("b", _entry())
    assert cache.get("a") is not None
    cache.put("c", _entry())
    assert cache.get("b") is None and cache.get("a") and cache.get("c")


def test_one_entry_larger_than_the_cache_is_kept():
    cache = TensorCache(10)
    cache.put("a", _entry())
    assert cache.get("a") is not None
    cache.put("b", _entry())
    assert cache.get("a") is None and len(cache) == 1


def test_counts_survive_clearing():
    cache = TensorCache(10_000)
    cache.put("a", _entry())
    cache.get("a")
    cache.get("missing")
    cache.clear()
    assert cache.get("a") is None
    assert cache.statistics == Statistics(runs=1, hits=1)


@pytest.mark.parametrize(
    "change",
    [
        {"photo_hash": "other"},
        {"box": (0.0, 0.0, 1.0, 1.0)},
        {"embedding": torch.zeros(512)},
        {"embedding": None},
        {"labels": labels()},
        {"ffhq_crop": torch.zeros(512, 512, 3, dtype=torch.uint8)},
    ],
)
def test_face_key_follows_every_input(change):
    assert face_key(dataclasses.replace(face(1), **change)) != face_key(face(1))


def test_face_key_ignores_what_encoders_do_not_see():
    assert face_key(face(1)) == face_key(face(1, photo=7, score=0.1))
    strided = face(1).ffhq_crop.permute(1, 0, 2).contiguous().permute(1, 0, 2)
    assert face_key(face(1, ffhq_crop=strided)) == face_key(face(1))
