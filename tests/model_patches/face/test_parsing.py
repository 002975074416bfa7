"""BiSeNet through ComfyUI's model management, with seeded random weights in the public format."""

import math
import os

import comfy.model_management
import comfy.model_patcher
import numpy as np
import pytest
import torch
from flexid.model_patches.face.analyser import load_analyser
from flexid.model_patches.face.choose import FaceChoice
from flexid.model_patches.face.detect import detect_faces
from flexid.model_patches.face.packages import need
from flexid.model_patches.face.parsing import load_parser, parser_input
from safetensors.torch import load_file
from tiny_faces import astronaut

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def bisenet():
    """facexlib's own class with random weights that do give several classes."""
    generator = torch.Generator().manual_seed(0)
    model = need("facexlib.parsing.bisenet").BiSeNet(19).eval()
    for name, parameter in model.state_dict().items():
        if parameter.ndim == 4:
            fan = math.prod(parameter.shape[1:])
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2 / fan) ** 0.5)
        elif name.endswith("running_var"):
            parameter.fill_(1.0)
    return model


@pytest.fixture(scope="module")
def file(bisenet, tmp_path_factory):
    path = tmp_path_factory.mktemp("facexlib") / "parsing_bisenet.pth"
    torch.save(bisenet.state_dict(), path)
    return path


@pytest.fixture
def crop():
    return (astronaut()[0] * 255).round().to(torch.uint8).numpy()


def test_input_equals_the_golden_preprocessing(golden):
    vectors = load_file(golden / "pulid_preprocess.safetensors")
    bgr = vectors["face_bgr_64"].numpy().repeat(8, 0).repeat(8, 1)
    ours = parser_input(np.ascontiguousarray(bgr[..., ::-1]))
    torch.testing.assert_close(ours[:, :, ::8, ::8], vectors["parser_input.s8"], atol=1e-5, rtol=0)


def test_labels_equal_a_direct_run(bisenet, file, crop):
    labels = load_parser(file).labels(crop)
    with torch.no_grad():
        direct = bisenet(parser_input(crop))[0][0].argmax(0)
    assert labels.shape == (512, 512) and labels.dtype == torch.uint8
    assert labels.device.type == "cpu"
    assert (labels == direct).float().mean() > 0.999  # GPU arithmetic may flip a tie
    assert labels.unique().numel() > 2


def test_comfyui_manages_the_weights(file, crop):
    parser = load_parser(file)
    assert not any(one.requires_grad for one in parser.patcher.model.parameters())
    parser.labels(crop)
    loaded = [entry.model for entry in comfy.model_management.current_loaded_models]
    assert parser.patcher in loaded
    comfy.model_management.unload_all_models()
    parser.labels(crop)  # loads again by itself


def test_comfyui_can_rebuild_the_parser(file):
    patcher = load_parser(file).patcher
    make, arguments = patcher.cached_patcher_init
    again = make(*arguments, disable_dynamic=True)
    assert type(again) is comfy.model_patcher.ModelPatcher
    for key, tensor in patcher.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[key]), key


def test_half_precision_weights_are_read_in_float32(bisenet, file, crop, tmp_path):
    state = {k: t.half() if t.is_floating_point() else t for k, t in bisenet.state_dict().items()}
    torch.save(state, tmp_path / "half.pth")
    half, full = (load_parser(path).labels(crop) for path in (tmp_path / "half.pth", file))
    assert (half == full).float().mean() > 0.98


def test_faces_carry_labels_and_the_description_names_the_parser(file):
    analyser = load_analyser(None, "bundled", ["auto"], file)
    assert "Parsing: bisenet (parsing_bisenet.pth)" in analyser.description
    with torch.inference_mode():  # as ComfyUI runs nodes
        (face,) = detect_faces(analyser, astronaut(), FaceChoice()).faces
    assert torch.equal(face.labels, analyser.parser.labels(face.ffhq_crop.numpy()))


def missing(path):
    return None


def cut_short(path):
    path.write_bytes(b"PK\x03\x04" + b"\0" * 500)


def web_page(path):
    path.write_text("<html>404</html>")


def text(path):
    path.write_text("not a model, only some words")


def pipe(path):
    os.mkfifo(path)


def not_finite(path):
    state = need("facexlib.parsing.bisenet").BiSeNet(19).state_dict()
    state["conv_out.conv_out.weight"][0, 0] = float("nan")
    torch.save(state, path)


def parsenet(path):
    torch.save({"encoder.0.weight": torch.zeros(3)}, path)


def a_list(path):
    torch.save([1, 2], path)


class Code:
    def __reduce__(self):
        return os.system, ("echo executed > pickled_code_ran",)


def code(path):
    torch.save({"x": Code()}, path)


def other_shape(path):
    state = need("facexlib.parsing.bisenet").BiSeNet(5).state_dict()
    torch.save(state, path)


@pytest.mark.parametrize(
    ("write", "kind", "facts"),
    [
        (missing, FileNotFoundError, ["parsing_bisenet.pth", "does not exist"]),
        (cut_short, ValueError, ["cut short or damaged", "download again", "xinntao/facexlib"]),
        (web_page, ValueError, ["web page"]),
        (text, ValueError, ["neither a safetensors nor a torch file"]),
        (pipe, ValueError, ["is a named pipe, expected a regular file"]),
        (parsenet, ValueError, ["facexlib's BiSeNet", "191 of 191", "encoder.0.weight"]),
        (a_list, ValueError, ["191 of 191 tensors are missing"]),
        (code, ValueError, ["wants to run code", "was not opened"]),
        (other_shape, ValueError, ["3 tensors have another shape", "parsing_parsenet.pth"]),
        (not_finite, ValueError, ["NaN or infinite values in 1 of 191", "conv_out.conv_out"]),
    ],
)
def test_other_files_are_refused_with_the_facts(write, kind, facts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "parsing_bisenet.pth"
    write(path)
    with pytest.raises(kind) as caught:
        load_analyser(None, "bundled", ["auto"], path)
    for fact in facts:
        assert fact in str(caught.value)
    assert not (tmp_path / "pickled_code_ran").exists()
