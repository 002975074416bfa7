"""DynamicID's motion editing: both files, the networks as the authors' code computes them, the
picture of landmarks, refusals."""

import dynamicid_files
import imr_world
import ip_files
import pytest
import torch
from flexid.model_patches.adapters.dynamicid_convert import convert_dynamicid
from flexid.model_patches.adapters.imr import (
    Motion,
    edit_tokens,
    load_editor,
    load_keypoints,
    load_reconfigurator,
)
from flexid.model_patches.face.landmark_image import in_frame, landmark_image
from safetensors.torch import load_file
from seeding import seeded_input

pytestmark = pytest.mark.comfy

CLOSE = {"atol": 2e-5, "rtol": 0}
SMALL = {"width": 64, "dim": 64, "hidden": 96}
WIDTHS = (4, 4, 6, 6, 8, 8, 8)


@pytest.fixture(scope="module")
def expected(golden):
    return load_file(golden / "dynamicid_imr.safetensors")


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    """Both files at the published sizes, the keypoint encoder at a scale that keeps a signal."""
    folder = tmp_path_factory.mktemp("imr")
    imr = ip_files.seed_all(dynamicid_files.imr_shapes())
    keypoints = dynamicid_files.seed_keypoints(dynamicid_files.keypoint_shapes(), he=True)
    return load_editor(
        dynamicid_files.write_flat(folder / "IMR.bin", imr),
        dynamicid_files.write_flat(folder / "key_point_encoder.bin", keypoints),
    )


# The picture of landmarks


def test_landmarks_are_drawn_as_the_authors_draw_them(expected):
    points = expected["landmark_points512"]
    drawn = landmark_image(points)
    assert torch.equal(drawn, expected["landmark_image_from512"])
    outside = ((points <= 0) | (points >= 512)).any(dim=1)
    assert outside.any() and torch.equal(landmark_image(points[~outside]), drawn)
    for picture, small in zip(
        expected["landmark_images"], expected["landmark_points96"], strict=True
    ):
        assert torch.equal(landmark_image(small * (512 / 96)), picture)


def test_a_photo_is_stretched_to_the_frame():
    points = torch.tensor([[0.0, 0.0], [200.0, 100.0]])
    assert in_frame(points, 200, 100).tolist() == [[0, 0], [512, 512]]


# The networks


def pictures_of(images):
    return (images[:, None].float() / 255 - 0.5) / 0.5


def test_keypoint_features_are_the_authors(expected, full_size, tmp_path):
    seen = pictures_of(expected["landmark_images"])
    module = full_size.keypoints.model
    levels = []
    with torch.no_grad():
        features = module(seen)
        picture = seen
        for units in module.blocks:
            for unit in units:
                picture = unit(picture)
            levels.append(picture.mean(dim=(2, 3)))
    torch.testing.assert_close(features, expected["kpe_he.feat"], atol=1e-3, rtol=0)
    for number, level in enumerate(levels):
        wanted = expected[f"kpe_he.block{number}_mean"]
        torch.testing.assert_close(level, wanted, atol=1e-3, rtol=0)
    plain = dynamicid_files.seed_keypoints(dynamicid_files.keypoint_shapes())
    patcher = load_keypoints(dynamicid_files.write_flat(tmp_path / "k.safetensors", plain))
    with torch.no_grad():
        found = patcher.model(seen)
    torch.testing.assert_close(found, expected["kpe_rule.feat"], atol=1e-6, rtol=0)


def seeded_motions(features):
    """Motion tokens of the source and of three targets."""
    words = [seeded_input("src_txt", (1, 768)), seeded_input("tgt_txt", (3, 768))]
    return features, torch.cat(words)


