"""Expression and pose of an identity: open the reconfigurator, edit with it."""

from comfy_api.latest import io, ui

from ..model_patches.adapters.imr import MotionEditor, load_editor
from ..model_patches.face.landmark_pose import Sliders, limits_of
from ..model_patches.files.public_files import DYNAMICID_IMR, DYNAMICID_KEYPOINTS
from ..model_patches.files.tensor_file import digest
from ..model_patches.identity.edit_motion import edit_identity
from ..model_patches.identity.motion_words import (
    EXPRESSIONS,
    ORIENTATIONS,
    SAME,
    Target,
    parse_targets,
)
from . import types
from .dynamicid import ALIASES, EXTENSIONS
from .identity import preview_both
from .model_files import ModelFiles
from .types import Number
from .validation import validate

EDITORS = ModelFiles(("dynamicid",), EXTENSIONS, "imr", DYNAMICID_IMR, ("dynamicid_imr",))
KEYPOINTS = ModelFiles(
    ("dynamicid",), EXTENSIONS, "key", DYNAMICID_KEYPOINTS, ("dynamicid_keypoints",)
)
SLIDER_TIPS = {
    "yaw": "Degrees that the head turns towards the picture's right; below 0: left. 0: not at all.",
    "pitch": "Degrees that the head turns up; below 0: down. 0: not at all.",
    "roll": "Degrees that the head tilts clockwise. 0: not at all.",
    "mouth": "1: the lower lip 30 mm down; -1: closed. 0: as it is.",
    "smile": "1: the mouth's corners 8 mm up and 6 mm out; -1: as much down and in. 0: as it is.",
    "eyes": "1: open 1.6 times as far; -1: shut. 0: as they are.",
    "brows": "1: 8 mm up; -1: as much down. 0: as they are.",
}


def describe_editor(editor: MotionEditor) -> str:
    """What the files are, and whose tokens they edit where these are not DynamicID's."""
    dims, settings = editor.dims, editor.settings
    name = "DynamicID IMR" if settings.published else f"IMR for {settings.family}"
    line = (
        f"{name}: {dims.depth} + {dims.depth} blocks of {dims.dim} channels, face tokens of "
        f"{dims.width}, {dims.motion} motion tokens of landmarks and text of {dims.text}"
    )
    if settings.published:
        return line
    return (
        f"{line}\nfor the tokens of {settings.adapter or 'an encoder'} "
        f"({settings.encoder[:12]}); {settings.points} landmarks; text encoder "
        f"{settings.text_encoder or 'not stated'}"
    )


class FlexIDLoadIMR(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDLoadIMR",
            display_name="Load IMR",
            category="FlexID/loaders",
            description="Opens an Identity-Motion Reconfigurator and its keypoint encoder, which "
            "change the expression and pose of an identity: DynamicID's, or one that was trained "
            "for the tokens of another adapter.",
            search_aliases=[*ALIASES, "imr", "reconfigurator", "expression", "pose"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=EDITORS.labels(),
                    tooltip="IMR.bin from models/dynamicid, or what Convert DynamicID made of it. "
                    "A file for the tokens of another adapter says so in its metadata. Other "
                    "files are refused with what they are.",
                ),
                io.Combo.Input(
                    "keypoints",
                    options=KEYPOINTS.labels(),
                    tooltip="key_point_encoder.bin of the same release, from models/dynamicid, or "
                    "what Convert DynamicID made of it.",
                ),
            ],
            outputs=[types.MotionEditor.Output("editor"), io.String.Output("report")],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, keypoints: str) -> list[str]:
        return [digest(EDITORS.path(file)), digest(KEYPOINTS.path(keypoints))]

    @classmethod
    def execute(cls, file: str, keypoints: str) -> io.NodeOutput:
        editor = load_editor(EDITORS.path(file), KEYPOINTS.path(keypoints))
        report = describe_editor(editor)
        return io.NodeOutput(editor, report, ui=ui.PreviewText(report))


def _slider_inputs() -> list[io.Input]:
    inputs = []
    for name, tip in SLIDER_TIPS.items():
        low, high = limits_of(name)
        step = 0.05 if high == 1.0 else 1.0
        inputs.append(Number(name, default=0.0, min=low, max=high, step=step, tooltip=tip))
    return inputs


