"""FlexIP files: sizes from tensors, metadata checked, tokens as defined, refusals.

No official FlexIP code exists: the vectors follow the definitions in the specification, and were
checked by an independent program in float64.
"""

import dataclasses

import ip_files
import pytest
import torch
from flexid.model_patches.adapters.flexip import make_personal, make_tokens
from flexid.model_patches.adapters.flexip_file import load_flexip, save_flexip
from flexid.model_patches.adapters.flexip_settings import FlexIPSettings, settings_of
from safetensors import safe_open
from safetensors.torch import load_file
from seeding import seeded_input

pytestmark = pytest.mark.comfy

CLOSE = {"atol": 1e-5, "rtol": 0}
SHARP = {"atol": 5e-5, "rtol": 0}
STATED = settings_of(FlexIPSettings(base="sd15"))


@pytest.fixture(scope="module")
def expected(golden):
    return load_file(golden / "flexip_ipadapter.safetensors")


@pytest.fixture(scope="module", params=[1.0, 16.0], ids=["plain", "sharp"])
def full_size(request, tmp_path_factory):
    tensors = ip_files.sharpen(ip_files.seed_all(ip_files.flexip_shapes()), request.param)
    path = tmp_path_factory.mktemp("flexip") / "x.safetensors"
    sharp = request.param > 1
    name, tolerance = ("flexip_sharp", SHARP) if sharp else ("flexip", CLOSE)
    return load_flexip(ip_files.write(path, tensors, STATED)), name, tolerance


def both_classes():
    photo = seeded_input("clip_cls", (1, 1024))
    return torch.cat([torch.zeros_like(photo), photo])


def features(tokens=64):
    detail = seeded_input("dino", (1, 64, 1024))
    context = torch.cat([torch.zeros_like(detail), detail])[:, :tokens]
    return {"context": context, "pooled": both_classes()}


def test_preservation_tokens_are_the_defined_ones(full_size, expected):
    adapter, name, tolerance = full_size
    found = make_tokens(adapter, features())
    torch.testing.assert_close(found[..., ::2], expected[f"{name}.P_s"], **tolerance)
    assert (adapter.tokens, adapter.width, adapter.variant) == (17, 768, "FlexIP")
    assert dict(adapter.reads) == {"context": 1024, "pooled": 1024}


def test_nobody_depends_on_how_many_tokens_the_picture_has(full_size):
    adapter, name, _ = full_size
    zeros = {"context": torch.zeros(1, 256, 1024), "pooled": torch.zeros(1, 1024)}
    of_64 = make_tokens(adapter, {**zeros, "context": zeros["context"][:, :64]})
    apart = (make_tokens(adapter, zeros) - of_64).abs().max()
    assert apart > (1.0 if name == "flexip_sharp" else 1e-3)


def test_personalisation_tokens_are_the_defined_ones(full_size, expected):
    adapter, name, tolerance = full_size
    text = seeded_input("text", (2, 77, 768))
    nobody, photo = both_classes().split(1)
    found = torch.cat(
        [make_personal(adapter, text[:1], nobody), make_personal(adapter, text[1:], photo)]
    )
    torch.testing.assert_close(found[:, ::4, ::4], expected[f"{name}.S_s"], **tolerance)


def test_each_chunk_of_a_long_prompt_is_resampled_alone(full_size, expected):
    adapter, name, tolerance = full_size
    text, photo = seeded_input("text154", (1, 154, 768)), both_classes()[1:]
    found = make_personal(adapter, text, photo)
    if name == "flexip":
        torch.testing.assert_close(found[:, ::8, ::4], expected["flexip.S154_s"], **tolerance)
    halves = [make_personal(adapter, half, photo) for half in text.chunk(2, dim=1)]
    torch.testing.assert_close(found, torch.cat(halves, dim=1), **CLOSE)


BLOCKS = {"input.1.0": 32, "middle.0.0": 64, "output.3.1": 32}
SIZES = {"dim": 64, "width": 48, "context": 40, "pooled": 24, "depth": 1, "latents": 5}


def small(**options):
    shapes = ip_files.flexip_shapes(**{**SIZES, "blocks": BLOCKS, **options})
    return ip_files.seed_all(shapes)


def opened(folder, tensors=None, **settings):
    stated = settings_of(dataclasses.replace(FlexIPSettings(), **settings))
    tensors = small() if tensors is None else tensors
    return load_flexip(ip_files.write(folder / "x.safetensors", tensors, stated))


def test_sizes_are_read_from_the_tensors(tmp_path):
    adapter = opened(tmp_path)
    assert (adapter.tokens, adapter.width) == (6, 48)
    assert dict(adapter.reads) == {"context": 40, "pooled": 24}
    assert adapter.preserve.blocks == (("input", 1, 0), ("middle", 0, 0), ("output", 3, 1))
    assert [len(key) for key in adapter.personal.keys] == [32, 64, 32]
    module = adapter.encoder.model
    assert module.preserve.detail.dims.heads == module.personal.dims.heads == 1


def test_several_overall_tokens(tmp_path):
    tensors = small()
    wide = ip_files.resampler(64, 40, 48, 1, query=24, spread=3)
    tensors |= ip_files.seed_all({f"preserve.overall.{key}": s for key, s in wide.items()})
    adapter = opened(tmp_path, tensors)
    assert adapter.tokens == 8
    seen = {"context": torch.randn(1, 7, 40), "pooled": torch.randn(1, 24)}
    assert make_tokens(adapter, seen).shape == (1, 8, 48)


def test_a_head_width_comes_from_the_metadata(tmp_path):
    assert opened(tmp_path, head_dim=16).encoder.model.preserve.detail.dims.heads == 4


