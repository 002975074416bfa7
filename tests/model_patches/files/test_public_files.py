"""The table of public files: consistent rows, and the sentence that errors end with."""

import pytest
from flexid.model_patches.files.public_files import (
    ANTELOPEV2,
    BUFFALO_L,
    CLIP_VIT_H,
    EVA02_CLIP_L_336,
    FACE_CLIP,
    FACE_T5,
    PARSING_BISENET,
    PULID_FLUX_090,
    PULID_FLUX_091,
    SETS,
    WEIGHTS,
    where_to_get,
)
from flexid.model_patches.files.weight_file import format_bytes

pytestmark = pytest.mark.pure


@pytest.mark.parametrize("row", WEIGHTS, ids=lambda row: f"{row.folder}/{row.file}")
def test_rows_are_consistent(row):
    assert row.url.startswith(("https://huggingface.co/", "https://github.com/"))
    assert row.repo in row.url and row.licence
    renamed = row is CLIP_VIT_H
    assert row.is_renamed == renamed and row.is_archived == row.url.endswith(".zip")
    assert renamed or row.url.endswith((f"/{row.file}", ".zip"))
    assert (row.revision or "main") in row.url
    assert row.sha256 is None or (len(row.sha256) == 64 and int(row.sha256, 16))
    assert (row.sha256 is None) == (row.bytes is None)
    assert not row.folder.startswith("models/")
    assert row.needed_for and row.page in row.url and row.size != "?"


def test_rows_are_unique():
    """By name alone, too: a name is what the user fetches by."""
    assert len({row.file for row in WEIGHTS}) == len(WEIGHTS)
    assert not {row.file for row in WEIGHTS} & set(SETS)


@pytest.mark.parametrize(("rows", "more"), [(ANTELOPEV2, []), (BUFFALO_L, ["the landmarks"])])
def test_of_a_face_pack_only_what_is_read_is_asked_for(rows, more):
    """A detector and a recogniser, for DynamicID landmarks; the others would be 145 MB for
    nothing."""
    read = ["the detector", "the recogniser", *more]
    assert [row.needed_for.split(": ")[1] for row in rows] == read


def test_sets_hold_what_their_nodes_need():
    chosen = {name: {row.file for row in one.rows} for name, one in SETS.items()}
    assert chosen["vfa"] == {
        "pulid_flux_v0.9.1.safetensors",
        "EVA02_CLIP_L_336_psz14_s6B.pt",
        "scrfd_10g_bnkps.onnx",
        "glintr100.onnx",
        "parsing_bisenet.pth",
    }
    assert (chosen["sip-flux"], chosen["sip-sdxl"]) == ({FACE_T5.file}, {FACE_CLIP.file})
    assert set().union(*chosen.values()) <= {row.file for row in WEIGHTS}
    assert not any(row.is_archived for one in SETS.values() for row in one.rows)


def test_a_renamed_file_is_asked_for_under_both_names():
    said = where_to_get([CLIP_VIT_H])
    assert CLIP_VIT_H.file in said and f"{CLIP_VIT_H.url} (rename it)" in said
    assert "model.safetensors" not in CLIP_VIT_H.file
    assert "The Fetch Models node does it" in said


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (16_923_827, "16.9 MB"),
        (260_665_334, "261 MB"),
        (999_600_000, "1.00 GB"),
        (1_142_099_520, "1.14 GB"),
        (23_800_000_000, "23.8 GB"),
    ],
)
def test_sizes_are_told_as_the_hub_tells_them(count, text):
    assert format_bytes(count) == text


def test_pulid_size_fits_its_tensors():
    """571,033,600 sixteen-bit values and a header (reference: section 1 of pulid_flux.md)."""
    assert 0 < PULID_FLUX_091.bytes - 2 * 571_033_600 < 100_000
    assert PULID_FLUX_090.sha256 is None


def test_the_sentence_names_files_folder_address_and_terms():
    said = where_to_get(ANTELOPEV2)
    assert "scrfd_10g_bnkps.onnx (16.9 MB), glintr100.onnx (261 MB)" in said
    assert "models/insightface/models/antelopev2" in said
    assert "https://huggingface.co/DIAMONIK7777/antelopev2" in said
    assert "non-commercial research" in said and said.endswith("Fetch Models node does it, too.")


def test_an_archive_is_to_be_unpacked():
    said = where_to_get(BUFFALO_L)
    assert "releases/download/v0.7/buffalo_l.zip (unpack it)" in said
    assert "Fetch Models" not in said


def test_files_from_several_places_get_a_sentence_each():
    said = where_to_get([PARSING_BISENET, EVA02_CLIP_L_336])
    assert said.count("Put ") == 2
    assert PARSING_BISENET.url in said and EVA02_CLIP_L_336.url in said


def test_nothing_to_get_is_an_error():
    with pytest.raises(ValueError, match="at least one file"):
        where_to_get([])
