"""DynamicID: several people in one picture on SD 1.5, each with their own face."""

from dataclasses import replace
from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ..model_patches.adapters.dynamicid import load_dynamicid
from ..model_patches.adapters.dynamicid_convert import KINDS, convert_dynamicid
from ..model_patches.files.public_files import DYNAMICID_SAA
from ..model_patches.files.tensor_file import digest
from ..model_patches.identity.dynamicid import COLOURS, Colours, encode_dynamicid
from . import types
from .identity import preview_both
from .model_files import ModelFiles

EXTENSIONS = (".safetensors", ".sft", ".bin", ".pt", ".pth")
ADAPTERS = ModelFiles(("dynamicid",), EXTENSIONS, "saa", DYNAMICID_SAA, ("dynamicid_saa",))
ORIGINALS = replace(ADAPTERS, kinds=KINDS)
ALIASES = ["dynamicid", "multi id", "multiple people", "face", "several faces"]


class FlexIDLoadDynamicID(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDLoadDynamicID",
            display_name="Load DynamicID",
            category="FlexID/loaders",
            description="Opens DynamicID's SAA file for SD 1.5: the face encoder, and the "
            "attention layers and LoRA that Apply SAA adds to the model.",
            search_aliases=[*ALIASES, "saa", "semantic activated attention"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=ADAPTERS.labels(),
                    tooltip="SAA.bin from models/dynamicid, or what Convert DynamicID made of it. "
                    "Other files are refused with what they are.",
                )
            ],
            outputs=[types.DynamicIDAdapter.Output("adapter"), io.String.Output("report")],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str) -> str:
        return digest(ADAPTERS.path(file))

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        adapter = load_dynamicid(ADAPTERS.path(file))
        report = adapter.describe()
        return io.NodeOutput(adapter, report, ui=ui.PreviewText(report))


class FlexIDConvertDynamicID(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDConvertDynamicID",
            display_name="Convert DynamicID",
            category="FlexID/loaders",
            description="Writes one of DynamicID's three files as safetensors of the same keys "
            "and values, which opens at once and can run no code. Run it once for each file.",
            search_aliases=[*ALIASES, "convert", "safetensors", "pickle"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "file",
                    options=ORIGINALS.labels(),
                    tooltip="SAA.bin, IMR.bin or key_point_encoder.bin from models/dynamicid. The "
                    "file itself is not changed.",
                ),
                io.String.Input(
                    "name",
                    default="",
                    tooltip="Name of the new file in models/dynamicid, without ending. Empty: the "
                    "original's name. A file of that name is never replaced.",
                ),
            ],
            outputs=[io.String.Output("written")],
        )

    @classmethod
    def execute(cls, file: str, name: str) -> io.NodeOutput:
        source = ORIGINALS.path(file)
        folder = Path(folder_paths.get_folder_paths("dynamicid")[0])
        stem = Path(name.strip()).name or source.stem
        written = convert_dynamicid(source, folder / f"{stem}.safetensors")
        return io.NodeOutput(written.name, ui=ui.PreviewText(f"Wrote {written.name}"))


class FlexIDEncodeDynamicID(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDEncodeDynamicID",
            display_name="Encode Identity (DynamicID)",
            category="FlexID/identity",
            description="Makes the identity of one person for Apply SAA: four tokens of the face "
            "that the recogniser knows and of what CLIP sees of the whole photo.",
            search_aliases=[*ALIASES, "face embedding", "encode face"],
            inputs=[
                types.DynamicIDAdapter.Input("adapter", tooltip="From Load DynamicID."),
                io.ClipVision.Input(
                    "clip_vision", tooltip="From Load CLIP Vision: CLIP ViT-H/14 (laion2B)."
                ),
                types.FaceAnalyser.Input(
                    "analyser",
                    tooltip="From Load Face Analyser, with the pack buffalo_l, which DynamicID "
                    "was trained with.",
                ),
                io.Image.Input(
                    "image",
                    tooltip="A portrait, near square: CLIP sees its middle square, clothes and "
                    "background included. Several photos of the same person are averaged.",
                ),
                io.Combo.Input(
                    "colours",
                    options=list(COLOURS),
                    default="corrected",
                    tooltip="What the face networks get. corrected: the colours that they were "
                    "trained with. published: red and blue exchanged, and the surest face, as in "
                    "the authors' code.",
                    advanced=True,
                ),
                types.FaceChoice.Input(
                    "choice",
                    optional=True,
                    tooltip="From Choose Face. Not connected: the largest face of each photo.",
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
        cls, adapter, clip_vision, analyser, image, colours: Colours, choice=None
    ) -> io.NodeOutput:
        done = encode_dynamicid(adapter, clip_vision, analyser, image, colours, choice)
        picture = done.identity.picture
        shown = preview_both(cls, picture, done.report)
        return io.NodeOutput(done.identity, picture, done.report, ui=shown)


NODES = [FlexIDLoadDynamicID, FlexIDConvertDynamicID, FlexIDEncodeDynamicID]
