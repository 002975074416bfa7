"""Sources for SIP: FaceCLIP's fuser from its files, and the attribute dictionary."""

from dataclasses import replace
from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ..model_patches.encoders.faceclip import load_faceclip
from ..model_patches.encoders.faceclip_convert import convert_faceclip
from ..model_patches.files.public_files import FACE_CLIP, FACE_T5
from ..model_patches.files.tensor_file import digest
from ..model_patches.sip.align import PROMPTS, align
from ..model_patches.sip.attribute_bank import all_groups, chosen_groups, parse_overrides
from ..model_patches.sip.attributes import AttributeProjector
from ..model_patches.sip.faceclip import FORMS, FaceClipProjector, Form
from . import types
from .identity import list_choices
from .model_files import ModelFiles
from .validation import validate

EXTENSIONS = (".safetensors", ".sft", ".pt", ".pth", ".bin")
PUBLISHED = ("face_t5", "face_clip")
CONVERTED = ("face_t5_converted", "face_clip_converted")
FUSERS = ModelFiles(
    ("flexid",), EXTENSIONS, "face_", FACE_T5, (CONVERTED[0], *PUBLISHED, CONVERTED[1])
)
ORIGINALS = replace(FUSERS, kinds=PUBLISHED)
ALIASES = ["faceclip", "face t5", "semantic identity", "text residual", "face to prompt"]


def _own_folder() -> Path:
    return Path(folder_paths.get_folder_paths("flexid")[0])


class FlexIDLoadSIPProjector(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDLoadSIPProjector",
            display_name="Load SIP Projector",
            category="FlexID/loaders",
            description="Opens FaceCLIP's fuser, which adds a face to an encoded prompt. Only its "
            "face encoder and fuser are kept in memory.",
            search_aliases=ALIASES,
            inputs=[
                io.Combo.Input(
                    "file",
                    options=FUSERS.labels(),
                    tooltip=f"{FACE_T5.file} for Flux or {FACE_CLIP.file} for SDXL and SD 1.5, "
                    "from models/flexid, or what Convert FaceCLIP made of them. Other files are "
                    "refused with what they are.",
                ),
                io.Combo.Input(
                    "form",
                    options=list(FORMS),
                    default="difference",
                    tooltip=f"What is added to the prompt E. {list_choices(FORMS)}",
                ),
            ],
            outputs=[types.SipProjector.Output("projector")],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, form: str) -> str:
        return f"{digest(FUSERS.path(file))} {form}"

    @classmethod
    def execute(cls, file: str, form: Form) -> io.NodeOutput:
        return io.NodeOutput(FaceClipProjector(load_faceclip(FUSERS.path(file)), form))


class FlexIDConvertFaceCLIP(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDConvertFaceCLIP",
            display_name="Convert FaceCLIP",
            category="FlexID/loaders",
            description="Writes the part of a FaceCLIP file that is needed here as safetensors: "
            "about 2 GB for FaceT5 instead of 12.5 GB. Run it once, then delete the original.",
            search_aliases=[*ALIASES, "convert", "prune", "safetensors"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "file",
                    options=ORIGINALS.labels(),
                    tooltip=f"{FACE_T5.file} or {FACE_CLIP.file} from models/flexid. The file "
                    "itself is not changed.",
                ),
                io.String.Input(
                    "name",
                    default="",
                    tooltip="Name of the new file in models/flexid, without ending. Empty: the "
                    "original's name with _flexid. A file of that name is never replaced.",
                ),
            ],
            outputs=[io.String.Output("written")],
        )

    @classmethod
    def execute(cls, file: str, name: str) -> io.NodeOutput:
        source = ORIGINALS.path(file)
        stem = Path(name.strip()).name or f"{source.stem}_flexid"
        written = convert_faceclip(source, _own_folder() / f"{stem}.safetensors")
        return io.NodeOutput(written.name, ui=ui.PreviewText(f"Wrote {written.name}"))


class FlexIDAlignSIPProjector(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDAlignSIPProjector",
            display_name="Align SIP Projector",
            category="FlexID/loaders",
            description="Brings the fuser's direction back to the coordinates of your text "
            "encoder, by ridge regression on short prompts. Takes minutes once; the result is "
            "kept in models/flexid/alignments.",
            search_aliases=[*ALIASES, "calibrate", "ridge"],
            inputs=[
                types.SipProjector.Input(
                    "projector", tooltip="From Load SIP Projector, with form difference."
                ),
                io.Clip.Input("clip", tooltip="The text encoder of the base model."),
                io.Int.Input(
                    "prompts",
                    default=PROMPTS,
                    min=10,
                    max=2000,
                    tooltip="How many prompts to calibrate on: more is finer and slower. It "
                    "cannot be 0.",
                ),
            ],
            outputs=[types.SipProjector.Output("aligned"), io.String.Output("report")],
        )

    @classmethod
    def execute(cls, projector, clip, prompts: int) -> io.NodeOutput:
        done = align(projector, clip, _own_folder() / "alignments", prompts)
        return io.NodeOutput(done.projector, done.report, ui=ui.PreviewText(done.report))


def _group_inputs() -> list[io.Input]:
    inputs = []
    for group in all_groups():
        names = ", ".join(group.names)
        warning = " Sensitive, a guess from a picture: off unless you want it." * group.sensitive
        inputs.append(
            io.Boolean.Input(
                group.id,
                display_name=group.name,
                default=not group.sensitive,
                tooltip=f"Read {group.name}: {names}.{warning}",
            )
        )
    return inputs


class FlexIDMakeAttributeProjector(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDMakeAttributeProjector",
            display_name="Make Attribute Projector",
            category="FlexID/loaders",
            description="A source for SIP without extra weights: CLIP ViT-L/14 finds attributes "
            "of the face, and the model's own text encoder encodes their names. The report lists "
            "what was found.",
            search_aliases=["attributes", "clip interrogator", "describe face", *ALIASES],
            inputs=[
                io.ClipVision.Input(
                    "clip_vision", tooltip="CLIP ViT-L/14, from core's Load CLIP Vision."
                ),
                io.Clip.Input(
                    "clip_l",
                    tooltip="The text tower of the same CLIP ViT-L/14, with its text projection: "
                    "core's Load CLIP with clip_l.safetensors, type stable_diffusion. Checkpoints "
                    "of SD 1.5 lack the projection and are refused.",
                ),
                io.Clip.Input(
                    "text_encoder", tooltip="The CLIP of the base model, which encodes the prompt."
                ),
                io.String.Input(
                    "manual",
                    default="",
                    multiline=True,
                    tooltip="Attributes by hand, instead of what is seen: 'hair colour: red; "
                    "glasses: none'. Only of groups that are on. Empty: all as seen.",
                ),
                *_group_inputs(),
            ],
            outputs=[types.SipProjector.Output("projector")],
        )

    @classmethod
    def validate_inputs(cls, manual: str | None = None) -> bool | str:
        return validate(parse_overrides, manual, all_groups())

    @classmethod
    def execute(
        cls, clip_vision, clip_l, text_encoder, manual: str, **switches: bool
    ) -> io.NodeOutput:
        groups = chosen_groups(group.id for group in all_groups() if switches[group.id])
        by_hand = parse_overrides(manual, groups)
        projector = AttributeProjector(clip_vision, clip_l, text_encoder, groups, by_hand)
        return io.NodeOutput(projector)


NODES = [
    FlexIDLoadSIPProjector,
    FlexIDConvertFaceCLIP,
    FlexIDAlignSIPProjector,
    FlexIDMakeAttributeProjector,
]
