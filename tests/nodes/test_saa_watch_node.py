"""Sample with Activation Maps: the picture of SamplerCustomAdvanced, and the sheet."""

import comfy.samplers
import dynamicid_world
import pytest
import tiny_unet
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise, SamplerCustomAdvanced
from flexid.model_patches.inject.saa import apply_saa
from flexid.model_patches.inject.saa_people import make_person
from flexid.nodes.saa_watch import FlexIDSampleWithActivationMaps

pytestmark = pytest.mark.comfy


def test_the_picture_is_cores_and_the_sheet_comes_with_it(tmp_path):
    model = tiny_unet.sd15()
    adapter = dynamicid_world.adapter(tmp_path, model)
    people = [make_person(dynamicid_world.person(adapter, seed)) for seed in (1, 2)]
    guider = comfy.samplers.CFGGuider(apply_saa(model, adapter, people).model)
    guider.set_conds(tiny_unet.conditioning(1), tiny_unet.conditioning(2))
    guider.set_cfg(3.0)
    sampling = guider.model_patcher.get_model_object("model_sampling")
    inputs = (
        Noise_RandomNoise(7),
        guider,
        comfy.samplers.sampler_object("euler"),
        comfy.samplers.calculate_sigmas(sampling, "normal", 3),
        {"samples": torch.zeros(2, 4, 8, 8)},
    )
    latent, denoised = SamplerCustomAdvanced.execute(*inputs).args
    found = FlexIDSampleWithActivationMaps.execute(*inputs, columns=2)
    assert torch.equal(found[0]["samples"], latent["samples"])
    assert torch.equal(found[1]["samples"], denoised["samples"])
    assert found[2].shape[0] == 2 and found[3].startswith("2 people at 0 %, 67 % of the run")
