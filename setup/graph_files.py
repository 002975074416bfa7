"""Which model files the pack's workflows need, and which of them a ComfyUI has."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..model_patches.files.places import Folders
    from ..model_patches.files.weight_file import WeightFile

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows"
ACTIVE = 0
ENDINGS = (".safetensors", ".sft", ".pt", ".pth", ".bin", ".ckpt", ".gguf")
LOADERS = {
    "UNETLoader": "diffusion_models",
    "CLIPLoader": "text_encoders",
    "DualCLIPLoader": "text_encoders",
    "VAELoader": "vae",
    "CheckpointLoaderSimple": "checkpoints",
    "CLIPVisionLoader": "clip_vision",
    "StyleModelLoader": "style_models",
    "LoraLoaderModelOnly": "loras",
    "FlexIDLoadMiniTextEncoder": "text_encoders",
    "FlexIDLoadIdentityAdapter": "pulid",
    "FlexIDLoadEvaClip": "clip_vision",
    "FlexIDLoadSIPProjector": "flexid",
    "FlexIDLoadFlexIP": "flexid",
    "FlexIDLoadDynamicID": "dynamicid",
    "FlexIDLoadIMR": "dynamicid",
}
"""The model folder of each loader; `properties.models` of a node goes before it."""
FACE_ANALYSER = "FlexIDLoadFaceAnalyser"
PACKS = "insightface/models"
ANY_ONNX = "*.onnx"
"""Instead of a file's name: a face pack that the table does not know may name its files freely."""
OWN = "flexid_mini"
"""Names of the demo's models begin so; they come with the pack, not from the network."""


@dataclass(frozen=True)
class Verdict:
    """Whether one workflow can run."""

    name: str
    missing: tuple[WeightFile, ...]
    damaged: tuple[tuple[WeightFile, Path], ...]
    """Files whose size is not the recorded one."""

    @property
    def can_run(self) -> bool:
        return not (self.missing or self.damaged)


def list_workflows() -> dict[str, Path]:
    """The pack's workflows in page format, by name."""
    found = sorted(WORKFLOWS.glob("*.json"))
    return {path.stem: path for path in found if not path.name.endswith(".api.json")}


def check_workflow(path: Path, folders: Folders) -> Verdict:
    """Look for every file that the workflow names, by name and by size; hashes are not read."""
    from flexid.model_patches.files.places import find_file, is_intact

    missing, damaged = [], []
    for row in read_needs(path):
        if row.file == ANY_ONNX:
            if not _has_pack(row, folders):
                missing.append(row)
            continue
        file = find_file(row, folders)
        if file is None:
            missing.append(row)
        elif not is_intact(row, file):
            damaged.append((row, file))
    return Verdict(path.stem, tuple(missing), tuple(damaged))


def read_needs(path: Path) -> list[WeightFile]:
    """The files that a workflow in page format names, each once; rows of the table where it can.

    Nodes that are bypassed or muted need nothing.
    """
    graph = json.loads(path.read_text(encoding="utf-8"))
    groups = [graph, *graph.get("definitions", {}).get("subgraphs", ())]
    nodes = (node for group in groups for node in group["nodes"] if node["mode"] == ACTIVE)
    return list(dict.fromkeys(row for node in nodes for row in _read_node(node)))


def _read_node(node: dict[str, Any]) -> Iterator[WeightFile]:
    from flexid.model_patches.files.public_files import WEIGHTS

    values = node.get("widgets_values") or ()
    texts = [value for value in values if isinstance(value, str)]
    if node["type"] == FACE_ANALYSER and texts:
        folder = f"{PACKS}/{texts[0]}"
        known = [row for row in WEIGHTS if row.folder == folder]
        yield from known or [_make_row(ANY_ONNX, folder)]
        return
    stated = {one["name"]: one["directory"] for one in node["properties"].get("models") or ()}
    for text in texts:
        folder = stated.get(text) or LOADERS.get(node["type"])
        if folder and text.lower().endswith(ENDINGS):
            yield _find_row(text, folder, WEIGHTS)


def _find_row(file: str, folder: str, table: Iterable[WeightFile]) -> WeightFile:
    known = (row for row in table if (row.file, row.folder) == (file, folder))
    return next(known, None) or _make_row(file, folder)


def _make_row(file: str, folder: str) -> WeightFile:
    from flexid.model_patches.files.weight_file import WeightFile

    return WeightFile(file, folder, repo="", licence="", needed_for="")


def _has_pack(row: WeightFile, folders: Folders) -> bool:
    name, _, below = row.folder.partition("/")
    places = [Path(root) / below for root in folders(name)]
    return any(any(place.glob(f"{deeper}{row.file}")) for place in places for deeper in ("", "*/"))
