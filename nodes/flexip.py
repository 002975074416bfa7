"""FlexIP: a reference photo, and one slider between keeping it and following the prompt."""

from comfy_api.latest import io, ui

from ..model_patches.adapters.ip_adapter import VERSIONS, Version, load_reference_adapter
from ..model_patches.files.public_files import IP_ADAPTER_PLUS_FACE
from ..model_patches.files.tensor_file import digest
from ..model_patches.gates.balance import LAWS, Law, weigh
from ..model_patches.gates.gate import OPEN
from ..model_patches.identity.reference import VIEWS, Encoders, View, encode_reference
from ..model_patches.inject.drawn_boxes import region_from
from ..model_patches.inject.flexip import LABEL, apply_flexip
from ..model_patches.inject.unet_blocks import BLOCKS, Blocks
from . import types
from .identity import preview_both
from .model_files import ModelFiles
from .types import Number

EXTENSIONS = (".safetensors", ".sft", ".bin", ".pt", ".pth")
ADAPTERS = ModelFiles(
    ("ipadapter", "flexid"),
    EXTENSIONS,
    "plus-face",
    IP_ADAPTER_PLUS_FACE,
    ("flexip", "ip_adapter", "ip_adapter_faceid"),
)
BALANCE_TOOLTIP = "0: follow the prompt; 1: keep the photo. Most of what is useful lies in 0.3 to "
LAWS_TOOLTIP = (
    "How the slider weighs the two streams. linear: balance and 1 - balance, as FlexIP trains. "
    "crossfade: both fully open at 0.5. equal_power: no dip in the middle."
)


def _balance_input() -> io.Input:
    return Number(
        "balance",
        default=0.5,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip=f"{BALANCE_TOOLTIP}0.7.",
    )


class FlexIDLoadFlexIP(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDLoadFlexIP",
            display_name="Load FlexIP Adapter",
            category="FlexID/loaders",
            description="Opens a FlexIP file for Stable Diffusion or Flux, or a public IP-Adapter "
            "file for SD 1.5 or SDXL. An IP-Adapter file has the preservation stream only.",
            search_aliases=["ip-adapter", "ipadapter", "faceid", "plus face", "ip adapter loader"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=ADAPTERS.labels(),
                    tooltip="An IP-Adapter file from models/ipadapter, or a FlexIP file from "
                    "models/flexid. Other files are refused with what they are.",
                ),
                io.Combo.Input(
                    "faceid_version",
                    options=list(VERSIONS),
                    default="auto",
                    tooltip="Only for FaceID-plus, whose two versions cannot be told by their "
                    "content. auto: v2 when the name contains plusv2, else v1.",
                ),
            ],
            outputs=[types.FlexIPAdapter.Output("adapter"), io.String.Output("report")],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, faceid_version: str) -> str:
        return f"{digest(ADAPTERS.path(file))} {faceid_version}"

    @classmethod
    def execute(cls, file: str, faceid_version: Version) -> io.NodeOutput:
        adapter = load_reference_adapter(ADAPTERS.path(file), faceid_version)
        report = adapter.describe()
        return io.NodeOutput(adapter, report, ui=ui.PreviewText(report))


class FlexIDEncodeFlexIP(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDEncodeFlexIP",
            display_name="Encode Reference (FlexIP)",
            category="FlexID/identity",
            description="Looks at one or several photos of one person, or of a subject, for a "
            "FlexIP or IP-Adapter file. Later changes elsewhere in the graph cost nothing.",
            search_aliases=["ip-adapter", "ipadapter", "faceid", "image prompt", "reference"],
            inputs=[
                types.FlexIPAdapter.Input("adapter", tooltip="From Load FlexIP Adapter."),
                io.Image.Input(
                    "image",
                    tooltip="One photo, or several of the same person, which are averaged.",
                ),
                io.Combo.Input(
                    "view",
                    options=list(VIEWS),
                    default="auto",
                    tooltip="What the encoder sees. face: a square around the face, hair included. "
                    "whole: the middle square of the photo. auto: the face where faces are "
                    "connected.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="From Load CLIP Vision: ViT-H for nearly all files, ViT-bigG for "
                    "vit-G files. Not needed for FaceID and FaceID-portrait.",
                ),
                io.ClipVision.Input(
                    "dino",
                    optional=True,
                    tooltip="From Load CLIP Vision: DINOv2-L, for FlexIP files that read it.",
                ),
                types.Faces.Input(
                    "faces",
                    optional=True,
                    tooltip="From Detect Faces, of the same photos. FaceID files and files that "
                    "read EVA-CLIP need them.",
                ),
                types.VisionEncoder.Input(
                    "eva_clip",
                    optional=True,
                    tooltip="From Load EVA-CLIP, for FlexIP files that read it.",
                ),
            ],
            outputs=[
                types.Identity.Output("identity"),
                io.Image.Output("thumbnail"),
                io.String.Output("report"),
            ],
        )

    @classmethod
    def execute(
        cls, adapter, image, view: View, clip_vision=None, dino=None, faces=(), eva_clip=None
    ) -> io.NodeOutput:
        encoders = Encoders(clip_vision, dino, eva_clip)
        done = encode_reference(adapter, encoders, image, faces, view)
        picture = done.identity.picture
        shown = preview_both(cls, picture, done.report)
        return io.NodeOutput(done.identity, picture, done.report, ui=shown)


