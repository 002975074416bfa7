"""Identities: load the encoders, encode, combine, save and load a person."""

import os

import folder_paths
from comfy_api.latest import io, ui

from ..model_patches.adapters.pulid import load_identity_adapter
from ..model_patches.encoders.eva_clip import load_eva_clip
from ..model_patches.encoders.whiten import WHITENING
from ..model_patches.files.public_files import EVA02_CLIP_L_336, PULID_FLUX_091
from ..model_patches.files.tensor_file import digest
from ..model_patches.gates.numbers import parse_weights
from ..model_patches.identity.combine import combine_identities
from ..model_patches.identity.encode import FUSIONS, encode_identity
from ..model_patches.identity.fusion import RULES
from ..model_patches.identity.mix import FAITHFUL
from ..model_patches.identity.store import load_identity, save_numbered
from . import types
from .editid import MIX_TOOLTIP
from .identity_files import (
    IDENTITIES,
    PERSON,
    check_prefix,
    identity_labels,
    identity_path,
    normalise_prefix,
)
from .model_files import ModelFiles
from .validation import refuse_more, validate

EXTENSIONS = (".safetensors", ".sft", ".pt", ".pth", ".bin")
ADAPTER_KINDS = ("pulid_flux", "pulid_sdxl_v1.1", "pulid_sdxl_v1", "pulid_sdxl_ipadapter")
MOST_COMBINED = 16
ADAPTERS = ModelFiles(("pulid",), EXTENSIONS, "flux", PULID_FLUX_091, ADAPTER_KINDS)
TOWER_FOLDERS = (EVA02_CLIP_L_336.folder, *EVA02_CLIP_L_336.also)
TOWERS = ModelFiles(TOWER_FOLDERS, EXTENSIONS, "eva", EVA02_CLIP_L_336, ("eva02_clip",))


def list_choices(table: dict[str, str]) -> str:
    """A table of choices as a tooltip: name: definition."""
    return " ".join(f"{name}: {definition}." for name, definition in table.items())


def preview_both(cls: type[io.ComfyNode], image: io.Image.Type, text: str) -> dict:
    """Preview picture and text together."""
    return {**ui.PreviewImage(image, cls=cls).as_dict(), **ui.PreviewText(text).as_dict()}


class FlexIDLoadIdentityAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDLoadIdentityAdapter",
            display_name="Load Identity Adapter",
            category="FlexID/loaders",
            description="Opens a PuLID file for Flux or SDXL: the encoder that makes identity "
            "tokens, and the attention layers that Apply VFA adds to the model.",
            search_aliases=["pulid", "pulid flux model loader", "identity", "face id", "vfa"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=ADAPTERS.labels(),
                    tooltip=f"A PuLID file from models/pulid: {PULID_FLUX_091.file} for Flux, or "
                    "pulid_v1.1.safetensors for SDXL. Other files are refused with what they are.",
                )
            ],
            outputs=[types.IdentityAdapter.Output("adapter")],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str) -> str:
        return digest(ADAPTERS.path(file))

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(load_identity_adapter(ADAPTERS.path(file)))


class FlexIDLoadEvaClip(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDLoadEvaClip",
            display_name="Load EVA-CLIP",
            category="FlexID/loaders",
            description="Opens EVA02-CLIP-L/14-336, the vision tower that looks at faces for "
            "PuLID. Only its vision half is kept in memory.",
            search_aliases=["eva clip", "pulid flux eva clip loader", "clip vision", "eva02"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=TOWERS.labels(),
                    tooltip=f"{EVA02_CLIP_L_336.file}, from models/clip_vision, "
                    "models/text_encoders, models/clip or models/pulid. Other encoders are "
                    "refused with what they are.",
                )
            ],
            outputs=[types.VisionEncoder.Output("vision_encoder")],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str) -> str:
        return digest(TOWERS.path(file))

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(load_eva_clip(TOWERS.path(file)))


class FlexIDEncodeIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDEncodeIdentity",
            display_name="Encode Identity",
            category="FlexID/identity",
            description="Makes an identity of one or several faces of one person. Each face runs "
            "through the encoders once; later changes elsewhere in the graph cost nothing.",
            search_aliases=["pulid", "face embedding", "encode face", "id embedding", "fusion"],
            inputs=[
                types.IdentityAdapter.Input("adapter", tooltip="From Load Identity Adapter."),
                types.VisionEncoder.Input("vision_encoder", tooltip="From Load EVA-CLIP."),
                types.Faces.Input(
                    "faces", tooltip="Faces of one person, from Detect Faces; one is enough."
                ),
                io.Combo.Input(
                    "fusion",
                    options=list(FUSIONS),
                    default="mean",
                    tooltip="How several photos become one identity; with one photo all are the "
                    f"same. {list_choices(FUSIONS)}",
                ),
                io.Combo.Input(
                    "whitening",
                    options=list(WHITENING),
                    default="auto",
                    tooltip="What the vision tower sees around the face, turned white. "
                    f"{list_choices(WHITENING)}",
                    advanced=True,
                ),
                io.Boolean.Input(
                    "grey",
                    default=True,
                    tooltip="On: the tower sees the face without colour, as in training. Off: "
                    "skin and hair colour come through, and so does the photo's light.",
                    advanced=True,
                ),
                types.FeatureMix.Input("mix", optional=True, tooltip=MIX_TOOLTIP),
            ],
            outputs=[
                types.Identity.Output("identity"),
                io.Image.Output("thumbnail"),
                io.String.Output("report"),
            ],
        )

    @classmethod
    def execute(
        cls,
        adapter,
        vision_encoder,
        faces,
        fusion: str,
        whitening: str,
        grey: bool,
        mix=FAITHFUL,
    ) -> io.NodeOutput:
        encoded = encode_identity(adapter, vision_encoder, faces, fusion, whitening, grey, mix)
        picture = encoded.identity.picture
        return io.NodeOutput(
            encoded.identity,
            picture,
            encoded.report,
            ui=preview_both(cls, picture, encoded.report),
        )


