"""Activation maps: what they show, and that watching changes nothing and leaves nothing behind."""

import comfy.samplers
import dynamicid_world
import pytest
import tiny_unet
import torch
from flexid.model_patches.gates.gate import Gate
from flexid.model_patches.gates.window import Window
from flexid.model_patches.inject.call import WATCH
from flexid.model_patches.inject.region import box_region
from flexid.model_patches.inject.saa import apply_saa
from flexid.model_patches.inject.saa_people import Person
from flexid.model_patches.inject.saa_settings import SaaSettings
from flexid.model_patches.inject.saa_sheet import CELL, COLD_TO_HOT, GAP, HEAD, draw_sheet
from flexid.model_patches.inject.saa_watch import ActivationWatch, watch_guider

pytestmark = pytest.mark.comfy

PROMPTS = tiny_unet.conditioning(1), tiny_unet.conditioning(2)
LATE = Gate((Window(0.5, 1.0, "progress"),))
LEFT, RIGHT = (0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0)


@pytest.fixture(scope="module")
def model():
    return tiny_unet.sd15()


@pytest.fixture(scope="module")
def adapter(model, tmp_path_factory):
    return dynamicid_world.adapter(tmp_path_factory.mktemp("saa"), model)


@pytest.fixture(scope="module")
def apply(model, adapter):
    def call(*people, **settings):
        found = SaaSettings(**settings)
        return apply_saa(model, adapter, people, found, lora_strength=0.0).model

    return call


@pytest.fixture(scope="module")
def somebody(adapter):
    def make(seed=1, **options):
        return Person(dynamicid_world.person(adapter, seed), **options)

    return make


def guide(model, positive=PROMPTS[0]):
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, PROMPTS[1])
    guider.set_cfg(3.0)
    return guider


def run(guider, steps=4, batch=1, sampler="euler", size=(8, 8)):
    latent = torch.zeros(batch, 4, *size)
    seeds = (torch.Generator().manual_seed(number) for number in range(batch))
    noise = torch.stack([torch.randn(latent.shape[1:], generator=seed) for seed in seeds])
    sigmas = comfy.samplers.calculate_sigmas(
        guider.model_patcher.get_model_object("model_sampling"), "normal", steps
    )
    return guider.sample(
        noise, latent, comfy.samplers.sampler_object(sampler), sigmas, disable_pbar=True, seed=0
    )


def watch(model, columns=4, positive=PROMPTS[0], **options):
    seen = ActivationWatch(columns)
    run(watch_guider(guide(model, positive), seen), **options)
    return seen


def maps(model, **options):
    return [one.maps for one in watch(model, **options).people()]


def test_watching_changes_no_bit_and_leaves_nothing_behind(apply, somebody):
    model = apply(somebody(), somebody(2))
    guider = guide(model)
    plain = run(guider)
    seen = ActivationWatch(4)
    assert torch.equal(run(watch_guider(guider, seen)), plain)
    assert seen.people() and WATCH not in guider.model_options["transformer_options"]
    assert WATCH not in model.model_options["transformer_options"]
    assert torch.equal(run(guider), plain)
    before = {key: one.total.clone() for key, one in seen.seen.items()}
    run(guider)
    assert all(torch.equal(one.total, before[key]) for key, one in seen.seen.items())


def test_one_person_without_activation_has_all_attention(apply, somebody):
    for weight in (1.0, 0.5):
        (found,) = maps(apply(somebody(weight=weight), activation=False))
        torch.testing.assert_close(found, torch.full((4, 1, 8, 8), weight))


def test_people_share_attention_and_keep_out_of_each_others_regions(apply, somebody):
    free = maps(apply(somebody(), somebody(2), activation=False))
    torch.testing.assert_close(sum(free), torch.ones(4, 1, 8, 8))
    model = apply(
        somebody(region=box_region(LEFT)), somebody(2, region=box_region(RIGHT)), activation=False,
        beta=0.0,
    )  # fmt: skip
    left, right = watch(model).people()
    torch.testing.assert_close(left.maps[..., :4], torch.ones(4, 1, 8, 4))
    assert left.maps[..., 4:].abs().max() == 0 and right.maps[..., :4].abs().max() == 0
    assert left.inside == right.inside == (1.0,) * 4


def test_beta_is_seen_in_the_first_steps_only(apply, somebody):
    model = apply(somebody(region=box_region(LEFT)), activation=False, beta=2.0, alpha=0.5)
    (found,) = watch(model).people()
    raised = torch.tensor([3.0, 3.0, 1.0, 1.0])
    torch.testing.assert_close(found.maps[:, 0, 0, 0], raised)
    torch.testing.assert_close(found.maps[:, 0, 0, 7], torch.tensor([1 / 3, 1 / 3, 1.0, 1.0]))
    assert found.inside == pytest.approx((0.9, 0.9, 0.5, 0.5))


def test_an_activation_is_shown_with_its_threshold(apply, somebody):
    (found,) = maps(apply(somebody(), threshold=0.3))
    assert 0 <= found.min() and found.max() <= 1 and found.std() > 0
    (strict,) = maps(apply(somebody(), threshold=1.0))
    assert (strict > 0).sum() < (found > 0).sum()


