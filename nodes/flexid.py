"""FlexID in one node: both streams, and the gate that lets the prompt decide between them."""

from comfy_api.latest import io

from ..model_patches.gates import cag
from ..model_patches.gates.gate import OPEN
from ..model_patches.inject.sip import Wording, apply_sip
from ..model_patches.inject.vfa import NEGATIVES, apply_vfa, describe_anchor
from ..model_patches.sip.scope import SCOPES
from . import types
from .editid import QUERY_TOOLTIP
from .types import Number
from .vfa import ALIASES


def _value_inputs() -> list[io.Input]:
    return [
        types.IdentityAdapter.Input(
            "adapter",
            tooltip="PuLID file for this kind of model, from Load Identity Adapter: the visual "
            "stream.",
        ),
        types.SipProjector.Input(
            "projector",
            tooltip="From Load SIP Projector or Make Attribute Projector: the semantic stream.",
        ),
        types.Identity.Input(
            "identity",
            tooltip="One identity with both kinds of tokens: Encode Identity, then Encode SIP "
            "Identity with that identity connected.",
        ),
    ]


def _knob_inputs() -> list[io.Input]:
    return [
        Number(
            "alpha_base",
            default=0.1,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Base weight of the semantic stream, α_base in the paper. 0: the text stays.",
        ),
        Number(
            "w_base",
            default=1.0,
            min=0.0,
            max=5.0,
            step=0.05,
            tooltip="Base weight of the visual stream, w_base in the paper. 0: no anchor.",
        ),
        Number(
            "override_intent",
            default=-1.0,
            min=-1.0,
            max=1.0,
            step=0.05,
            tooltip="How strongly the prompt edits the person, by hand: 0 not at all, 1 fully. "
            "Below 0: read it from the prompt.",
        ),
        io.Combo.Input(
            "mode",
            options=list(cag.MODES),
            default="recommended",
            tooltip="recommended: weights whose mean over a run is the base. literal: the paper's "
            "words, T_sem = t and T_vis = 1 - t.",
            advanced=True,
        ),
        io.Combo.Input(
            "scope",
            options=list(SCOPES),
            default="auto",
            tooltip="Which text tokens move. auto: the written ones where clip is connected, "
            "otherwise all, as in the paper.",
            advanced=True,
        ),
        io.Combo.Input(
            "negative",
            options=list(NEGATIVES),
            default="unconditional",
            tooltip="What the negative prompt gets from the visual stream when CFG is above 1: "
            "the encoder's answer to no face, the same face, or nothing.",
            advanced=True,
        ),
    ]


class FlexIDApply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDApply",
            display_name="Apply FlexID (SIP + VFA + CAG)",
            category="FlexID/inject",
            description="The whole of FlexID: the encoded prompt moves towards the person (SIP), "
            "the picture attends to the face (VFA), and how much the prompt changes the person "
            "sets the weight of both over the run (CAG). The same as the three nodes with their "
            "default settings; use both outputs.",
            search_aliases=[*ALIASES, "flexid", "identity", "faceclip", "all in one", "cag"],
            is_output_node=True,  # so that its curves are shown again when it is cached
            inputs=[
                io.Model.Input(
                    "model", tooltip="A Flux.1 or SDXL model. Only the returned one changes."
                ),
                io.Conditioning.Input("conditioning", tooltip="The encoded positive prompt."),
                *_value_inputs(),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="",
                    tooltip="The positive prompt's words, the same as were encoded. Empty: no "
                    "edit is found, intent 0.",
                ),
                *_knob_inputs(),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoder that made the conditioning; for scope.",
                ),
                types.Gate.Input(
                    "gate",
                    optional=True,
                    tooltip="Another gate that multiplies both streams. Not connected: factor 1.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the person may appear, for the visual stream: 1 here, 0 not "
                    "here. Not connected: everywhere.",
                ),
                types.QueryControl.Input("query", optional=True, tooltip=QUERY_TOOLTIP),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model"),
                io.Conditioning.Output("conditioning_out", display_name="conditioning"),
                io.Float.Output("intent", display_name="intent", tooltip="I(P) in [0, 1]."),
                io.String.Output("report", display_name="report"),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        conditioning,
        adapter,
        projector,
        identity,
        prompt,
        alpha_base,
        w_base,
        override_intent,
        mode,
        scope,
        negative,
        clip=None,
        gate=OPEN,
        mask=None,
        query=None,
    ) -> io.NodeOutput:
        knobs = cag.Knobs(mode, alpha_base=alpha_base, w_base=w_base)
        override = None if override_intent < 0 else override_intent
        found = cag.compute_gates(prompt, knobs, override=override, gate=gate)
        edited = apply_sip(
            conditioning,
            projector,
            identity,
            weight=1.0,
            scope=scope,
            wording=Wording(clip, prompt),
            gate=found.semantic,
            model=model,
        )
        anchored = apply_vfa(
            edited.model or model,  # a model came in, so one comes back
            adapter,
            identity,
            gate=found.visual,
            mask=mask,
            negative=negative,
            query=query,
        )
        anchor = describe_anchor(1.0, found.visual, mask, query)
        report = "\n".join((found.report(), anchor, edited.report))
        return io.NodeOutput(
            anchored,
            edited.conditioning,
            found.intent,
            report,
            ui={"text": (report,), "flexid_gate": [found.summary()]},
        )


NODES = [FlexIDApply]
