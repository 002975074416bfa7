"""Apply VFA: identity cross-attention on a Flux model."""

from comfy_api.latest import io, ui

from ..model_patches.face.choose import FaceChoice
from ..model_patches.face.detect import detect_faces
from ..model_patches.gates.gate import OPEN, Gate
from ..model_patches.gates.numbers import check_number
from ..model_patches.gates.window import Axis, Window
from ..model_patches.identity.encode import encode_identity
from ..model_patches.identity.mix import FAITHFUL
from ..model_patches.inject.vfa import METHODS, NEGATIVES, Method, apply_vfa, describe_anchor
from . import types
from .editid import MIX_TOOLTIP, QUERY_TOOLTIP
from .gates import axis_input
from .types import Number
from .validation import validate_all

MODEL_TOOLTIP = (
    "Flux.1 dev, schnell, Krea, Kontext or Fill, or SDXL. Only the returned model is patched."
)
ADAPTER_TOOLTIP = "PuLID file for this kind of model, from Load Identity Adapter."
# What people search for who know another method for the same purpose.
ALIASES = ["face", "faceid", "face id", "pulid", "instantid", "ipadapter", "ip-adapter"]
LARGEST_FACE = FaceChoice()
LEAST, MOST = -1.0, 5.0
"""Limits of the weight."""


def _check_weight(weight: float) -> float:
    return check_number("The weight of the anchor", weight, LEAST, MOST)


def _strength_inputs() -> list[io.Input]:
    return [
        Number(
            "weight",
            default=1.0,
            min=LEAST,
            max=MOST,
            step=0.05,
            tooltip="How strongly the face is anchored. 0: the model as it was; 1: as trained; "
            "negative pushes away from the person.",
        ),
        Number(
            "start",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Where on the time axis the anchor starts. 0: at the first step; later leaves "
            "the prompt more freedom in pose and layout.",
        ),
        Number(
            "end",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Where on the time axis the anchor ends. 1: at the last step; 0: only the "
            "very first step can be inside.",
        ),
        axis_input(),
        io.Combo.Input(
            "negative",
            options=list(NEGATIVES),
            default="unconditional",
            tooltip="What the negative prompt gets when CFG is above 1. unconditional: the "
            "encoder's answer to no face, as the PuLID authors do. same: this face too, as other "
            "packs do. none: nothing.",
            advanced=True,
        ),
    ]


def _optional_inputs() -> list[io.Input]:
    return [
        types.Gate.Input(
            "gate",
            optional=True,
            tooltip="A weight over time that multiplies weight. Not connected: 1 everywhere.",
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="Where in the picture this person may appear: 1 here, 0 not here. Only "
            "covered places are computed. Not connected: everywhere.",
        ),
    ]


def _gate(start: float, end: float, axis: Axis, gate: Gate) -> Gate:
    return Gate((Window(start, end, axis),)) * gate


def _method_input() -> io.Input:
    return io.Combo.Input(
        "method",
        options=list(METHODS),
        default="fidelity",
        optional=True,
        tooltip="On SDXL only. fidelity: likeness first. style: the prompt keeps more "
        "of its own. neutral: the identity is added as it is.",
        advanced=True,
    )


