"""Reference photos through ComfyUI's own vision encoders, small, into an identity."""

import dataclasses

import flexip_world
import ip_files
import pytest
import tiny_unet
import torch
from flexid.mini.random_adapter import write_eva_clip
from flexid.model_patches.adapters.flexip import make_tokens
from flexid.model_patches.adapters.flexip_file import load_flexip, save_flexip
from flexid.model_patches.adapters.flexip_settings import EVA, FLUX, FlexIPSettings, settings_of
from flexid.model_patches.encoders.clip_vision import look, look_at_nothing
from flexid.model_patches.encoders.eva_clip import encode as encode_eva
from flexid.model_patches.encoders.eva_clip import load_eva_clip
from flexid.model_patches.encoders.whiten import eva_pixels
from flexid.model_patches.face.align import FFHQ_512
from flexid.model_patches.identity.reference import Encoders, encode_reference
from flexid.model_patches.identity.store import load_identity, save_identity
from flexid.model_patches.inject.flexip import apply_flexip
from flexid.model_patches.training.flexip_flux import FluxStreams, FluxWidths
from people import face
from tiny_vision import CLIP, DINO, vision

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def encoders():
    return Encoders(vision(CLIP), vision(DINO))


@pytest.fixture(scope="module")
def model():
    return tiny_unet.sd15()


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    names = ("base", "plus", "full", "faceid", "portrait", "faceid_plus")
    return {name: flexip_world.ip_adapter(folder, model, name) for name in names} | {
        "flexip": flexip_world.flexip(folder, model)
    }


def photos(count=1, size=(300, 260)):
    return torch.rand(count, *size, 3, generator=torch.Generator().manual_seed(4))


def encode(adapter, encoders, pictures=None, **options):
    pictures = photos() if pictures is None else pictures
    return encode_reference(adapter, encoders, pictures, **options)


def on_first_photo(seed):
    points = torch.tensor(FFHQ_512, dtype=torch.float32)
    return face(seed, photo=0, points=points, box=(150.0, 150.0, 400.0, 450.0))


@pytest.mark.parametrize("name", ["base", "plus", "full", "flexip"])
def test_a_photo_becomes_the_tokens_of_what_the_encoders_see(files, encoders, name):
    adapter = files[name]
    found = encode(adapter, encoders).identity.encodings["flexip"]
    middle = photos()[:, 20:280]
    seen = look(encoders.clip, middle, 224)
    assert seen.patches.shape == (1, 17, 32) and seen.pooled.shape == (1, 24)
    features = {"pooled": seen.pooled, "patches": seen.patches}
    if name == "flexip":
        features["context"] = look(encoders.dino, middle, 224).patches[:, 1:]
        assert features["context"].shape == (1, 256, 40)
        assert torch.equal(found.extra["pooled"], seen.pooled)
    torch.testing.assert_close(found.tokens, make_tokens(adapter, features))
    assert found.encoder == adapter.encoder_digest


def test_nobody_is_zeros_or_pixels_of_zeros(files, encoders):
    def null(name):
        return encode(files[name], encoders).identity.encodings["flexip"].null

    blank = look_at_nothing(encoders.clip, 224)
    want = make_tokens(files["base"], {"pooled": torch.zeros(1, 24)})
    torch.testing.assert_close(null("base"), want)
    for name in ("plus", "full"):
        want = make_tokens(files[name], {"patches": blank.patches})
        torch.testing.assert_close(null(name), want)
    zeros = {"context": torch.zeros(1, 256, 40), "pooled": torch.zeros(1, 24)}
    torch.testing.assert_close(null("flexip"), make_tokens(files["flexip"], zeros))


def test_faces_are_cut_out_with_their_hair(files, encoders):
    pictures = photos(size=(600, 500))
    found = face(0, box=(200.0, 200.0, 300.0, 300.0))
    near = encode(files["plus"], encoders, pictures, faces=[found])
    square = look(encoders.clip, pictures[:, 160:340, 160:340], 224)
    want = make_tokens(files["plus"], {"patches": square.patches})
    torch.testing.assert_close(near.identity.encodings["flexip"].tokens, want)
    whole = encode(files["plus"], encoders, pictures, faces=[found], view="whole")
    assert not torch.allclose(whole.identity.encodings["flexip"].tokens, want, atol=1e-4)
    assert near.identity.thumbnail.shape == (256, 256, 3)
    corner = face(0, box=(480.0, 580.0, 500.0, 600.0))
    assert encode(files["plus"], encoders, pictures, faces=[corner]).report


@pytest.mark.parametrize("name", ["faceid", "portrait", "faceid_plus"])
def test_faceid_reads_the_recognisers_embedding(files, encoders, name):
    pair = [
        encode(files[name], encoders, photos(size=(600, 600)), faces=[on_first_photo(seed)])
        for seed in (0, 1)
    ]
    one, two = (done.identity.encodings["flexip"].tokens for done in pair)
    assert not torch.allclose(one, two, atol=1e-4)
    assert pair[0].identity.features["arcface"].shape == (1, 512)


def test_several_photos_are_averaged(files, encoders):
    pictures = photos(3)
    done = encode(files["flexip"], encoders, pictures)
    each = [encode(files["flexip"], encoders, pictures[i : i + 1]).identity for i in range(3)]
    mean = torch.cat([one.encodings["flexip"].tokens for one in each]).mean(0, keepdim=True)
    found = done.identity.encodings["flexip"]
    torch.testing.assert_close(found.tokens, mean, atol=1e-5, rtol=1e-5)
    assert "averaged" in done.report and "cut away at top and bottom" in done.report


