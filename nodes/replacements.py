"""Graphs made for other PuLID-Flux packs open with our nodes where those packs are absent.

ComfyUI replaces a node only if its class is not registered, and fails on a mapped input that the
old node does not have; so only inputs that every one of those packs requires are mapped. An old
optional mask is therefore not carried over: connect it to `mask` again. It also looks a link
between two replaced nodes up by its old input id, in either order: such inputs keep their ids.
"""

from comfy_api.latest import ComfyAPI, io

EVA_CLIP_FILE = "EVA02_CLIP_L_336_psz14_s6B.pt"

REPLACEMENTS = [
    io.NodeReplace(
        new_node_id="FlexIDLoadIdentityAdapter",
        old_node_id="PulidFluxModelLoader",
        old_widget_ids=["pulid_file"],
        input_mapping=[{"new_id": "file", "old_id": "pulid_file"}],
        output_mapping=[{"new_idx": 0, "old_idx": 0}],
    ),
    io.NodeReplace(
        new_node_id="FlexIDLoadFaceAnalyser",
        old_node_id="PulidFluxInsightFaceLoader",
        old_widget_ids=["provider"],
        input_mapping=[
            {"new_id": "provider", "old_id": "provider"},
            {"new_id": "pack", "set_value": "antelopev2"},
            {"new_id": "detector", "set_value": "auto"},
            {"new_id": "parsing", "set_value": "auto"},
        ],
        output_mapping=[{"new_idx": 0, "old_idx": 0}],
    ),
    io.NodeReplace(
        new_node_id="FlexIDLoadEvaClip",
        old_node_id="PulidFluxEvaClipLoader",
        old_widget_ids=[],
        input_mapping=[{"new_id": "file", "set_value": EVA_CLIP_FILE}],
        output_mapping=[{"new_idx": 0, "old_idx": 0}],
    ),
    io.NodeReplace(
        new_node_id="FlexIDApplyVFAFromPhoto",
        old_node_id="ApplyPulidFlux",
        old_widget_ids=["weight", "start_at", "end_at"],
        input_mapping=[
            {"new_id": "model", "old_id": "model"},
            {"new_id": "pulid_flux", "old_id": "pulid_flux"},
            {"new_id": "eva_clip", "old_id": "eva_clip"},
            {"new_id": "face_analysis", "old_id": "face_analysis"},
            {"new_id": "image", "old_id": "image"},
            {"new_id": "weight", "old_id": "weight"},
            {"new_id": "start", "old_id": "start_at"},
            {"new_id": "end", "old_id": "end_at"},
            {"new_id": "axis", "set_value": "percent"},
            # Those packs give the negative prompt the same face: keep the picture as it was.
            {"new_id": "negative", "set_value": "same"},
        ],
        output_mapping=[{"new_idx": 0, "old_idx": 0}],
    ),
]


async def register_replacements() -> None:
    api = ComfyAPI()
    for replacement in REPLACEMENTS:
        await api.node_replacement.register(replacement)
