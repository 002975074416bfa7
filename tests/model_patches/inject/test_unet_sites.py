"""The core on a UNet, by one small injection: decoupled cross-attention folded from the base."""

from dataclasses import dataclass, field

import pytest
import tiny_unet
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from flexid.model_patches.files.cache import tensor_key
from flexid.model_patches.gates.gate import OPEN, Gate
from flexid.model_patches.gates.window import Window
from flexid.model_patches.inject.attention import fold, wrap_folded
from flexid.model_patches.inject.call import Term
from flexid.model_patches.inject.region import EVERYWHERE, Grid, Region
from flexid.model_patches.inject.run import Neutral, register
from flexid.model_patches.inject.unet import cross_attention_of, patch_attention, unet_sites
from torch import nn

pytestmark = pytest.mark.comfy

HEADS = tiny_unet.UNET["num_heads"]
TOKENS = 3


@dataclass(frozen=True, eq=False)
class Decoupled(Neutral):
    """Keys and values of its own, query and output of the base model's attention."""

    model: object
    tokens: torch.Tensor
    """(N, C) keys and values are slices of it, so no projection is needed."""
    weight: float = 1.0
    gate: Gate = OPEN
    region: Region | None = None
    sites: tuple = field(default=())

    kind = label = "decoupled"

    @property
    def order(self):
        return f"{tensor_key(self.tokens)} {self.weight}"

    def terms(self, call):
        weight = self.gate.weight(call.moments[0], self.weight)
        if not weight:
            return []
        layers = self._layers(call)
        found = []
        for number, prompt in enumerate(call.prompts):
            if prompt.role == "negative":
                continue
            for cell in dict.fromkeys(site.cell for site in self.sites):
                coverage = self._coverage(call, prompt, cell)
                if coverage is None:
                    continue
                here = {site: layers[site] for site in self.sites if site.cell == cell}
                factor = weight if coverage.weights is None else coverage.weights * weight
                found.append(Term(here, call.rows_of(number), coverage.index, factor))
        return found

    def _layers(self, call):
        """Folded at the first call, when LoRA patches are in the weights."""
        key = (self, "layers")
        if key not in call.run.cache:
            unet = self.model.get_model_object("diffusion_model")
            states = [self._fold(attention) for _, attention in cross_attention_of(unet)]
            stack = wrap_folded(states, HEADS, torch.float32).model
            call.run.cache[key] = dict(zip(self.sites, stack, strict=True))
        return call.run.cache[key]

    def _fold(self, attention):
        inner = attention.to_q.weight.shape[0]
        keys, values = self.tokens[:, :inner], self.tokens[:, -inner:]
        width = attention.to_q.weight.shape[1]
        return fold(keys, values, attention.to_q, attention.to_out, HEADS, width=width)

    def _coverage(self, call, prompt, cell):
        if self.region is None:
            return EVERYWHERE
        return self.region.cover(call.grid(cell), call.latent_size, prompt.area, call.batch)


def apply(model, seed=0, **options):
    tokens = torch.randn(TOKENS, 64, generator=torch.Generator().manual_seed(seed))
    sites = tuple(unet_sites(model, "Apply Decoupled"))
    patched = model.clone()
    register(patched, Decoupled(patched, tokens, sites=sites, **options))
    patch_attention(patched, sites)
    return patched


def by_definition(model, seed=0):
    """The same, written out: attention of the base's queries over the given keys and values."""
    tokens = torch.randn(TOKENS, 64, generator=torch.Generator().manual_seed(seed))
    unet = model.get_model_object("diffusion_model")
    layers = {(s.kind, s.number, s.depth): a for s, a in cross_attention_of(unet)}
    patched, kept = model.clone(), {}

    def read(n, context, value, extra):
        kept["n"] = n
        return n, context, value

    def add(n, extra):
        attention = layers[(*extra["block"], extra["block_index"])]
        inner = attention.to_q.weight.shape[0]
        q, k, v = (
            x.unflatten(-1, (HEADS, -1)).transpose(-3, -2)
            for x in (attention.to_q(kept["n"]), tokens[:, :inner], tokens[:, -inner:])
        )
        out = nn.functional.scaled_dot_product_attention(q, k.expand(len(q), -1, -1, -1), v)
        return n + out.transpose(1, 2).flatten(2) @ attention.to_out[0].weight.T

    patched.set_model_attn2_patch(read)
    patched.set_model_attn2_output_patch(add)
    return patched


POSITIVE, NEGATIVE = tiny_unet.conditioning(1), tiny_unet.conditioning(2)


def sample(model, **options):
    return tiny_unet.sample(model, POSITIVE, NEGATIVE, **{"cfg": 1.0, **options})


@pytest.fixture(scope="module")
def model():
    return tiny_unet.sd15()


@pytest.fixture(scope="module")
def base(model):
    return sample(model)


def test_folded_from_the_base_is_the_definition(model, base):
    out = sample(apply(model))
    assert not torch.equal(out, base)
    torch.testing.assert_close(out, sample(by_definition(model)), atol=1e-4, rtol=1e-4)