class FlexIDApplyVFA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDApplyVFA",
            display_name="Apply VFA",
            category="FlexID/inject",
            description=(
                "Visual Feature Anchor: lets the picture attend to a person's identity inside "
                "the diffusion model. Use it several times, with masks, for several people; the "
                "order does not matter."
            ),
            search_aliases=[*ALIASES, "identity", "visual anchor"],
            inputs=[
                io.Model.Input("model", tooltip=MODEL_TOOLTIP),
                types.IdentityAdapter.Input("adapter", tooltip=ADAPTER_TOOLTIP),
                types.Identity.Input(
                    "identity",
                    tooltip="The person, from Encode Identity, Combine or Load Identity.",
                ),
                *_strength_inputs(),
                *_optional_inputs(),
                _method_input(),
                types.QueryControl.Input("query", optional=True, tooltip=QUERY_TOOLTIP),
            ],
            outputs=[io.Model.Output("model_out", display_name="model")],
        )

    @classmethod
    def validate_inputs(
        cls, weight: float | None = None, start: float | None = None, end: float | None = None
    ) -> bool | str:
        return validate_all((_check_weight, weight), (Window, start, end))

    @classmethod
    def execute(
        cls,
        model,
        adapter,
        identity,
        weight,
        start,
        end,
        axis,
        negative,
        gate=OPEN,
        mask=None,
        method: Method = "fidelity",
        query=None,
    ) -> io.NodeOutput:
        whole = _gate(start, end, axis, gate)
        patched = apply_vfa(
            model,
            adapter,
            identity,
            weight=weight,
            gate=whole,
            mask=mask,
            negative=negative,
            method=method,
            query=query,
        )
        report = describe_anchor(weight, whole, mask, query)
        return io.NodeOutput(patched, ui=ui.PreviewText(report))


class FlexIDApplyVFAFromPhoto(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDApplyVFAFromPhoto",
            display_name="Apply VFA from Photo",
            category="FlexID/inject",
            description=(
                "Detect Faces, Encode Identity and Apply VFA in one node, for one face of each "
                "photo. Graphs made for Apply PuLID Flux and Apply PuLID open with this node."
            ),
            search_aliases=[*ALIASES, "apply pulid flux", "identity", "one click"],
            inputs=[
                io.Model.Input("model", tooltip=MODEL_TOOLTIP),
                # Ids of the sockets in Apply PuLID Flux: ComfyUI looks a replaced link up by them.
                types.IdentityAdapter.Input(
                    "pulid_flux", display_name="adapter", tooltip=ADAPTER_TOOLTIP
                ),
                types.VisionEncoder.Input(
                    "eva_clip", display_name="vision_encoder", tooltip="From Load EVA-CLIP."
                ),
                types.FaceAnalyser.Input(
                    "face_analysis", display_name="analyser", tooltip="From Load Face Analyser."
                ),
                io.Image.Input(
                    "image",
                    tooltip="One or several photos of the same person; several are averaged.",
                ),
                *_strength_inputs(),
                *_optional_inputs(),
                types.FaceChoice.Input(
                    "options",
                    display_name="choice",
                    optional=True,
                    tooltip="From Choose Face. Not connected: the largest face of each photo.",
                ),
                types.QueryControl.Input("query", optional=True, tooltip=QUERY_TOOLTIP),
                _method_input(),
                types.FeatureMix.Input("mix", optional=True, tooltip=MIX_TOOLTIP),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model"),
                types.Identity.Output("identity"),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, weight: float | None = None, start: float | None = None, end: float | None = None
    ) -> bool | str:
        return validate_all((_check_weight, weight), (Window, start, end))

    @classmethod
    def execute(
        cls,
        model,
        pulid_flux,
        eva_clip,
        face_analysis,
        image,
        weight,
        start,
        end,
        axis,
        negative,
        gate=OPEN,
        mask=None,
        options=LARGEST_FACE,
        query=None,
        method: Method = METHODS[0],
        mix=FAITHFUL,
    ) -> io.NodeOutput:
        detected = detect_faces(face_analysis, image, options, "error")
        encoded = encode_identity(pulid_flux, eva_clip, detected.faces, "mean", "auto", mix=mix)
        whole = _gate(start, end, axis, gate)
        patched = apply_vfa(
            model,
            pulid_flux,
            encoded.identity,
            weight=weight,
            gate=whole,
            mask=mask,
            negative=negative,
            query=query,
            method=method,
        )
        anchor = describe_anchor(weight, whole, mask, query)
        report = "\n".join((anchor, detected.report, encoded.report))
        return io.NodeOutput(patched, encoded.identity, ui=ui.PreviewText(report))


NODES = [FlexIDApplyVFA, FlexIDApplyVFAFromPhoto]
