"""FaceCLIP's fusers as a source of δ: forms, words, alignment, what does not fit."""

import math
import os
import sys

import comfy.sd
import people
import pytest
import torch
from flexid.mini import random_faceclip, random_text
from flexid.model_patches.encoders.faceclip import load_faceclip
from flexid.model_patches.encoders.mini_text import load_mini_clip
from flexid.model_patches.face.align import FFHQ_512
from flexid.model_patches.identity.identity import Identity
from flexid.model_patches.inject.sip import Wording, apply_sip
from flexid.model_patches.sip import align as sip_align
from flexid.model_patches.sip import projector as sip
from flexid.model_patches.sip.faceclip import FaceClipProjector
from flexid.model_patches.sip.projector import Prompt, direction_for, encode_sip
from identities import identity_of
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.comfy

TEXT = "a person reading a book in the rain"
WIDTHS = (64, 128)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sip")
    random_faceclip.write_face_t5(folder / "face_t5_encoder.pt", 1)
    random_faceclip.write_face_clip(folder / "face_clip_encoder.pt", 2, WIDTHS)
    random_text.write_t5(folder / "t5.safetensors", 3)
    random_text.write_clip_l(folder / "clip_l.safetensors", 4)
    return folder


@pytest.fixture(scope="module")
def t5(files):
    return FaceClipProjector(load_faceclip(files / "face_t5_encoder.pt"))


@pytest.fixture(scope="module")
def pair(files):
    return FaceClipProjector(load_faceclip(files / "face_clip_encoder.pt"))


@pytest.fixture(scope="module")
def clip(files):
    return load_mini_clip(files / "t5.safetensors", files / "clip_l.safetensors")


@pytest.fixture(scope="module")
def sd_clip(files):
    options = {"model_config": dict(random_text.CLIP_CONFIG)}
    return comfy.sd.load_clip([str(files / "clip_l.safetensors")], model_options=options)


def face(seed=0):
    return people.face(seed, points=torch.tensor(FFHQ_512, dtype=torch.float32))


def encoded(clip, text=TEXT):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def prompt(conditioning, text=TEXT):
    return Prompt(conditioning[0][0].float(), text)


def test_a_face_becomes_tokens_once(t5, monkeypatch):
    identity = encode_sip(t5, [face(), face(1)])
    assert identity.encodings["faceclip_t5"].tokens.shape == (1, 288, 64)
    assert identity.encodings["faceclip_t5"].null.shape == (1, 144, 64)
    assert identity.picture.shape == (1, 256, 256, 3)

    def never(*args):
        raise AssertionError("the face encoder ran again")

    monkeypatch.setattr(FaceClipProjector, "_look", never)
    again = encode_sip(t5, [face(1)]).encodings["faceclip_t5"]
    assert torch.equal(again.tokens, identity.encodings["faceclip_t5"].tokens[:, 144:])


def test_tokens_join_an_identity_that_has_others(t5):
    known = identity_of({"pulid_flux": torch.ones(1, 2, 3)})
    joined = encode_sip(t5, [face()], known)
    assert set(joined.encodings) == {"pulid_flux", "faceclip_t5"}
    assert set(known.encodings) == {"pulid_flux"}


def test_a_saved_identity_still_works(t5, clip, tmp_path):
    from flexid.model_patches.identity.store import load_identity, save_identity

    identity = encode_sip(t5, [face()])
    save_identity(identity, tmp_path / "p.safetensors")
    again = load_identity(tmp_path / "p.safetensors")
    text = prompt(encoded(clip))
    one, two = (direction_for(t5, who, text).vectors for who in (identity, again))
    assert torch.equal(one, two)


def test_difference_of_nobody_is_exactly_zero(t5, pair, clip, sd_clip):
    for projector, source in ((t5, clip), (pair, sd_clip)):
        nobody = identity_of({projector.family: projector.nobody()})
        found = direction_for(projector, nobody, prompt(encoded(source)))
        assert not found.vectors.any()


def test_difference_depends_on_the_face_and_literal_mostly_on_the_prompt(t5, clip):
    text = prompt(encoded(clip))
    people_ = [encode_sip(t5, [face(seed)]) for seed in (0, 1)]
    directions = [direction_for(t5, who, text).vectors for who in people_]
    assert not torch.allclose(*directions, atol=1e-3)
    literal = FaceClipProjector(t5.model, "literal")
    fused = direction_for(literal, people_[0], text).vectors
    nobody = t5.fuse(t5.nobody(), text)
    torch.testing.assert_close(fused - nobody, directions[0], atol=1e-5, rtol=0)