def test_a_lora_on_the_base_is_folded_in(model):
    name = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_q.weight"
    delta = torch.randn(
        model.model.state_dict()[name].shape, generator=torch.Generator().manual_seed(3)
    )
    pair = []
    for patch in (apply, by_definition):
        patched = patch(model)
        patched.add_patches({name: ("diff", (delta,))}, 0.5)
        pair.append(sample(patched))
    torch.testing.assert_close(*pair, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(pair[0], sample(apply(model)), atol=1e-4)


CLOSED = Gate((Window(points=((0.0, 0.0),)),))


@pytest.mark.parametrize(
    "options",
    [{"weight": 0.0}, {"gate": CLOSED}, {"region": Region(torch.zeros(1, 8, 8))}],
    ids=["weight 0", "closed gate", "empty mask"],
)
def test_neutral_is_bit_identical(model, base, options):
    assert torch.equal(sample(apply(model, **options)), base)


def test_all_one_mask_is_no_mask(model):
    ones = apply(model, region=Region(torch.ones(1, 40, 40)))
    assert torch.equal(sample(ones), sample(apply(model)))


def test_the_negative_prompts_rows_are_left_alone(model):
    """One step at CFG: the injected positive and the plain negative, mixed by hand."""
    options = {"steps": 1}
    positive = tiny_unet.sample(apply(model), POSITIVE, NEGATIVE, cfg=1.0, **options)
    negative = tiny_unet.sample(model, NEGATIVE, POSITIVE, cfg=1.0, **options)
    mixed = tiny_unet.sample(apply(model), POSITIVE, NEGATIVE, cfg=3.0, **options)
    torch.testing.assert_close(mixed, negative + 3.0 * (positive - negative), atol=1e-3, rtol=1e-3)


def test_two_injections_in_any_order_give_the_same_bits(model):
    ab = _twice(model, (0, 0.7), (5, 0.4))
    assert torch.equal(sample(ab), sample(_twice(model, (5, 0.4), (0, 0.7))))


def _twice(model, *parts):
    for seed, weight in parts:
        model = apply(model, seed, weight=weight)
    return model


def test_it_composes_with_a_pack_that_replaces_attention(model, base):
    """IP-Adapter packs own attn2 in patches_replace; the output patch still runs."""

    def replace(q, k, v, extra):
        return 0.5 * nn.functional.scaled_dot_product_attention(
            *(x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
        ).transpose(1, 2).flatten(2)

    def replaced(one):
        one = one.clone()
        one.set_model_attn2_replace(replace, "input", 1)
        return one

    both, alone = sample(replaced(apply(model))), sample(replaced(model))
    assert not torch.equal(both, alone) and not torch.equal(alone, base)
    assert torch.equal(both, sample(apply(replaced(model))))


def test_a_site_that_does_not_run_is_reported(model):
    patched = apply(model)
    patches = patched.model_options["transformer_options"]["patches"]
    patches["attn2_output_patch"] = []
    with pytest.raises(RuntimeError, match=r"decoupled is on this model, but 0 of its \d+"):
        sample(patched)


def test_only_covered_tokens_change(model):
    """What the first block returns, with and without the injection."""
    mask = torch.zeros(1, 8, 8)
    mask[:, :, :4] = 1
    plain, masked = _first_output(model), _first_output(apply(model, region=Region(mask)))
    whole = _first_output(apply(model))
    changed = (masked - plain).abs().sum(-1).unflatten(1, (8, 8)) > 0
    assert changed[:, :, :4].all() and not changed[:, :, 4:].any()
    left = mask[0].flatten() > 0
    torch.testing.assert_close(masked[:, left], whole[:, left], atol=1e-5, rtol=1e-5)


def _first_output(model):
    return tiny_unet.first_read(model, lambda watched: sample(watched, steps=1))


@pytest.mark.parametrize("cell", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(8, 8), (9, 15), (1, 3)])
def test_every_level_has_a_grid_for_odd_sizes_too(cell, size):
    grid = Grid(-(-size[0] // cell), -(-size[1] // cell), cell)
    everywhere = Region(torch.ones(1, 5, 5)).cover(grid, size, None, 2)
    assert everywhere.index is None and everywhere.weights is None
    corner = torch.zeros(1, *size)
    corner[:, -1, -1] = 1
    covered = Region(corner).cover(grid, size, None, 1)
    where = [0] if covered.index is None else covered.index.tolist()
    assert where == [grid.tokens - 1]


@pytest.mark.parametrize(
    ("config", "count", "cells"),
    [("SD15", 16, {1: 5, 2: 5, 4: 5, 8: 1}), ("SDXL", 70, {2: 10, 4: 60})],
)
def test_full_size_models_have_the_sites_that_papers_count(config, count, cells):
    import comfy.supported_models

    known = {
        "SD15": {
            "context_dim": 768,
            "num_heads": 8,
            "num_res_blocks": [2, 2, 2, 2],
            "channel_mult": [1, 2, 4, 4],
            "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
            "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
            "transformer_depth_middle": 1,
            "use_linear_in_transformer": False,
            "adm_in_channels": None,
        },
        "SDXL": {
            "context_dim": 2048,
            "num_heads": -1,
            "num_head_channels": 64,
            "num_res_blocks": [2, 2, 2],
            "channel_mult": [1, 2, 4],
            "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
            "transformer_depth_middle": 10,
            "use_linear_in_transformer": True,
            "num_classes": "sequential",
            "adm_in_channels": 2816,
        },
    }[config]
    unet = UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=320,
        use_spatial_transformer=True,
        legacy=False,
        device="meta",
        operations=comfy.ops.disable_weight_init,
        **known,
    )
    sites = [site for site, _ in cross_attention_of(unet)]
    assert len(sites) == len(set(sites)) == count
    assert {cell: sum(s.cell == cell for s in sites) for cell in cells} == cells


def test_another_kind_of_model_is_refused():
    import tiny

    with pytest.raises(ValueError, match="needs a Stable Diffusion UNet; this model is Flux"):
        unet_sites(tiny.flux(), "Apply Decoupled")
