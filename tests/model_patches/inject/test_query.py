"""Query control against EditIDv2's equation 7: vectors from the authors' module, and its ends."""

import pytest
import tiny
import torch
from flexid.model_patches.adapters.pulid_flux import IdentityAdapter
from flexid.model_patches.gates.gate import Moment
from flexid.model_patches.gates.schedule import Schedule
from flexid.model_patches.inject.call import Call, PromptRows, Run, Site
from flexid.model_patches.inject.pulid import folded_for
from flexid.model_patches.inject.query import QueryControl, mix_queries
from flexid.model_patches.inject.query_append import summarise
from flexid.model_patches.inject.unfolded import UnfoldedAttention
from safetensors.torch import load_file
from seeding import golden_shapes, seeded, seeded_input

pytestmark = pytest.mark.comfy

SITE = Site("double_block", 0)
CPU = torch.device("cpu")
PREFIX = "pulid_ca.0."


@pytest.fixture(scope="module")
def vectors(golden):
    return load_file(golden / "editidv2_ca_query.safetensors")


@pytest.fixture(scope="module")
def inputs():
    names = ("img_1x64x3072", "img_noise_1x64x3072")
    tokens = seeded_input("id_embedding", (1, 32, 2048))
    return tokens, *(seeded_input(name, (1, 64, 3072)) for name in names)


@pytest.fixture(scope="module")
def shapes(golden):
    found = golden_shapes(golden, "pulid_flux", PREFIX)
    return {name.removeprefix(PREFIX): shape for name, shape in found.items()}


@pytest.fixture(scope="module")
def adapters(shapes):
    """Layer 0 as it is seeded, and with attention that is peaked."""
    weights = {name: seeded(PREFIX + name, shape) for name, shape in shapes.items()}
    strong = {name: value.clone() for name, value in weights.items()}
    strong["to_q.weight"] *= 8
    strong["to_kv.weight"][:2048] *= 8
    return {"": _adapter("query", weights), "strong.": _adapter("query-strong", strong)}


def _adapter(name, weights) -> IdentityAdapter:
    attention = {f"0.{key}": value for key, value in weights.items()}
    return tiny.adapter(digest=name, cross_attention=attention, heads=16)


def _call(run, sigma):
    """A call on 64 tokens, as `read_call` makes it."""
    moment = Moment(sigma, 1 - sigma, 1 - sigma, sigma)
    facts = ((PromptRows(),), (moment,), (16, 16), 1, CPU, torch.float32)
    return Call(run, *facts, uuids=("prompt",))


def _ask(adapter, tokens, image, run, control, sigma=0.5):
    """What the mixed layer gives in one call of a run."""
    mix = mix_queries(control, [SITE], adapter, torch.float32)
    return _ask_again(adapter, tokens, image, run, mix, sigma)


def _ask_again(adapter, tokens, image, run, mix, sigma):
    call, rows = _call(run, sigma), slice(0, 1)
    layers = {SITE: folded_for(adapter, tokens, torch.float32).model[0]}
    mixed = mix.mix(call, call.prompts[0], rows, layers, mix.alphas(call, rows), tokens)
    with torch.no_grad():
        return mixed[SITE](image, 1.0, None)


def _constant(mode, alpha, tokens=4):
    return QueryControl(mode, Schedule(alpha=alpha), tokens=tokens)


def _check(vectors, key, got):
    atol = 2e-4 if key.startswith("strong.") else 5e-6
    torch.testing.assert_close(got[:, :, ::8], vectors[f"{key}.s8"], atol=atol, rtol=0)


KEYS = [
    f"{prefix}{mode}.a{alpha}"
    for mode in ("initial", "token_mean", "zero")
    for prefix, alphas in (("", (0.0, 0.5, 0.75)), ("strong.", (0.0, 0.5)))
    for alpha in alphas
]
APPENDED = ["strong.soft_append1", "strong.soft_append4"]


def test_every_vector_is_compared(vectors):
    plain = {"a1.s8", "strong.a1.s8", "img_noise.probe"}
    assert {f"{key}.s8" for key in (*KEYS, *APPENDED)} | plain == set(vectors)


def test_the_inputs_are_the_golden_ones(vectors, inputs):
    assert torch.equal(inputs[2][:, ::8, ::96], vectors["img_noise.probe"])


@pytest.mark.parametrize("key", KEYS)
def test_mixed_scores_are_mixed_queries(vectors, inputs, adapters, key):
    tokens, image, noise = inputs
    adapter = adapters["strong." if key.startswith("strong.") else ""]
    mode, alpha = key.removeprefix("strong.").split(".a")
    mix = mix_queries(_constant(mode, float(alpha)), [SITE], adapter, torch.float32)
    run = Run((16, 16))
    _ask_again(adapter, tokens, noise, run, mix, 1.0)
    _check(vectors, key, _ask_again(adapter, tokens, image, run, mix, 0.5))


@pytest.mark.parametrize("key", APPENDED)
def test_an_appended_summary(vectors, inputs, adapters, key):
    tokens, image, _ = inputs
    control = _constant("soft_append", 0.0, int(key[-1]))
    _check(vectors, key, _ask(adapters["strong."], tokens, image, Run(), control))


@pytest.mark.parametrize("prefix", ["", "strong."])
def test_the_plain_layer_is_the_golden_one(vectors, inputs, adapters, prefix):
    tokens, image, _ = inputs
    layer = folded_for(adapters[prefix], tokens, torch.float32).model[0]
    with torch.no_grad():
        _check(vectors, f"{prefix}a1", layer(image))


# Ends and order


