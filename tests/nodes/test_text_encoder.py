"""The small text encoders through ComfyUI's own FLUX CLIP, and what is refused."""

import json

import comfy.utils
import folder_paths
import pytest
import torch
from flexid.mini import random_text
from flexid.model_patches.encoders.mini_text import KEY, load_mini_clip, read_size
from flexid.nodes.text_encoder import FlexIDLoadMiniTextEncoder
from safetensors.torch import save_file

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text_encoders")
    random_text.write_t5(folder / "t5.safetensors", 1)
    random_text.write_clip_l(folder / "clip_l.safetensors", 2)
    return folder / "t5.safetensors", folder / "clip_l.safetensors"


@pytest.fixture(scope="module")
def clip(files):
    return load_mini_clip(*files)


def test_each_combo_has_the_file_of_its_family(files, monkeypatch):
    folder = str(files[0].parent)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "text_encoders", ([folder], set()))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    inputs = FlexIDLoadMiniTextEncoder.define_schema().inputs
    assert [one.options for one in inputs] == [
        ["t5.safetensors", "clip_l.safetensors"],
        ["clip_l.safetensors", "t5.safetensors"],
    ]


def encode(clip, text):
    (condition,) = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    return condition[0], condition[1]["pooled_output"]


def test_sizes_come_from_the_files(clip):
    sequence, pooled = encode(clip, "a person in the rain")
    assert sequence.shape == (1, 256, random_text.T5_CONFIG["d_model"])
    assert pooled.shape == (1, random_text.CLIP_CONFIG["hidden_size"])
    assert sequence.isfinite().all() and pooled.isfinite().all()


def test_every_tensor_of_the_files_is_in_use(clip, files):
    """A size mismatch would only be logged, and leave uninitialised memory in the model."""
    model = clip.cond_stage_model
    for path, part in zip(files, (model.t5xxl, model.clip_l), strict=True):
        loaded = part.transformer.state_dict()
        for name, tensor in comfy.utils.load_torch_file(str(path)).items():
            assert torch.equal(loaded[name].float(), tensor.float()), name
        uncovered = set(loaded) - set(comfy.utils.load_torch_file(str(path)))
        assert all("position_ids" in name for name in uncovered), uncovered


def test_the_prompt_matters_and_the_same_prompt_does_not_change(clip):
    sequence, pooled = encode(clip, "a person in the rain")
    again, pooled_again = encode(clip, "a person in the rain")
    other, pooled_other = encode(clip, "a person in the snow")
    assert torch.equal(sequence, again) and torch.equal(pooled, pooled_again)
    assert (sequence - other).abs().mean() > 0.05
    assert (pooled - pooled_other).abs().mean() > 0.05


def test_the_node_finds_its_files_in_the_models_folder(files, monkeypatch):
    entry = ([str(files[0].parent)], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "text_encoders", entry)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    schema = FlexIDLoadMiniTextEncoder.define_schema()
    assert [item.id for item in schema.inputs] == ["t5", "clip_l"]
    assert {"t5.safetensors", "clip_l.safetensors"} <= set(schema.inputs[0].options)
    output = FlexIDLoadMiniTextEncoder.execute("t5.safetensors", "clip_l.safetensors")
    assert encode(output[0], "x")[0].shape[1] == 256


def test_swapped_files_are_named(files):
    with pytest.raises(ValueError, match=r"clip_l\.safetensors holds 'clip_l', expected 't5xxl'"):
        load_mini_clip(files[1], files[0])


def test_a_full_size_file_is_sent_to_its_own_loader(tmp_path):
    path = tmp_path / "t5xxl_fp16.safetensors"
    save_file({"shared.weight": torch.zeros(2, 2)}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"t5xxl_fp16.*found: format;.*DualCLIPLoader"):
        read_size(path, "t5xxl")
    save_file({"shared.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(ValueError, match="found: none"):
        read_size(path, "t5xxl")


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"", "is empty"),
        (b"x" * 100, "is neither a safetensors nor a torch file"),
        (b"\x80\x02}q\x00.", "is cut short or damaged"),
    ],
)
def test_a_file_that_is_no_safetensors_is_refused(tmp_path, content, fact):
    path = tmp_path / "te.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"te\.safetensors {fact}.*start.py demo"):
        read_size(path, "t5xxl")


T5 = {"family": "t5xxl", "config": random_text.T5_CONFIG}
CLIP_L = {"family": "clip_l", "config": random_text.CLIP_CONFIG}
STATEMENTS = {
    "no JSON": ("{" * 20, ["'{{{{{{", "expected JSON"]),
    "deep JSON": ("[" * 100_000, ["expected JSON"]),
    "a list": ("[1, 2]", ["expected a JSON object"]),
    "no family": (json.dumps({"config": {}}), ["holds None, expected 't5xxl'"]),
    "no config": (json.dumps({"family": "t5xxl"}), ["states the config None"]),
    "a missing size": (
        json.dumps({**T5, "config": {"d_model": 64}}),
        ["d_ff is None, expected 128"],
    ),
    "an absurd size": (
        json.dumps({**T5, "config": {**T5["config"], "num_layers": 10**9}}),
        ["num_layers is 1000000000, expected 2"],
    ),
    "a fraction": (
        json.dumps({**T5, "config": {**T5["config"], "d_kv": 32.0}}),
        ["d_kv is 32.0, expected 32"],
    ),
    "an unknown size": (
        json.dumps({**T5, "config": {**T5["config"], "vocab_size": 10**12}}),
        ["'vocab_size' is not known"],
    ),
    "an absurd length": (
        json.dumps({**T5, "min_length": 10**9}),
        ["min_length 1000000000", "1 to 512"],
    ),
    "a length in words": (json.dumps({**T5, "min_length": "x"}), ["min_length 'x'"]),
    "heads that do not divide": (
        json.dumps({**CLIP_L, "config": {**CLIP_L["config"], "num_attention_heads": 3}}),
        ["num_attention_heads 3 for 64 channels"],
    ),
    "heads of one channel": (
        json.dumps({**CLIP_L, "config": {**CLIP_L["config"], "num_attention_heads": 64}}),
        ["num_attention_heads 64 for 64 channels", "heads of 16 to 256"],
    ),
}


@pytest.mark.parametrize("case", STATEMENTS)
def test_statements_are_checked_against_the_tensors(files, tmp_path, case):
    text, facts = STATEMENTS[case]
    family = "clip_l" if '"clip_l"' in text else "t5xxl"
    tensors = comfy.utils.load_torch_file(str(files[0] if family == "t5xxl" else files[1]))
    save_file(tensors, tmp_path / "te.safetensors", metadata={KEY: text})
    with pytest.raises(ValueError) as error:
        read_size(tmp_path / "te.safetensors", family)
    for fact in ["te.safetensors", *facts]:
        assert fact in str(error.value)


def test_weights_that_are_not_finite_are_refused(files, tmp_path):
    tensors = comfy.utils.load_torch_file(str(files[0]))
    tensors["encoder.final_layer_norm.weight"][3] = float("inf")
    save_file(tensors, tmp_path / "te.safetensors", metadata={KEY: json.dumps(T5)})
    with pytest.raises(ValueError, match="infinite values in 1 of .*final_layer_norm"):
        read_size(tmp_path / "te.safetensors", "t5xxl")


def test_the_stated_size_is_the_real_one(files):
    from safetensors import safe_open

    with safe_open(files[0], "pt") as file:
        config = json.loads(file.metadata()[KEY])["config"]
        assert list(file.get_slice("shared.weight").get_shape())[1] == config["d_model"]
