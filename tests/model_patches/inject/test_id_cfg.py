"""ID CFG on a small Flux and a small SDXL: a second prediction of nobody, and nothing else."""

import comfy.patcher_extension
import pulid_world
import pytest
import tiny
import tiny_unet
import torch
from flexid.model_patches.gates.gate import Gate
from flexid.model_patches.gates.window import Window
from flexid.model_patches.inject.id_cfg import ID_CFG, apply_id_cfg
from flexid.model_patches.inject.vfa import apply_vfa
from identities import identity_of

pytestmark = pytest.mark.comfy

WRAPPERS = comfy.patcher_extension.WrappersMP


@pytest.fixture(scope="module")
def model():
    return tiny.flux()


@pytest.fixture(scope="module")
def adapter():
    return tiny.adapter()


@pytest.fixture(scope="module")
def anchored(model, adapter):
    return apply_vfa(model, adapter, tiny.identity())


@pytest.fixture(scope="module")
def nobody(model, adapter):
    """The same model with an anchor of nobody."""
    null = tiny.identity().encodings["pulid_flux"].null
    return apply_vfa(model, adapter, identity_of({"pulid_flux": null}))


def sample(model, **options):
    return tiny.sample(model, size=(8, 8), **{"steps": 1, **options})


def watch(model):
    """A clone, and the rows and prompts' names of each of its model calls."""
    calls = []

    def note(executor, x, t, c_concat, c_crossattn, control, options, **conds):
        calls.append((x.shape[0], tuple(options["uuids"]), tuple(options["cond_or_uncond"])))
        return executor(x, t, c_concat, c_crossattn, control, options, **conds)

    clone = model.clone()
    clone.add_wrapper_with_key(WRAPPERS.APPLY_MODEL, "watch", note)
    return clone, calls


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_it_moves_away_from_nobody(anchored, nobody, scale):
    """After one step the latent is the prediction itself."""
    person, null = sample(anchored), sample(nobody)
    assert (person - null).abs().max() > 0.01
    found = sample(apply_id_cfg(anchored, scale=scale))
    torch.testing.assert_close(found, person + scale * (person - null), atol=2e-5, rtol=0)


def test_only_the_positive_prompt_is_predicted_twice(anchored, nobody):
    """Under CFG: x = u + c·(x' - u), and what is added is c·γ·(x - x_nobody)."""
    options = {"cfg": 4.0}
    person, null = sample(anchored, **options), sample(nobody, **options)
    guided, calls = watch(apply_id_cfg(anchored, scale=0.5))
    found = sample(guided, **options)
    torch.testing.assert_close(found, person + 0.5 * (person - null), atol=1e-4, rtol=0)
    assert sum(rows for rows, *_ in calls) == 3
    (indices,) = {index for *_, index in calls if len(index) == 3} or {(0, 1, 0)}
    assert sorted(indices) == [0, 0, 1]


def test_the_twin_has_one_name_for_the_whole_run(anchored):
    guided, calls = watch(apply_id_cfg(anchored, scale=1.0))
    sample(guided, steps=3)
    assert len({name for _, names, _ in calls for name in names}) == 2


@pytest.mark.parametrize("nothing", ["scale", "mask"])
def test_neutral_is_untouched(anchored, nothing):
    mask = torch.zeros(1, 4, 4) if nothing == "mask" else None
    made = apply_id_cfg(anchored, scale=0.0 if nothing == "scale" else 1.0, mask=mask)
    assert not made.get_wrappers(WRAPPERS.CALC_COND_BATCH, ID_CFG)
    assert torch.equal(sample(made, steps=2), sample(anchored, steps=2))


def test_a_closed_gate_costs_nothing(anchored):
    late = Gate((Window(0.5, 1.0, "progress"),))
    guided, calls = watch(apply_id_cfg(anchored, scale=1.0, gate=late))
    sample(guided, steps=4)
    assert sum(rows for rows, *_ in calls) == 6
    never = apply_id_cfg(anchored, scale=1.0, gate=Gate((Window(points=((0.0, 0.0),)),)))
    assert torch.equal(sample(never, steps=2), sample(anchored, steps=2))


def test_a_mask_holds_it_to_its_place(anchored):
    mask = torch.zeros(1, 8, 8)
    mask[..., :4] = 1
    whole = sample(apply_id_cfg(anchored, scale=1.0))
    half = sample(apply_id_cfg(anchored, scale=1.0, mask=mask))
    torch.testing.assert_close(half[..., :4], whole[..., :4], atol=1e-6, rtol=0)
    outside = sample(anchored)[..., 4:]  # two rows in one batch round differently
    torch.testing.assert_close(half[..., 4:], outside, atol=2e-5, rtol=0)


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m"])
def test_order_does_not_matter_and_runs_repeat(model, adapter, anchored, sampler):
    after = apply_id_cfg(anchored, scale=0.7)
    before = apply_vfa(apply_id_cfg(model, scale=0.7), adapter, tiny.identity())
    runs = [sample(one, steps=3, sampler=sampler, batch=2) for one in (after, before, after)]
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])


def test_sdxl(tmp_path):
    model = tiny_unet.sdxl()
    adapter = pulid_world.sdxl_adapter(tmp_path, model)
    anchored = apply_vfa(model, adapter, pulid_world.somebody(adapter))
    words = tiny_unet.conditioning_xl(1), tiny_unet.conditioning_xl(2)
    one, other = (
        tiny_unet.sample(made, *words, steps=2)
        for made in (anchored, apply_id_cfg(anchored, scale=1.0))
    )
    assert torch.isfinite(other).all() and not torch.equal(one, other)


def test_what_cannot_be_compared_is_refused(model, adapter):
    with pytest.raises(RuntimeError, match="0 Apply VFA are on this model and 0 of them"):
        sample(apply_id_cfg(model, scale=1.0))
    same = apply_vfa(model, adapter, tiny.identity(), negative="same")
    with pytest.raises(RuntimeError, match="1 Apply VFA are on this model and 0 of them"):
        sample(apply_id_cfg(same, scale=1.0))
    with pytest.raises(ValueError, match="The scale of Apply ID CFG is 4"):
        apply_id_cfg(model, scale=4.0)


def test_a_guider_that_predicts_past_it_is_an_error(anchored):
    guided = apply_id_cfg(anchored, scale=1.0)
    guided.remove_wrappers_with_key(WRAPPERS.CALC_COND_BATCH, ID_CFG)
    with pytest.raises(RuntimeError, match="predicts past it"):
        sample(guided)
