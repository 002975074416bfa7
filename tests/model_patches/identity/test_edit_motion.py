"""Expression and pose of an identity: sources, targets, words, and what is refused."""

from dataclasses import replace

import dynamicid_world
import imr_world
import numpy as np
import pytest
import tiny
import tiny_faces
import tiny_unet
import torch
from flexid.model_patches.adapters import imr
from flexid.model_patches.face.landmark_image import landmark_image
from flexid.model_patches.face.landmark_pose import Sliders, move_landmarks
from flexid.model_patches.identity.combine import combine_identities
from flexid.model_patches.identity.dynamicid import encode_dynamicid
from flexid.model_patches.identity.edit_motion import edit_identity
from flexid.model_patches.identity.motion import kept_motion
from flexid.model_patches.identity.motion_words import Target, parse_targets
from flexid.model_patches.identity.store import load_identity, save_identity

pytestmark = pytest.mark.comfy

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
HAPPY = Target("happy")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return dynamicid_world.adapter(tmp_path_factory.mktemp("saa"), tiny_unet.sd15())


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    return imr_world.editor(tmp_path_factory.mktemp("imr"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return imr_world.clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def vision():
    return dynamicid_world.vision()


def photos(count=1, seed=4, size=(200, 260)):
    return torch.rand(count, *size, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def person(adapter, vision):
    return encode_dynamicid(adapter, vision, imr_world.analyser(), photos()).identity


@pytest.fixture(scope="module")
def blind(adapter):
    """An identity that does not know its landmarks."""
    return dynamicid_world.person(adapter)


def tokens(identity):
    return identity.encodings["dynamicid"].tokens


def pooled(clip, text):
    return clip.encode_from_tokens(clip.tokenize(text), return_pooled="unprojected")[1][0]


def edit(editor, person, clip, *targets, **options):
    return edit_identity(editor, person, clip, list(targets) or [HAPPY], **options)


def test_a_motion_is_landmarks_and_the_pooled_text_without_projection(editor, person, clip):
    done = edit(editor, person, clip)
    ((own, seen),) = kept_motion(person.encodings["dynamicid"])
    picture = landmark_image(seen.framed)
    source, target = (
        imr.Motion(picture, pooled(clip, f"in a {name} expression, in front view"))
        for name in ("neutral", "happy")
    )
    expected = imr.edit_tokens(editor, own, source, [target])
    torch.testing.assert_close(tokens(done.identities[0]), expected, **CLOSE)
    assert done.words == ("in a happy expression, in front view",)
    assert done.report.splitlines()[0] == "1 target(s) by IMR.bin"
    assert "Nothing measures the source's expression" in done.report


def test_an_encoder_that_projects_its_text_is_asked_not_to(editor, person, clip, monkeypatch):
    plain = edit(editor, person, clip)
    tower = clip.cond_stage_model.clip_l
    monkeypatch.setattr(tower, "options_default", (*tower.options_default[:2], True))
    projected = clip.encode_from_tokens(clip.tokenize("x"), return_pooled=True)[1][0]
    assert not torch.allclose(projected, pooled(clip, "x"))
    found = edit(editor, person, clip)
    torch.testing.assert_close(tokens(found.identities[0]), tokens(plain.identities[0]), **CLOSE)


def test_everything_else_of_the_identity_stays(editor, person, clip):
    edited = edit(editor, person, clip).identities[0]
    old, new = (one.encodings["dynamicid"] for one in (person, edited))
    assert torch.equal(new.null, old.null) and new.encoder == old.encoder
    assert edited.features is person.features and edited.thumbnail is person.thumbnail
    assert new.recipe["words"] == "happy" and new.recipe["editor"] == "IMR.bin"
    assert new.recipe["colours"] == "corrected"


def test_several_targets_are_each_one_alone(editor, person, clip):
    lines = parse_targets("happy\nsad; yaw 20\na wry smile; mouth 0.5", Target())
    together = edit(editor, person, clip, *lines)
    assert len(together.identities) == 3 and together.pictures.shape == (4, 384, 384, 3)
    for number, line in enumerate(lines):
        alone = edit(editor, person, clip, line)
        torch.testing.assert_close(
            tokens(alone.identities[0]), tokens(together.identities[number]), **CLOSE
        )
        assert torch.equal(alone.pictures[1], together.pictures[1 + number])
    assert together.words[1:] == ("in a sad expression, in side view", "a wry smile")
    assert not torch.equal(together.pictures[0], together.pictures[2])
    assert torch.equal(together.pictures[0], together.pictures[1])


def test_sliders_move_the_landmarks_and_the_words_follow(editor, person, clip):
    plain = edit(editor, person, clip, Target())
    assert plain.words == ("in a neutral expression, in front view",)
    ((_, seen),) = kept_motion(person.encodings["dynamicid"])
    turned = edit(editor, person, clip, Target(sliders=Sliders(yaw=30.0, mouth=0.4)))
    assert turned.words == ("in a neutral expression, in side view",)
    angles = (seen.angles[0] + 30.0, *seen.angles[1:])
    points = move_landmarks(seen.points, seen.angles, angles, Sliders(mouth=0.4))
    picture = landmark_image(replace(seen, points=points).framed)
    assert torch.equal(turned.pictures[1, ::4, ::4, 0] * 255, picture.float())


def test_an_edited_identity_can_be_edited_again(editor, person, clip):
    """Its face does what the target said, so that is what the next edit takes out."""
    once = edit(editor, person, clip, Target("happy", sliders=Sliders(yaw=30.0))).identities[0]
    again = edit(editor, once, clip, Target("sad"))
    assert "source: in a happy expression, in side view" in again.report
    assert "Nothing measures" not in again.report
    assert again.words == ("in a sad expression, in side view",)
    back = edit(editor, once, clip, Target("sad", "front view"))
    assert back.words == ("in a sad expression, in front view",)


def test_an_identity_of_several_photos_is_edited_photo_by_photo(editor, adapter, vision, clip):
    two = photos(2)
    whole = encode_dynamicid(adapter, vision, imr_world.analyser(), two).identity
    parts = [
        encode_dynamicid(adapter, vision, imr_world.analyser(), photo[None]).identity
        for photo in two
    ]
    mean = sum(tokens(edit(editor, one, clip).identities[0]) for one in parts) / 2
    torch.testing.assert_close(tokens(edit(editor, whole, clip).identities[0]), mean, **CLOSE)


def test_what_a_face_does_is_kept_in_its_file(editor, person, clip, tmp_path):
    save_identity(person, tmp_path / "x.safetensors")
    found = load_identity(tmp_path / "x.safetensors")
    one, other = (tokens(edit(editor, each, clip).identities[0]) for each in (person, found))
    torch.testing.assert_close(one, other, **CLOSE)


def test_a_source_photo_serves_an_identity_that_knows_none(editor, person, blind, clip):
    with pytest.raises(ValueError, match="0 kept, expected .*Encode it again .*buffalo_l"):
        edit(editor, blind, clip)
    seen = {"analyser": imr_world.analyser(), "source": photos()}
    done = edit(editor, blind, clip, **seen)
    same = replace(
        blind,
        encodings={
            "dynamicid": replace(
                blind.encodings["dynamicid"],
                extra={
                    **person.encodings["dynamicid"].extra,
                    "each": tokens(blind),
                },
            )
        },
    )
    expected = edit(editor, same, clip).identities[0]
    torch.testing.assert_close(tokens(done.identities[0]), tokens(expected), **CLOSE)
    both = combine_identities([person, person], "mean").identity
    with pytest.raises(ValueError, match="does not know the face's landmarks"):
        edit(editor, both, clip)


def test_source_words_are_what_is_taken_out(editor, person, clip):
    happy = edit(editor, person, clip, source_words="happy")
    assert "source: in a happy expression, in front view" in happy.report
    assert not torch.allclose(
        tokens(happy.identities[0]), tokens(edit(editor, person, clip).identities[0])
    )
    free = edit(editor, person, clip, Target(), source_words="grinning, eyes shut")
    assert free.words == ("grinning, eyes shut",)
    turned = Target(sliders=Sliders(yaw=20.0))
    assert edit(editor, person, clip, turned, source_words="grinning").words == (
        "grinning, in side view",
    )
    viewed = edit(editor, person, clip, source_words="happy, front view")
    assert "source: happy, front view;" in viewed.report


# Driving photos


def driving(count=1):
    return photos(count, seed=9, size=(300, 240))


def test_a_driving_photo_lends_its_landmarks(editor, person, clip):
    analyser = imr_world.analyser((30.0, 5.0, 0.0))
    done = edit(editor, person, clip, Target(), analyser=analyser, driving=driving())
    assert done.words == ("in side view",)
    assert not torch.equal(done.pictures[0], done.pictures[1])
    named = edit(editor, person, clip, HAPPY, analyser=analyser, driving=driving())
    assert named.words == ("in a happy expression, in side view",)
    assert torch.equal(named.pictures, done.pictures)
    moved = Target(sliders=Sliders(mouth=1.0))
    open_mouth = edit(editor, person, clip, moved, analyser=analyser, driving=driving())
    assert not torch.equal(open_mouth.pictures[1], done.pictures[1])


def test_photos_and_lines_pair(editor, person, clip):
    seen = {"analyser": imr_world.analyser(), "driving": driving(3)}
    assert (
        edit(editor, person, clip, HAPPY, **seen).words
        == ("in a happy expression, in front view",) * 3
    )
    lines = [HAPPY, Target("sad"), Target("afraid")]
    several = edit(editor, person, clip, *lines, **seen).words
    assert [words.split()[2] for words in several] == ["happy", "sad", "afraid"]
    with pytest.raises(ValueError, match="2 lines of targets and 3 driving photos"):
        edit(editor, person, clip, *lines[:2], **seen)


def test_a_driving_photo_without_a_face_is_named_before_anything_runs(editor, person):
    empty = tiny_faces.analyser(tiny_faces.FixedDetector({}), None)
    nobody = replace(empty, landmarks=imr_world.DrawnLandmarks())
    for name in ("driving", "source"):
        with pytest.raises(ValueError, match=f"The {name} photo: photo 1 .*no face was found"):
            edit(editor, person, None, analyser=nobody, **{name: driving()})
        with pytest.raises(ValueError, match=f"The {name} photo needs a landmark model .* has 0"):
            edit(editor, person, None, analyser=empty, **{name: driving()})
        with pytest.raises(ValueError, match=rf"1 {name} photo\(s\) came in and no face analyser"):
            edit(editor, person, None, **{name: driving()})
    with pytest.raises(ValueError, match="2 source photos came in, expected 1"):
        edit(editor, person, None, analyser=imr_world.analyser(), source=driving(2))


# What is refused


def test_what_does_not_fit_is_refused_before_anything_runs(editor, person, tmp_path):
    with pytest.raises(ValueError, match="tokens for: pulid_flux; 'IMR.bin' needs dynamicid"):
        edit(editor, tiny.identity(), None)
    wide = imr_world.editor(tmp_path, width=128)
    with pytest.raises(ValueError, match="tokens are 64 wide; 'IMR.bin' reads 128"):
        edit(wide, person, None)
    far = Target(sliders=Sliders(yaw=100.0))
    with pytest.raises(ValueError, match="Target 2: The target has a yaw of 100 degrees, expected"):
        edit(editor, person, None, HAPPY, far)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("angles", torch.zeros(1, 2), r"holds \(1, 2\) as angles of its photos, expected \(1, 3\)"),
        ("size", torch.full((1, 2), torch.inf), "as size of its photos, .* finite"),
        ("each", None, "holds nothing as each of its photos"),
    ],
)
def test_damaged_landmarks_are_refused(editor, person, name, value, message):
    old = person.encodings["dynamicid"]
    extra = {
        key: tensor for key, tensor in {**old.extra, name: value}.items() if tensor is not None
    }
    damaged = replace(person, encodings={"dynamicid": replace(old, extra=extra)})
    with pytest.raises(ValueError, match=message):
        edit(editor, damaged, None)


def test_another_text_encoder_is_refused(editor, person):
    class Wide:
        def tokenize(self, text):
            return text

        def encode_from_tokens(self, tokens, return_pooled):
            return torch.zeros(1, 77, 96), torch.zeros(1, 96)

    with pytest.raises(ValueError, match=r"shape \(1, 96\), 'IMR.bin' reads \(1, 64\). Connect"):
        edit(editor, person, Wide())


def test_landmarks_outside_of_the_picture_are_counted(editor, person, clip):
    analyser = imr_world.analyser()
    find = analyser.landmarks.find
    analyser.landmarks.find = lambda rgb, box: find(rgb, box) - torch.tensor([1000.0, 0.0])
    done = edit(editor, person, clip, analyser=analyser, driving=driving())
    assert "106 of 106 landmarks outside" in done.report
    assert np.count_nonzero(done.pictures[1]) == 0


# An editor for the tokens of another family


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    return imr.load_editor(*imr_world.write_other(folder, width=tiny.TOKEN_DIM))


def pulid_person(encoder=imr_world.OTHER.encoder):
    plain = tiny.identity()
    found = replace(plain.encodings["pulid_flux"], encoder=encoder)
    return replace(plain, encodings={"pulid_flux": found, "dynamicid": found})


def plain_faces():
    """An analyser without landmark model."""
    return replace(imr_world.analyser((10.0, 0.0, 0.0)), landmarks=None)


def test_other_tokens_are_edited_by_the_five_points_of_a_face(other, clip):
    person, seen = pulid_person(), {"analyser": plain_faces(), "source": photos()}
    line = Target("happy", "slightly left")
    done = edit(other, person, clip, line, **seen)
    old, new = (one.encodings for one in (person, done.identities[0]))
    assert done.words == ("in a happy expression, in side view",)
    assert not torch.equal(new["pulid_flux"].tokens, old["pulid_flux"].tokens)
    assert new["dynamicid"] is old["dynamicid"]
    points = [np.count_nonzero(one[::4, ::4, 0]) for one in done.pictures]
    assert points == [5, 5] and not torch.equal(*done.pictures)
    again = edit(other, done.identities[0], clip, Target("sad"))
    assert again.words == ("in a sad expression, in side view",)
    driven = edit(other, done.identities[0], clip, analyser=plain_faces(), driving=driving())
    assert driven.words == ("in a happy expression, in side view",)


def test_the_tokens_of_another_encoder_are_refused_with_both(other, person):
    with pytest.raises(ValueError, match="encoder ffff.*encoder abab.*with their_pulid.safet"):
        edit(other, pulid_person("ff" * 32), None)
    with pytest.raises(ValueError, match="tokens for: dynamicid; .* needs pulid_flux"):
        edit(other, person, None)
    with pytest.raises(ValueError, match="0 kept, .* Connect its photo to `source`"):
        edit(other, pulid_person(), None)
    lifted = Target(sliders=Sliders(brows=0.5))
    with pytest.raises(ValueError, match="Target 1: brows is 0.5, expected 0"):
        edit(other, pulid_person(), None, lifted, analyser=plain_faces(), source=photos())
