"""SIP: where a face pulls the prompt, and by how much."""

from comfy_api.latest import io, ui

from ..model_patches.gates.numbers import check_number
from ..model_patches.inject.sip import Wording, apply_sip, check_constant
from ..model_patches.sip.projector import encode_sip
from ..model_patches.sip.redux import apply_visual_sip
from ..model_patches.sip.residual import NORMS
from ..model_patches.sip.scope import SCOPES
from . import sip_sources, types
from .sip_sources import ALIASES
from .types import Number
from .validation import validate

ALPHA_LIMITS = (-2.0, 2.0)
NOT_CONNECTED = object()


class FlexIDEncodeSIPIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDEncodeSIPIdentity",
            display_name="Encode SIP Identity",
            category="FlexID/identity",
            description="Encodes faces of one person by a SIP projector. Connect an identity with "
            "tokens for VFA, and the returned identity serves both Apply VFA and Apply SIP.",
            search_aliases=["encode face", "face embedding", *ALIASES],
            inputs=[
                types.SipProjector.Input(
                    "projector", tooltip="From Load SIP Projector or Make Attribute Projector."
                ),
                types.Faces.Input(
                    "faces", tooltip="Faces of one person, from Detect Faces; several are averaged."
                ),
                types.Identity.Input(
                    "identity",
                    optional=True,
                    tooltip="An identity to add to, from Encode Identity. Not connected: a new "
                    "one, for SIP only.",
                ),
            ],
            outputs=[types.Identity.Output("identity_out", display_name="identity")],
        )

    @classmethod
    def execute(cls, projector, faces, identity=None) -> io.NodeOutput:
        return io.NodeOutput(encode_sip(projector, faces, identity))


class FlexIDApplySIP(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDApplySIP",
            display_name="Apply SIP",
            category="FlexID/inject",
            description="Semantic Identity Projector: moves the encoded prompt towards a person, "
            "E' = E + α·δ. Without a gate only the conditioning changes. With a gate α follows "
            "the run: then use the returned model as well.",
            search_aliases=[*ALIASES, "sip", "identity", "conditioning"],
            inputs=[
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="An encoded prompt for Flux, SDXL or SD 1.5. Only the returned one is "
                    "changed.",
                ),
                types.SipProjector.Input(
                    "projector",
                    tooltip="From Load SIP Projector, Align SIP Projector or Make Attribute "
                    "Projector.",
                ),
                types.Identity.Input(
                    "identity", tooltip="The person, from Encode SIP Identity with this projector."
                ),
                Number(
                    "alpha",
                    default=0.1,
                    min=ALPHA_LIMITS[0],
                    max=ALPHA_LIMITS[1],
                    step=0.005,
                    tooltip="α, the relative change of each token: 0.05 to 0.15 is a soft hint. "
                    "0: the prompt as it was; below 0: away from the person. Set 1 when the gate "
                    "contains α (Context-Aware Gate, bases: gate); without a gate 1 is refused.",
                ),
                io.Combo.Input(
                    "scope",
                    options=list(SCOPES),
                    default="auto",
                    tooltip="Which tokens move. all: padding too, as in the paper. content: the "
                    "written ones. subject: words for a person. auto: content where clip and text "
                    "are connected, otherwise all.",
                ),
                io.Combo.Input(
                    "norm",
                    options=list(NORMS),
                    default="token",
                    tooltip="How δ is scaled before α. token: each token's to its own length. "
                    "prompt: one factor for all, keeps differences between tokens. none: as it "
                    "comes; α is then no longer relative.",
                    advanced=True,
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Needed with a gate only; use the returned one. Not connected: no "
                    "gate possible.",
                ),
                types.Gate.Input(
                    "gate",
                    optional=True,
                    tooltip="A weight over time that multiplies alpha. Not connected: constant.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoder that made the conditioning; for scope content and "
                    "subject.",
                ),
                io.String.Input(
                    "text",
                    optional=True,
                    default="",
                    multiline=True,
                    tooltip="The prompt's words, the same as were encoded; for scope content and "
                    "subject, and for FaceCLIP on SDXL and SD 1.5. Empty: not known.",
                ),
            ],
            outputs=[
                io.Conditioning.Output("conditioning_out", display_name="conditioning"),
                io.Model.Output(
                    "model_out", display_name="model", tooltip="Empty unless model is connected."
                ),
                io.String.Output("report"),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, alpha: float | None = None, norm: str | None = None, gate=NOT_CONNECTED
    ) -> bool | str:
        """`gate` is None when one is linked, and absent otherwise."""
        limits = validate(check_number, "alpha", alpha, *ALPHA_LIMITS)
        if limits is not True:
            return limits
        if norm is not None and norm not in NORMS:
            return f"norm is {norm!r}; choose one of {', '.join(NORMS)}."
        return gate is None or validate(check_constant, alpha, norm)

    @classmethod
    def execute(
        cls,
        conditioning,
        projector,
        identity,
        alpha,
        scope,
        norm,
        model=None,
        gate=None,
        clip=None,
        text="",
    ) -> io.NodeOutput:
        done = apply_sip(
            conditioning,
            projector,
            identity,
            weight=alpha,
            scope=scope,
            norm=norm,
            wording=Wording(clip, text),
            gate=gate,
            model=model,
        )
        return io.NodeOutput(
            done.conditioning, done.model, done.report, ui=ui.PreviewText(done.report)
        )


class FlexIDApplyVisualSIP(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDApplyVisualSIP",
            display_name="Apply Visual SIP (Redux)",
            category="FlexID/inject",
            description="A visual variant of SIP for Flux.1: appends a few FLUX.1 Redux tokens of "
            "the head to the text, at a low weight. Strong likeness, but pose, light and "
            "background come along.",
            search_aliases=["redux", "style model", "visual prompt", "sip"],
            inputs=[
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="An encoded prompt for Flux.1. Only the returned one is changed.",
                ),
                io.StyleModel.Input(
                    "style_model", tooltip="flux1-redux-dev, from core's Load Style Model."
                ),
                io.ClipVision.Input(
                    "clip_vision", tooltip="SigLIP 384, from core's Load CLIP Vision."
                ),
                types.Faces.Input(
                    "faces", tooltip="Faces of one person, from Detect Faces; several are averaged."
                ),
                Number(
                    "alpha",
                    default=0.1,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Weight in attention of all these tokens together, in units of one "
                    "text token. 0: nothing is appended.",
                ),
                io.Int.Input(
                    "grid",
                    default=3,
                    min=1,
                    max=27,
                    tooltip="Tokens a side: 3 appends 9 tokens. More carry finer detail, and more "
                    "of pose and light. It cannot be 0; for none set alpha to 0.",
                ),
            ],
            outputs=[
                io.Conditioning.Output("conditioning_out", display_name="conditioning"),
                io.String.Output("report"),
            ],
        )

    @classmethod
    def execute(
        cls, conditioning, style_model, clip_vision, faces, alpha: float, grid: int
    ) -> io.NodeOutput:
        done = apply_visual_sip(
            conditioning, style_model, clip_vision, faces, weight=alpha, side=grid
        )
        return io.NodeOutput(done.conditioning, done.report, ui=ui.PreviewText(done.report))


NODES = [
    *sip_sources.NODES,
    FlexIDEncodeSIPIdentity,
    FlexIDApplySIP,
    FlexIDApplyVisualSIP,
]
