"""Apply ID Guidance, as ComfyUI runs it."""

import id_guidance_world as world
import pytest
import tiny
import tiny_faces
import torch
from flexid.model_patches.face.analyser import load_analyser
from flexid.model_patches.face.choose import FaceChoice
from flexid.model_patches.face.detect import detect_faces
from flexid.model_patches.gates.beta import Beta
from flexid.model_patches.identity.encode import recognise
from flexid.model_patches.inject.id_guidance.apply import apply_id_guidance
from flexid.model_patches.inject.id_guidance.settings import Guiding
from flexid.model_patches.inject.run import injections_of
from flexid.nodes.id_guidance import FlexIDApplyIDGuidance
from pack import ROOT

SMALL_PACK = ROOT / "mini/weights/insightface/models/flexid_mini"


@pytest.fixture(scope="module")
def model():
    return tiny.flux()


@pytest.fixture(scope="module")
def vae():
    return world.large_vae()


def run(model, analyser, vae, strength=0.3, **options):
    values = strength, "rise", 0.1, 0.8, "progress", 2, 0.5, 3
    return FlexIDApplyIDGuidance.execute(model, analyser, vae, *values, **options)


def held(patched):
    return injections_of(patched.model_options["transformer_options"])


def test_the_widgets_reach_the_model(model, vae):
    analyser, person = world.analyser(), world.person()
    output = run(model, analyser, vae, identity=person)
    guiding = Guiding(0.3, Beta("rise", 0.1, 0.8, "progress"), 2, 0.5, 3)
    (made,) = held(output.args[0])
    assert made.guiding == guiding
    direct = apply_id_guidance(model, analyser, person, vae, guiding)
    assert torch.equal(world.sample(output.args[0]), world.sample(direct))


def test_a_photo_stands_in_for_an_identity(model, vae):
    photo = tiny_faces.noise(64, 64)
    detector = tiny_faces.FixedDetector({64: [world.FACE]})
    analyser = tiny_faces.analyser(detector, world.recogniser())
    (by_photo,) = held(run(model, analyser, vae, image=photo).args[0])
    person = recognise(detect_faces(analyser, photo, FaceChoice()).faces)
    (by_identity,) = held(run(model, analyser, vae, identity=person).args[0])
    assert torch.equal(by_photo.wanted, by_identity.wanted)
    assert by_photo.wanted.norm() == pytest.approx(1.0, abs=1e-6)


def test_a_photo_without_a_face_and_no_person_are_refused(model, vae):
    nobody = tiny_faces.analyser(tiny_faces.FixedDetector({}), world.recogniser())
    with pytest.raises(ValueError, match="no face was found"):
        run(model, nobody, vae, image=tiny_faces.noise(64, 64))
    for given, found in (({}, "neither"), ({"identity": 1, "image": 2}, "both")):
        with pytest.raises(ValueError, match=f"takes an identity or an image, got {found}"):
            run(model, nobody, vae, **given)


def test_an_analyser_without_a_recogniser_is_refused(model, vae):
    bare = tiny_faces.analyser(tiny_faces.FixedDetector({}))
    with pytest.raises(ValueError, match="0 recognisers, expected 1"):
        run(model, bare, vae, identity=world.person())


def test_windows_are_checked_before_anything_runs():
    assert "starts at 0.9" in FlexIDApplyIDGuidance.validate_inputs(0.9, 0.2)
    assert FlexIDApplyIDGuidance.validate_inputs(None, 0.2) is True


def test_the_small_worlds_own_pack_guides(model, vae):
    """Its detector sees no face in noise, so that the picture stays; its recogniser is opened."""
    analyser = load_analyser(SMALL_PACK, "auto", ["CPU"], None)
    rows = torch.randn(1, 512, generator=torch.Generator().manual_seed(0))
    person = world.person()
    person.features["arcface"] = rows
    person.provenance["recogniser"] = analyser.recogniser.name
    with torch.inference_mode():
        patched = run(model, analyser, vae, identity=person).args[0]
        assert patched.model_patches_models()[0].model.deviation == 127.5
        assert torch.equal(world.sample(patched), world.sample(model))
