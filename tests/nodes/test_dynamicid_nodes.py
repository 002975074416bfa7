"""DynamicID's nodes: from files and photos to a patched model."""

import dynamicid_world
import folder_paths
import pytest
import tiny_unet
import torch
from flexid.nodes import dynamicid as nodes

pytestmark = pytest.mark.comfy


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A ComfyUI whose folder of DynamicID files is empty."""
    folder = tmp_path / "dynamicid"
    folder.mkdir()
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "dynamicid", ([str(folder)], {".bin", ".safetensors"})
    )
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return folder


@pytest.fixture(scope="module")
def model():
    return tiny_unet.sd15()


@pytest.fixture(scope="module")
def adapter(model, tmp_path_factory):
    return dynamicid_world.adapter(tmp_path_factory.mktemp("saa"), model)


def test_files_are_listed_opened_and_converted(home, model):
    label = nodes.ADAPTERS.labels()[0]
    assert "none found. Put SAA.bin into models/dynamicid" in label
    assert "meteorite2023/DynamicID" in label and "Fetch Models" not in label
    dynamicid_world.adapter(home, model)
    (home / "aaa.bin").write_bytes(b"something else")
    folder_paths.filename_list_cache.clear()
    assert nodes.ADAPTERS.labels() == ["SAA.bin", "aaa.bin"]
    opened = nodes.FlexIDLoadDynamicID.execute("SAA.bin")
    assert opened[1] == (
        "DynamicID SAA: 4 blocks, text of 64 channels, 4 face tokens, LoRA of rank 4 on 8 "
        "attention layers"
    )
    assert nodes.FlexIDConvertDynamicID.execute("SAA.bin", "")[0] == "SAA.safetensors"
    assert nodes.FlexIDConvertDynamicID.execute("SAA.bin", "../mine")[0] == "mine.safetensors"
    folder_paths.filename_list_cache.clear()
    again = nodes.FlexIDLoadDynamicID.execute("mine.safetensors")
    assert again[0].encoder_digest == opened[0].encoder_digest
    prints = {
        nodes.FlexIDLoadDynamicID.fingerprint_inputs(name)
        for name in ("SAA.bin", "mine.safetensors")
    }
    assert len(prints) == 2


def test_a_portrait_becomes_an_identity(adapter):
    photo = torch.rand(1, 300, 260, 3, generator=torch.Generator().manual_seed(4))
    vision, analyser = dynamicid_world.vision(), dynamicid_world.analyser()
    done = {
        colours: nodes.FlexIDEncodeDynamicID.execute(adapter, vision, analyser, photo, colours)
        for colours in nodes.COLOURS
    }
    tokens = [one[0].encodings["dynamicid"].tokens for one in done.values()]
    assert not torch.equal(*tokens)
    assert done["corrected"][1].shape == (1, 256, 256, 3)
    assert done["published"][2].startswith("1 face(s) -> 4 tokens for SAA.bin, published colours")
