"""ID guidance: the arithmetic of EditIDv2's equation 11, and what moves on small models."""

import gc
import weakref

import comfy.model_management
import comfy.patcher_extension
import id_guidance_world as world
import pytest
import tiny
import tiny_unet
import torch
import torch.nn.functional as F
from flexid.model_patches.gates.beta import SHAPES, Beta
from flexid.model_patches.gates.gate import Gate, Moment
from flexid.model_patches.gates.window import Window
from flexid.model_patches.inject.id_guidance.apply import apply_id_guidance
from flexid.model_patches.inject.id_guidance.correction import (
    blur,
    similarity_gradient,
    unit_direction,
)
from flexid.model_patches.inject.id_guidance.run import guide_prediction
from flexid.model_patches.inject.id_guidance.settings import ID_GUIDANCE, Guiding
from flexid.model_patches.inject.run import RUN, open_run
from flexid.model_patches.inject.vfa import apply_vfa
from safetensors.torch import load_file
from seeding import seeded_input

pytestmark = pytest.mark.comfy

WRAPPERS = comfy.patcher_extension.WrappersMP
ALWAYS = Beta("constant", 0.0, 1.0)


def guiding(strength=0.3, beta=ALWAYS, every=1, low_pass=0.0, jitters=1):
    return Guiding(strength, beta, every, low_pass, jitters)


@pytest.fixture(scope="module")
def model():
    return tiny.flux()


@pytest.fixture(scope="module")
def vae():
    return world.large_vae()


def guide(model, vae, *, detector=None, person=None, settings=None, **options):
    who = person or world.person()
    return apply_id_guidance(
        model, world.analyser(detector), who, vae, settings or guiding(), **options
    )


# Arithmetic


@pytest.mark.parametrize("s", [0.9, 0.5, 0.1])
def test_the_golden_arithmetic(golden, s):
    vectors = load_file(golden / "editidv2_guidance.safetensors")
    x_t, v = (seeded_input(f"guide.{name}", (2, 4, 3, 3)) for name in ("x_t", "v"))
    deep, shallow = seeded_input("guide.D", (24, 36)), seeded_input("guide.R", (8, 24))
    wanted = seeded_input("guide.ref", (1, 8))[0]
    x0 = x_t - s * v
    beta = 0.1 * Beta("cosine_decay").weight(Moment(s, 1 - s, 1 - s, s))
    for row in range(2):

        def embed(latents):
            return (shallow @ torch.tanh(deep @ latents.flatten()))[None]

        gradient, similarity = similarity_gradient(x0[row], embed, wanted)
        held = {name: vectors[f"s{s}.{name}"][row] for name in ("sim", "grad", "x0_raw", "v_raw")}
        tight = {"atol": 1e-5, "rtol": 0}
        torch.testing.assert_close(torch.tensor(similarity), held["sim"], **tight)
        torch.testing.assert_close(gradient, held["grad"], **tight)
        torch.testing.assert_close(x0[row] + s * beta * gradient, held["x0_raw"], **tight)
        torch.testing.assert_close(v[row] - beta * gradient, held["v_raw"], **tight)
        moved = x0[row] + s * beta * unit_direction(gradient)
        torch.testing.assert_close(moved, vectors[f"s{s}.x0_rms"][row], **tight)
        after = F.cosine_similarity(embed(moved), wanted[None])[0]
        torch.testing.assert_close(after, vectors[f"s{s}.sim_after_rms"][row], **tight)