@pytest.mark.parametrize("name", ["imr_d1_lmkseed", "imr_d1_chain"])
def test_every_stage_is_the_authors(expected, full_size, name):
    if name.endswith("chain"):
        seen = expected["kpe_he.feat"]
    else:
        seen = torch.cat([seeded_input("src_lmk", (1, 768)), seeded_input("tgt_lmk", (3, 768))])
    net = full_size.reconfigurator.model
    tokens = seeded_input("src_token", (1, 4, 768))
    with torch.no_grad():
        motion = net.fuse(*seeded_motions(seen))
        torch.testing.assert_close(motion, expected[f"{name}.psi"], **CLOSE)
        x = net.proj_in(net.norm_in(tokens))
        torch.testing.assert_close(x, expected[f"{name}.x_in"], **CLOSE)
        cross, own, feed_forward = net.disentangleNet[0]
        for part, update in (
            ("cross", lambda x: cross(x, motion[:1])),
            ("self", own),
            ("ff", feed_forward),
        ):
            added = update(x)
            torch.testing.assert_close(added, expected[f"{name}.dis0_{part}"], **CLOSE)
            x = x + added
        zeta = net.disentangle(tokens, motion[:1])
        torch.testing.assert_close(zeta, expected[f"{name}.zeta"], **CLOSE)
        out = net(tokens, motion[:1], motion[1:])
    torch.testing.assert_close(out, expected[f"{name}.out"], **CLOSE)


def test_two_blocks_deep(expected, tmp_path):
    tensors = ip_files.seed_all(dynamicid_files.imr_shapes(depth=2))
    patcher = load_reconfigurator(dynamicid_files.write_flat(tmp_path / "x.safetensors", tensors))
    net = patcher.model
    assert net.dims.depth == 2
    seen = torch.cat([seeded_input("src_lmk", (1, 768)), seeded_input("tgt_lmk", (3, 768))])
    with torch.no_grad():
        motion = net.fuse(*seeded_motions(seen))
        out = net(seeded_input("src_token", (1, 4, 768)), motion[:1], motion[1:])
    torch.testing.assert_close(out, expected["imr_d2_lmkseed.out"], **CLOSE)


def test_from_landmarks_and_words_to_edited_tokens(expected, full_size):
    """The chain that the node runs."""
    words = torch.cat([seeded_input("src_txt", (1, 768)), seeded_input("tgt_txt", (3, 768))])
    motions = [
        Motion(picture, one)
        for picture, one in zip(expected["landmark_images"], words, strict=True)
    ]
    tokens = seeded_input("src_token", (1, 4, 768))
    out = edit_tokens(full_size, tokens, motions[0], motions[1:])
    torch.testing.assert_close(out, expected["imr_d1_chain.out"], atol=5e-4, rtol=0)
    alone = edit_tokens(full_size, tokens, motions[0], motions[2:3])
    torch.testing.assert_close(alone, out[1:2], **CLOSE)


# Files


def small(folder, suffix=".bin", change=None):
    tensors = ip_files.seed_all(dynamicid_files.imr_shapes(**SMALL))
    if change:
        change(tensors)
    return dynamicid_files.write_flat(folder / f"IMR{suffix}", tensors)


def small_keypoints(folder, suffix=".bin", last=64, change=None):
    tensors = dynamicid_files.seed_keypoints(dynamicid_files.keypoint_shapes(WIDTHS, last))
    if change:
        change(tensors)
    return dynamicid_files.write_flat(folder / f"key_point_encoder{suffix}", tensors)


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_sizes_are_read_from_the_tensors(tmp_path, suffix):
    editor = load_editor(small(tmp_path, suffix), small_keypoints(tmp_path, suffix))
    dims = editor.dims
    assert (dims.width, dims.dim, dims.depth, dims.motion, dims.landmarks) == (64, 64, 1, 4, 64)
    assert editor.name == f"IMR{suffix}" and editor.patcher is editor.reconfigurator
    for patcher, load in (
        (editor.reconfigurator, load_reconfigurator),
        (editor.keypoints, load_keypoints),
    ):
        make, arguments = patcher.cached_patcher_init
        assert make is load
        again = make(*arguments, disable_dynamic=True).model.state_dict()
        for key, value in patcher.model.state_dict().items():
            assert torch.equal(value, again[key]), key