class FlexIDEditExpressionAndPose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDEditExpressionAndPose",
            display_name="Edit Expression and Pose",
            category="FlexID/identity",
            description="Gives the face of an identity another expression or pose (IMR): in words, "
            "by sliders, or after a driving photo. One identity comes out for each target, as a "
            "list: what follows runs once for each.",
            search_aliases=[*ALIASES, "imr", "smile", "emotion", "head pose", "expression sheet"],
            inputs=[
                types.MotionEditor.Input("editor", tooltip="From Load IMR."),
                types.Identity.Input(
                    "identity",
                    tooltip="From Encode Identity (DynamicID), or from this node. For an editor of "
                    "another adapter's tokens: from Encode Identity with that adapter.",
                ),
                io.Clip.Input(
                    "clip",
                    tooltip="The text encoder of the model that draws the picture: that of SD 1.5, "
                    "or the one that Load IMR names.",
                ),
                io.Combo.Input(
                    "expression",
                    options=[SAME, *EXPRESSIONS],
                    default=SAME,
                    tooltip="For the targets that name none. as in the source: what source_words "
                    "says; with a driving photo its landmarks alone.",
                ),
                io.Combo.Input(
                    "orientation",
                    options=[SAME, *ORIENTATIONS],
                    default=SAME,
                    tooltip="For the targets that name none; left and right are those of the "
                    "picture. It turns the landmarks, and the words follow. as in the source: not "
                    "turned, or as on the driving photo.",
                ),
                io.String.Input(
                    "targets",
                    multiline=True,
                    default="",
                    tooltip="One target a line, up to 64, such as: happy, slightly left; mouth "
                    "0.5. Other words than those of the lists go to the text encoder as they are. "
                    "Empty: one target by the widgets.",
                ),
                *_slider_inputs(),
                io.String.Input(
                    "source_words",
                    default="",
                    tooltip="What the face does on its photo: an expression of the list, or free "
                    "words. Empty: neutral, or what an earlier edit made of it. The view follows "
                    "from the photo.",
                ),
                types.FaceAnalyser.Input(
                    "analyser",
                    optional=True,
                    tooltip="From Load Face Analyser, with buffalo_l; an editor of 5 landmarks "
                    "takes any pack. Needed with driving or source only.",
                ),
                io.Image.Input(
                    "driving",
                    optional=True,
                    tooltip="Photos whose landmarks the targets get: one for all lines, or one "
                    "for each. Not connected: the source's own.",
                ),
                io.Image.Input(
                    "source",
                    optional=True,
                    tooltip="The photo that the identity was made of, where the identity does not "
                    "know its landmarks. Not connected: those in the identity.",
                ),
            ],
            outputs=[
                types.Identity.Output(
                    "identities",
                    display_name="identity",
                    is_output_list=True,
                    tooltip="One for each target.",
                ),
                io.String.Output(
                    "words",
                    is_output_list=True,
                    tooltip="The words of each target that the text encoder read; put them into "
                    "its prompt.",
                ),
                io.Image.Output(
                    "landmarks",
                    tooltip="What the keypoint encoder reads: the source, then each target.",
                ),
                io.String.Output("report"),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        targets: str | None = None,
        yaw: float | None = None,
        pitch: float | None = None,
        roll: float | None = None,
        mouth: float | None = None,
        smile: float | None = None,
        eyes: float | None = None,
        brows: float | None = None,
    ) -> bool | str:
        def check(targets: str, *values: float) -> None:
            parse_targets(targets, Target(sliders=Sliders(*values)))

        return validate(check, targets, yaw, pitch, roll, mouth, smile, eyes, brows)

    @classmethod
    def execute(
        cls,
        editor,
        identity,
        clip,
        expression: str,
        orientation: str,
        targets: str,
        yaw: float,
        pitch: float,
        roll: float,
        mouth: float,
        smile: float,
        eyes: float,
        brows: float,
        source_words: str,
        analyser=None,
        driving=None,
        source=None,
    ) -> io.NodeOutput:
        base = Target(
            expression if expression != SAME else None,
            orientation if orientation != SAME else None,
            sliders=Sliders(yaw, pitch, roll, mouth, smile, eyes, brows),
        )
        done = edit_identity(
            editor,
            identity,
            clip,
            parse_targets(targets, base),
            source_words=source_words,
            analyser=analyser,
            source=source,
            driving=driving,
        )
        return io.NodeOutput(
            list(done.identities),
            list(done.words),
            done.pictures,
            done.report,
            ui=preview_both(cls, done.pictures, done.report),
        )


NODES = [FlexIDLoadIMR, FlexIDEditExpressionAndPose]
