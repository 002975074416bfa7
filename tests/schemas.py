"""What the node schemas say, as data: the snapshot that guards saved workflows, the English texts.

`COMFYUI_PATH=... python tests/schemas.py` writes both anew. Do that after adding to a schema. A
snapshot line that changes or goes breaks saved workflows, and needs a new major version.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pack import ROOT, open_pack

SNAPSHOT = ROOT / "tests" / "nodes" / "schemas.json"
LOCALES = ROOT / "locales"
FILE_COMBOS = {"pack", "file", "keypoints", "t5", "clip_l", "dictionary"}
"""Combos that list files: their options and default are those of one machine."""
LIMITS = ("default", "min", "max", "step", "multiline", "options")


def nodes() -> list[Any]:
    from flexid.nodes import NODES

    return NODES


def schema_of(node: Any) -> Any:
    """The schema with ids for outputs that name none, as ComfyUI reads it."""
    schema = node.define_schema()
    schema.finalize()
    return schema


def contract(node: Any) -> dict[str, Any]:
    """All that a saved workflow relies on, in order."""
    schema = schema_of(node)
    return {
        "inputs": [_input(one) for one in schema.inputs],
        "outputs": [{"id": out.id, "type": out.get_io_type()} for out in schema.outputs],
        "output_node": schema.is_output_node,
    }


def _input(one: Any) -> dict[str, Any]:
    facts = one.as_dict()
    kept = {"id": one.id, "type": one.get_io_type(), "optional": bool(one.optional)}
    if one.id not in FILE_COMBOS:
        kept |= {key: facts[key] for key in LIMITS if key in facts}
    if "template" in facts:
        template = facts["template"]
        kept["template"] = {key: template[key] for key in ("prefix", "min", "max")}
    return kept


def english(node: Any) -> dict[str, Any]:
    """The node's texts in the format of a nodeDefs.json."""
    schema = schema_of(node)
    texts = {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {one.id: _texts(one.display_name or one.id, one) for one in schema.inputs},
        "outputs": {
            str(number): _texts(out.display_name or out.get_io_type(), out)
            for number, out in enumerate(schema.outputs)
        },
    }
    return texts


def _texts(name: str, one: Any) -> dict[str, str]:
    return {"name": name, "tooltip": one.tooltip} if one.tooltip else {"name": name}


def snapshot() -> dict[str, Any]:
    return {node.define_schema().node_id: contract(node) for node in nodes()}


def english_texts() -> dict[str, Any]:
    return {node.define_schema().node_id: english(node) for node in nodes()}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, data: Any) -> None:
    text = json.dumps(data, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    open_pack(os.environ["COMFYUI_PATH"])
    write(SNAPSHOT, snapshot())
    write(LOCALES / "en" / "nodeDefs.json", english_texts())