def test_a_direction_has_no_outliers_and_none_where_there_is_no_gradient():
    gradient = torch.zeros(4, 8, 8)
    assert not unit_direction(gradient).any()
    gradient[0, 0, 0] = 5.0
    assert unit_direction(gradient).max() == 3.0
    half = torch.ones(4, 8, 8)
    half[:, 4:] = 0
    torch.testing.assert_close(unit_direction(half, half.numel() // 2), half)


def test_a_low_pass_keeps_what_is_even_and_takes_what_alternates():
    assert blur(torch.randn(3, 9, 9), 0.0).shape == (3, 9, 9)
    even = blur(torch.ones(2, 21, 21), 1.0)
    torch.testing.assert_close(even[:, 4:-4, 4:-4], torch.ones(2, 13, 13))
    y, x = torch.meshgrid(torch.arange(21), torch.arange(21), indexing="ij")
    board = ((x + y) % 2 * 2.0 - 1).expand(2, -1, -1)
    assert blur(board, 1.0)[:, 4:-4, 4:-4].abs().max() < 0.01


# In a run


@pytest.fixture(scope="module")
def base(model):
    return world.sample(model)


def likeness(model, vae, person, latents):
    """Mean cosine of the faces in finished latents."""
    pictures = vae.decode(model.model.process_latent_out(latents)).movedim(-1, 1)
    analyser = world.analyser()
    crops = F.interpolate(pictures[..., 12:52, 12:52], (112, 112), mode="bilinear") * 2 - 1
    with torch.no_grad():
        found = analyser.recogniser.network.model(crops)
    wanted = F.normalize(person.features["arcface"], dim=-1).mean(0)
    return F.cosine_similarity(found, wanted[None]).mean().item()


def test_strength_moves_towards_the_person_and_away(model, vae):
    """In inference mode, as ComfyUI runs nodes; the rest of the tests are outside of it."""
    person = world.person()
    with torch.inference_mode():
        seen = [
            likeness(
                model, vae, person, world.sample(guide(model, vae, settings=guiding(strength)))
            )
            for strength in (-0.3, 0.0, 0.1, 0.3)
        ]
    assert seen == sorted(seen) and seen[-1] > seen[1] + 0.02


@pytest.mark.parametrize(
    ("sampler", "cfg"),
    [("euler", 1.0), ("heun", 4.0), ("dpmpp_2m", 1.0), ("dpmpp_2m", 4.0), ("euler_cfg_pp", 4.0)],
)
def test_every_sampler_and_cfg(model, vae, sampler, cfg):
    options = {"cfg": cfg, "sampler": sampler}
    plain = world.sample(model, **options)
    guided = world.sample(guide(model, vae), **options)
    assert torch.isfinite(guided).all() and not torch.equal(plain, guided)
    assert torch.equal(guided, world.sample(guide(model, vae), **options))


def test_it_works_beside_an_anchor(model, vae):
    anchored = apply_vfa(model, tiny.adapter(), tiny.identity())
    one = world.sample(guide(anchored, vae))
    other = world.sample(apply_vfa(guide(model, vae), tiny.adapter(), tiny.identity()))
    assert torch.equal(one, other) and not torch.equal(one, world.sample(anchored))


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_a_unet_is_guided_too(kind):
    model = getattr(tiny_unet, kind)()
    words = tiny_unet.conditioning if kind == "sd15" else tiny_unet.conditioning_xl
    patched = guide(model, world.large_vae(4))
    runs = [tiny_unet.sample(one, words(1), words(2), steps=2) for one in (model, patched)]
    assert torch.isfinite(runs[1]).all() and not torch.equal(*runs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_whole_autoencoder_judges_as_well(model, base, dtype):
    made = world.large_vae()
    made.vae_dtype = dtype
    made.first_stage_model.to(dtype)
    with torch.inference_mode():
        out = world.sample(guide(model, made))
    assert torch.isfinite(out).all() and not torch.equal(out, base)


def test_a_picture_without_a_face_leaves_the_others_alone(model, vae):
    """The faceless one is bit for bit as it was; the other as if it were alone in the script."""
    script = world.ScriptedDetector([[world.FACE], []])
    both = world.sample(guide(model, vae, detector=script), batch=2)
    plain = world.sample(model, batch=2)
    everywhere = world.sample(guide(model, vae), batch=2)
    assert torch.equal(both[1], plain[1]) and torch.equal(both[0], everywhere[0])
    assert not torch.equal(both[0], plain[0])


def test_a_face_that_is_lost_stays_where_it_was_for_a_while(model, vae):
    steps = 7  # a face is remembered for the four evaluations from the one that saw it
    lost = world.ScriptedDetector([[world.FACE], *[[]] * (steps - 1)])
    brief = world.ScriptedDetector([*[[world.FACE]] * 4, *[[]] * (steps - 4)])
    longer = [world.sample(guide(model, vae, detector=one), steps=steps) for one in (lost, brief)]
    assert not torch.equal(*longer)
    only = Gate((Window(0.0, 0.5, "progress"),))  # the first four of seven evaluations
    held = world.ScriptedDetector([[world.FACE]])
    gated = world.sample(guide(model, vae, detector=held, gate=only), steps=steps)
    assert torch.equal(longer[0], gated) and len(lost.calls) == steps


def test_two_people_by_region(model, vae):
    """Their order does not matter, and either moves its own half alone."""
    left, right = torch.zeros(1, 16, 16), torch.zeros(1, 16, 16)
    left[..., :8], right[..., 8:] = 1, 1
    faces = [(2.0, 22.0, 22.0, 42.0), (42.0, 22.0, 62.0, 42.0)]
    people = [(world.person(1), left), (world.person(2), right)]

    def guided(order, steps=1):
        script, made = world.ScriptedDetector([faces]), model
        shared = world.analyser(script)
        for who, mask in order:
            made = apply_id_guidance(made, shared, who, vae, guiding(), mask=mask)
        return world.sample(made, steps=steps), script

    (both, script), (reversed_, _) = guided(people, 3), guided(people[::-1], 3)
    assert torch.equal(both, reversed_)
    assert len(script.calls) == 3, "each prediction is decoded and searched once for both"
    alone = guided(people[:1])[0] - world.sample(model, steps=1)
    moved = alone.abs().mean((0, 1, 2))
    assert moved[:3].min() > 0 and moved[7:].max() == 0


def test_every_counts_evaluations(model, vae):
    script = world.ScriptedDetector([[world.FACE]])
    world.sample(guide(model, vae, detector=script, settings=guiding(every=3)), steps=7)
    assert len(script.calls) == 3


def test_outside_of_its_time_nothing_is_decoded(model, vae, base):
    script = world.ScriptedDetector([[world.FACE]])
    never = guiding(beta=Beta("constant", 0.0, 0.0))
    late = Gate((Window(1.0, 1.0),))
    out = world.sample(guide(model, vae, detector=script, settings=never, gate=late))
    assert torch.equal(out, base) and not script.calls


@pytest.mark.parametrize("nothing", ["strength", "mask"])
def test_neutral_is_the_model_itself_and_costs_nothing(model, vae, nothing):
    script = world.ScriptedDetector([[world.FACE]])
    settings = guiding(0.0 if nothing == "strength" else 0.3)
    mask = torch.zeros(1, 8, 8) if nothing == "mask" else None
    patched = guide(model, vae, detector=script, settings=settings, mask=mask)
    assert not patched.get_wrappers(WRAPPERS.PREDICT_NOISE, ID_GUIDANCE)
    assert not patched.model_patches_models() and not script.calls


def test_an_all_one_mask_is_no_mask(model, vae):
    whole = world.sample(guide(model, vae, mask=torch.ones(1, 8, 8)), steps=2)
    assert torch.equal(whole, world.sample(guide(model, vae), steps=2))


def test_only_the_clone_is_changed_and_its_weights_are_counted(model, vae, base):
    patched = guide(model, vae)
    held = patched.model_patches_models()
    assert vae.patcher in held and len(held) == 2
    world.sample(patched)
    assert torch.equal(world.sample(model), base)
    assert not model.get_wrappers(WRAPPERS.PREDICT_NOISE, ID_GUIDANCE)


def test_memory_comes_back_even_after_an_interrupt(model, vae, monkeypatch):
    runs = []

    def spy(executor, *args, **kwargs):
        out = executor(*args, **kwargs)
        options = executor.class_obj.model_options["transformer_options"]
        runs.append(weakref.ref(options[RUN]))
        return out

    class Stop(world.ScriptedDetector):
        def find(self, rgb):
            if len(self.calls) == 2:
                comfy.model_management.interrupt_current_processing()
            return super().find(rgb)

    for detector in (world.ScriptedDetector([[world.FACE]]), Stop([[world.FACE]])):
        watched = guide(model, vae, detector=detector)
        watched.add_wrapper_with_key(WRAPPERS.PREDICT_NOISE, "spy", spy)
        try:
            world.sample(watched)
        except comfy.model_management.InterruptProcessingException:
            assert isinstance(detector, Stop)
        gc.collect()
        assert runs and not any(one() for one in runs)
    assert len(detector.calls) == 3, "stopped in the evaluation that followed"


def test_a_guider_that_predicts_past_it_is_an_error(model, vae):
    patched = guide(model, vae)
    patched.remove_wrappers_with_key(WRAPPERS.PREDICT_NOISE, ID_GUIDANCE)
    with pytest.raises(RuntimeError, match="Apply ID Guidance is on this model.*past it"):
        world.sample(patched)


def test_a_half_precision_model(vae):
    model = tiny.flux(torch.bfloat16)
    assert not torch.equal(world.sample(guide(model, vae)), world.sample(model))


# Refusals


@pytest.mark.parametrize(
    ("name", "value"), [("strength", 0.6), ("every", 0), ("low_pass", 9.0), ("jitters", 9)]
)
def test_numbers_out_of_range(name, value):
    with pytest.raises(ValueError, match=rf"{name}.*is {value:g}; expected"):
        guiding(**{name: value})


def test_a_vae_of_another_width_is_refused(model):
    with pytest.raises(ValueError, match="4 channels at 1/8.*Flux makes 16 channels"):
        guide(model, world.vae(4))


def test_a_model_of_other_latents_is_refused(model, vae):
    video = model.clone()
    held = type("Video", (type(model.get_model_object("latent_format")),), {})()
    held.latent_dimensions = 3
    video.add_object_patch("latent_format", held)
    with pytest.raises(ValueError, match="2 dimensions; Flux has 3"):
        guide(video, vae)


def test_a_person_without_an_embedding_or_of_another_recogniser_is_refused(model, vae):
    with pytest.raises(ValueError, match="holds 0 of the recogniser's embeddings"):
        guide(model, vae, person=tiny.identity())
    other = world.person()
    other.provenance["recogniser"] = "arcface (another)"
    with pytest.raises(ValueError, match="arcface .another., the face analyser has arcface .tiny."):
        guide(model, vae, person=other)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_settings_line_says_what_it_does(shape):
    said = guiding(beta=Beta(shape, 0.2, 0.9), every=2).describe()
    assert said.startswith(f"strength 0.3, {shape} from 0.2 to 0.9 (percent); a gradient in one of")
    assert "unchanged" in guiding(0.0).describe()


def test_the_wrappers_are_public_and_ours(model, vae):
    patched = guide(guide(model, vae), vae, person=world.person(4))
    assert patched.get_wrappers(WRAPPERS.PREDICT_NOISE, ID_GUIDANCE) == [guide_prediction]
    assert patched.get_wrappers(WRAPPERS.OUTER_SAMPLE, "flexid") == [open_run]