def test_half_precision_files_are_read(tmp_path):
    def halve(tensors):
        tensors.update({k: t.half() if t.is_floating_point() else t for k, t in tensors.items()})

    editor = load_editor(small(tmp_path, change=halve), small_keypoints(tmp_path, change=halve))
    motion = Motion(torch.zeros(96, 96, dtype=torch.uint8), torch.randn(64))
    assert edit_tokens(editor, torch.randn(1, 4, 64), motion, [motion]).isfinite().all()


@pytest.mark.parametrize("make", [small, small_keypoints])
def test_both_files_are_converted(tmp_path, make):
    source = make(tmp_path)
    target = convert_dynamicid(source, tmp_path / "new.safetensors")
    original = torch.load(source, weights_only=True)
    found = load_file(target)
    assert found.keys() == original.keys()
    assert all(torch.equal(value, original[key]) for key, value in found.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("proj_out.bias"), "1 of .* tensors are missing .proj_out.bias"),
        (lambda t: t.update({"extra.weight": torch.ones(2)}), "1 tensors do not belong"),
        (lambda t: t.update({"proj_in.bias": torch.full((64,), torch.inf)}), "NaN or infinite"),
        (
            lambda t: t.update({"feature_fusion.4.weight": torch.ones(100, 64)}),
            "does not fit together: .*100 channels for motion tokens of 64",
        ),
    ],
    ids=["missing", "foreign", "not finite", "motion"],
)
def test_damaged_files_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_reconfigurator(small(tmp_path, change=change))


def test_files_that_do_not_fit_each_other_are_refused(tmp_path):
    imr, keypoints = small(tmp_path), small_keypoints(tmp_path, last=32)
    with pytest.raises(ValueError, match="makes 32 features of landmarks, IMR.bin reads 64"):
        load_editor(imr, keypoints)
    with pytest.raises(ValueError, match="is the keypoint encoder of DynamicID.*IMR.bin"):
        load_editor(keypoints, imr)
    with pytest.raises(ValueError, match="is the motion reconfigurator.*key_point_encoder.bin"):
        load_editor(imr, imr)
    short = small_keypoints(tmp_path, change=lambda t: t.pop("blocks.3.1.conv_block.1.running_var"))
    with pytest.raises(
        ValueError, match="tensors are missing .blocks.3.1.conv_block.1.running_var"
    ):
        load_keypoints(short)


# Files for the tokens of another family


def test_a_file_for_other_tokens_says_whose_they_are(tmp_path):
    editor = load_editor(*imr_world.write_other(tmp_path, width=48))
    assert editor.settings == imr_world.OTHER
    dims = editor.dims
    assert (dims.width, dims.landmarks, dims.text) == (48, 8, 64)
    assert load_editor(small(tmp_path), small_keypoints(tmp_path)).settings.published
    motion = Motion(torch.zeros(96, 96, dtype=torch.uint8), torch.randn(64))
    assert edit_tokens(editor, torch.randn(1, 6, 48), motion, [motion]).shape == (1, 6, 48)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"version": "2"}, "format 2, this FlexID reads 1"),
        ({"family": "Pu LID"}, "says family='Pu LID', expected the name of a kind of adapter"),
        ({"encoder": ""}, "says encoder='', expected the digest"),
        ({"text": "0"}, "says text='0', expected a whole number above 0"),
        ({"text": "72"}, "72 channels of landmarks and text where the text has 72"),
        ({"text": "60"}, "makes 8 features of landmarks, other_imr.safetensors reads 12"),
        ({"points": "68"}, "says points=68, expected one of 106, 5"),
    ],
)
def test_a_file_for_other_tokens_that_says_nonsense_is_refused(tmp_path, stated, message):
    with pytest.raises(ValueError, match=message):
        load_editor(*imr_world.write_other(tmp_path, width=48, **stated))
