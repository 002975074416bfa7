"""Several people in one picture: who is where, and the attention that draws them."""

from comfy_api.latest import io, ui

from ..model_patches.gates.gate import OPEN
from ..model_patches.inject.saa import apply_saa
from ..model_patches.inject.saa_people import (
    MOST_PEOPLE,
    check_person_weight,
    describe_person,
    make_person,
)
from ..model_patches.inject.saa_places import give_boxes
from ..model_patches.inject.saa_settings import MODES, UNPLACED, Mode, SaaSettings, Unplaced
from . import types
from .dynamicid import ALIASES
from .types import Number
from .validation import refuse_more, validate


class FlexIDMakePerson(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDMakePerson",
            display_name="Make Person",
            category="FlexID/identity",
            description="One of several people in a picture: who it is, where, how strongly and "
            "when. Connect one for each person to Apply SAA.",
            search_aliases=[*ALIASES, "person", "region", "regional", "couple", "group"],
            inputs=[
                types.Identity.Input(
                    "identity",
                    tooltip="From Encode Identity (DynamicID) for SD 1.5, Encode Identity for "
                    "Flux, or Load Identity.",
                ),
                Number(
                    "weight",
                    default=1.0,
                    min=0.0,
                    max=5.0,
                    step=0.05,
                    tooltip="How strongly this person is drawn. 0: left out; 1: as trained.",
                ),
                io.String.Input(
                    "name",
                    default="",
                    tooltip="The person's name, for example Ann. A box whose description contains "
                    "it belongs to this person. Empty: boxes are assigned in order.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="",
                    tooltip="Optional: what this person does, such as laughing, in profile. CAG "
                    "reads it and changes the weight of this person alone. It is not encoded: "
                    "write it into the positive prompt as well.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where in the picture this person is: 1 here, 0 not here. Not "
                    "connected: a box of Apply SAA, or the model decides.",
                ),
                types.Gate.Input(
                    "gate",
                    optional=True,
                    tooltip="A weight over time for this person alone. Not connected: 1.",
                ),
            ],
            outputs=[types.Person.Output("person"), io.String.Output("report")],
        )

    @classmethod
    def validate_inputs(cls, weight: float | None = None) -> bool | str:
        return validate(check_person_weight, weight)

    @classmethod
    def execute(
        cls, identity, weight: float, name: str, prompt: str, mask=None, gate=OPEN
    ) -> io.NodeOutput:
        person = make_person(
            identity, weight=weight, mask=mask, gate=gate, prompt=prompt, name=name
        )
        report = describe_person(person)
        return io.NodeOutput(person, report, ui=ui.PreviewText(report))


def _setting_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "mode",
            options=list(MODES),
            default="corrected",
            tooltip="corrected: masks of any shape, overlaps shared. published: as the authors' "
            "code, boxes of whole tokens only, on SD 1.5 alone.",
        ),
        io.Combo.Input(
            "without_regions",
            options=list(UNPLACED),
            default="activation",
            tooltip="Where people are when nobody has a region. activation: where the model looks "
            "for a face. strips: equal parts of the picture, from left to right in this list.",
        ),
        Number(
            "beta",
            default=2.0,
            min=0.0,
            max=20.0,
            step=0.1,
            tooltip="Layout control, β in the paper: how much attention to a person is raised "
            "inside their region and divided outside it. 0: regions only keep people apart.",
        ),
        Number(
            "alpha",
            default=0.24,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Share of the run's steps, from the first, in which beta works: α of the "
            "paper, 12 of 50. 0: never; 1: always.",
        ),
        io.Boolean.Input(
            "activation",
            default=True,
            tooltip="On: each place attends to people only as strongly as its scores find a face, "
            "to spare the background; PuLID files were not trained for it. Off: everywhere, as in "
            "plain cross-attention.",
            advanced=True,
        ),
        Number(
            "threshold",
            default=0.3,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Activations below it count as 0; 0.3 in the authors' code, not in the paper. "
            "0: all of it counts.",
            advanced=True,
        ),
        Number(
            "mix",
            default=0.5,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="Only in mode published with one box for several people: the share of that "
            "box's person in the mixture; the others get the rest. 0: only the others; 1: only "
            "that person.",
            advanced=True,
        ),
        Number(
            "lora_strength",
            default=1.0,
            min=-2.0,
            max=2.0,
            step=0.05,
            tooltip="Strength of the LoRA inside a DynamicID file, on all attention layers, or in "
            "a file for Flux that was trained with one. 1: as trained; 0: off, so the picture "
            "stays closer to the base model and likeness is lower. The published PuLID files have "
            "none.",
        ),
    ]


def people_input(tooltip: str) -> io.Input:
    """A growing list of sockets for people."""
    person = types.Person.Input("person", tooltip="From Make Person.")
    template = io.Autogrow.TemplatePrefix(person, prefix="person", min=1, max=MOST_PEOPLE)
    return io.Autogrow.Input("people", template=template, tooltip=tooltip)


class FlexIDApplySAA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDApplySAA",
            display_name="Apply SAA",
            category="FlexID/inject",
            description="Semantic-activated attention of DynamicID: draws 1 to 8 people on SD "
            "1.5 or Flux.1, each with their own face and region. All people share one pass.",
            search_aliases=[*ALIASES, "saa", "semantic activated attention", "regional", "couple"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="An SD 1.5 or Flux.1 model. Only the returned model is patched.",
                ),
                io.MultiType.Input(
                    "adapter",
                    types=[types.DynamicIDAdapter, types.IdentityAdapter],
                    tooltip="From Load DynamicID for SD 1.5, or a PuLID file for Flux from Load "
                    "Identity Adapter.",
                ),
                people_input("One to eight people; a free slot appears as you connect."),
                *_setting_inputs(),
                types.Elements.Input(
                    "elements",
                    optional=True,
                    tooltip="The output elements of core's Create Bounding Boxes. A box whose "
                    "description contains a person's name belongs to that person; the others are "
                    "assigned in order.",
                ),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model"),
                io.String.Output("report"),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        threshold: float | None = None,
        beta: float | None = None,
        alpha: float | None = None,
        mix: float | None = None,
        people=None,
    ) -> bool | str:
        """`people` is here because ComfyUI passes the growing sockets in any case."""

        def check(threshold: float, beta: float, alpha: float, mix: float) -> None:
            SaaSettings(threshold=threshold, beta=beta, alpha=alpha, mix=mix)

        return validate(check, threshold, beta, alpha, mix)

    @classmethod
    def execute(
        cls,
        model,
        adapter,
        people: dict,
        mode: Mode,
        without_regions: Unplaced,
        beta: float,
        alpha: float,
        activation: bool,
        threshold: float,
        mix: float,
        lora_strength: float,
        elements=None,
        **more,
    ) -> io.NodeOutput:
        refuse_more("Apply SAA", f"{MOST_PEOPLE} people", more)
        settings = SaaSettings(mode, activation, threshold, beta, alpha, without_regions, mix)
        everybody = list(people.values())
        if elements is not None:
            everybody = give_boxes(everybody, elements)
        done = apply_saa(model, adapter, everybody, settings, lora_strength=lora_strength)
        return io.NodeOutput(done.model, done.report, ui=ui.PreviewText(done.report))


NODES = [FlexIDMakePerson, FlexIDApplySAA]
