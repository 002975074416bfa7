"""DynamicID's workflow files from the first node to the picture, on small models in place of what
the loaders open: a full-size SD 1.5 is the only one that ComfyUI opens from a file."""

import json

import dynamicid_world
import imr_world
import pytest
import tiny_unet
import torch
from flexid.nodes import NODES
from templates import APIS

import nodes as core

pytestmark = pytest.mark.comfy

# Core's younger nodes; the graphs need a ComfyUI that has them.
BOXES, GRID, STRINGS = (
    pytest.importorskip(f"comfy_extras.nodes_{name}")
    for name in ("bounding_boxes", "dataset", "string")
)

NAMES = ("dynamicid", "dynamicid_couple", "dynamicid_group", "expression_sheet")
KINDS = {
    **core.NODE_CLASS_MAPPINGS,
    **{node.__name__: node for node in NODES},
    "CreateBoundingBoxes": BOXES.CreateBoundingBoxes,
    "ImageGrid": GRID.ImageGridNode,
    "StringConcatenate": STRINGS.StringConcatenate,
}
SMALL = {"EmptyLatentImage": {"width": 64, "height": 64}, "KSampler": {"steps": 2}}


class Each(list):
    """One value for each target: nodes run once for each, as ComfyUI runs them."""


class Decoder:
    """A VAE that shows three channels of the latent."""

    def decode(self, latent):
        shown = latent[:, :3].sigmoid().movedim(1, -1)
        return shown.repeat_interleave(8, 1).repeat_interleave(8, 2)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """What each loader opens."""
    folder = tmp_path_factory.mktemp("files")
    model = tiny_unet.sd15()
    return {
        "CheckpointLoaderSimple": (model, imr_world.clip(folder), Decoder()),
        "CLIPVisionLoader": (dynamicid_world.vision(),),
        "FlexIDLoadDynamicID": (dynamicid_world.adapter(folder, model),),
        "FlexIDLoadIMR": (imr_world.editor(folder),),
        "FlexIDLoadFaceAnalyser": (imr_world.analyser(),),
    }


def run(name, parts):
    """Outputs of each node of a graph by its number."""
    graph = json.loads(APIS[name].read_text(encoding="utf-8"))
    done = {}

    def value_of(value):
        if isinstance(value, dict):
            return value["__value__"]
        if isinstance(value, list):
            return output_of(value[0])[value[1]]
        return value

    def output_of(number):
        if number not in done:
            node = graph[number]
            kind = node["class_type"]
            inputs = {**node["inputs"], **SMALL.get(kind, {})}
            if kind == "LoadImage":
                seed = torch.Generator().manual_seed(int(number))
                done[number] = (torch.rand(1, 200, 260, 3, generator=seed),)
            elif kind == "SaveImage":
                done[number] = (value_of(inputs["images"]),)
            elif kind in parts:
                done[number] = parts[kind]
            else:
                done[number] = call(kind, {key: value_of(one) for key, one in inputs.items()})
        return done[number]

    for number in graph:
        output_of(number)
    return {number: (graph[number]["class_type"], outputs) for number, outputs in done.items()}


def call(kind, inputs):
    """Run a node, once for each of what comes as a list, and mark what goes on as a list."""
    many = [one for one in inputs.values() if isinstance(one, Each)]
    if kind == "ImageGrid":
        lists = {k: v if isinstance(v, list) else [v] for k, v in inputs.items()}
        return execute(kind, lists)
    if not many:
        return execute(kind, inputs)
    count = max(map(len, many))
    runs = [
        execute(kind, {k: v[i] if isinstance(v, Each) else v for k, v in inputs.items()})
        for i in range(count)
    ]
    return tuple(Each(outputs) for outputs in zip(*runs, strict=True))


def execute(kind, inputs):
    node = KINDS[kind]
    if not hasattr(node, "define_schema"):
        return getattr(node(), node.FUNCTION)(**inputs)
    grown = {}
    for name, value in inputs.items():
        group, _, slot = name.partition(".")
        if slot:
            grown.setdefault(group, {})[slot] = value
        else:
            grown[name] = value
    outputs = node.execute(**grown).args
    flags = [one.is_output_list for one in node.define_schema().outputs]
    return tuple(Each(value) if flag else value for value, flag in zip(outputs, flags, strict=True))


def of_kind(done, kind):
    """Outputs of the nodes of a kind; a list of one is that one."""
    found = [outputs for one, outputs in done.values() if one == kind]
    return [tuple(map(unwrap, outputs)) for outputs in found]


def unwrap(value):
    return value[0] if isinstance(value, Each) and len(value) == 1 else value


@pytest.mark.parametrize(("name", "people"), list(zip(NAMES, (1, 2, 3, 1), strict=True)))
def test_a_graph_runs_from_photos_to_pictures(parts, name, people):
    done = run(name, parts)
    assert len(of_kind(done, "FlexIDMakePerson")) == people
    [(picture,)] = of_kind(done, "SaveImage")
    assert picture.std() > 0.01
    if name == "expression_sheet":
        assert picture.shape == (1, 2 * 512 + 8, 4 * 512 + 3 * 8, 3)
        [(identities, words, _, report)] = of_kind(done, "FlexIDEditExpressionAndPose")
        assert len(identities) == 8 and report.startswith("8 target(s) by IMR.bin")
        [(texts,)] = of_kind(done, "StringConcatenate")
        assert list(texts) == [f"studio portrait photo of a person, {one}" for one in words]
        cells = [picture[:, :512, 520 * column : 520 * column + 512] for column in range(4)]
        assert all(not torch.equal(cells[0], one) for one in cells[1:])
    else:
        assert picture.shape == (1, 64, 64, 3)
        [(overlay, report, table, _)] = of_kind(done, "FlexIDWhoIsWhere")
        assert overlay.shape == picture.shape and len(table.splitlines()) == 1 + people
        assert report.startswith("Picture 1: ")


def test_the_couples_expressions_and_boxes_reach_the_model(parts):
    done = run("dynamicid_couple", parts)
    [(_, report)] = of_kind(done, "FlexIDApplySAA")
    assert "Alex: weight" in report and "Kim: weight" in report
    assert report.count("region 19 % of the picture") == 2
    words = [one[1] for one in of_kind(done, "FlexIDEditExpressionAndPose")]
    assert words == [
        "in a happy expression, in front view",
        "in a surprised expression, in side view",
    ]
