"""FaceCLIP's files: opened, converted, refused; and what the face encoder is shown."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import comfy.model_management
import people
import pytest
import torch
from flexid.mini import random_faceclip, random_text
from flexid.model_patches.encoders.faceclip import load_faceclip, load_part, open_parts, run
from flexid.model_patches.encoders.faceclip_convert import convert_faceclip
from flexid.model_patches.encoders.faceclip_pixels import faceclip_pixels, no_face
from flexid.model_patches.encoders.faceclip_text import (
    LENGTH,
    PREFIX,
    tokenize_prefixed,
    without_prefix,
)
from flexid.model_patches.face.align import ARCFACE_112, FFHQ_512
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faceclip")
    random_faceclip.write_face_t5(folder / "face_t5_encoder.pt", 1)
    random_faceclip.write_face_clip(folder / "face_clip_encoder.pt", 2)
    return folder


@pytest.fixture(scope="module")
def t5(files):
    return load_faceclip(files / "face_t5_encoder.pt")


@pytest.fixture(scope="module")
def pair(files):
    return load_faceclip(files / "face_clip_encoder.pt")


def test_towers_and_sizes_come_from_the_file(t5, pair):
    assert [tower.key for tower in t5.towers] == ["t5"] and t5.family == "faceclip_t5"
    assert [tower.key for tower in pair.towers] == ["l", "g"] and pair.family == "faceclip"
    assert [tower.width for tower in pair.towers] == [64, 128]
    assert t5.towers[0].text is None and t5.towers[0].face.model.feature is None
    assert pair.towers[0].text.model.proj1.in_features == 32


def test_only_the_needed_part_is_kept(files, t5):
    part = open_parts(files / "face_t5_encoder.pt")["t5"]
    assert not any(key.startswith("encoder.") for key in part)
    held = sum(p.numel() for tower in t5.towers for p in tower.fuser.model.parameters())
    full = sum(v.numel() for k, v in part.items() if not k.startswith("face_encoder."))
    assert held < full


def test_weights_are_loaded_and_counted_by_comfyui(t5):
    comfy.model_management.unload_all_models()
    run(t5.towers[0].face, no_face())
    loaded = [entry.model for entry in comfy.model_management.current_loaded_models]
    assert t5.towers[0].face in loaded and t5.towers[0].face.model_size() > 0


def test_comfyui_can_rebuild_a_model_from_the_file(pair):
    for patcher in (pair.towers[1].face, pair.towers[1].fuser, pair.towers[1].text):
        make, arguments = patcher.cached_patcher_init
        assert make is load_part and arguments[1:] in (("g", "face"), ("g", "fuser"), ("g", "text"))
        again = make(*arguments, disable_dynamic=True)
        for key, value in patcher.model.state_dict().items():
            assert torch.equal(value, again.model.state_dict()[key]), key


@pytest.mark.parametrize("name", ["face_t5_encoder.pt", "face_clip_encoder.pt"])
def test_a_converted_file_computes_the_same_and_is_smaller(files, tmp_path, name):
    target = convert_faceclip(files / name, tmp_path / "small.safetensors")
    assert list(tmp_path.iterdir()) == [target]
    full, small = load_faceclip(files / name), load_faceclip(target)
    assert full.encoder_digest == small.encoder_digest and full.digest != small.digest
    assert target.stat().st_size < 0.99 * (files / name).stat().st_size
    original = torch.load(files / name, weights_only=True)
    assert len(load_file(target)) < len(original)
    for one, two in zip(full.towers, small.towers, strict=True):
        for mine, theirs in ((one.face, two.face), (one.fuser, two.fuser), (one.text, two.text)):
            if mine is None:
                assert theirs is None
                continue
            for key, value in mine.model.state_dict().items():
                assert torch.equal(value, theirs.model.state_dict()[key]), key


def test_encoder_digest_follows_the_face_encoders_alone(files, tmp_path, t5):
    def change(key):
        path = _write_changed(files, tmp_path, lambda state: state[key].mul_(2))
        return load_faceclip(path).encoder_digest

    assert change("encoder_2.face_patch_proj.weight") == t5.encoder_digest
    assert change("encoder_2.face_encoder.pos_embed") != t5.encoder_digest


def test_a_half_written_conversion_leaves_no_file(files, tmp_path):
    with pytest.raises(ValueError, match="no FaceCLIP fuser"):
        save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
        convert_faceclip(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_conversion_keeps_the_file_that_has_its_name(files, tmp_path):
    target = tmp_path / "mine.safetensors"
    target.write_bytes(b"of the user")
    with pytest.raises(FileExistsError, match=r"mine\.safetensors exists already.*another name"):
        convert_faceclip(files / "face_t5_encoder.pt", target)
    assert target.read_bytes() == b"of the user" and list(tmp_path.iterdir()) == [target]


def _spell_source(folder, spelling):
    """Other names of folder/face.safetensors."""
    if spelling == "link":
        (folder / "link.safetensors").symlink_to(folder / "face.safetensors")
    elif spelling == "second name":
        os.link(folder / "face.safetensors", folder / "link.safetensors")
    (folder / "below").mkdir()
    return {
        "same": folder / "face.safetensors",
        "link": folder / "link.safetensors",
        "second name": folder / "link.safetensors",
        "parent": folder / "below" / ".." / "face.safetensors",
        "case": folder / "FACE.safetensors",
    }[spelling]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
@pytest.mark.parametrize("spelling", ["same", "link", "second name", "parent", "case"])
def test_a_conversion_keeps_its_source(files, tmp_path, spelling):
    """Spelt with another case it is the same file on some file systems, another one on others."""
    source = convert_faceclip(files / "face_t5_encoder.pt", tmp_path / "face.safetensors")
    before = source.read_bytes()
    target = _spell_source(tmp_path, spelling)
    if target.exists():
        with pytest.raises(ValueError, match=r"face\.safetensors that is converted.*another name"):
            convert_faceclip(source, target)
    else:
        assert spelling == "case" and convert_faceclip(source, target).is_file()
    assert source.read_bytes() == before


def test_of_two_conversions_at_once_one_is_refused(files, tmp_path):
    target = tmp_path / "mine.safetensors"

    def convert(name):
        try:
            return convert_faceclip(files / name, target)
        except FileExistsError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(convert, ["face_t5_encoder.pt", "face_clip_encoder.pt"]))
    (refusal,) = [result for result in results if result != target]
    assert "exists already" in refusal and list(tmp_path.iterdir()) == [target]
    assert len(load_faceclip(target).towers) == 1 + results.index(target)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_a_converted_file_has_the_mode_of_the_umask(files, tmp_path):
    before = os.umask(0o027)
    try:
        target = convert_faceclip(files / "face_t5_encoder.pt", tmp_path / "small.safetensors")
    finally:
        os.umask(before)
    assert target.stat().st_mode & 0o777 == 0o640


# What is refused


def _write_changed(files, tmp_path, change, name="face_t5_encoder.pt"):
    state = torch.load(files / name, weights_only=True)
    change(state)
    torch.save(state, tmp_path / "changed.pt")
    return tmp_path / "changed.pt"


def _rename_keys(state):
    for key in list(state):
        state["other." + key.removeprefix("encoder_2.")] = state.pop(key)


def _integers(state):
    key = "encoder_2.fuser.encoder.fusion_layers.0.attn.l_proj.weight"
    state[key] = state[key].to(torch.int8)


F0 = "encoder_2.fuser.encoder"
DAMAGED = {
    "missing text layer": (
        lambda s: s.pop(f"{F0}.text_layers.1.linear2.weight"),
        ["1 of", "text_layers.1.linear2.weight", "missing"],
    ),
    "missing gamma": (lambda s: s.pop(f"{F0}.fusion_layers.0.gamma_v"), ["gamma_v", "missing"]),
    "no face projection": (
        lambda s: s.pop("encoder_2.face_patch_proj.weight"),
        ["face_patch_proj.weight", "dimensions"],
    ),
    "no positions": (
        lambda s: s.pop("encoder_2.face_encoder.pos_embed"),
        ["pos_embed", "dimensions"],
    ),
    "misshapen": (
        lambda s: s.update({f"{F0}.layers.0.linear1.bias": torch.zeros(3)}),
        ["linear1.bias", "(3,)", "(128,)"],
    ),
    "wrong grid": (
        lambda s: s.update({"encoder_2.face_encoder.pos_embed": torch.zeros(1, 100, 64)}),
        ["100 positions", "9 px"],
    ),
    "grey": (
        lambda s: s.update(
            {"encoder_2.face_encoder.patch_embed.proj.weight": torch.zeros(64, 1, 9, 9)}
        ),
        ["1 input channels", "expected 3"],
    ),
    "integers": (_integers, ["1 tensors that are not floating point", "int8"]),
    "NaN": (
        lambda s: s[f"{F0}.layers.0.linear1.bias"].fill_(float("nan")),
        ["NaN or infinite values in 1 of", "layers.0.linear1.bias"],
    ),
    "a gap": (
        lambda s: s.update({f"{F0}.fusion_layers.99999999.x": torch.zeros(1)}),
        ["not numbered 0 to", "fusion_layers.99999999"],
    ),
    "flat positions": (
        lambda s: s.update({"encoder_2.positional_embedding": torch.zeros(5)}),
        ["positional_embedding has shape (5,)", "expected 3 dimensions"],
    ),
    "a scalar projection": (
        lambda s: s.update({f"{F0}.text_layers.0.self_attn.in_proj_weight": torch.tensor(1.0)}),
        ["text_layers.0.self_attn.qk.weight", "missing"],
    ),
    "foreign prefix": (_rename_keys, ["'other.'", "encoder_2.", "face_clip_l."]),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files(files, tmp_path, case):
    change, facts = DAMAGED[case]
    with pytest.raises(ValueError) as error:
        load_faceclip(_write_changed(files, tmp_path, change))
    for fact in [*facts, "ByteDance/FaceCLIP"]:
        assert fact in str(error.value), str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.pt does not exist.*face_t5_encoder.pt"):
        load_faceclip(tmp_path / "nothing.pt")


def test_other_models_are_named(tmp_path):
    random_text.write_clip_l(tmp_path / "clip_l.safetensors", 1)
    with pytest.raises(ValueError, match="clip_l.safetensors is a text encoder.*models/flexid"):
        load_faceclip(tmp_path / "clip_l.safetensors")


def test_a_pickle_with_code_is_not_opened(tmp_path):
    import builtins

    torch.save({"encoder_2": builtins.print}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="wants to run code.*not opened"):
        load_faceclip(tmp_path / "bad.pt")


# Pixels


def _face(points, **changes):
    return people.face(0, points=torch.tensor(points, dtype=torch.float32), **changes)


def test_a_face_on_ffhqs_template_is_cut_where_arcface_wants_it():
    """A white dot at the left eye of the FFHQ crop lands on ArcFace's left eye, four times."""
    crop = torch.zeros(512, 512, 3, dtype=torch.uint8)
    x, y = FFHQ_512[0].round().astype(int)
    crop[y - 2 : y + 3, x - 2 : x + 3] = 255
    pixels = faceclip_pixels(_face(FFHQ_512, ffhq_crop=crop))
    assert pixels.shape == (1, 3, 448, 448) and 0 <= pixels.min() and pixels.max() <= 1
    place = pixels[0, 0].flatten().argsort(descending=True)[:9]
    row, column = (place // 448).float().mean(), (place % 448).float().mean()
    wanted = ARCFACE_112[0] * 4
    assert abs(column - wanted[0]) < 8 and abs(row - wanted[1]) < 8


def test_small_crop_and_large_crop_show_the_same():
    """Cut out of a real picture both ways: ArcFace's 112 px crop is this one, shrunk."""
    import numpy as np
    from flexid.model_patches.face.align import arcface_crop, ffhq_crop

    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 12, 12, generator=generator)
    photo = torch.nn.functional.interpolate(coarse, (600, 600), mode="bicubic").clamp(0, 1)
    rgb = (photo[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy()
    points = (FFHQ_512 * 0.6 + 90).astype(np.float32)
    face = _face(points.tolist(), ffhq_crop=torch.from_numpy(ffhq_crop(rgb, points)))
    small = torch.from_numpy(arcface_crop(rgb, points)).permute(2, 0, 1)[None].float() / 255
    mine = faceclip_pixels(face)[..., ::4, ::4]
    inner = (slice(None), slice(None), slice(8, 104), slice(8, 104))
    assert (mine[inner] - small[inner]).abs().mean() < 0.01


# Words


def test_the_prefix_is_the_authors():
    row = tokenize_prefixed("a castle")[0]
    assert row[:5].tolist() == [49406, 1125, 539, 320, 1014] and len(PREFIX) == 6
    assert row[7:10].tolist() == [320, 3540, 49407] and row[10:].eq(0).all()


def test_states_come_back_in_the_prompts_own_places():
    states = torch.arange(2 * LENGTH, dtype=torch.float32).reshape(2, LENGTH, 1) + 1
    back = without_prefix(states)[0, :, 0]
    assert back[0] == 1 and back[1] == 8 and back[70] == 77 and back[71:77].eq(0).all()
    assert back[77] == 78 and back[78] == 85


def test_long_prompts_are_cut_like_comfyui_cuts_them():
    assert tokenize_prefixed("word " * 200).shape == (3, LENGTH)
    full = tokenize_prefixed("word " * 75)[0]
    assert full[-1] == 49407 and (full == full[7]).sum() == 69


def test_the_face_is_among_the_words(pair):
    tower = pair.towers[0]
    one = run(tower.text, tokenize_prefixed("a castle"), torch.ones(1, 32))
    two = run(tower.text, tokenize_prefixed("a castle"), -torch.ones(1, 32))
    assert torch.equal(one[:, :4], two[:, :4])
    assert not torch.allclose(one[:, 4:8], two[:, 4:8], atol=1e-3)
