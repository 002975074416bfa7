"""Attributes as a source of δ: what is read, what is said, what is off, what does not fit."""

import comfy.clip_vision
import comfy.sd
import people
import pytest
import tiny
import torch
from flexid.mini import random_text
from flexid.model_patches.encoders.mini_text import load_mini_clip
from flexid.model_patches.inject.sip import Wording, apply_sip
from flexid.model_patches.sip import attributes as sip_attributes
from flexid.model_patches.sip.attribute_bank import all_groups, chosen_groups, parse_overrides
from flexid.model_patches.sip.attributes import AttributeProjector
from flexid.model_patches.sip.projector import Prompt, direction_for, encode_sip
from identities import identity_of
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.comfy

TEXT = "a woman reading in the rain"
IDS = ("hair_colour", "glasses")
VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 64,
    "image_size": 56,
    "patch_size": 14,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "hidden_act": "quick_gelu",
    "num_channels": 3,
    "projection_dim": 64,
    "layer_norm_eps": 1e-5,
}


def vision_tower(projection=64):
    vision = comfy.clip_vision.ClipVisionModel({**VISION, "projection_dim": projection})
    tiny.fill(vision.model, seed=5)
    vision.model.requires_grad_(False)
    return vision


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    random_text.write_t5(folder / "t5.safetensors", 3)
    random_text.write_clip_l(folder / "plain.safetensors", 4)
    state = load_file(folder / "plain.safetensors")
    generator = torch.Generator().manual_seed(6)
    state["text_projection.weight"] = torch.randn(64, 64, generator=generator).half() / 8
    save_file(state, folder / "clip_l.safetensors")
    return folder


def sd_clip(path):
    options = {"model_config": dict(random_text.CLIP_CONFIG)}
    return comfy.sd.load_clip([str(path)], model_options=options)


@pytest.fixture(scope="module")
def vision():
    return vision_tower()


@pytest.fixture(scope="module")
def reader(files):
    return sd_clip(files / "clip_l.safetensors")


@pytest.fixture(scope="module")
def flux_clip(files):
    return load_mini_clip(files / "t5.safetensors", files / "plain.safetensors")


@pytest.fixture(scope="module")
def projector(vision, reader, flux_clip):
    return AttributeProjector(vision, reader, flux_clip, chosen_groups(IDS))


def encoded(clip, text=TEXT):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def looking_like(projector, group_id, name):
    """An identity whose picture is, to CLIP, exactly that phrase."""
    group = next(group for group in projector.groups if group.id == group_id)
    key = projector._key(dict(group.attributes)[name])
    return identity_of({"clip_attributes": key.expand(1, 2, -1)})


# The bank


def test_the_bank_is_large_and_its_sensitive_groups_are_known():
    groups = all_groups()
    assert len(groups) >= 15 and sum(len(group.attributes) for group in groups) >= 80
    assert len({group.id for group in groups}) == len(groups)
    sensitive = {group.id for group in groups if group.sensitive}
    assert sensitive == {"age", "gender_presentation", "skin_tone", "ancestry"}
    for group in groups:
        assert len(set(group.names)) == len(set(group.phrases)) == len(group.attributes) >= 3


def test_overrides_are_read_in_plain_words():
    groups = chosen_groups(IDS)
    assert parse_overrides("", groups) == {}
    text = "Hair colour: RED\n glasses: sunglasses;"
    assert parse_overrides(text, groups) == {"hair_colour": "red", "glasses": "sunglasses"}


BAD_TEXT = {
    "unknown group": ("shoes: red", ["'shoes'", "hair colour", "glasses"]),
    "switched off": ("age: child", ["'age'", "hair_colour"]),
    "unknown attribute": ("glasses: green", ["'green'", "sunglasses"]),
    "no colon": ("red", ["'red'", "group: attribute"]),
}


@pytest.mark.parametrize("case", BAD_TEXT)
def test_overrides_that_mean_nothing(case):
    text, facts = BAD_TEXT[case]
    with pytest.raises(ValueError) as error:
        parse_overrides(text, chosen_groups(IDS))
    for fact in facts:
        assert fact in str(error.value), str(error.value)


def test_groups_must_exist_and_be_some():
    with pytest.raises(ValueError, match="hats.*hair_colour"):
        chosen_groups(["hats"])
    with pytest.raises(ValueError, match="Attribute groups: none"):
        chosen_groups([])


# Reading


def test_faces_become_unit_vectors_once(projector, monkeypatch):
    identity = encode_sip(projector, [people.face(0), people.face(1)])
    tokens = identity.encodings["clip_attributes"].tokens
    assert tokens.shape == (1, 4, 64)
    torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(1, 4))

    def never(*args):
        raise AssertionError("the vision tower ran again")

    monkeypatch.setattr(AttributeProjector, "_look", never)
    assert torch.equal(
        encode_sip(projector, [people.face(0)]).encodings["clip_attributes"].tokens,
        tokens[:, :2],
    )


def test_views_hide_the_background(projector, monkeypatch):
    shown = []

    def look(self, picture):
        shown.append(picture)
        return torch.zeros(1, 4)

    monkeypatch.setattr(AttributeProjector, "_look", look)
    encode_sip(projector, [people.face(7)])
    head, inner = shown
    assert head.shape == (1, 512, 512, 3) and inner.shape[1] < 0.7 * 512
    assert torch.equal(inner, head[:, 102:451, 102:451])
    assert head[0, 0, 0].eq(0.5).all() and not head[0, 256, 256].eq(0.5).all()


