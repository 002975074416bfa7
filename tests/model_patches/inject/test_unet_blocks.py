"""Which layers of SD 1.5 and SDXL carry style and layout, on networks of the published shape."""

import pytest
import tiny_unet
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from flexid.model_patches.inject.call import Site
from flexid.model_patches.inject.unet import cross_attention_of
from flexid.model_patches.inject.unet_blocks import weigh_blocks

pytestmark = pytest.mark.comfy

SDXL = {
    **tiny_unet.SDXL,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
}


def sites_of(config):
    with torch.device("meta"):
        return [site for site, _ in cross_attention_of(UNetModel(**config))]


@pytest.fixture(scope="module")
def sd15():
    return sites_of(tiny_unet.TOPOLOGY)


@pytest.fixture(scope="module")
def sdxl():
    return sites_of(SDXL)


def places(factors):
    return {(site.kind, site.number): factor for site, factor in factors.items() if factor}


def test_all_blocks_have_factor_1(sd15, sdxl):
    assert (len(sd15), len(sdxl)) == (16, 70)
    for sites in (sd15, sdxl):
        assert weigh_blocks(sites, "all", "test") == dict.fromkeys(sites, 1.0)


def test_style_of_sd15_is_all_but_the_coarse_half(sd15):
    """By the running number of a transformer: 0 to 3 and 9 to 15."""
    factors = list(weigh_blocks(sd15, "style", "test").values())
    assert [number for number, one in enumerate(factors) if one == 1.0] == [
        0,
        1,
        2,
        3,
        *range(9, 16),
    ]


def test_layout_of_sd15_is_number_5_and_a_quarter_of_4(sd15):
    factors = list(weigh_blocks(sd15, "layout", "test").values())
    assert factors == [0.25 if number == 4 else float(number == 5) for number in range(16)]


def test_sdxl_has_one_block_of_each(sdxl):
    assert places(weigh_blocks(sdxl, "style", "test")) == {("output", 1): 1.0}
    assert places(weigh_blocks(sdxl, "layout", "test")) == {("input", 8): 1.0}
    assert sum(weigh_blocks(sdxl, "style", "test").values()) == 10


def test_unknown_layers_and_names_are_refused():
    sites = [Site("input", number, 0, 1) for number in range(10)]
    with pytest.raises(ValueError, match=r"SD 1.5 \(16.*SDXL \(70.*has 10. Choose all"):
        weigh_blocks(sites, "style", "Apply FlexIP")
    with pytest.raises(ValueError, match="has blocks 'face', expected one of all, style, layout"):
        weigh_blocks(sites, "face", "Apply FlexIP")
