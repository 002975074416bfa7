"""The judges' wiring and pixels, against vectors from the authors' code with seeded weights."""

import json
import math

import numpy as np
import pytest
import torch
from flexid.model_patches.evaluate import expression, networks, pixels
from PIL import Image
from safetensors import safe_open
from seeding import _normal

pytestmark = pytest.mark.pure


def wave(height=300, width=240):
    y, x = np.mgrid[:height, :width].astype(np.float64)
    channels = (np.sin(x / 23 + y / 57), np.cos(x / 31 - y / 19), np.sin((x + y) / 41))
    return np.stack([np.round(127.5 + 127.5 * one) for one in channels], -1).astype(np.uint8)


def hashed(height=300, width=240):
    y, x = np.mgrid[:height, :width].astype(np.int64)
    mixed = [(x * 7919) ^ (y * 104729) ^ (k * 1299709) for k in (1, 2, 3)]
    return np.stack([one % 256 for one in mixed], -1).astype(np.uint8)


def parameter(prefix, name, shape):
    """The rule of these vectors: gains by fan-in, so that nineteen layers keep their scale."""
    noise = _normal(f"{prefix}.{name}", shape) if shape else np.float32(0)
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if len(shape) > 1:
        gain = math.sqrt(2) if len(shape) == 4 else 1.0
        return torch.from_numpy(noise * np.float32(gain / math.sqrt(math.prod(shape[1:]))))
    small = np.float32(0.02) * noise
    if name.endswith(("running_var", "weight")):
        small = np.float32(1) + small
    if prefix == "hopenet" and name.endswith("bn3.weight"):
        small = np.float32(0.2) * small
    return torch.from_numpy(np.asarray(small))


def state(prefix, net):
    return {k: parameter(prefix, k, tuple(v.shape)) for k, v in net.state_dict().items()}


@pytest.fixture(scope="module")
def vectors(golden):
    with safe_open(golden / "ibench_models.safetensors", "pt") as file:
        found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return found, json.loads(file.metadata()["json"])


def test_expression_network(vectors):
    found, more = vectors
    wanted = {key: tuple(shape) for key, shape in more["vgg19_keys"]}
    with torch.device("meta"):
        fresh = networks.ExpressionNet()
    assert {k: tuple(v.shape) for k, v in fresh.state_dict().items()} == wanted
    net = networks.build_expression_net(state("vgg19", fresh))
    picture = wave()
    crops = networks.ten_crops(picture, "compat")
    assert crops[..., ::11, ::11].allclose(found["vgg19.crop_300x240.tencrop.s11"])
    small = np.asarray(Image.fromarray(picture).resize((48, 48), Image.Resampling.BILINEAR))
    cases = {
        "crop_300x240": crops,
        "pil48_rgb": networks.ten_crops(small, "compat"),
        "pil48_gray3": networks.ten_crops(picture),
    }
    for name, seen in cases.items():
        logits = net(seen)
        assert logits.allclose(found[f"vgg19.{name}.logits"], atol=1e-4), name
        assert expression.mean_class(logits) == more["vgg19_class"][name]


def test_a_face_below_44_pixels_fails_as_published_and_is_scaled_when_corrected():
    small = wave(60, 40)
    with pytest.raises(ValueError, match="40x60.*44"):
        networks.ten_crops(small, "compat")
    assert networks.ten_crops(small).shape == (10, 3, 44, 44)


def test_pose_network(vectors):
    found, more = vectors
    with torch.device("meta"):
        fresh = networks.PoseNet()
    unused = {"fc_finetune.weight": torch.zeros(3, 2051), "fc_finetune.bias": torch.zeros(3)}
    net = networks.build_pose_net(state("hopenet", fresh) | unused)
    picture = wave()
    seen = networks.pose_pixels(picture)
    assert seen[:, ::16, ::16].allclose(found["hopenet.input_300x240.s16"], atol=1e-6)
    padded = networks.pose_pixels(picture, (-30, -30, 200, 330))
    assert padded[:, ::16, ::16].allclose(found["hopenet.input_padcrop.s16"], atol=1e-6)
    for axis, logits in zip(("yaw", "pitch", "roll"), net(seen[None]), strict=True):
        assert logits.allclose(found[f"hopenet.logits.{axis}"], atol=2e-3), axis
    angles = networks.pose_angles(net, seen[None], "compat")[0]
    assert angles.tolist() == pytest.approx(more["hopenet_angles"], abs=2e-2)


def test_another_file_is_refused_with_both_shapes():
    with torch.device("meta"):
        whole = networks.PoseNet().state_dict()
    whole["fc_yaw.weight"] = torch.zeros(62, 2048)
    with pytest.raises(ValueError, match=r"fc_yaw.weight.*62, 2048.*66, 2048"):
        networks.build_pose_net(whole)


def test_the_boxes_margins():
    assert networks.grow_box((100, 100, 200, 300), "compat") == (70, 70, 230, 330)
    assert networks.grow_box((100, 100, 200, 300)) == (75, 50, 225, 350)


GREY = 0.0147
"""One grey level after CLIP's normalisation: Pillow versions round differently."""


@pytest.mark.parametrize("prefix, picture", [("", wave()), ("hash.", hashed())])
@pytest.mark.parametrize(
    "name, path, tolerance",
    [
        ("aesthetic_pixels", pixels.compat_aesthetic_pixels, 2e-3),
        ("clipeval_pixels", pixels.compat_clip_pixels, 2e-3),
        ("openai_clip_pil_pixels", pixels.clip_pixels, GREY),
        ("dino_pixels_pil", pixels.dino_pixels, 0.0176),
    ],
)
def test_four_ways_to_224_pixels(vectors, prefix, picture, name, path, tolerance):
    wanted = vectors[0][f"{prefix}{name}.s8"][0]
    seen = path(picture)[:, ::8, ::8]
    assert seen.sub(wanted).abs().max() <= tolerance