def test_a_gate_is_seen_over_the_run(apply, somebody):
    early, late = maps(apply(somebody(), somebody(2, gate=LATE), activation=False))
    assert late[:2].abs().max() == 0 and late[2:].min() > 0
    torch.testing.assert_close(early[:2], torch.ones(2, 1, 8, 8))


@pytest.mark.parametrize(
    ("columns", "sampler", "progress"),
    [
        (2, "euler", [0, 0.5]),
        (4, "heun", [0, 0.25, 0.5, 0.75]),
        (50, "euler", [0, 0.25, 0.5, 0.75]),
        (3, "euler", [0, 0.5, 0.75]),
    ],
)
def test_columns_are_moments_of_the_run(apply, somebody, columns, sampler, progress):
    seen = watch(apply(somebody()), columns=columns, sampler=sampler)
    assert seen.progress == pytest.approx(progress)
    assert seen.people()[0].maps.shape == (len(progress), 1, 8, 8)


def test_each_picture_of_a_batch_and_odd_sizes(apply, somebody):
    found = watch(apply(somebody(), somebody(2)), batch=2, size=(9, 7))
    first, second = found.people()
    assert first.maps.shape == second.maps.shape == (4, 2, 9, 7)
    assert not torch.equal(first.maps[:, 0], first.maps[:, 1])
    alone = watch(apply(somebody(), somebody(2)), size=(9, 7)).people()[0]
    torch.testing.assert_close(alone.maps[0, 0], first.maps[0, 0], atol=1e-4, rtol=1e-4)


def test_people_keep_their_order_and_names_whatever_their_digests(apply, somebody):
    people = [somebody(seed, name=name) for seed, name in ((1, "Zoe"), (2, ""), (3, "Ann"))]
    labels = [one.label for one in watch(apply(*people)).people()]
    assert labels == ["Zoe", "person 2", "Ann"]
    swapped = [one.label for one in watch(apply(*people[::-1])).people()]
    assert swapped == ["Ann", "person 2", "Zoe"]


def test_a_prompt_for_an_area_is_shown_there(apply, somebody):
    right = [[PROMPTS[0][0][0], {"area": (8, 4, 0, 4), "strength": 1.0}]]
    (found,) = maps(apply(somebody(), activation=False), positive=right)
    torch.testing.assert_close(found[..., 4:], torch.ones(4, 1, 8, 4))
    assert found[..., :4].abs().max() == 0


def test_a_call_for_an_unknown_part_is_refused(apply, somebody):
    def tile(call, arguments):
        return call(arguments["input"][..., :4, :4], arguments["timestep"], **arguments["c"])

    model = apply(somebody())
    model.set_model_unet_function_wrapper(tile)
    with pytest.raises(RuntimeError, match="covers 4x4 latent pixels of 8x8.*Remove the tiling"):
        watch(model)


def test_a_model_without_people_is_refused_before_sampling(model):
    with pytest.raises(ValueError, match=r"has 0 injections \(none\), expected Apply SAA"):
        watch_guider(guide(model), ActivationWatch(2))


# The sheet


def test_the_sheet_has_a_row_for_each_person_and_a_column_for_each_moment(apply, somebody):
    model = apply(
        somebody(name="Ann", region=box_region(LEFT)), somebody(2, region=box_region(RIGHT)),
        activation=False, beta=0.0,
    )  # fmt: skip
    sheet, report = draw_sheet(watch(model, batch=2))
    step = CELL + GAP
    assert sheet.shape == (2, 2 * (step + HEAD) + GAP, GAP + 4 * step, 3)
    pixels = (sheet[0] * 255).round().int()
    hot, cold = list(COLD_TO_HOT[-1]), list(COLD_TO_HOT[0])
    for row, lit in ((0, "left"), (1, "right")):
        y = row * (step + HEAD) + HEAD + 64
        for column in range(4):
            left, right = (pixels[y, GAP + column * step + x].tolist() for x in (20, 108))
            assert (left, right) == ((hot, cold) if lit == "left" else (cold, hot))
    assert report == (
        "2 people at 0 %, 25 %, 50 %, 75 % of the run; brightest: 1\n"
        "Ann: mean 0.5 → 0.5, in their region 100% → 100% of it\n"
        "person 2: mean 0.5 → 0.5, in their region 100% → 100% of it"
    )


def test_long_names_do_not_run_into_the_next_column(apply, somebody):
    wide = draw_sheet(watch(apply(somebody(name="A" * 60))))[0]
    gap = slice(GAP + CELL, GAP + CELL + GAP)
    assert (wide[0, :HEAD, gap] * 255).round().unique().tolist() == [20]


def test_nobody_seen_is_said(apply, somebody):
    shut = Gate((Window(points=((0.0, 0.0),)),))
    sheet, report = draw_sheet(watch(apply(somebody(gate=shut))))
    assert sheet.shape == (1, 64, 64, 3) and report.startswith("Nobody drew attention")