@pytest.mark.parametrize("name", ["red", "grey", "black"])
def test_a_picture_is_read_as_the_phrase_it_equals(projector, name):
    identity = looking_like(projector, "hair_colour", name)
    shares = projector.read(identity.encodings["clip_attributes"].tokens)["hair_colour"]
    groups = {group.id: group for group in projector.groups}
    assert groups["hair_colour"].names[int(shares.argmax())] == name
    assert shares.sum().item() == pytest.approx(1, abs=1e-5)
    notes = direction_for(projector, identity, Prompt(encoded(projector.writer)[0][0])).notes
    assert any(note.startswith(f"hair colour: {name}") for note in notes)


def test_only_groups_that_are_on_are_read_and_reported(projector):
    identity = encode_sip(projector, [people.face(0)])
    assert set(projector.read(identity.encodings["clip_attributes"].tokens)) == set(IDS)
    report = apply_sip(encoded(projector.writer), projector, identity).report
    assert "hair colour" in report and "glasses" in report
    for off in ("age", "skin tone", "ancestry", "gender"):
        assert off not in report


# Saying


def test_the_direction_is_the_formula(projector):
    identity = looking_like(projector, "hair_colour", "red")
    prompt = Prompt(encoded(projector.writer)[0][0].float())
    shares = projector.read(identity.encodings["clip_attributes"].tokens)
    expected = torch.zeros(64)
    for group in projector.groups:
        entropy = sip_attributes._entropy(shares[group.id])
        if entropy >= sip_attributes.UNDECIDED:
            continue
        for share, phrase in zip(shares[group.id], group.phrases, strict=True):
            expected += (share - 1 / len(group.phrases)) * projector._value(phrase)
    found = direction_for(projector, identity, prompt).vectors
    assert expected.norm() > 1e-3
    torch.testing.assert_close(found[0, 0], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(found[0, 0], found[0, -1])


def test_values_are_the_nouns_states_after_the_phrase(projector, flux_clip, reader):
    """In both families the noun's state depends on the phrase, also where text looks back only."""
    for clip in (flux_clip, reader):
        red, blond = (
            sip_attributes._noun_state(clip, f"with {colour} hair, a person")
            for colour in ("red", "blond")
        )
        assert (red - blond).norm() > 1e-3 * red.norm()


def test_nobody_says_nothing_exactly(projector):
    nobody = identity_of({"clip_attributes": projector.nobody()})
    text = encoded(projector.writer)
    found = direction_for(projector, nobody, Prompt(text[0][0].float()))
    assert not found.vectors.any()
    assert all("undecided" in note for note in found.notes)
    assert torch.equal(apply_sip(text, projector, nobody).conditioning[0][0], text[0][0])


def test_by_hand_beats_the_picture(vision, reader, flux_clip):
    groups = chosen_groups(IDS)
    by_hand = AttributeProjector(vision, reader, flux_clip, groups, {"hair_colour": "blond"})
    identity = looking_like(by_hand, "hair_colour", "red")
    notes = direction_for(by_hand, identity, Prompt(encoded(flux_clip)[0][0].float())).notes
    assert "hair colour: blond 100% (by hand)" in notes


@pytest.mark.parametrize("which", ["flux", "sd"])
def test_subject_scope_touches_the_person_alone(vision, reader, flux_clip, which):
    clip = flux_clip if which == "flux" else reader
    source = AttributeProjector(vision, reader, clip, chosen_groups(IDS))
    text = encoded(clip)
    done = apply_sip(
        text,
        source,
        looking_like(source, "hair_colour", "red"),
        scope="subject",
        wording=Wording(clip, TEXT),
    )
    changed = (done.conditioning[0][0] != text[0][0]).any(-1)[0].nonzero().flatten().tolist()
    assert changed == [2]  # T5 writes 'a' in two pieces, CLIP begins with a start token
    size = (done.conditioning[0][0] - text[0][0])[0, changed].norm()
    assert size.item() == pytest.approx(0.1 * text[0][0][0, changed].norm().item(), rel=1e-3)


def test_other_options_are_another_source(vision, reader, flux_clip):
    digests = {
        AttributeProjector(vision, reader, flux_clip, chosen_groups(ids), by_hand).digest
        for ids, by_hand in [(IDS, {}), (IDS[:1], {}), (IDS, {"glasses": "none"})]
    }
    assert len(digests) == 3


# What does not fit


def test_a_clip_without_projection_is_refused(vision, files, flux_clip):
    without = sd_clip(files / "plain.safetensors")  # the identity, as the small files have it
    with pytest.raises(ValueError, match="no usable text projection.*clip-vit-large-patch14"):
        AttributeProjector(vision, without, flux_clip, chosen_groups(IDS))


@pytest.mark.parametrize("value", [0.0, float("nan"), 6e4])
def test_left_over_memory_is_no_projection(vision, files, flux_clip, value):
    clip = sd_clip(files / "clip_l.safetensors")
    weight = clip.cond_stage_model.clip_l.transformer.text_projection.weight
    weight.data.fill_(value)
    with pytest.raises(ValueError, match="no usable text projection"):
        AttributeProjector(vision, clip, flux_clip, chosen_groups(IDS))


def test_towers_of_two_models_are_refused(reader, flux_clip):
    with pytest.raises(ValueError, match="vectors of 48, the text tower to 64"):
        AttributeProjector(vision_tower(48), reader, flux_clip, chosen_groups(IDS))


def test_a_clip_without_clip_l_is_refused(vision, flux_clip):
    with pytest.raises(ValueError, match="no CLIP-L in it"):
        AttributeProjector(vision, object(), flux_clip, chosen_groups(IDS))


def test_text_of_another_width_is_refused(projector):
    identity = looking_like(projector, "hair_colour", "red")
    with pytest.raises(ValueError, match="64 wide, the prompt is 48 wide.*Connect the CLIP"):
        direction_for(projector, identity, Prompt(torch.zeros(1, 4, 48)))
