"""FaceCLIP's fusers and face encoder against vectors made by the authors' code."""

import json

import comfy.ops
import numpy as np
import pytest
import seeding
import torch
from flexid.model_patches.encoders.faceclip_fuser import Fuser, fuser_dims, live_tensors
from flexid.model_patches.encoders.faceclip_vit import FaceVit, vit_dims
from safetensors import safe_open

pytestmark = pytest.mark.comfy

T5, CLIP = "face_t5_encoder.pt", 'face_clip_encoder.pt (after removing every "model." substring)'
CASES = {
    # tag: (key table, its prefix, the case's prefix, width, stages, ffn)
    "t5": (T5, "encoder_2.", "encoder_2.", 4096, 6, 2048),
    "clip_l": (CLIP, "face_clip_l.", "face_clip_l.", 768, 6, 2048),
    "clip_g": (CLIP, "face_clip_g.", "face_clip_g.", 1280, 6, 2048),
    "t5_small": (T5, "encoder_2.", "t5_small.", 256, 2, 512),
    "t5_sharp": (T5, "encoder_2.", "t5_sharp.", 256, 2, 512),
    "clip_small": (CLIP, "face_clip_l.", "clip_small.", 256, 2, 512),
    "clip_sharp": (CLIP, "face_clip_l.", "clip_sharp.", 256, 2, 512),
}
FACES_APART = {
    "t5": 1.24e-2,
    "clip_l": 2.5e-3,
    "clip_g": 4.2e-3,
    "t5_small": 3.3e-4,
    "clip_small": 3.5e-4,
    "t5_sharp": 0.628,
    "clip_sharp": 0.696,
}
LIGHT = [tag for tag in CASES if tag not in ("t5", "clip_g")]


def wanted(golden, name):
    path = golden / f"faceclip_{'small' if 's' in name.split('/')[0][-5:] else 'fuser'}.safetensors"
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


def drawn(name, shape):
    """The golden rule, with its addition for BatchNorm and for the sharp cases."""
    value = seeding.seeded(name, shape)
    if name.endswith("running_var"):
        return 1 + value
    if "_sharp." in name and len(shape) >= 2:
        return value * np.float32(5)
    if "_sharp." in name and name.endswith(("gamma_v", "gamma_l")):
        return value * np.float32(50)
    return value


def sinusoid(length, width):
    position = torch.arange(length, dtype=torch.float64)[:, None]
    angle = position * 10000 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1).float()[None]


