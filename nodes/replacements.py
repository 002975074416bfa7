"""Graphs made for other PuLID packs open with our nodes where those packs are absent.

The page replaces nodes itself, by the registered table. For prompts of the API ComfyUI has the same
replacement, but it fails with a server error on a prompt without `_meta`, and on a mapped input
that the old node does not have. So `translate_prompt` does that work before ComfyUI comes to it.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comfy_api.latest import ComfyAPI, io

import nodes

EVA_CLIP_FILE = "EVA02_CLIP_L_336_psz14_s6B.pt"
TWINS = ("", "GR")
"""Prefixes under which packs register the same nodes: most of them, and GraftingRayman's."""
LOADERS = (*(f"{prefix}PulidFlux" for prefix in TWINS), "Pulid")
"""What the names of loaders begin with; the last are those of PuLID for SDXL."""
STRENGTH_WIDGETS = ["weight", "start_at", "end_at"]
FUSION_WIDGETS = ["fusion", "fusion_weight_max", "fusion_weight_min", "train_step", "use_gray"]
APPLY_WIDGETS = {
    "": [*STRENGTH_WIDGETS, *FUSION_WIDGETS],
    "GR": [
        *STRENGTH_WIDGETS,
        *("use_face_number", "face_number", "blur", "face_select"),
        *FUSION_WIDGETS,
    ],
}
"""The widgets of Apply PuLID Flux in saved order; packs without fusions have the first three."""

FACTS = Path(__file__).parents[1] / "web" / "js" / "flexid_old_graphs.json"
"""What the page and the server both have to know."""
_facts = json.loads(FACTS.read_text(encoding="utf-8"))
VALUES: dict[str, dict[str, str]] = _facts["values"]
"""Input of ours -> value of the old combo -> our value."""
LOSSES: dict[str, dict[str, Any]] = _facts["losses"]
"""Old inputs that no input of ours stands for: the value that ours equals, and what ours does."""

Node = dict[str, Any]


def _keep(new: str, old: str = "") -> dict[str, Any]:
    return {"new_id": new, "old_id": old or new}


def _set(new: str, value: object) -> dict[str, Any]:
    return {"new_id": new, "set_value": value}


def _replace(old: str, new: str, widgets: list[str], inputs: list[Any]) -> io.NodeReplace:
    return io.NodeReplace(
        new_node_id=new,
        old_node_id=old,
        old_widget_ids=widgets,
        input_mapping=inputs,
        output_mapping=[{"new_idx": 0, "old_idx": 0}],
    )


def _replace_loaders(stem: str) -> Iterator[io.NodeReplace]:
    yield _replace(
        f"{stem}ModelLoader",
        "FlexIDLoadIdentityAdapter",
        ["pulid_file"],
        [_keep("file", "pulid_file")],
    )
    yield _replace(
        f"{stem}InsightFaceLoader",
        "FlexIDLoadFaceAnalyser",
        ["provider"],
        [
            # Not the old provider: it is what the machine of the graph's author had.
            _set("provider", "auto"),
            _set("pack", "antelopev2"),
            _set("detector", "auto"),
            _set("parsing", "auto"),
        ],
    )
    yield _replace(
        f"{stem}EvaClipLoader",
        "FlexIDLoadEvaClip",
        [],
        [_set("file", EVA_CLIP_FILE)],
    )


APPLIED = [
    *map(_keep, ("eva_clip", "face_analysis", "image", "weight", "model")),
    _keep("start", "start_at"),
    _keep("end", "end_at"),
    _keep("mask", "attn_mask"),
    _set("axis", "percent"),
]
"""What all nodes that apply PuLID have in common."""


def _replace_flux(prefix: str) -> io.NodeReplace:
    return _replace(
        f"{prefix}ApplyPulidFlux",
        "FlexIDApplyVFAFromPhoto",
        APPLY_WIDGETS[prefix],
        [
            *APPLIED,
            _keep("pulid_flux"),
            _keep("options"),
            # Those packs give the negative prompt the same face: keep the picture as it was.
            _set("negative", "same"),
        ],
    )


