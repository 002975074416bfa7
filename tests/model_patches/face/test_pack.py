"""insightface's own classes on small ONNX files: finding, classifying, running, refusing."""

import os
import shutil

import numpy as np
import pytest
import torch
from flexid.mini.random_faces import write_recogniser
from flexid.model_patches.face.align import arcface_crop
from flexid.model_patches.face.analyser import load_analyser
from flexid.model_patches.face.cascade import CascadeDetector
from flexid.model_patches.face.pack import find_pack, pack_names, read_pack, role_of
from flexid.model_patches.face.packages import need
from flexid.model_patches.face.providers import (
    describe_fallback,
    resolve_providers,
    running_provider,
)
from flexid.model_patches.face.scrfd import SIZES, ScrfdDetector
from tiny_faces import BLOB, POINTS, astronaut, red_squares, write_scrfd

pytestmark = pytest.mark.pure

CPU = ["CPU"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A flat pack folder with a detector, a recogniser, and a model for something else."""
    from onnx import TensorProto, helper

    folder = tmp_path_factory.mktemp("packs") / "models" / "tiny"
    write_scrfd(folder / "scrfd_tiny_kps.onnx")
    write_recogniser(folder / "recogniser.onnx", seed=3)
    node = helper.make_node("Identity", ["data"], ["points"])
    value = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 192, 192])
        for name in ("data", "points")
    ]
    graph = helper.make_graph([node], "landmarks", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    (folder / "2d106det.onnx").write_bytes(model.SerializeToString())
    return folder


@pytest.fixture
def copy(made, tmp_path):
    folder = tmp_path / "models" / "tiny"
    shutil.copytree(made, folder)
    return folder


def test_files_are_told_apart_by_content_not_by_name(made, tmp_path):
    roles = {path.name: role for path, role in read_pack(made).roles.items()}
    assert roles == {
        "scrfd_tiny_kps.onnx": "detection",
        "recogniser.onnx": "recognition",
        "2d106det.onnx": "other",
    }
    renamed = tmp_path / "zebra.onnx"
    shutil.copy(made / "recogniser.onnx", renamed)
    assert role_of(renamed) == "recognition"
    renamed.write_bytes(b"<html>not found</html>")
    assert role_of(renamed) == "broken"


def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "recogniser.onnx")
    assert role_of(tmp_path / "recogniser.onnx") == "broken"


def test_a_graph_that_hands_its_picture_on_is_no_detector(tmp_path):
    from onnx import TensorProto, helper

    names = [f"out{index}" for index in range(9)]
    nodes = [helper.make_node("Identity", ["data"], [name]) for name in names]
    data, *outputs = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 640, 640])
        for name in ("data", *names)
    )
    graph = helper.make_graph(nodes, "nothing", [data], outputs)
    (tmp_path / "det.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    assert role_of(tmp_path / "det.onnx") == "other"


def test_a_pack_may_be_nested_one_level(copy):
    inner = copy / "tiny"
    inner.mkdir()
    for file in copy.glob("*.onnx"):
        file.rename(inner / file.name)
    assert len(read_pack(copy).roles) == 3
    assert find_pack("tiny", [copy.parents[1]], "") == copy
    loaded = load_analyser(copy, "pack", CPU, None)
    assert "scrfd_tiny_kps.onnx" in loaded.detector.name


def test_pack_names_lists_only_folders_with_models(copy):
    (copy.parent / "empty").mkdir()
    assert pack_names([copy.parents[1]]) == ["tiny"]
    assert pack_names([copy / "absent"]) == []


def test_analyser_uses_insightface_classes_and_describes_itself(made):
    loaded = load_analyser(made, "auto", ["auto"], None)
    assert type(loaded.detector.model).__name__ == "SCRFD"
    assert type(loaded.recogniser.model).__name__ == "ArcFaceONNX"
    assert loaded.recogniser.model.input_mean == 127.5
    for fact in ("scrfd_tiny_kps.onnx", "recogniser.onnx", "on CPU", "parsing_bisenet.pth"):
        assert fact in loaded.description
    assert loaded.parser is None


@pytest.mark.parametrize("scale", [1, 2, 5])
def test_scrfd_boxes_and_points_come_back_in_photo_pixels(made, scale):
    """640 sees the photo at 1/scale; 3200 pixels are also shrunk before insightface."""
    detector = load_analyser(made, "pack", CPU, None).detector
    centres = [(200, 120), (480, 400)]
    photo = red_squares(
        640 * scale, 480 * scale, BLOB * scale, [(x * scale, y * scale) for x, y in centres]
    )
    faces = sorted(detector.find(photo), key=lambda face: face.box[0])
    assert len(faces) == 2
    for face, centre in zip(faces, np.array(centres) * scale, strict=True):
        np.testing.assert_allclose(
            face.box, [*(centre - 32 * scale), *(centre + 32 * scale)], atol=2
        )
        np.testing.assert_allclose(face.points, centre + POINTS * 8 * scale, atol=2)
        assert face.score > 0.9


def test_scrfd_boxes_are_cut_to_the_photo(made):
    detector = load_analyser(made, "pack", CPU, None).detector
    (face,) = detector.find(red_squares(640, 640, BLOB, [(16, 16)]))
    assert face.box[:2] == (0, 0)
    assert face.points.min() > 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (2000, 1)])
def test_scrfd_survives_one_pixel_and_thin_photos(made, shape):
    detector = load_analyser(made, "pack", CPU, None).detector
    assert detector.find(np.full((*shape, 3), 99, np.uint8)) == []


class SizeSensitive:
    """Finds one face, and only when asked for `size`; records what it was asked."""

    def __init__(self, size, shape=None):
        self.size, self.shape, self.asked = size, shape, []

    def detect(self, image, input_size):
        self.asked.append((input_size[0], image.shape[:2]))
        hit = input_size[0] == self.size and (self.shape in (None, image.shape[:2]))
        boxes = np.array([(110, 60, 190, 140, 0.8)] * hit, np.float32).reshape(-1, 5)
        return boxes, np.full((len(boxes), 5, 2), 150, np.float32)


def test_smaller_sizes_are_tried_until_one_finds_a_face():
    model = SizeSensitive(448)
    (face,) = ScrfdDetector(model, "x").find(np.zeros((200, 300, 3), np.uint8))
    assert [size for size, _ in model.asked] == [640, 576, 512, 448]
    assert face.box == (110, 60, 190, 140)


def test_the_last_try_pads_and_maps_back():
    model = SizeSensitive(640, shape=(300, 400))
    (face,) = ScrfdDetector(model, "x").find(np.zeros((100, 200, 3), np.uint8))
    assert [size for size, _ in model.asked] == [*SIZES, 640]
    assert face.box == (10, 0, 90, 40)  # 110 - 100, 60 - 100 cut at 0, ...
    assert face.points[0].tolist() == [50, 50]


def test_a_detector_with_a_fixed_input_is_asked_for_that_size_only(tmp_path):
    write_scrfd(tmp_path / "fixed_kps.onnx", side=320)
    detector = load_analyser(tmp_path, "pack", CPU, None).detector
    assert detector.sizes == (320,)
    assert len(detector.find(red_squares(320, 320, BLOB, [(160, 160)]))) == 1


def test_a_pack_with_only_a_recogniser_takes_the_bundled_detector(copy):
    (copy / "scrfd_tiny_kps.onnx").unlink()
    loaded = load_analyser(copy, "auto", CPU, None)
    assert isinstance(loaded.detector, CascadeDetector)
    assert "bundled" in loaded.description and "recogniser.onnx" in loaded.description
    assert load_analyser(None, "auto", CPU, None).recogniser is None


def test_embedding_is_raw_and_equals_insightface(made):
    recogniser = load_analyser(made, "auto", CPU, None).recogniser
    photo = (astronaut()[0] * 255).round().to(torch.uint8).numpy()
    crop = arcface_crop(
        photo, np.array([(207, 107), (245, 108), (223, 130), (209, 148), (240, 148)])
    )
    embedding = recogniser.embed(crop)
    assert embedding.shape == (512,) and embedding.dtype == torch.float32
    pixels = (crop.astype(np.float32).transpose(2, 0, 1)[None] - 127.5) / 127.5
    model = recogniser.model
    direct = model.session.run(model.output_names, {model.input_name: pixels})[0]
    np.testing.assert_allclose(embedding, direct[0], atol=1e-4)
    assert embedding.norm() > 5  # not normalised


def test_random_recogniser_is_deterministic_small_and_tells_faces_apart(made, tmp_path):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        write_recogniser(tmp_path / name / "r.onnx", seed)
    first, second, third = (tmp_path / name / "r.onnx" for name in "abc")
    assert first.read_bytes() == second.read_bytes() != third.read_bytes()
    assert first.stat().st_size < 2e6
    recogniser = load_analyser(tmp_path / "a", "bundled", CPU, None).recogniser
    group = need("insightface.data").get_image("t1", to_rgb=True)
    boxes = [
        (450, 276, 588, 414),
        (53, 269, 174, 390),
        (1116, 278, 1234, 397),
        (731, 359, 846, 474),
    ]
    crops = [group[y0:y1, x0:x1] for x0, y0, x1, y1 in boxes]
    resize = need("cv2").resize
    faces = torch.stack([recogniser.embed(resize(crop, (112, 112))) for crop in crops])
    same = recogniser.embed((resize(crops[0], (112, 112)) * 0.9).astype(np.uint8))
    unit = torch.nn.functional.normalize(faces)
    alike = unit @ unit.T - torch.eye(4)
    assert alike.max() < 0.9
    assert torch.nn.functional.cosine_similarity(same, faces[0], dim=0) > 0.97


def test_providers():
    assert resolve_providers(["CPU"]) == ["CPUExecutionProvider"]
    assert resolve_providers(["auto"])[-1] == "CPUExecutionProvider"


def absent_provider():
    import onnxruntime

    names = {"CUDA": "CUDAExecutionProvider", "CoreML": "CoreMLExecutionProvider"}
    present = onnxruntime.get_available_providers()
    return next(key for key, name in names.items() if name not in present)


def test_an_absent_provider_falls_back_and_the_description_says_so(tmp_path):
    """Graphs come from other machines: what their GPU could do must not stop them here."""
    write_scrfd(tmp_path / "det.onnx")
    write_recogniser(tmp_path / "rec.onnx", 0)
    absent = absent_provider()
    said = load_analyser(tmp_path, "auto", [absent], None).description
    assert f"Provider: {absent} is not available" in said and "CPU runs the face models" in said
    for name in ("auto", "CPU"):
        assert "Provider:" not in load_analyser(tmp_path, "auto", [name], None).description
    bundled = load_analyser(None, "bundled", [absent], None).description
    assert "Provider:" not in bundled, "nothing runs on a provider"


def test_a_provider_that_could_not_start_is_told(monkeypatch):
    import onnxruntime

    class Fallen:
        def get_providers(self):
            return ["CPUExecutionProvider"]

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    assert resolve_providers(["CUDA"]) == both
    assert running_provider(Fallen()) == "CPU"
    assert "CUDA is listed by onnxruntime but could not start" in describe_fallback(
        ["CUDA"], ["CPU"]
    )
    assert describe_fallback(["CUDA"], ["CUDA", "CUDA"]) == ""
    assert describe_fallback(["auto"], ["CPU"]) == ""


def no_such_package(tmp):
    need("facexlib_of_another_name")


def only(writer):
    def make(tmp):
        writer(tmp / "one.onnx")
        load_analyser(tmp, "pack", CPU, None)

    return make


def broken_detector(tmp):
    """A half-downloaded detector must not quietly become the bundled one."""
    write_scrfd(tmp / "det.onnx")
    (tmp / "det.onnx").write_bytes((tmp / "det.onnx").read_bytes()[:900])
    write_recogniser(tmp / "rec.onnx", 0)
    load_analyser(tmp, "auto", CPU, None)


def broken_recogniser(tmp):
    write_scrfd(tmp / "det.onnx")
    (tmp / "rec.onnx").write_text("version https://git-lfs.github.com/spec/v1")
    load_analyser(tmp, "auto", CPU, None)


def unrunnable(tmp):
    """Parses as ONNX, but the graph cannot run: an operator that does not exist."""
    import onnx

    write_scrfd(tmp / "det_kps.onnx")
    model = onnx.load(str(tmp / "det_kps.onnx"))
    model.graph.node[0].op_type = "Confabulate"
    onnx.save(model, str(tmp / "det_kps.onnx"))
    load_analyser(tmp, "pack", CPU, None)


def empty_folder(tmp):
    (tmp / "readme.txt").write_text("hello")
    load_analyser(tmp, "auto", CPU, None)


BAD = [
    (no_such_package, RuntimeError, ["facexlib_of_another_name", "requirements.txt"]),
    (lambda tmp: resolve_providers(["TPU"]), ValueError, ["'TPU'", "CUDA", "CPU"]),
    (lambda tmp: load_analyser(tmp, "best", CPU, None), ValueError, ["'best'", "bundled"]),
    (lambda tmp: load_analyser(None, "pack", CPU, None), ValueError, ["antelopev2", "bundled"]),
    (
        lambda tmp: load_analyser(tmp / "gone", "auto", CPU, None),
        FileNotFoundError,
        ["gone", "does not exist"],
    ),
    (empty_folder, FileNotFoundError, ["no .onnx", "readme.txt"]),
    (
        lambda tmp: find_pack("buffalo_l", [tmp], "Get it."),
        FileNotFoundError,
        ["buffalo_l", "models/buffalo_l", "does not exist", "Get it."],
    ),
    (
        only(lambda p: write_recogniser(p, 0)),
        FileNotFoundError,
        ["no face detector", "recognition"],
    ),
    (only(lambda p: write_scrfd(p, points=False)), ValueError, ["no face points", "kps"]),
    (broken_detector, RuntimeError, ["det.onnx", "900 bytes", "rec.onnx (recognition)", "again"]),
    (broken_recogniser, RuntimeError, ["rec.onnx", "42 bytes", "Git LFS"]),
    (unrunnable, RuntimeError, ["det_kps.onnx", "onnxruntime says", "Confabulate"]),
]


@pytest.mark.parametrize(("call", "kind", "facts"), BAD)
def test_bad_packs_are_refused_with_the_facts(call, kind, facts, tmp_path):
    with pytest.raises(kind) as caught:
        call(tmp_path)
    for fact in facts:
        assert fact in str(caught.value).replace("\\", "/")
