"""An insightface model pack on disk: find its ONNX files and tell them apart by content.

insightface's own FaceAnalysis is not used: it downloads a missing pack without asking, and runs
five networks per face where two are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .packages import need
from .providers import running_provider

DETECTION, RECOGNITION, OTHER, BROKEN = "detection", "recognition", "other", "broken"
LANDMARKS = "landmarks"
EMBEDDING = 512
POINTS = 106
"""Landmarks of 2d106det.onnx; the other landmark model of a pack, 1k3d68.onnx, is not read."""


@dataclass(frozen=True)
class Pack:
    """The ONNX files of one pack folder, by role."""

    folder: Path
    roles: dict[Path, str]

    @property
    def name(self) -> str:
        return self.folder.name

    def first(self, role: str) -> Path | None:
        """The first file of that role by name, as insightface would take it."""
        return next((path for path, found in self.roles.items() if found == role), None)

    def contents(self) -> str:
        """What was found, for messages."""
        listed = (f"{path.relative_to(self.folder)} ({role})" for path, role in self.roles.items())
        return ", ".join(listed) or "nothing"


def read_pack(folder: Path) -> Pack:
    """Classify the *.onnx files in `folder`, or, when it has none, one folder deeper.

    The published zip unpacks to antelopev2/antelopev2/*.onnx, hence the second place. Raises
    FileNotFoundError when there is neither the folder nor a model in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"the face model folder {folder} does not exist")
    files = _find_onnx_files(folder)
    if not files:
        raise FileNotFoundError(
            f"no .onnx file in {folder} nor in the folders below it ({_list_folder(folder)})"
        )
    return Pack(folder, {path: role_of(path) for path in files})


def _list_folder(folder: Path) -> str:
    if not folder.is_dir():
        return "it does not exist"
    names = sorted(path.name for path in folder.iterdir())[:8]
    return "it holds " + ", ".join(names) if names else "it is empty"


def role_of(path: Path) -> str:
    """What an ONNX file is for, by its inputs and outputs; "broken" when it is not ONNX at all.

    The rules are insightface's: five or more outputs is a detector, a square input of at least
    112 pixels with one output a recogniser, 192 pixels landmarks, of which those with 106 points
    are read, 96 age and gender. A detector's
    outputs are lists of boxes; with maps of pixels for outputs it is something else.
    Only regular files are opened: a named pipe would wait for its writer.
    """
    if not path.is_file():
        return BROKEN
    onnx = need("onnx")
    decode = need("google.protobuf.message")
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except (decode.DecodeError, ValueError, OSError):
        return BROKEN
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if not inputs or not graph.output:
        return BROKEN
    if len(graph.output) >= 5:
        ranks = {len(value.type.tensor_type.shape.dim) for value in graph.output}
        return DETECTION if ranks <= {0, 2, 3} else OTHER  # 0: the file does not say
    sides = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim][2:]
    square = len(sides) == 2 and sides[0] == sides[1]
    side = sides[0] if square else 0
    if len(inputs) == 1 and len(graph.output) == 1 and side >= 112 and side % 16 == 0:
        if side != 192:
            return RECOGNITION
        values = [dim.dim_value for dim in graph.output[0].type.tensor_type.shape.dim]
        return LANDMARKS if values[-1:] == [2 * POINTS] else OTHER
    return OTHER


def load_model(path: Path, providers: Sequence[str]) -> tuple[Any, str]:
    """insightface's own class for the file, and the widget name of the provider it runs on.

    Raises RuntimeError when onnxruntime cannot run the file.
    """
    state = need("onnxruntime.capi.onnxruntime_pybind11_state")
    failures = (state.Fail, state.InvalidGraph, state.InvalidProtobuf, state.InvalidArgument)
    failures += (state.NotImplemented, state.RuntimeException, state.NoModel)
    try:
        model = need("insightface.model_zoo").get_model(str(path), providers=list(providers))
    except failures as error:
        raise RuntimeError(describe_broken(path, f"onnxruntime says: {error}")) from error
    return model, running_provider(model.session)


def describe_broken(path: Path, why: str) -> str:
    """A message on a file that cannot be used, with what usually happened to it."""
    size = path.stat().st_size
    return (
        f"{path} ({size} bytes) is not a usable ONNX model: {why}. The download was probably cut "
        "short or is a web page or a Git LFS pointer; delete the file and download it again"
    )


def find_pack(name: str, roots: Sequence[Path], advice: str) -> Path:
    """The first of `roots`/models/`name` that holds ONNX files, flat or nested one level.

    Raises FileNotFoundError naming every folder that was searched, followed by `advice`.
    """
    searched = [root / "models" / name for root in roots]
    for folder in searched:
        if _find_onnx_files(folder):
            return folder
    places = "; ".join(f"{folder} ({_list_folder(folder)})" for folder in searched)
    raise FileNotFoundError(
        f"the face model pack {name} has no .onnx file in {places or 'any insightface folder'}, "
        f"nor one folder deeper. {advice}"
    )


def pack_names(roots: Sequence[Path]) -> list[str]:
    """Names of the folders in `roots`/models that hold ONNX files, sorted."""
    folders = (folder for root in roots for folder in (root / "models").glob("*/"))
    return sorted(
        {folder.name for folder in folders if folder.is_dir() and _find_onnx_files(folder)}
    )


def _find_onnx_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.onnx")) or sorted(folder.glob("*/*.onnx"))