def test_a_query_of_zero_is_the_mean_over_the_identity(inputs, adapters):
    tokens, image, _ = inputs
    adapter = adapters["strong."]
    got = _ask(adapter, tokens, image, Run(), _constant("zero", 0.0))
    layer = folded_for(adapter, tokens, torch.float32).model[0]
    with torch.no_grad():
        shares = torch.full((1, 1, 16 * 32), 1 / 32)
        torch.testing.assert_close(got, layer.value(shares).expand_as(got), atol=1e-5, rtol=0)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.3])
def test_the_first_step_is_itself_whatever_alpha(inputs, adapters, alpha):
    tokens, image, noise = inputs
    adapter, run = adapters["strong."], Run((16, 16))
    mix = mix_queries(_constant("initial", alpha), [SITE], adapter, torch.float32)
    layer = folded_for(adapter, tokens, torch.float32).model[0]
    with torch.no_grad():
        plain = layer(noise)
    for _ in range(2):  # a sampler may ask twice at one sigma
        assert torch.equal(_ask_again(adapter, tokens, noise, run, mix, 0.9), plain)
    later = _ask_again(adapter, tokens, image, run, mix, 0.8)
    with torch.no_grad():
        assert not torch.allclose(later, layer(image), atol=1e-3)
    assert torch.equal(_ask_again(adapter, tokens, image, Run((16, 16)), mix, 0.8), layer(image))


def test_the_first_step_is_kept_while_alpha_is_still_1(inputs, adapters):
    """paper_decay begins at α = 1, and a window may begin late."""
    tokens, image, noise = inputs
    adapter, run = adapters["strong."], Run((16, 16))
    late = QueryControl("initial", Schedule(alpha=0.0, start=0.3))
    mix = mix_queries(late, [SITE], adapter, torch.float32)
    first = _ask_again(adapter, tokens, noise, run, mix, 1.0)
    layer = folded_for(adapter, tokens, torch.float32).model[0]
    with torch.no_grad():
        assert torch.equal(first, layer(noise))
        assert torch.equal(_ask_again(adapter, tokens, image, run, mix, 0.9), layer(image))
    # α = 0: the queries of the first step, whatever the picture is by now.
    torch.testing.assert_close(
        _ask_again(adapter, tokens, image, run, mix, 0.5), first, atol=1e-5, rtol=0
    )


def test_alpha_of_1_takes_nothing_of_the_summary(inputs, adapters):
    tokens, image, _ = inputs
    adapter = adapters[""]
    plain = folded_for(adapter, tokens, torch.float32).model[0](image)
    near = _ask(adapter, tokens, image, Run(), _constant("soft_append", 1.0 - 1e-9))
    torch.testing.assert_close(near, plain, atol=5e-6, rtol=0)
    half = _ask(adapter, tokens, image, Run(), _constant("soft_append", 0.5))
    assert not torch.allclose(half, plain, atol=1e-2)


def test_a_summary_is_as_long_as_asked_and_never_empty():
    queries = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0))
    found = summarise(queries, 3, 2.5)
    assert found.shape == (2, 3, 8)
    torch.testing.assert_close(found.norm(dim=-1), torch.full((2, 3), 2.5))
    assert summarise(torch.zeros(1, 4, 8), 2, 2.5).isfinite().all()
    large = torch.full((1, 4, 2048), 100.0, dtype=torch.float16)
    assert summarise(large, 1, 1.0).norm(dtype=torch.float32).item() == pytest.approx(1.0, rel=2e-2)


def test_the_unfolded_layer_has_the_names_of_the_file(shapes):
    module = UnfoldedAttention(3072, 2048, 2048, 16, device="meta")
    assert {name: tuple(value.shape) for name, value in module.state_dict().items()} == shapes


# Settings


def test_control_is_neutral_by_default_and_says_so():
    assert QueryControl().is_neutral
    assert QueryControl().describe() == "mode is off: the queries stay as they are"
    idle = QueryControl("initial", blocks="all, double:1.0")
    assert idle.is_neutral and "alpha is 1 all the time" in idle.describe()
    assert not QueryControl("initial", blocks="all, double:0.5").is_neutral
    working = QueryControl("soft_append", Schedule("sigma_rise"), "single", 3)
    assert working.describe() == ("soft_append of 3 tokens: alpha 0.000 → 1.000 at blocks single")


def test_blocks_choose_layers_and_the_last_item_decides():
    sites = [Site("double_block", 0), Site("double_block", 2), Site("single_block", 0)]
    control = QueryControl("zero", Schedule(alpha=0.5), "double, 1:0.2, 2")
    courses = control.courses(sites, "file")
    assert [courses[site].alpha for site in sites] == [0.5, 0.2, 0.5]
    alone = QueryControl("zero", Schedule(alpha=0.5), "single").courses(sites, "file")
    assert list(alone) == [sites[2]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QueryControl("first"), "'first'.*off, initial, token_mean, zero, soft_append"),
        (lambda: QueryControl(tokens=0), r"tokens of the query control is 0.*\[1, 16\]"),
        (lambda: QueryControl(blocks="half"), "Cannot read 'half'"),
        (
            lambda: QueryControl("soft_append", Schedule(alpha=1.2)),
            "alpha reaches 1.2 with the mode soft_append, expected at most 1",
        ),
        (lambda: QueryControl("soft_append", blocks="3:1.5"), "alpha reaches 1.5"),
        (
            lambda: QueryControl("zero", blocks="7").courses([SITE], "a.safetensors"),
            "layer 7; 'a.safetensors' has the layers 0 to 0",
        ),
    ],
)
def test_other_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
