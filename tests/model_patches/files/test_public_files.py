"""The table of public files: consistent rows, and the sentence that errors end with."""

import pytest
from flexid.model_patches.files.public_files import (
    ANTELOPEV2,
    BUFFALO_L,
    EVA02_CLIP_L_336,
    PARSING_BISENET,
    PULID_FLUX_090,
    PULID_FLUX_091,
    WEIGHTS,
    where_to_get,
)

pytestmark = pytest.mark.pure


@pytest.mark.parametrize("row", WEIGHTS, ids=lambda row: f"{row.folder}/{row.file}")
def test_rows_are_consistent(row):
    assert row.url.startswith(("https://huggingface.co/", "https://github.com/"))
    assert row.repo in row.url and row.licence
    assert row.url.endswith((f"/{row.file}", ".zip"))
    assert (row.revision or "main") in row.url
    assert row.sha256 is None or (len(row.sha256) == 64 and int(row.sha256, 16))
    assert (row.sha256 is None) == (row.bytes is None)
    assert not row.folder.startswith("models/")


def test_rows_are_unique():
    assert len({(row.folder, row.file) for row in WEIGHTS}) == len(WEIGHTS)


def test_antelopev2_is_complete():
    assert {row.file for row in ANTELOPEV2} == {
        "scrfd_10g_bnkps.onnx",
        "glintr100.onnx",
        "1k3d68.onnx",
        "2d106det.onnx",
        "genderage.onnx",
    }


def test_pulid_size_fits_its_tensors():
    """571,033,600 sixteen-bit values and a header (reference: section 1 of pulid_flux.md)."""
    assert 0 < PULID_FLUX_091.bytes - 2 * 571_033_600 < 100_000
    assert PULID_FLUX_090.sha256 is None


def test_the_sentence_names_files_folder_address_and_terms():
    said = where_to_get(ANTELOPEV2[:2])
    assert "scrfd_10g_bnkps.onnx (17 MB), glintr100.onnx (261 MB)" in said
    assert "models/insightface/models/antelopev2" in said
    assert "https://huggingface.co/DIAMONIK7777/antelopev2" in said
    assert "non-commercial research" in said


def test_an_archive_is_to_be_unpacked():
    said = where_to_get(BUFFALO_L)
    assert "releases/download/v0.7/buffalo_l.zip (unpack it)" in said


def test_files_from_several_places_get_a_sentence_each():
    said = where_to_get([PARSING_BISENET, EVA02_CLIP_L_336])
    assert said.count("Put ") == 2
    assert PARSING_BISENET.url in said and EVA02_CLIP_L_336.url in said


def test_nothing_to_get_is_an_error():
    with pytest.raises(ValueError, match="at least one file"):
        where_to_get([])