def _replace_sdxl(name: str, method: str, widgets: list[str]) -> io.NodeReplace:
    """method: the old input that says it."""
    return _replace(
        name,
        "FlexIDApplyVFAFromPhoto",
        widgets,
        [
            *APPLIED,
            _keep("pulid_flux", "pulid"),
            _keep("method", method),
            _set("negative", "unconditional"),
        ],
    )


REPLACEMENTS = [
    *(one for stem in LOADERS for one in _replace_loaders(stem)),
    *map(_replace_flux, TWINS),
    _replace_sdxl("ApplyPulid", "method", ["method", *STRENGTH_WIDGETS]),
    _replace_sdxl(
        "ApplyPulidAdvanced",
        "projection",
        ["weight", "projection", "fidelity", "noise", "start_at", "end_at"],
    ),
    _replace(
        "PulidFluxOptions",
        "FlexIDChooseFace",
        ["input_faces_order", "input_faces_index", "input_faces_align_mode"],
        [_keep("order", "input_faces_order"), _keep("index", "input_faces_index")],
    ),
]
OURS = {replacement.old_node_id: replacement for replacement in REPLACEMENTS}


async def register_replacements() -> None:
    """Tell the page and the server; the server asks `translate_prompt` first."""
    from server import PromptServer

    api = ComfyAPI()
    for replacement in REPLACEMENTS:
        await api.node_replacement.register(replacement)
    PromptServer.instance.add_on_prompt_handler(translate_prompt)


def translate_prompt(data: Any) -> Any:
    """A queued request (a dict with "prompt") in which nodes of `OURS` are replaced by our nodes.

    Everything else stays as it is, the same objects; so does a request of any other shape. Old
    nodes whose pack is installed, or which another pack replaces, are not touched. Never raises.
    """
    prompt = data.get("prompt") if isinstance(data, dict) else None
    if not isinstance(prompt, dict) or not any(map(_is_old, prompt.values())):
        return data
    translated = {
        number: _translate_node(number, node) if _is_old(node) else node
        for number, node in prompt.items()
    }
    return {**data, "prompt": translated}


def _is_old(node: Any) -> bool:
    if not isinstance(node, dict) or not isinstance(node.get("inputs"), dict):
        return False
    kind = node.get("class_type")
    if (
        not isinstance(kind, str)
        or kind not in OURS
        or kind in getattr(nodes, "NODE_CLASS_MAPPINGS", {})
    ):
        return False
    return _first_replacement(kind) == OURS[kind].new_node_id


def _first_replacement(kind: str) -> str:
    """What ComfyUI would put in place of `kind`: the pack that registered first decides."""
    from server import PromptServer

    registered = PromptServer.instance.node_replace_manager.get_replacement(kind)
    return registered[0].new_node_id if registered else ""


def _translate_node(number: str, node: Node) -> Node:
    """The node of ours. Its output has the old place, so links to it stay right."""
    old, replacement = node["inputs"], OURS[node["class_type"]]
    inputs = {}
    for mapping in replacement.input_mapping or ():
        if "set_value" in mapping:
            inputs[mapping["new_id"]] = mapping["set_value"]
        elif mapping["old_id"] in old:
            inputs[mapping["new_id"]] = old[mapping["old_id"]]
    for name, values in VALUES.items():
        if isinstance(inputs.get(name), str):
            inputs[name] = values.get(inputs[name], inputs[name])
    for line in _list_losses(old):
        logging.warning("FlexID, node %s (%s): %s", number, node["class_type"], line)
    return {**node, "class_type": replacement.new_node_id, "inputs": inputs}


def _list_losses(old: Node) -> list[str]:
    return [
        f"{name} is not carried over: {loss['text']}."
        for name, loss in LOSSES.items()
        if name in old and old[name] != loss["ours"]
    ]