def test_several_faces_are_averaged_one_fuser_pass_each(t5, clip):
    text = prompt(encoded(clip))
    alone = [direction_for(t5, encode_sip(t5, [face(s)]), text).vectors for s in (0, 1)]
    both = direction_for(t5, encode_sip(t5, [face(0), face(1)]), text).vectors
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2, atol=1e-6, rtol=0)


def test_moving_alpha_computes_nothing_again(t5, clip):
    identity, text = encode_sip(t5, [face(7)]), encoded(clip)
    reports = [apply_sip(text, t5, identity, weight=0.1).report]
    before = sip.directions_computed()
    reports += [apply_sip(text, t5, identity, weight=s).report for s in (0.05, 0.15)]
    assert sip.directions_computed() == before
    assert all("median |E|" in report for report in reports)
    assert not any("the face makes" in report for report in reports), "only when it is faint"


@pytest.mark.parametrize("length", [256, 512, 600])
def test_256_512_and_more_tokens(t5, clip, length):
    identity = encode_sip(t5, [face()])
    generator = torch.Generator().manual_seed(length)
    states = torch.randn(1, length, 64, generator=generator)
    found = direction_for(t5, identity, Prompt(states))
    assert found.vectors.shape == states.shape
    assert not found.vectors[:, 512:].any() and found.vectors[:, : min(length, 512)].any(-1).all()
    notes = " ".join(found.notes)
    assert "T5TokenizerOptions" not in notes, "that belongs to the help page"
    assert ("after the first 512 of 600" in notes) == (length > 512)


def test_rows_of_a_batch_are_independent(t5, clip):
    identity = encode_sip(t5, [face()])
    one, two = (encoded(clip, words)[0][0] for words in (TEXT, "a castle"))
    both = direction_for(t5, identity, Prompt(torch.cat([one, two]).float())).vectors
    for row, states in enumerate((one, two)):
        alone = direction_for(t5, identity, Prompt(states.float())).vectors
        torch.testing.assert_close(both[row : row + 1], alone, atol=1e-5, rtol=0)


def test_scale_of_the_fuser_does_not_matter(t5, clip, monkeypatch):
    identity, text = encode_sip(t5, [face()]), encoded(clip)
    plain = apply_sip(text, t5, identity).conditioning[0][0]
    fused = FaceClipProjector.fuse
    monkeypatch.setattr(FaceClipProjector, "fuse", lambda *a: 37.0 * fused(*a))
    monkeypatch.setattr(sip, "_directions", type(sip._directions)(1 << 20))
    torch.testing.assert_close(
        apply_sip(text, t5, identity).conditioning[0][0], plain, atol=1e-5, rtol=0
    )


# Words of SD 1.5 and SDXL


def test_l_alone_for_sd15_and_both_for_sdxl(pair, sd_clip):
    identity = encode_sip(pair, [face()])
    assert identity.encodings["faceclip"].tokens.shape == (1, 290, 64)
    states = encoded(sd_clip)[0][0].float()
    l_only = direction_for(pair, identity, Prompt(states, TEXT)).vectors
    assert l_only.shape == states.shape
    wide = torch.cat((states, torch.randn(1, 77, 128)), dim=-1)
    both = direction_for(pair, identity, Prompt(wide, TEXT)).vectors
    assert both.shape == wide.shape
    torch.testing.assert_close(both[..., :64], l_only, atol=1e-6, rtol=0)
    assert both[..., 64:].any()


def test_words_line_up_with_the_prompt(pair, sd_clip):
    """A word that changes leaves what comes before it: the text tower only looks back, so before
    the fuser the states of the first words agree, at the prompt's own places."""
    identity = encode_sip(pair, [face()])
    text = "castle " * 20
    found = direction_for(pair, identity, prompt(encoded(sd_clip, text), text)).vectors
    assert found[:, :71].any(-1).all() and not found[:, 71:].any()


def test_long_prompts_run_chunk_by_chunk(pair, sd_clip):
    identity = encode_sip(pair, [face()])
    text = "castle " * 100
    conditioning = encoded(sd_clip, text)
    assert conditioning[0][0].shape[1] == 154
    done = apply_sip(conditioning, pair, identity, scope="content", wording=Wording(sd_clip, text))
    changed = (done.conditioning[0][0] != conditioning[0][0]).any(-1)[0]
    assert changed[1:70].all() and changed[78:80].all() and not changed[103:].any()


