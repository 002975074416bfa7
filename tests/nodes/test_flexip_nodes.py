"""FlexIP's nodes: from files and photos to a patched model, and the slider as gates."""

import flexip_world
import folder_paths
import pytest
import tiny_unet
import torch
from flexid.model_patches.gates.gate import Gate, Moment
from flexid.model_patches.gates.window import Window
from flexid.nodes import flexip as nodes

pytestmark = pytest.mark.comfy

MOMENT = Moment(0.5, 0.5, 0.5, 0.5)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A ComfyUI whose folders of adapters are empty."""
    for name in ("ipadapter", "flexid"):
        (tmp_path / name).mkdir()
        entry = ([str(tmp_path / name)], set())
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, entry)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


@pytest.fixture(scope="module")
def model():
    return tiny_unet.sd15()


def test_both_kinds_of_files_are_listed_and_opened(home, model):
    assert "none found" in nodes.ADAPTERS.labels()[0]
    flexip_world.ip_adapter(home / "ipadapter", model, "plus")
    flexip_world.flexip(home / "flexid", model)
    folder_paths.filename_list_cache.clear()
    assert nodes.ADAPTERS.labels() == ["flexip.safetensors", "plus.safetensors"]
    opened = nodes.FlexIDLoadFlexIP.execute("plus.safetensors", "auto")
    assert opened[0].variant == "IP-Adapter plus"
    assert opened[1] == (
        "IP-Adapter plus: 4 blocks, text of 64 channels, 16 tokens, no personalisation stream; "
        "reads CLIP vision"
    )
    opened = nodes.FlexIDLoadFlexIP.execute("flexip.safetensors", "auto")
    assert opened[1] == (
        "FlexIP: 4 blocks, text of 64 channels, 6 tokens, two streams; reads CLIP vision and "
        "dinov2-large"
    )


def test_the_version_of_faceid_plus_is_part_of_the_fingerprint(home, model):
    flexip_world.ip_adapter(home / "ipadapter", model, "faceid_plus")
    folder_paths.filename_list_cache.clear()
    prints = {
        nodes.FlexIDLoadFlexIP.fingerprint_inputs("faceid_plus.safetensors", version)
        for version in ("auto", "v1", "v2")
    }
    assert len(prints) == 3
    opened = nodes.FlexIDLoadFlexIP.execute("faceid_plus.safetensors", "v2")
    assert opened[0].variant == "IP-Adapter FaceID-plus v2"


def test_apply_hands_its_widgets_on(tmp_path, model):
    adapter = flexip_world.flexip(tmp_path, model)
    person = flexip_world.person(adapter)
    prompts = tiny_unet.conditioning(1), tiny_unet.conditioning(2)

    def apply(balance=0.5, strength=1.0, law="auto", lora=1.0, **options):
        arguments = (model, *prompts, adapter, person, balance, strength, law, lora)
        return nodes.FlexIDApplyFlexIP.execute(*arguments, **options)

    def draw(done):
        return tiny_unet.sample(done[0], done[1], done[2], steps=1)

    assert apply(0.25)[3] == (
        "FlexIP (flexip.safetensors): balance 0.25, law linear: preservation 0.25, "
        "personalisation 0.75"
    )
    assert apply(0.5, law="crossfade")[3].endswith("preservation 1, personalisation 1")
    off = apply(strength=0.0)
    assert off[0] is model
    closed = Gate((Window(points=((0.0, 0.0),)),))
    assert torch.equal(draw(apply(gate=closed)), draw(off))
    assert torch.equal(draw(apply(mask=torch.zeros(1, 8, 8))), draw(off))
    assert not torch.equal(draw(apply()), draw(off))


def test_apply_hands_on_blocks_gates_and_boxes(tmp_path, model):
    adapter = flexip_world.flexip(tmp_path, model)
    person = flexip_world.person(adapter)
    prompts = tiny_unet.conditioning(1), tiny_unet.conditioning(2)

    def apply(balance=0.5, **options):
        arguments = (model, *prompts, adapter, person, balance, 1.0, "linear", 1.0)
        return nodes.FlexIDApplyFlexIP.execute(*arguments, **options)

    def draw(done):
        return tiny_unet.sample(done[0], done[1], done[2], steps=1)

    closed = Gate((Window(points=((0.0, 0.0),)),))
    off = draw(apply(preserve_gate=closed, personal_gate=closed))
    assert torch.equal(off, tiny_unet.sample(model, *prompts, steps=1))
    kept, followed = draw(apply(personal_gate=closed)), draw(apply(preserve_gate=closed))
    assert not torch.equal(kept, off) and not torch.equal(followed, off)
    assert not torch.equal(kept, followed)
    left = torch.zeros(1, 64, 64)
    left[:, :, :32] = 1
    box = draw(apply(elements=[{"bbox": [0, 0, 1000, 500]}]))
    torch.testing.assert_close(box, draw(apply(mask=left)), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="has 2 boxes, expected 1"):
        apply(elements=[{"bbox": [0, 0, 1000, 500]}] * 2)
    with pytest.raises(ValueError, match="'layout' of Apply FlexIP are known for SD 1.5 .16"):
        apply(blocks="layout")


def test_the_balance_is_two_gates():
    half = nodes.FlexIDBalance.execute(0.5, "crossfade")
    window = Gate((Window(0.0, 1.0, points=((0.0, 0.3), (1.0, 0.9))),))
    for gate in half[:2]:
        assert gate.weight(MOMENT, 0.7) == 0.7
        assert (window * gate).weight(MOMENT, 0.7) == window.weight(MOMENT, 0.7)
    keep = nodes.FlexIDBalance.execute(1.0, "linear", window)
    assert keep[0].weight(MOMENT) == window.weight(MOMENT) and keep[1].weight(MOMENT) == 0.0
    assert keep[2] == "balance 1, law linear: preserve 1, personalise 0"