def test_an_identity_is_saved_with_its_class_token_and_draws_the_same(
    files, encoders, model, tmp_path
):
    identity = encode(files["flexip"], encoders).identity
    again = load_identity(save_identity(identity, tmp_path / "x.safetensors"))
    drawn = []
    for one in (identity, again):
        prompts = tiny_unet.conditioning(1), tiny_unet.conditioning(2)
        done = apply_flexip(model, *prompts, files["flexip"], one)
        drawn.append(tiny_unet.sample(done.model, done.positive, done.negative, steps=1))
    assert torch.equal(*drawn)


# Refused


def test_what_is_missing_is_named(files, encoders):
    cases = [
        ("plus", Encoders(), {}, "reads CLIP ViT-H/14, but nothing is connected to clip_vision"),
        ("flexip", Encoders(encoders.clip), {}, "reads DINOv2-L .* nothing is connected to dino"),
        ("faceid", Encoders(), {}, "reads a face, but 0 faces are connected.*Detect Faces"),
        ("plus", encoders, {"view": "face"}, "view is 'face', but 0 faces .*'whole'"),
        ("faceid", Encoders(), {"faces": [face(0, embedding=None)]}, "a face has none.*buffalo_l"),
    ]
    for name, given, options, message in cases:
        with pytest.raises(ValueError, match=message):
            encode(files[name], given, **options)


def test_swapped_encoders_are_named(files, encoders):
    swapped = Encoders(encoders.dino, encoders.clip)
    with pytest.raises(ValueError, match="The clip_vision input got a DINOv2 encoder.*Swap"):
        encode(files["plus"], swapped)
    with pytest.raises(ValueError, match="The dino input got a CLIP encoder.*Swap"):
        encode(files["flexip"], swapped)


def test_an_encoder_of_another_width_is_refused(files):
    narrow = Encoders(vision({**CLIP, "hidden_size": 16, "projection_dim": 12}))
    with pytest.raises(ValueError, match="reads 32 channels as patches, the encoder gives 16"):
        encode(files["plus"], narrow)
    with pytest.raises(ValueError, match="reads 24 channels as pooled, the encoder gives 12"):
        encode(files["base"], narrow)


def test_a_file_that_states_other_null_tokens_is_refused(encoders, tmp_path):
    shapes = ip_files.flexip_shapes(
        dim=64, width=48, context=40, pooled=24, depth=1, latents=5, blocks={"input.1.0": 32}
    )
    tensors = ip_files.seed_all(shapes)

    def opened(**settings):
        stated = settings_of(FlexIPSettings(**settings))
        return load_flexip(ip_files.write(tmp_path / "x.safetensors", tensors, stated))

    null = encode(opened(), encoders).identity.encodings["flexip"].null
    tensors["null.preserve"] = null
    assert encode(opened(), encoders)
    tensors["null.preserve"] = null + 0.01
    with pytest.raises(ValueError, match="states null tokens that differ by up to 0.01"):
        encode(opened(), encoders)
    del tensors["null.preserve"]
    with pytest.raises(ValueError, match="trained on 1369 tokens .* makes 256"):
        encode(opened(context_tokens=1369), encoders)


@pytest.fixture(scope="module")
def eva(tmp_path_factory):
    """A small tower, and a FlexIP file for a Flux that reads it."""
    folder = tmp_path_factory.mktemp("eva")
    write_eva_clip(folder / "eva.safetensors", 3)
    tower = load_eva_clip(folder / "eva.safetensors")
    widths = FluxWidths(
        context=tower.dims.width, pooled=512 + tower.dims.output, text=16, hidden=256, heads=2,
        tokens=40, dim=64, depth=1,
    )  # fmt: skip
    torch.manual_seed(2)
    settings = FlexIPSettings(base=FLUX, context=EVA, cls="face_and_pooled", text_tokens=0, heads=2)
    save_flexip(
        folder / "flux.safetensors",
        FluxStreams(widths, (("double_block", 0),)).tensors(),
        settings,
    )
    return tower, load_flexip(folder / "flux.safetensors")


def test_a_face_is_read_by_eva_clip_and_the_recogniser(eva):
    tower, adapter = eva
    one = on_first_photo(1)
    found = encode(adapter, Encoders(eva=tower), faces=(one,)).identity.encodings["flexip"]
    pooled, taps = encode_eva(tower, eva_pixels(one, tower.dims.image_size, "auto"))
    unit = one.embedding / one.embedding.norm()
    features = {"context": taps[:, -1], "pooled": torch.cat((unit[None], pooled), dim=-1)}
    torch.testing.assert_close(found.tokens, make_tokens(adapter, features))
    torch.testing.assert_close(found.extra["pooled"], features["pooled"])
    nobody = make_tokens(adapter, {name: value * 0 for name, value in features.items()})
    torch.testing.assert_close(found.null, nobody)


def test_what_a_file_that_reads_eva_clip_needs(eva, encoders):
    tower, adapter = eva
    with pytest.raises(ValueError, match="reads a face, but 0 faces are connected"):
        encode(adapter, Encoders(eva=tower))
    with pytest.raises(ValueError, match="reads EVA-CLIP, but nothing is connected to eva_clip"):
        encode(adapter, encoders, faces=(on_first_photo(1),))
    bare = dataclasses.replace(on_first_photo(1), embedding=None)
    with pytest.raises(ValueError, match="a face has none. Open antelopev2"):
        encode(adapter, Encoders(eva=tower), faces=(bare,))
    wide = dataclasses.replace(adapter, reads={"context": 99, "pooled": 640})
    with pytest.raises(ValueError, match="reads 99 channels as context, the encoder gives"):
        encode(wide, Encoders(eva=tower), faces=(on_first_photo(1),))
