"""Figures of finished pictures: likeness, changes of the face, change against plain pictures."""

import comfy.model_management
from comfy.utils import ProgressBar
from comfy_api.latest import io

from ..model_patches.evaluate.modes import CORRECTED, MODES, Mode
from ..model_patches.face.mesh import MeshFinder
from ..model_patches.identity import compare as core
from ..model_patches.identity import compare_report as report
from ..model_patches.identity.compare_prompt import want_prompt
from . import types
from .identity import preview_both
from .validation import refuse_more

FaceDetection = io.Custom("FACE_DETECTION_MODEL")
MOST_PEOPLE = 8
NUMBERS = {
    "likeness": "Mean cosine of the recogniser's embeddings. A picture without the person counts "
    "0. Near 0: strangers; 1: the same photo.",
    "likeness_found": "The same over the pictures alone in which the person was found; NaN: in "
    "none.",
    "detection_rate": "Share of the pictures in which the people were found, 0 to 1.",
    "gain": "Likeness minus that of the plain picture, no face counting 0; NaN without plain.",
    "pose_change": "Mean turn of the head against the reference photo in degrees; NaN without a "
    "photo.",
    "landmark_change": "Mean distance of five points after removing place, size and tilt; NaN "
    "without landmarker.",
    "expression_change": "Mean difference of the blendshapes, 0 to 1; NaN without landmarker.",
    "change_outside": "Mean difference to the plain pictures outside the faces, 0 to 1; NaN "
    "without plain.",
    "copy_paste": "1: the faces are the reference photo's; -1: the other photo's; NaN without "
    "other_photo.",
    "prompt_alignment": "Mean cosine of picture and prompt by CLIP, about 0.2 to 0.35 for pictures "
    "that show it; NaN without clip_vision, clip and prompt.",
}


def _open_landmarker(model) -> MeshFinder | None:
    if model is None:
        return None
    # Only newer ComfyUIs have it, and only they can make such a model.
    from comfy_extras.mediapipe.face_geometry import transformation_matrix_from_detection

    return MeshFinder(model, transformation_matrix_from_detection)


def _know_people(analyser, reference, identities: dict | None, other_photo, finder, mode: Mode):
    """The people to compare with. Raises ValueError for both kinds of reference, or for none."""
    named = [one for one in (identities or {}).values() if one is not None]
    if (reference is None) == (not named):
        raise ValueError(
            f"{core.LABEL} has {0 if reference is None else 1} reference photos and {len(named)} "
            "identities, expected a photo or identities, not both. Connect the photo of one "
            "person to reference, or up to 8 people to identities."
        )
    if reference is not None:
        people = [core.know_by_photos(analyser, reference, finder, mode)]
    else:
        people = [
            core.know_by_identity(analyser, f"person {number}", one)
            for number, one in enumerate(named, 1)
        ]
    if other_photo is None:
        return people
    if len(people) > 1:
        raise ValueError(
            f"other_photo shows one person, and {len(people)} are compared. Disconnect it, or "
            "compare one person at a time."
        )
    return [core.add_other(people[0], core.embed_photos(analyser, other_photo))]


class FlexIDCompareIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        identities = io.Autogrow.TemplatePrefix(
            types.Identity.Input("identity", tooltip="From any encoder, or Load Identity."),
            prefix="identity",
            min=0,
            max=MOST_PEOPLE,
        )
        return io.Schema(
            node_id="FlexIDCompareIdentity",
            display_name="Compare Identity",
            category="FlexID/evaluate",
            description="Measures finished pictures: how like the person they are, how far head "
            "and expression moved, what the identity changed elsewhere, and how well they follow "
            "the prompt. A table, a chart and single numbers come out.",
            search_aliases=[
                "likeness",
                "face similarity",
                "arcface",
                "evaluate",
                "benchmark",
                "ibench",
                "copy-paste",
                "score",
                "clip score",
                "prompt alignment",
            ],
            is_output_node=True,
            inputs=[
                types.FaceAnalyser.Input(
                    "analyser",
                    tooltip="From Load Face Analyser, with a pack that has a recogniser. Prefer "
                    "another recogniser than the one that made the identity: it does not favour "
                    "the adapter.",
                ),
                io.Image.Input("images", tooltip="The finished pictures; each is measured."),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="Photos of one person; the largest face of each counts, and the pose "
                    "of the first. Not connected: identities are compared with.",
                ),
                io.Autogrow.Input(
                    "identities",
                    template=identities,
                    optional=True,
                    tooltip="One to 8 people who should be in each picture, instead of reference. "
                    "Identities know no pose, so changes of the face are left out.",
                ),
                io.Image.Input(
                    "plain",
                    optional=True,
                    tooltip="The same pictures without identity: as many, of the same seeds and "
                    "size. Not connected: what compares with them is left out.",
                ),
                io.Image.Input(
                    "other_photo",
                    optional=True,
                    tooltip="Other photos of the person, which no encoder saw. Not connected: "
                    "copy-paste is left out.",
                ),
                FaceDetection.Input(
                    "landmarker",
                    optional=True,
                    tooltip="From Load Face Detection Model (MediaPipe). Not connected: head "
                    "angles come from five points, and landmarks and expression are left out.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="CLIP's picture half, preferably ViT-L/14, for the prompt alignment. "
                    "Needs clip and prompt, too. Not connected: it is left out.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="CLIP's text half of the same model, with its projection: clip_l for "
                    "ViT-L/14. Checkpoints often lack the projection; then load CLIP from a file "
                    "of its own.",
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="What the pictures should show. CLIP reads its first 75 tokens; a "
                    "longer one is also measured by sentence. Empty: left out.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default=CORRECTED,
                    optional=True,
                    tooltip="corrected: failures count, means over people. compat: the arithmetic "
                    "of IBench with its quirks, to compare with its tables.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "chart", tooltip="A bar for each picture; a red cross where nobody was found."
                ),
                io.String.Output("report"),
                io.String.Output("table", tooltip="CSV, one line for each picture and person."),
                *(io.Float.Output(name, tooltip=tip) for name, tip in NUMBERS.items()),
            ],
        )

    @classmethod
    def execute(
        cls,
        analyser,
        images,
        reference=None,
        identities: dict | None = None,
        plain=None,
        other_photo=None,
        landmarker=None,
        clip_vision=None,
        clip=None,
        prompt: str = "",
        mode: Mode = CORRECTED,
        **more,
    ) -> io.NodeOutput:
        refuse_more(core.LABEL, f"{MOST_PEOPLE} identities", more)
        asked = want_prompt(clip_vision, clip, prompt, core.LABEL)
        finder = _open_landmarker(landmarker)
        people = _know_people(analyser, reference, identities, other_photo, finder, mode)
        bar = ProgressBar(1)

        def watch(done: int, total: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(done, total)

        found = core.compare_identity(
            analyser, images, people, plain, finder, watch, asked, mode=mode
        )
        chart, text = report.draw_chart(found), report.write_report(found)
        numbers = report.numbers_of(found)
        return io.NodeOutput(
            chart,
            text,
            report.write_table(found),
            *(numbers[name] for name in NUMBERS),
            ui=preview_both(cls, chart, text),
        )


NODES = [FlexIDCompareIdentity]
