"""Faces: load what finds and recognises them, and choose them in photos."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ..model_patches.face import analyser as face_analyser
from ..model_patches.face import choose, detect, overlay, providers
from ..model_patches.face import pack as packs
from ..model_patches.files.public_files import ANTELOPEV2, BUFFALO_L, PARSING_BISENET, where_to_get
from ..model_patches.files.tensor_file import digest
from . import types
from .types import Number
from .validation import validate

BoundingBox = io.Custom("BOUNDING_BOX")
# Without it the page draws a box editor, whose value would be sent when nothing is connected.
SOCKET_ONLY = {"forceInput": True}

BUNDLED_ONLY = "bundled detector only"
KNOWN_PACKS = {"antelopev2": ANTELOPEV2, "buffalo_l": BUFFALO_L}


def _roots() -> list[Path]:
    return [Path(path) for path in folder_paths.get_folder_paths("insightface")]


def _pack_labels() -> list[str]:
    return [*dict.fromkeys([*KNOWN_PACKS, *packs.pack_names(_roots())]), BUNDLED_ONLY]


def _check_pack(name: str) -> None:
    """Raise FileNotFoundError for a name that is not listed: linked inputs pass the combo's check.

    The name becomes a path, which must not lead out of the models folder.
    """
    labels = _pack_labels()
    if name not in labels:
        raise FileNotFoundError(
            f"{name!r} is not among the face model packs: {', '.join(labels)}. Put the folder with "
            "its .onnx files into models/insightface/models and press R, or choose another pack."
        )


def _pack_folder(name: str) -> Path | None:
    _check_pack(name)
    if name == BUNDLED_ONLY:
        return None
    rows = KNOWN_PACKS.get(name)
    advice = where_to_get(rows) if rows else "Put its .onnx files there, or choose another pack."
    return packs.find_pack(name, _roots(), f'{advice} Or choose "{BUNDLED_ONLY}".')


def _parser_path(parsing: str) -> Path | None:
    if parsing == "off":
        return None
    path = folder_paths.get_full_path("facexlib", PARSING_BISENET.file)
    return Path(path) if path else None


class FlexIDLoadFaceAnalyser(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        present = packs.pack_names(_roots())
        preferred = [name for name in KNOWN_PACKS if name in present] + present
        return io.Schema(
            node_id="FlexIDLoadFaceAnalyser",
            display_name="Load Face Analyser",
            category="FlexID/face",
            description=(
                "Loads what finds, recognises and parses faces, from files that are already there; "
                "nothing is downloaded. A detector for upright frontal faces is bundled. "
                "insightface packs (antelopev2, buffalo_l) detect better and add the recogniser "
                "that PuLID needs; they are for non-commercial research only."
            ),
            search_aliases=["insightface", "antelopev2", "buffalo_l", "arcface", "face detection"],
            inputs=[
                io.Combo.Input(
                    "pack",
                    options=_pack_labels(),
                    default=preferred[0] if preferred else BUNDLED_ONLY,
                    tooltip="Folder below models/insightface/models, flat or nested one level. "
                    "PuLID was trained with antelopev2. insightface packs are for non-commercial "
                    f"research only. {BUNDLED_ONLY}: no recogniser, so no ArcFace embedding.",
                ),
                io.Combo.Input(
                    "detector",
                    options=list(face_analyser.DETECTORS),
                    default="auto",
                    tooltip="auto: the pack's detector, or the bundled one when the pack has none. "
                    "pack: insist on the pack's. bundled: scikit-image's frontal cascade, whose "
                    "five face points are estimated from the box.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "provider",
                    options=["auto", *providers.PROVIDERS],
                    default="auto",
                    tooltip="What runs the pack's models. auto: the best that this onnxruntime "
                    "offers. One that it lacks is replaced by the CPU, and the description says "
                    "so. CPU takes well under a second per photo.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "parsing",
                    options=["auto", "off"],
                    default="auto",
                    tooltip="auto: use models/facexlib/parsing_bisenet.pth when it is there, so "
                    "that the background is whitened as PuLID was trained on; the description "
                    "says when it is not. off: never.",
                    advanced=True,
                ),
            ],
            outputs=[
                types.FaceAnalyser.Output("analyser", display_name="analyser"),
                io.String.Output(
                    "description",
                    display_name="description",
                    tooltip="What is in use, and what is absent.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, pack, detector, provider, parsing) -> list:
        _check_pack(pack)
        files = [_parser_path(parsing)]
        if pack != BUNDLED_ONLY:
            found = (path for root in _roots() for path in (root / "models" / pack).rglob("*.onnx"))
            files += sorted(path for path in found if path.is_file())
        return [(str(file), digest(file)) for file in files if file]

    @classmethod
    def execute(cls, pack, detector, provider, parsing) -> io.NodeOutput:
        loaded = face_analyser.load_analyser(
            _pack_folder(pack), detector, [provider], _parser_path(parsing)
        )
        return io.NodeOutput(loaded, loaded.description, ui=ui.PreviewText(loaded.description))


class FlexIDDetectFaces(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDDetectFaces",
            display_name="Detect Faces",
            category="FlexID/face",
            description=(
                "Finds the faces of each photo, chooses among them, and cuts every crop that the "
                "encoders need from one and the same detection. Queue it alone to see the numbers."
            ),
            search_aliases=["face detection", "face crop", "find face", "choose person", "align"],
            is_output_node=True,
            inputs=[
                types.FaceAnalyser.Input("analyser", tooltip="From Load Face Analyser."),
                io.Image.Input(
                    "image",
                    tooltip="One photo or a batch; the choice applies to each. Load Image has "
                    "already turned it upright by its EXIF tag and dropped transparency; behind "
                    "Join Image with Alpha, what is transparent becomes white.",
                ),
                io.Combo.Input(
                    "order",
                    options=list(choose.ORDERS),
                    default=choose.LARGEST,
                    tooltip="How faces are numbered. The overlap orders keep only faces that lie "
                    "in the connected boxes or mask by at least 30 %. The order largest goes by "
                    "area, but a doubtful hit (score under 0.6) counts with a part of its area "
                    "only.",
                ),
                io.String.Input(
                    "index",
                    default="0",
                    tooltip='Which numbers to take, counted from 0 in that order: "0" is the first '
                    '(the largest, the leftmost ...), "0,2" two of them, "all" every face.',
                ),
                Number(
                    "point_x",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="For the order nearest to point: share of the width. 0: left edge.",
                    advanced=True,
                ),
                Number(
                    "point_y",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="For the order nearest to point: share of the height. 0: upper edge.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "on_missing",
                    options=list(detect.ON_MISSING),
                    default="error",
                    tooltip="error: stop when a photo lacks the wanted face. skip photo: go on "
                    "without it, as long as one photo has the face; the report lists it.",
                ),
                BoundingBox.Input(
                    "boxes",
                    optional=True,
                    extra_dict=SOCKET_ONLY,
                    tooltip="Boxes in pixels for the order overlap with boxes; number 0 is the "
                    "face in the first box. Not connected: that order cannot be used.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Mask for the order overlap with mask, of any size; 0 excludes. Not "
                    "connected: that order cannot be used.",
                ),
            ],
            outputs=[
                types.Faces.Output("faces", display_name="faces"),
                io.Image.Output(
                    "overlay",
                    display_name="overlay",
                    tooltip="Numbered boxes, chosen ones green; long side at most 1536 pixels.",
                ),
                BoundingBox.Output(
                    "chosen_boxes",
                    display_name="boxes",
                    tooltip="Boxes of the chosen faces, in pixels, one list per photo.",
                ),
                io.Mask.Output(
                    "chosen_mask",
                    display_name="mask",
                    tooltip="1 inside of the chosen faces' boxes.",
                ),
                io.Int.Output(
                    "count", display_name="count", tooltip="Chosen faces in all photos together."
                ),
                io.String.Output("report", display_name="report"),
            ],
        )

    @classmethod
    def validate_inputs(cls, index: str | None = None) -> bool | str:
        return validate(choose.parse_index, index)

    @classmethod
    def execute(
        cls, analyser, image, order, index, point_x, point_y, on_missing, boxes=None, mask=None
    ) -> io.NodeOutput:
        choice = choose.FaceChoice(order, index, (point_x, point_y))
        found = detect.detect_faces(analyser, image, choice, on_missing, boxes, mask)
        picture = overlay.draw_overlay(image, found)
        return io.NodeOutput(
            found.faces,
            picture,
            overlay.chosen_boxes(found),
            overlay.chosen_mask(found),
            len(found.faces),
            found.report,
            ui={**ui.PreviewImage(picture, cls=cls).as_dict(), "text": (found.report,)},
        )


class FlexIDChooseFace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDChooseFace",
            display_name="Choose Face",
            category="FlexID/face",
            description=(
                "Which face of each photo Apply VFA from Photo takes, when it is not the largest. "
                "Graphs made with Pulid Flux Options open with this node."
            ),
            search_aliases=["pulid flux options", "face order", "face index", "select face"],
            inputs=[
                io.Combo.Input(
                    "order",
                    options=list(choose.PLAIN_ORDERS),
                    default=choose.LARGEST,
                    tooltip="How the faces of a photo are numbered, by the size or the centre of "
                    "their boxes.",
                ),
                io.Int.Input(
                    "index",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Which number to take. 0: the first in that order. A number that a "
                    "photo does not have is an error.",
                ),
            ],
            outputs=[types.FaceChoice.Output("choice")],
        )

    @classmethod
    def execute(cls, order: str, index: int) -> io.NodeOutput:
        return io.NodeOutput(choose.FaceChoice(order, str(index)))


NODES = [FlexIDLoadFaceAnalyser, FlexIDDetectFaces, FlexIDChooseFace]