def test_a_file_may_hold_preservation_alone(tmp_path):
    adapter = opened(tmp_path, small(personal=False))
    assert not adapter.has_personal and adapter.personal is None and adapter.tokens == 5
    assert adapter.variant == "FlexIP, preservation only"
    assert make_tokens(adapter, {"context": torch.randn(2, 7, 40)}).shape == (2, 5, 48)


def test_a_stream_on_the_text_has_no_keys_of_its_own(tmp_path):
    adapter = opened(tmp_path, small(path="text"), personal_path="text")
    assert adapter.has_personal and adapter.personal is None
    assert not hasattr(adapter.encoder.model.personal, "norm_out")


def test_what_is_saved_loads_again(tmp_path):
    settings = FlexIPSettings(base="mini", law="crossfade", notes={"alpha": "0.8", "steps": "12"})
    save_flexip(tmp_path / "x.safetensors", small(), settings)
    adapter = load_flexip(tmp_path / "x.safetensors")
    assert adapter.settings == settings
    assert not list(tmp_path.glob("*.part"))
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata()["format"] == "flexid.flexip"
        assert file.metadata()["version"] == "1"


def test_identities_are_bound_to_what_makes_the_preservation_tokens(tmp_path):
    one = opened(tmp_path)
    other_layers = {k: t + 1 if k.startswith("blocks.") else t for k, t in small().items()}
    two = opened(tmp_path, other_layers)
    retrained = {k: t + 0.1 if "detail.latents" in k else t for k, t in small().items()}
    three = opened(tmp_path, retrained)
    assert one.encoder_digest == two.encoder_digest != three.encoder_digest
    assert len({one.digest, two.digest, three.digest}) == 3


def test_unknown_tensors_are_left_out_with_a_line_in_the_log(tmp_path, caplog):
    tensors = {**small(), "ema.decay": torch.ones(1), "ema.step": torch.ones(1)}
    assert opened(tmp_path, tensors).tokens == 6
    assert "2 unknown tensors are left out (ema.decay, ema.step)" in caplog.text


def test_the_makers_are_rebuilt_from_the_file(tmp_path):
    adapter = opened(tmp_path)
    rebuild, arguments = adapter.encoder.cached_patcher_init
    again = rebuild(*arguments, disable_dynamic=True).model.state_dict()
    for key, tensor in adapter.encoder.model.state_dict().items():
        assert torch.equal(again[key], tensor)


def without(part):
    return {key: tensor for key, tensor in small().items() if part not in key}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (without("preserve.detail.layers.0.0.to_q"), "has no tensor layers.0.0.to_q.weight"),
        (without("personal.norm_out.bias"), r"1 of \d+ tensors are missing \(personal.norm_out"),
        (without("middle.0.0.preserve.to_v"), r"1 missing or misshapen .*middle.0.0.preserve.to_v"),
        (without("middle.0.0.personal"), "personal has 2 blocks, preserve 3"),
        (without("preserve.overall"), "personal is there without preserve.overall, expected both"),
        (without("personal.proj_query"), "has no tensor proj_query.weight"),
        ({**small(), "null.preserve": torch.zeros(1, 5, 48)}, r"null.preserve is \(1, 5, 48\)"),
        (
            {**small(), "blocks.side.1.0.preserve.to_k.weight": torch.zeros(32, 48)}
            | {"blocks.side.1.0.preserve.to_v.weight": torch.zeros(32, 48)},
            "names a block 'side.1.0'",
        ),
        (
            {**small(), "blocks.input.1.0.preserve.to_k.weight": torch.full((32, 48), torch.inf)},
            "NaN or infinite",
        ),
    ],
    ids=range(9),
)
def test_an_altered_file_is_refused(tmp_path, tensors, message):
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, tensors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "3"}, "FlexIP format 3, this FlexID reads 1 and 2. Update FlexID"),
        ({"version": "2"}, "FlexIP format 2 and says base=sd15, expected flux"),
        ({"base": "flux"}, "FlexIP format 1 and says base=flux, expected another model"),
        ({"context": "eva-clip"}, "cls=projected, expected face_and_pooled"),
        ({"version": ""}, "FlexIP format unknown"),
        ({"format": "other"}, "format=other, expected flexid.flexip"),
        ({"fusion": "sum"}, "fusion=sum, expected outputs or joint or tokens"),
        ({"law": "square"}, "law=square, expected linear"),
        ({"personal_keys": "cls_only"}, "personal_keys=cls_only, expected cls_and_text"),
        ({"head_dim": "64.5"}, "head_dim='64.5', expected a whole number"),
        ({"head_dim": "48"}, "attention width 64 and heads of 48 channels"),
        ({"text_tokens": "64"}, "text_tokens=64, expected 77"),
        ({"fusion": "tokens"}, "fusion=tokens with 6 preservation tokens, expected 77"),
        ({"personal_path": "text", "fusion": "joint"}, "fusion of personal_path=text"),
    ],
    ids=lambda value: "".join(value) if isinstance(value, dict) else "",
)
def test_metadata_that_do_not_fit_are_refused(tmp_path, changes, message):
    path = ip_files.write(tmp_path / "x.safetensors", small(), {**STATED, **changes})
    with pytest.raises(ValueError, match=message):
        load_flexip(path)


def test_a_version_with_a_minor_number_is_read(tmp_path):
    path = ip_files.write(tmp_path / "x.safetensors", small(), {**STATED, "version": "1.3"})
    assert load_flexip(path).tokens == 6


def test_a_prompt_of_no_whole_chunks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has 80 tokens, expected a multiple of 77"):
        make_personal(opened(tmp_path), torch.zeros(1, 80, 48), torch.zeros(1, 24))
