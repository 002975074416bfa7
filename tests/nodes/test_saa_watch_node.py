"""Sample with Activation Maps: the picture of SamplerCustomAdvanced, and the sheet."""

import comfy.samplers
import dynamicid_world
import pytest
import tiny
import tiny_unet
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise, SamplerCustomAdvanced
from flexid.model_patches.inject.saa import apply_saa
from flexid.model_patches.inject.saa_people import make_person
from flexid.nodes.saa_watch import FlexIDSampleWithActivationMaps

pytestmark = pytest.mark.comfy


def on_sd15(folder):
    """A model with two people by SAA, both prompts, and the size of a latent."""
    model = tiny_unet.sd15()
    adapter = dynamicid_world.adapter(folder, model)
    people = [make_person(dynamicid_world.person(adapter, seed)) for seed in (1, 2)]
    prompts = tiny_unet.conditioning(1), tiny_unet.conditioning(2)
    return apply_saa(model, adapter, people).model, prompts, (4, 8, 8)


def on_flux(_):
    people = [make_person(tiny.identity(seed)) for seed in (1, 2)]
    patched = apply_saa(tiny.flux(), tiny.adapter(), people).model
    return patched, (tiny.conditioning(1), tiny.conditioning(2)), (16, 12, 8)


@pytest.mark.parametrize("make", [on_sd15, on_flux])
def test_the_picture_is_cores_and_the_sheet_comes_with_it(tmp_path, make):
    model, prompts, size = make(tmp_path)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(*prompts)
    guider.set_cfg(3.0)
    sampling = guider.model_patcher.get_model_object("model_sampling")
    inputs = (
        Noise_RandomNoise(7),
        guider,
        comfy.samplers.sampler_object("euler"),
        comfy.samplers.calculate_sigmas(sampling, "normal", 3),
        {"samples": torch.zeros(2, *size)},
    )
    latent, denoised = SamplerCustomAdvanced.execute(*inputs).args
    found = FlexIDSampleWithActivationMaps.execute(*inputs, columns=2)
    assert torch.equal(found[0]["samples"], latent["samples"])
    assert torch.equal(found[1]["samples"], denoised["samples"])
    assert found[2].shape[0] == 2 and found[3].startswith("2 people at 0 %, 67 % of the run")
    assert found[2].std() > 0.05