# Alignment


def test_calibration_prompts_are_many_and_always_the_same():
    one, two = sip_align.calibration_prompts(300), sip_align.calibration_prompts(300)
    assert one == two and len(set(one)) == 300
    assert not any("{" in text for text in one)


def test_alignment_recovers_a_linear_map():
    """Where the text is a linear image of the fused tokens, M is that map, offset and all."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(16, 16, generator=generator)
    sums = []
    for rows in (4000, 800):
        x = torch.randn(rows, 16, generator=generator)
        added = sip_align._Sums(16)
        added.add(x + 3, x @ truth - 5 + 0.01 * torch.randn(rows, 16, generator=generator))
        sums.append(added)
    fit = sip_align._best(*sums)
    torch.testing.assert_close(fit.matrix, truth, atol=5e-3, rtol=0)
    assert fit.ridge == min(sip_align.RIDGES) and fit.explained > 0.999


def test_noise_asks_for_a_strong_ridge():
    generator = torch.Generator().manual_seed(0)
    sums = []
    for rows in (20, 800):
        added = sip_align._Sums(16)
        added.add(
            torch.randn(rows, 16, generator=generator), torch.randn(rows, 16, generator=generator)
        )
        sums.append(added)
    assert sip_align._best(*sums).ridge == max(sip_align.RIDGES)


@pytest.mark.parametrize("which", ["t5", "pair"])
def test_alignment_is_fitted_once_and_kept(t5, pair, clip, sd_clip, tmp_path, which, monkeypatch):
    projector, source = (t5, clip) if which == "t5" else (pair, sd_clip)
    first = sip_align.align(projector, source, tmp_path, prompts=10)
    assert "fitted on 10 prompts" in first.report and "λ" in first.report
    assert len(list(tmp_path.iterdir())) == 1

    def never(*args):
        raise AssertionError("fitted again")

    monkeypatch.setattr(sip_align, "_fit", never)
    again = sip_align.align(projector, source, tmp_path, prompts=10)
    assert "read from" in again.report
    identity, text = encode_sip(projector, [face()]), prompt(encoded(source))
    aligned = direction_for(first.projector, identity, text).vectors
    assert torch.equal(aligned, direction_for(again.projector, identity, text).vectors)
    raw = direction_for(projector, identity, text).vectors
    matrix = next(iter(first.projector.alignment.values()))
    torch.testing.assert_close(aligned, raw @ matrix, atol=1e-5, rtol=0)
    nobody = identity_of({projector.family: projector.nobody()})
    assert not direction_for(first.projector, nobody, text).vectors.any()


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def _change(change, metadata=None):
    return lambda path: save_file(change(load_file(path)["t5"]), path, metadata)


UNUSABLE = {
    "cut": (_cut, "is cut short"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "web page": (lambda path: path.write_text("<html>"), "is a web page"),
    "NaN": (_change(lambda m: {"t5": m.fill_(math.nan)}), "t5 has numbers that are not finite"),
    "infinite": (_change(lambda m: {"t5": m / 0}), "t5 has numbers that are not finite"),
    "half": (_change(lambda m: {"t5": m.half()}), "holds t5 (64, 64) torch.float16, expected t5"),
    "shape": (_change(lambda m: {"t5": m[:3].clone()}), "holds t5 (3, 64) torch.float32"),
    "another tower": (_change(lambda m: {"l": m}), "holds l (64, 64) torch.float32, expected t5"),
    "one more": (_change(lambda m: {"t5": m, "l": m.clone()}), "holds l (64, 64)"),
    "none": (_change(lambda m: {}), "holds nothing, expected t5"),
    "another pair": (
        _change(lambda m: {"t5": m}, {"flexid.alignment": "of_others_10"}),
        "was fitted to of_others_10, expected",
    ),
}


@pytest.mark.parametrize("how", UNUSABLE)
def test_an_unusable_kept_alignment_is_fitted_again(t5, clip, tmp_path, how):
    spoil, why = UNUSABLE[how]
    first = sip_align.align(t5, clip, tmp_path, prompts=10)
    (path,) = tmp_path.iterdir()
    spoil(path)
    second = sip_align.align(t5, clip, tmp_path, prompts=10)
    assert f"could not be used: {path.name}" in second.report and why in second.report
    assert "fitted on 10 prompts" in second.report and "download" not in second.report
    third = sip_align.align(t5, clip, tmp_path, prompts=10)
    assert third.report == f"alignment read from {path.name}"
    for again in (second, third):
        assert torch.equal(again.projector.alignment["t5"], first.projector.alignment["t5"])


def test_an_alignment_of_an_earlier_version_is_read(t5, clip, tmp_path):
    """It states no key, but is as good."""
    sip_align.align(t5, clip, tmp_path, prompts=10)
    (path,) = tmp_path.iterdir()
    save_file(load_file(path), path)
    assert "read from" in sip_align.align(t5, clip, tmp_path, prompts=10).report


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_a_kept_alignment_has_the_mode_of_the_umask(t5, clip, tmp_path):
    before = os.umask(0o027)
    try:
        sip_align.align(t5, clip, tmp_path, prompts=10)
    finally:
        os.umask(before)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o640


def test_the_aligned_direction_lies_nearer_to_text(t5, clip, tmp_path):
    """On held-out prompts the map explains some of the text; the unaligned fuser does not."""
    aligned = sip_align.align(t5, clip, tmp_path, prompts=20)
    explained = float(aligned.report.split("explains ")[1].split("%")[0])
    assert explained > 5


# What does not fit


def _bad(name):
    return {
        "no tokens": (lambda p: Identity(), ["none", "faceclip_t5", "Encode SIP Identity"]),
        "other family": (
            lambda p: identity_of({"pulid_flux": torch.zeros(1, 2, 3)}),
            ["pulid_flux", "faceclip_t5"],
        ),
        "part of a face": (
            lambda p: identity_of({"faceclip_t5": torch.zeros(1, 100, 64)}),
            ["100 tokens", "144"],
        ),
        "narrow face": (
            lambda p: identity_of({"faceclip_t5": torch.zeros(1, 144, 32)}),
            ["width 32", "64"],
        ),
    }[name]


@pytest.mark.parametrize("case", ["no tokens", "other family", "part of a face", "narrow face"])
def test_identities_that_do_not_fit(t5, clip, case):
    make, facts = _bad(case)
    with pytest.raises(ValueError) as error:
        apply_sip(encoded(clip), t5, make(t5))
    for fact in facts:
        assert fact in str(error.value), str(error.value)


def test_text_of_another_model(t5, pair):
    states = torch.zeros(1, 8, 48)
    with pytest.raises(ValueError, match="48 wide.*t5 64.*face_clip_encoder.pt with SDXL"):
        direction_for(t5, encode_sip(t5, [face()]), Prompt(states))
    with pytest.raises(ValueError, match="48 wide.*l 64 . g 128"):
        direction_for(pair, encode_sip(pair, [face()]), Prompt(states))


def test_words_are_needed_and_must_be_the_same(pair, sd_clip):
    identity = encode_sip(pair, [face()])
    states = encoded(sd_clip)[0][0].float()
    with pytest.raises(ValueError, match="no text is connected.*Connect text"):
        direction_for(pair, identity, Prompt(states))
    with pytest.raises(ValueError, match="77 tokens, the text makes 154"):
        direction_for(pair, identity, Prompt(states, "castle " * 100))


def test_no_face_and_wrong_forms(t5):
    with pytest.raises(ValueError, match="0 faces.*Connect Detect Faces"):
        encode_sip(t5, [])
    with pytest.raises(ValueError, match="'loud'.*difference, literal"):
        FaceClipProjector(t5.model, "loud")
    with pytest.raises(ValueError, match="'literal'.*only 'difference' can be aligned"):
        FaceClipProjector(t5.model, "literal", {"t5": torch.eye(64)})


def test_the_report_says_what_was_done(t5, clip):
    identity, text = encode_sip(t5, [face()]), encoded(clip)
    wording = Wording(clip, TEXT)
    report = apply_sip(text, t5, identity, scope="content", wording=wording).report
    words = len(TEXT.split())
    assert "median |E|" in report and "|δ|" in report and "cosine" in report
    assert f"{math.degrees(math.atan(0.1)):.1f} degrees" in report
    count = int(report.split("prompt 1: ")[1].split(" of 256")[0])
    assert words <= count <= words + 6