def scaled(shape, full, width, ffn):
    """A published shape at the small case's width and feed-forward sizes."""
    sizes = {full: width, 3 * full: 3 * width, 2048: ffn, 1024: ffn // 2, 64: 64, 32: 32}
    return tuple(sizes.get(n, n) for n in shape)


def published(golden, tag):
    """The case's tensors under published keys without prefix, as a loader sees them."""
    table, prefix, case, width, stages, ffn = CASES[tag]
    keys = json.loads((golden / "faceclip_keys.json").read_text())[table]
    full = keys[f"{prefix}face_patch_proj.weight"][0]
    found = {}
    for key, shape in keys.items():
        name = key.removeprefix(prefix)
        parts = name.split(".")
        if not key.startswith(prefix) or name.startswith("face_encoder."):
            continue
        if len(parts) > 3 and parts[3].isdecimal() and int(parts[3]) >= stages:
            continue
        small = scaled(shape, full, width, ffn) if width != full else tuple(shape)
        if name.endswith(("_patch_proj.weight", "_pos_proj.weight")) and "face" in name:
            small = (width, 768)
        if name == "positional_embedding":
            continue
        found[name] = drawn(case + name, small)
    if table == T5:
        found["positional_embedding"] = sinusoid(16, width)
    else:
        found["positional_embedding"] = seeding.seeded_input(f"{tag}.text_pos", (1, 16, width))[0]
    return found


def build(golden, tag):
    tensors = published(golden, tag)
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    dims = fuser_dims(shapes, tag, "the published file")
    fuser = Fuser(dims, device="meta")  # the full size is wanted in memory only once
    fuser.load_state_dict(live_tensors(tensors, dims), strict=True, assign=True)
    return fuser.eval().requires_grad_(False)


def inputs(tag, width):
    text = seeding.seeded_input(f"{tag}.text", (1, 16, width))
    faces = [
        seeding.seeded_input(f"{tag}.{n}", (1, 144, 768)) for n in ("face_patch", "face_patch2")
    ]
    place = seeding.seeded_input(f"{tag}.face_pos", (1, 144, 768)) if "clip" in tag else None
    return text, faces, place


def check(golden, tag):
    fuser = build(golden, tag)
    text, faces, place = inputs(tag, fuser.dims.width)
    sharp = tag.endswith("_sharp")
    tolerance = {"atol": 2e-4, "rtol": 1e-4} if sharp else {"atol": 2e-5, "rtol": 1e-5}
    outs = [fuser(text, face, place) for face in faces]
    for out, name in zip(outs, ("out", "out_face2"), strict=True):
        torch.testing.assert_close(out, wanted(golden, f"{tag}/{name}"), **tolerance)
    apart = ((outs[0] - outs[1]).norm() / outs[0].norm()).item()
    assert apart == pytest.approx(FACES_APART[tag], rel=0.03)
    return fuser, text, faces, place, outs


@pytest.mark.parametrize("tag", LIGHT)
def test_fuser(golden, tag):
    check(golden, tag)


@pytest.mark.parametrize("tag", ["t5_sharp", "clip_sharp"])
def test_rows_never_mix(golden, tag):
    """The authors' FaceT5 attends across the batch; nobody wants that from a batch of faces."""
    fuser, text, faces, place, outs = check(golden, tag)
    both = fuser(text.expand(2, -1, -1), torch.cat(faces), place)
    torch.testing.assert_close(both, torch.cat(outs), atol=1e-4, rtol=1e-4)
    if tag == "t5_sharp":
        mixed = wanted(golden, "t5_sharp/neg_batch2_official")
        assert ((both - mixed).norm() / mixed.norm()).item() > 0.3
        alone = wanted(golden, "t5_sharp/neg_face_pos_used")
        torch.testing.assert_close(outs[0], alone, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("tag", ["t5_sharp", "clip_sharp"])
def test_the_texts_scale_is_discarded(golden, tag):
    if tag == "t5_sharp":
        fuser, text, faces, place, outs = check(golden, tag)
        again = fuser(7.3 * text, faces[0], place)
        torch.testing.assert_close(again, outs[0], atol=1e-3, rtol=1e-3)
    else:
        fuser, text, faces, place, outs = check(golden, tag)
        assert not torch.allclose(fuser(text, faces[0], 0 * place), outs[0], atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tag", ["t5_sharp", "clip_sharp"])
def test_half_precision_files_are_computed_in_float32(golden, tag, dtype):
    """Rounding the weights moves the sharp cases by some percent; computing adds nothing to it."""
    full = build(golden, tag)
    half = Fuser(full.dims, comfy.ops.manual_cast, dtype=dtype).requires_grad_(False)
    half.load_state_dict(full.state_dict())
    full.load_state_dict({key: value.float() for key, value in half.state_dict().items()})
    text, faces, place = inputs(tag, 256)
    out = half(text, faces[0], place)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, full(text, faces[0], place), atol=1e-5, rtol=1e-5)
    reference = wanted(golden, f"{tag}/out")
    assert ((out - reference).norm() / reference.norm()).item() < 0.2


VITS = {
    "vit": ("encoder_2.face_encoder.", 768, 24, 8, 512),
    "vit_small": ("vit_small.face_encoder.", 64, 2, 4, 32),
}


def vit_tensors(golden, tag):
    prefix, width, depth, _, classes = VITS[tag]
    keys = json.loads((golden / "faceclip_keys.json").read_text())[T5]
    tensors = {}
    for key, shape in keys.items():
        name = key.removeprefix("encoder_2.face_encoder.")
        parts = name.split(".")
        if name == key or (parts[0] == "blocks" and int(parts[1]) >= depth):
            continue
        sizes = {768: width, 2304: 3 * width, 3072: 4 * width, 110592: 144 * width, 512: classes}
        small = tuple(sizes.get(n, n) for n in shape)
        tensors[name] = drawn(prefix + name, small) if small else torch.zeros(())
    return tensors


def check_vit(golden, tag, head):
    tensors = vit_tensors(golden, tag)
    if not head:
        tensors = {k: v for k, v in tensors.items() if not k.startswith("feature.")}
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    vit = FaceVit(vit_dims(shapes, tag, "the published file", heads=VITS[tag][3]))
    live = vit.state_dict().keys()
    vit.load_state_dict({k: v for k, v in tensors.items() if k in live}, strict=True)
    seed_name = f"input:{tag}.image"
    image = torch.from_numpy(uniform(seed_name, (1, 3, 448, 448)))
    with torch.no_grad():
        patches, vector = vit(image)
    torch.testing.assert_close(patches, wanted(golden, f"{tag}/patch_token"), atol=2e-5, rtol=1e-5)
    if head:
        class_token = wanted(golden, f"{tag}/class_token")
        torch.testing.assert_close(vector, class_token, atol=2e-4, rtol=1e-4)
    else:
        assert vector is None


def uniform(name, shape):
    import hashlib

    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.PCG64(seed)).random(shape, dtype=np.float32)


@pytest.mark.parametrize("head", [False, True])
def test_small_face_encoder(golden, head):
    check_vit(golden, "vit_small", head)


def test_full_face_encoder(golden):
    check_vit(golden, "vit", head=False)


@pytest.mark.weights
@pytest.mark.skipif("FLEXID_SLOW" not in __import__("os").environ, reason="set FLEXID_SLOW: 5 GB")
@pytest.mark.parametrize("tag", ["t5", "clip_g"])
def test_full_size_fuser(golden, tag):
    check(golden, tag)
