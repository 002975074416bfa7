"""Photos through ComfyUI's CLIP vision and a recogniser into face tokens of DynamicID."""

import dynamicid_world
import imr_world
import pytest
import tiny_faces
import tiny_unet
import torch
from flexid.model_patches.adapters.dynamicid import make_face_tokens
from flexid.model_patches.encoders.clip_vision import look_by_pillow, pillow_pixels
from flexid.model_patches.face.choose import RIGHT_TO_LEFT, FaceChoice
from flexid.model_patches.identity.dynamicid import encode_dynamicid
from flexid.model_patches.identity.store import load_identity, save_identity
from safetensors.torch import load_file

pytestmark = pytest.mark.comfy

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return dynamicid_world.adapter(tmp_path_factory.mktemp("saa"), tiny_unet.sd15())


@pytest.fixture(scope="module")
def vision():
    return dynamicid_world.vision()


def photos(count=1, size=(300, 260)):
    return torch.rand(count, *size, 3, generator=torch.Generator().manual_seed(4))


def encode(adapter, vision, pictures=None, analyser=None, **options):
    pictures = photos() if pictures is None else pictures
    analyser = analyser or dynamicid_world.analyser()
    return encode_dynamicid(adapter, vision, analyser, pictures, **options)


def encoding(*args, **options):
    return encode(*args, **options).identity.encodings["dynamicid"]


def test_clip_sees_pixels_as_its_own_preprocessing_makes_them(golden):
    expected = load_file(golden / "dynamicid_proj.safetensors")
    found = pillow_pixels(expected["preproc.image_u8"], MEAN, STD)
    assert found.shape == (1, 3, 224, 224)
    close = {"atol": 1e-6, "rtol": 0}
    torch.testing.assert_close(found[0, :, ::4, ::4], expected["preproc.pixel_values_s4"], **close)


def test_a_photo_becomes_the_tokens_of_its_face_and_of_the_whole_picture(adapter, vision):
    found = encoding(adapter, vision)
    pixels = (photos()[0] * 255).round().to(torch.uint8)
    seen = look_by_pillow(vision, pixels).patches
    face = dynamicid_world.analyser().recogniser.embed(pixels[:270, :117].numpy())[None]
    assert found.tokens.shape == (1, 4, 64)
    torch.testing.assert_close(
        found.tokens, make_face_tokens(adapter, face, seen), atol=0.1, rtol=0
    )
    assert not torch.allclose(found.tokens, make_face_tokens(adapter, face, 0 * seen), atol=0.1)
    assert found.encoder == adapter.encoder_digest


def test_nobody_is_a_zero_face_on_zero_pixels(adapter, vision):
    blank = vision.model(pixel_values=torch.zeros(1, 3, 224, 224), intermediate_output=-2)[1]
    nobody = make_face_tokens(adapter, torch.zeros(1, 512), blank.float())
    assert torch.equal(encoding(adapter, vision).null, nobody)
    grey = torch.full((1, 300, 300, 3), 0.5)
    assert torch.equal(encoding(adapter, vision, grey).null, nobody)


def test_published_colours_exchange_red_and_blue_and_take_the_surest_face(adapter, vision):
    seen = []

    class Recorder(dynamicid_world.ColourRecogniser):
        def embed(self, crop):
            seen.append(crop.copy())
            return super().embed(crop)

    analyser = dynamicid_world.analyser(Recorder())
    right = FaceChoice(RIGHT_TO_LEFT)
    encode(adapter, vision, analyser=analyser, choice=right)
    encode(adapter, vision, analyser=analyser, choice=right, colours="published")
    assert (seen[0] == seen[1][..., ::-1]).all() and (seen[0] != seen[1]).any()
    published = encode(adapter, vision, analyser=analyser, colours="published")
    assert len(seen) == 4 and (seen[3] == seen[1]).all()
    assert published.identity.features == {}
    largest = encode(adapter, vision, analyser=analyser)
    assert not (seen[4] == seen[0]).all()
    both = published, largest
    assert len({one.identity.provenance["photos"] for one in both}) == 1
    assert len({one.identity.encodings["dynamicid"].recipe["colours"] for one in both}) == 2


def test_several_photos_are_averaged(adapter, vision):
    two = photos(2)
    one, other = (encoding(adapter, vision, photo[None]).tokens for photo in two)
    done = encode(adapter, vision, two)
    mean = done.identity.encodings["dynamicid"].tokens
    torch.testing.assert_close(mean, (one + other) / 2, atol=1e-5, rtol=1e-5)
    assert done.report == (
        "2 face(s) -> 4 tokens for SAA.bin, corrected colours\n"
        "CLIP does not see 13% of the photo, at top and bottom: it looks at a square.\n"
        "The photos are averaged into one identity."
    )


def test_what_the_face_does_is_kept_where_landmarks_are_found(adapter, vision):
    assert encoding(adapter, vision).extra == {}
    landmarks = imr_world.analyser((12.0, -3.0, 5.0))
    extra = encoding(adapter, vision, photos(2), landmarks).extra
    one, other = (encoding(adapter, vision, photo[None]).tokens for photo in photos(2))
    torch.testing.assert_close(extra["each"], torch.cat((one, other)), atol=1e-5, rtol=1e-5)
    assert extra["angles"].tolist() == [[12.0, -3.0, 5.0]] * 2
    assert extra["size"].tolist() == [[260.0, 300.0]] * 2
    box = landmarks.detector.find(photos()[0].numpy())[0].box
    expected = landmarks.landmarks.find(photos()[0].numpy(), box)
    torch.testing.assert_close(extra["landmarks"][1], expected)


def test_an_identity_comes_back_from_its_file(adapter, vision, tmp_path):
    identity = encode(adapter, vision).identity
    save_identity(identity, tmp_path / "x.safetensors")
    found = load_identity(tmp_path / "x.safetensors")
    assert torch.equal(found.encodings["dynamicid"].tokens, identity.encodings["dynamicid"].tokens)
    assert torch.equal(found.features["arcface"], identity.features["arcface"])


def test_what_does_not_fit_is_refused(adapter, vision, tmp_path):
    alone = tiny_faces.analyser(dynamicid_world.TwoFaces())
    with pytest.raises(ValueError, match="has 0 recognisers, expected 1. Open buffalo_l"):
        encode(adapter, vision, analyser=alone)
    with pytest.raises(ValueError, match="Unknown colours 'grey'; choose corrected or published"):
        encode(adapter, vision, colours="grey")
    with pytest.raises(ValueError, match="clip_vision input got .*expected a CLIP encoder"):
        encode(adapter, object())
    empty = tiny_faces.analyser(tiny_faces.FixedDetector({}), dynamicid_world.ColourRecogniser())
    with pytest.raises(ValueError, match="no face was found"):
        encode(adapter, vision, analyser=empty)
    wide = dynamicid_world.load_dynamicid(
        dynamicid_world.dynamicid_files.write_saa(
            tmp_path / "wide.bin",
            dynamicid_world.dynamicid_files.attention([32], 64, 4),
            dynamicid_world.dynamicid_files.projection(64, 48),
        )
    )
    with pytest.raises(ValueError, match="reads 48 channels of CLIP vision, this encoder gives 32"):
        encode(wide, vision)