class FlexIDApplyFlexIP(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDApplyFlexIP",
            display_name="Apply FlexIP",
            category="FlexID/inject",
            description="Lets a Stable Diffusion or Flux model attend to a reference photo as "
            "well as to the prompt. One slider goes from the prompt to the photo. Use all three "
            "outputs.",
            search_aliases=["ip-adapter", "ipadapter", "apply ipadapter", "faceid", "flexip"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="An SD 1.5, SDXL or Flux.1 model, whichever the adapter was made for. "
                    "Only the returned one is patched.",
                ),
                io.Conditioning.Input("positive", tooltip="The encoded positive prompt."),
                io.Conditioning.Input(
                    "negative",
                    tooltip="The encoded negative prompt; it gets the encoders' output for an "
                    "empty reference.",
                ),
                types.FlexIPAdapter.Input("adapter", tooltip="From Load FlexIP Adapter."),
                types.Identity.Input(
                    "identity", tooltip="From Encode Reference (FlexIP), with the same adapter."
                ),
                _balance_input(),
                Number(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="Scales both streams. 0: off, model and prompts as they came in; 1: "
                    "as trained.",
                ),
                io.Combo.Input(
                    "law",
                    options=["auto", *LAWS],
                    default="auto",
                    tooltip=f"{LAWS_TOOLTIP} auto: as the file was trained.",
                ),
                Number(
                    "lora_strength",
                    default=1.0,
                    min=-2.0,
                    max=2.0,
                    step=0.05,
                    tooltip="Strength of the LoRA inside FaceID files; other files have none. 0: "
                    "off.",
                ),
                types.Gate.Input(
                    "gate",
                    optional=True,
                    tooltip="A weight over time that multiplies both streams. Not connected: 1.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where in the picture the reference works: 1 here, 0 not here. Not "
                    "connected: everywhere.",
                ),
                io.Combo.Input(
                    "blocks",
                    options=list(BLOCKS),
                    default=BLOCKS[0],
                    optional=True,
                    tooltip="In which layers of Stable Diffusion the preservation stream works. "
                    "style: those that carry style; layout: those that carry composition. The "
                    "personalisation stream works in all of them.",
                ),
                types.Gate.Input(
                    "preserve_gate",
                    optional=True,
                    tooltip="A weight over time for the preservation stream alone, on top of "
                    "gate. Not connected: 1.",
                ),
                types.Gate.Input(
                    "personal_gate",
                    optional=True,
                    tooltip="A weight over time for the personalisation stream alone, on top of "
                    "gate. Not connected: 1.",
                ),
                types.Elements.Input(
                    "elements",
                    optional=True,
                    tooltip="In place of a mask: the output elements of core's Create Bounding "
                    "Boxes, with one box.",
                ),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model"),
                io.Conditioning.Output("positive_out", display_name="positive"),
                io.Conditioning.Output("negative_out", display_name="negative"),
                io.String.Output("report"),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        negative,
        adapter,
        identity,
        balance,
        strength,
        law,
        lora_strength,
        gate=OPEN,
        mask=None,
        blocks: Blocks = BLOCKS[0],
        preserve_gate=OPEN,
        personal_gate=OPEN,
        elements=None,
    ) -> io.NodeOutput:
        done = apply_flexip(
            model,
            positive,
            negative,
            adapter,
            identity,
            value=balance,
            strength=strength,
            law=law,
            preserve_gate=gate * preserve_gate,
            personal_gate=gate * personal_gate,
            region=region_from(mask, elements, LABEL),
            lora_strength=lora_strength,
            blocks=blocks,
        )
        return io.NodeOutput(
            done.model, done.positive, done.negative, done.report, ui=ui.PreviewText(done.report)
        )


class FlexIDBalance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDBalance",
            display_name="Balance Preserve and Personalise",
            category="FlexID/gates",
            description="One slider as two gates: preserve for Apply VFA, personalise for Apply "
            "SIP. With crossfade, 0.5 changes nothing.",
            search_aliases=["slider", "flexip", "identity strength", "balance", "crossfade"],
            inputs=[
                _balance_input(),
                io.Combo.Input(
                    "law", options=list(LAWS), default="crossfade", tooltip=LAWS_TOOLTIP
                ),
                types.Gate.Input(
                    "gate",
                    optional=True,
                    tooltip="Another gate that multiplies both. Not connected: factor 1.",
                ),
            ],
            outputs=[
                types.Gate.Output("preserve", display_name="preserve"),
                types.Gate.Output("personalise", display_name="personalise"),
                io.String.Output("report"),
            ],
        )

    @classmethod
    def execute(cls, balance: float, law: Law, gate=OPEN) -> io.NodeOutput:
        weights = weigh(balance, law)
        preserve, personalise = (one * gate for one in weights.gates)
        report = (
            f"balance {balance:g}, law {law}: preserve {weights.preserve:.3g}, personalise "
            f"{weights.personal:.3g}"
        )
        return io.NodeOutput(preserve, personalise, report, ui=ui.PreviewText(report))


NODES = [FlexIDLoadFlexIP, FlexIDEncodeFlexIP, FlexIDApplyFlexIP, FlexIDBalance]
