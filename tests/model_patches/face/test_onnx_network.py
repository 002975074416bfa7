"""Recognisers' ONNX files in torch: the same answer as onnxruntime's, gradients, refusals."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from flexid.mini.world import RECOGNISER
from flexid.model_patches.face.onnx_network import check_same_answer, read_network
from flexid.model_patches.face.onnx_operations import OPERATIONS
from flexid.model_patches.face.pack import load_model
from flexid.model_patches.face.recogniser import FaceNetwork, make_recogniser
from onnx import TensorProto, helper, numpy_helper
from pack import ROOT

pytestmark = pytest.mark.pure


def write(path: Path, nodes, weights, given="out", side=112, taken=("x",), values=512) -> Path:
    """An ONNX file of these nodes; weights by name."""
    shape = ["n", 3, side, side]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in taken],
        [helper.make_tensor_value_info(given, TensorProto.FLOAT, ["n", values])],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    path.write_bytes(model.SerializeToString())
    return path


def node(kind, inputs, output, **stated):
    return helper.make_node(kind, inputs, [output], f"{kind}_{output}", **stated)


def draw(*shape, seed=0, scale=0.3):
    rng = np.random.default_rng((seed, *shape))
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def arcface(path: Path) -> Path:
    """Every operation that is known, in an order as in iresnet: pixels are scaled in the graph."""
    nodes = [
        node("Cast", ["half"], "kernel", to=1),
        node("Identity", ["x"], "same"),
        node("Sub", ["same", "mean"], "centred"),
        node("Mul", ["centred", "factor"], "scaled"),
        node("Conv", ["scaled", "kernel", "b1"], "c1", strides=[4, 4], pads=[1, 2, 3, 0],
             kernel_shape=[5, 5]),
        node("BatchNormalization", ["c1", "s", "o", "m", "v"], "n1", epsilon=2e-5, momentum=0.9),
        node("PRelu", ["n1", "slope"], "p1"),
        node("Conv", ["p1", "k2"], "c2", group=4, dilations=[2, 2], pads=[2, 2, 2, 2]),
        node("Relu", ["c2"], "r1"),
        node("Add", ["r1", "p1"], "a1"),
        node("Dropout", ["a1"], "d1", ratio=0.4),
        node("Conv", ["d1", "k3"], "c3", strides=[7, 7], auto_pad="VALID"),
        node("Div", ["c3", "two"], "half_c3"),
        node("Flatten", ["half_c3"], "flat", axis=-3),
        node("MatMul", ["flat", "square"], "turned"),
        node("PRelu", ["turned", "wide"], "p2"),
        node("Gemm", ["p2", "w", "b2"], "out", transB=1, alpha=0.5, beta=2.0),
    ]  # fmt: skip
    weights = {
        "half": draw(8, 3, 5, 5).astype(np.float16), "mean": np.float32([[[127.5]]]),
        "factor": np.float32(1 / 127.5), "b1": draw(8), "s": 1 + draw(8), "o": draw(8, seed=1),
        "m": draw(8, seed=2), "v": np.abs(draw(8, seed=3)) + 0.5, "slope": draw(8, 1, 1),
        "k2": draw(8, 2, 3, 3), "k3": draw(8, 8, 7, 7), "two": np.float32(2), "wide": draw(128),
        "square": draw(128, 128), "w": draw(512, 128), "b2": draw(512),
    }  # fmt: skip
    return write(path, nodes, weights)


def pixels(count=2):
    return np.random.default_rng(0).integers(0, 256, (count, 3, 112, 112)).astype(np.float32)


def test_every_known_operation_answers_as_onnxruntime(tmp_path):
    import onnxruntime

    path = arcface(tmp_path / "net.onnx")
    net = read_network(path)
    shown = pixels()
    theirs = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (expected,) = theirs.run(None, {"x": shown})
    found = net(torch.from_numpy(shown)).numpy()
    assert found.shape == (2, 512)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    used = {one.op_type for one in onnx.load(str(path)).graph.node}
    assert used == set(OPERATIONS)
    assert "half" not in net.numbers and all(one.dtype == torch.float32 for one in net.weights)
    assert not any(one.requires_grad for one in net.parameters())


@pytest.fixture(scope="module")
def trained():
    path = ROOT / "mini" / "weights" / RECOGNISER
    model, _ = load_model(path, ["CPUExecutionProvider"])
    return make_recogniser(model, path, "flexid_mini")


def test_the_small_worlds_recogniser_answers_as_onnxruntime(trained):
    net = FaceNetwork(read_network(trained.path), trained.model.input_mean, trained.model.input_std)
    crop = pixels(1)[0].transpose(1, 2, 0).astype(np.uint8)
    mine = net(torch.from_numpy(crop).permute(2, 0, 1)[None] / 127.5 - 1)[0]
    torch.testing.assert_close(mine, trained.embed(crop), atol=1e-4, rtol=1e-4)


def test_it_is_opened_once_and_its_gradient_is_that_of_finite_differences(trained):
    pytest.importorskip("comfy.model_patcher")
    held = trained.network
    assert trained.network is held and not held.is_dynamic()
    net = held.model.double()
    torch.manual_seed(0)
    crops = torch.rand(1, 3, 112, 112, dtype=torch.float64).requires_grad_()
    wanted, direction = torch.randn(512).double(), torch.randn_like(crops)

    def value(at):
        return torch.nn.functional.cosine_similarity(net(at), wanted[None]).sum()

    (gradient,) = torch.autograd.grad(value(crops), crops)
    with torch.no_grad():
        change = (value(crops + 1e-8 * direction) - value(crops - 1e-8 * direction)) / 2e-8
    torch.testing.assert_close((gradient * direction).sum(), change, rtol=1e-3, atol=0)
    held.model.float()


def test_another_answer_is_an_error():
    one = torch.tensor([1.0, 0.0])
    check_same_answer(one, one * 3, Path("net.onnx"))
    with pytest.raises(RuntimeError, match=r"net.onnx answers differently.*0.7071"):
        check_same_answer(one, torch.tensor([1.0, 1.0]), Path("net.onnx"))


def refused(path):
    with pytest.raises(ValueError) as error:
        read_network(path)
    return str(error.value)


def test_unknown_operations_are_refused_by_name(tmp_path):
    nodes = [node("Softplus", ["x"], "a"), node("Erf", ["a"], "b"), node("Flatten", ["b"], "out")]
    said = refused(write(tmp_path / "net.onnx", nodes, {}))
    assert "holds the operations Softplus, Erf" in said and "w600k_r50.onnx" in said


@pytest.mark.parametrize(
    ("kind", "stated", "said"),
    [
        ("Conv", {"auto_pad": "SAME_UPPER"}, "auto_pad is 'SAME_UPPER', expected 'NOTSET'"),
        ("Conv", {"shape_of_water": 3}, "it states shape_of_water"),
        ("Cast", {"to": 7}, "to is 7"),
    ],
)
def test_attributes_that_are_not_followed_are_refused(tmp_path, kind, stated, said):
    inputs = ["x", "k"] if kind == "Conv" else ["x"]
    path = write(
        tmp_path / "net.onnx", [node(kind, inputs, "out", **stated)], {"k": draw(1, 3, 1, 1)}
    )
    assert f"the {kind} '{kind}_out' cannot be followed: {said}" in refused(path)


def test_graphs_of_another_form_are_refused(tmp_path):
    two = write(tmp_path / "a.onnx", [node("Add", ["x", "y"], "out")], {}, taken=("x", "y"))
    assert "has 2 inputs and 1 outputs" in refused(two)
    lost = write(tmp_path / "b.onnx", [node("Add", ["x", "z"], "out")], {})
    assert "reads 'z', which no node before it gives" in refused(lost)


def test_what_is_no_onnx_file_says_so(tmp_path):
    path = tmp_path / "page.onnx"
    path.write_bytes(b"<!doctype html>" * 9)
    with pytest.raises(RuntimeError, match="not a usable ONNX model"):
        read_network(path)