class FlexIDCombineIdentities(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        slots = io.Autogrow.TemplatePrefix(
            types.Identity.Input("identity", tooltip="From Encode, Combine or Load Identity."),
            prefix="identity",
            min=2,
            max=MOST_COMBINED,
        )
        return io.Schema(
            node_id="FlexIDCombineIdentities",
            display_name="Combine Identities",
            category="FlexID/identity",
            description="Makes one identity of several: more photos of one person, or a blend of "
            "people. All must come from the same adapter file.",
            search_aliases=["merge faces", "blend", "average", "mix identities", "morph"],
            inputs=[
                io.Autogrow.Input(
                    "identities",
                    template=slots,
                    tooltip="Two or more identities; a free slot appears as you connect.",
                ),
                io.Combo.Input(
                    "fusion",
                    options=list(RULES),
                    default="mean",
                    tooltip=list_choices({name: rule.definition for name, rule in RULES.items()}),
                ),
                io.String.Input(
                    "weights",
                    default="",
                    tooltip="One number of 0 or more per identity, by commas, for example 1, 0.5. "
                    "Only their ratio counts; 0 leaves that one out; empty: all equal.",
                ),
            ],
            outputs=[
                types.Identity.Output("identity"),
                io.Image.Output("thumbnail"),
                io.String.Output("report"),
            ],
        )

    @classmethod
    def validate_inputs(cls, weights: str | None = None, identities=None) -> bool | str:
        """`identities` is here because ComfyUI passes the growing sockets in any case."""
        return validate(parse_weights, weights)

    @classmethod
    def execute(cls, identities: dict, fusion: str, weights: str, **more) -> io.NodeOutput:
        refuse_more("Combine Identities", f"{MOST_COMBINED} identities", more)
        combined = combine_identities(list(identities.values()), fusion, weights)
        picture = combined.identity.picture
        return io.NodeOutput(
            combined.identity,
            picture,
            combined.report,
            ui=preview_both(cls, picture, combined.report),
        )


class FlexIDSaveIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDSaveIdentity",
            display_name="Save Identity",
            category="FlexID/identity",
            description="Writes an identity with its thumbnail into one file below "
            "output/identities. A running number keeps earlier files.",
            search_aliases=["export face", "store identity", "save embedding", "face file"],
            is_output_node=True,
            inputs=[
                types.Identity.Input("identity", tooltip="The identity to keep."),
                io.String.Input(
                    "filename_prefix",
                    default=PERSON,
                    tooltip="Name of the file, with subfolders if you like (family/ann). %year% "
                    "%month% %day% and the like are filled in; a number is always added. "
                    "Empty: person.",
                ),
                io.Boolean.Input(
                    "with_features",
                    default=True,
                    tooltip="On: also keeps the recogniser's embedding of each photo (2 KB), which "
                    "some fusions need. Off: tokens only.",
                    advanced=True,
                ),
            ],
            outputs=[types.Identity.Output("identity_out", display_name="identity")],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        return validate(check_prefix, filename_prefix)

    @classmethod
    def execute(cls, identity, filename_prefix: str, with_features: bool) -> io.NodeOutput:
        output = folder_paths.get_output_directory()
        root = os.path.join(output, IDENTITIES)
        prefix = normalise_prefix(filename_prefix)
        folder, name, number, *_ = folder_paths.get_save_image_path(prefix, root)
        path = save_numbered(identity, folder, name, number, with_features)
        text = f"Saved {path.relative_to(output).as_posix()} [output]"
        return io.NodeOutput(identity, ui=preview_both(cls, identity.picture, text))


class FlexIDLoadIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDLoadIdentity",
            display_name="Load Identity",
            category="FlexID/identity",
            description="Opens a saved identity. Needs no face analyser and no encoder.",
            search_aliases=["import face", "open identity", "load embedding", "face file"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=identity_labels(),
                    tooltip="A file of Save Identity: from output/identities, input/identities "
                    "or models/flexid/identities.",
                )
            ],
            outputs=[
                types.Identity.Output("identity"),
                io.Image.Output("thumbnail"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str) -> str:
        return digest(identity_path(file))

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        identity = load_identity(identity_path(file))
        picture = identity.picture
        return io.NodeOutput(identity, picture, ui=ui.PreviewImage(picture, cls=cls))


NODES = [
    FlexIDLoadIdentityAdapter,
    FlexIDLoadEvaClip,
    FlexIDEncodeIdentity,
    FlexIDCombineIdentities,
    FlexIDSaveIdentity,
    FlexIDLoadIdentity,
]
