"""Context-aware adaptive gating: the prompt decides how strongly both identity streams work."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..model_patches.files.tensor_file import digest
from ..model_patches.gates import cag
from ..model_patches.gates.gate import OPEN
from ..model_patches.gates.intent.dictionary import CATEGORIES, Dictionary, load_dictionary
from . import types
from .types import Number

BUILTIN = "built-in"
FOLDER = "dictionaries"
INPUT = " [input]"
NO_OVERRIDE = -1.0


def _float(name: str, default: float, highest: float, tooltip: str, step: float = 0.05, **more):
    return Number(name, default=default, min=0.0, max=highest, step=step, tooltip=tooltip, **more)


def _equation_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "mode",
            options=list(cag.MODES),
            default="recommended",
            tooltip="recommended: T_sem = 1 + kappa (2t - 1), T_vis = 1 - kappa (2t - 1), whose "
            "mean over a run is 1. literal: the paper's words, T_sem = t, T_vis = 1 - t, no "
            "limits; kappa and the limits are not used.",
        ),
        io.Combo.Input(
            "intent_mode",
            options=list(cag.INTENT_MODES),
            default="auto",
            tooltip="I(P). graded: from 0 to 1, by the strongest words. binary: 0 or 1, as in the "
            "paper. auto: binary in literal mode, else graded.",
            advanced=True,
        ),
        _float(
            "alpha_base",
            0.1,
            1.0,
            "Base weight of the semantic stream, paper: α_base = 0.1, relative change of the text. "
            "0: the semantic gate is closed.",
            step=0.01,
        ),
        _float(
            "w_base",
            1.0,
            5.0,
            "Base weight of the visual stream, paper: w_base = 1.0. 0: the visual gate is closed.",
        ),
        _float(
            "lambda_up",
            0.5,
            5.0,
            "How much an edit strengthens the semantic stream, paper: λ_up in γ_sem = 1 + λ_up I(P)"
            "; no value given there, 0.5 takes 0.10 to 0.15. 0: the prompt changes nothing.",
            advanced=True,
        ),
        _float(
            "lambda_down",
            0.3,
            1.0,
            "How much an edit weakens the visual stream, paper: λ_down in γ_vis = 1 - λ_down I(P); "
            "no value given there, 0.3 takes 1.0 to 0.7. 0: the prompt changes nothing.",
            advanced=True,
        ),
        _float(
            "kappa_sem",
            0.5,
            1.0,
            "Steepness of T_sem(t) ∝ t, strong early. 0: the same all the way; 1: twice the base "
            "at first, none at the end.",
            advanced=True,
        ),
        _float(
            "kappa_vis",
            0.5,
            1.0,
            "Steepness of T_vis(t) ∝ 1 - t, strong late. 0: the same all the way; 1: none at "
            "first, twice the base at the end.",
            advanced=True,
        ),
    ]


def _category_inputs() -> list[io.Input]:
    examples = {
        "expression": "smile, cry",
        "pose": "turn, run",
        "style": "oil painting",
        "camera": "fisheye, from above",
    }
    return [
        _float(
            f"{category}_factor",
            1.0,
            2.0,
            f"Factor on the score of the category {category} ({examples[category]}), part of I(P). "
            "0: such words are no edit.",
            advanced=True,
        )
        for category in CATEGORIES
    ]


def _other_inputs() -> list[io.Input]:
    return [
        Number(
            "override_intent",
            default=NO_OVERRIDE,
            min=-1.0,
            max=1.0,
            step=0.05,
            tooltip="I(P) by hand, from 0 (no edit) to 1 (strong edit). Below 0: read the prompt.",
        ),
        _float(
            "alpha_max",
            0.15,
            1.0,
            "The semantic gate's upper limit, paper: α typically in [0.05, 0.15]. 0: closed.",
            step=0.01,
            advanced=True,
        ),
        _float("w_max", 1.5, 5.0, "The visual gate's upper limit. 0: closed.", advanced=True),
        io.Combo.Input(
            "time",
            options=list(cag.TIMES),
            default="auto",
            tooltip="The paper's t, from 1 (noise) to 0. auto: of whatever model samples. sigma "
            "and percent insist on a flow model's sigma, or on 1 - percent.",
            advanced=True,
        ),
        io.Combo.Input(
            "dictionary",
            options=_dictionary_labels(),
            default=BUILTIN,
            tooltip="The paper's D_edit. built-in: English and Chinese. A JSON file from "
            "models/flexid/dictionaries or the input folder is added on top.",
            advanced=True,
        ),
        Number(
            "external_score",
            optional=True,
            force_input=True,
            tooltip="An intent from another node, such as a language model, in [0, 1], in place "
            "of the words' score. 0: no edit. Not connected: read the prompt.",
        ),
        types.Gate.Input(
            "gate",
            optional=True,
            tooltip="Another gate that multiplies both. Not connected: factor 1.",
        ),
        io.Combo.Input(
            "bases",
            optional=True,
            options=list(cag.BASES),
            default="gate",
            tooltip="Where the base weights are set. gate: here; alpha of Apply SIP and weight of "
            "Apply VFA are then 1. nodes: there, so that both stay at their base when this gate is "
            "bypassed; alpha_base and w_base are not used.",
        ),
    ]


class FlexIDContextAwareGate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDContextAwareGate",
            display_name="Compute Context-Aware Gate",
            category="FlexID/gates",
            description=(
                "CAG: reads from the prompt how much of the person is to change (expression, "
                "pose, style, camera) and makes two gates: the semantic one for SIP, strong "
                "early, and the visual one for VFA, strong late."
            ),
            search_aliases=["cag", "gate", "intent", "adaptive", "schedule", "prompt aware"],
            is_output_node=True,  # so that its curves are shown again when it is cached
            inputs=[
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="",
                    tooltip="The positive prompt P, English or Chinese; connect the text that is "
                    "encoded. Empty: no edit, I(P) = 0.",
                ),
                *_equation_inputs(),
                *_category_inputs(),
                *_other_inputs(),
            ],
            outputs=[
                types.Gate.Output(
                    "semantic_gate",
                    display_name="semantic_gate",
                    tooltip="α(t, P) for SIP. It holds alpha_base unless bases is nodes.",
                ),
                types.Gate.Output(
                    "visual_gate",
                    display_name="visual_gate",
                    tooltip="w(t, P) for VFA. It holds w_base unless bases is nodes.",
                ),
                io.Float.Output("intent", display_name="intent", tooltip="I(P) in [0, 1]."),
                io.String.Output(
                    "report", display_name="report", tooltip="Terms found, with scores."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, dictionary: str = BUILTIN, **others) -> list:
        path = _dictionary_path(dictionary)
        return [str(path), digest(path) if path else ""]

    @classmethod
    def execute(
        cls,
        prompt: str,
        mode: cag.Mode,
        intent_mode: cag.IntentMode,
        alpha_base: float,
        w_base: float,
        lambda_up: float,
        lambda_down: float,
        kappa_sem: float,
        kappa_vis: float,
        expression_factor: float,
        pose_factor: float,
        style_factor: float,
        camera_factor: float,
        override_intent: float,
        alpha_max: float,
        w_max: float,
        time: cag.Time,
        dictionary: str,
        external_score: float | None = None,
        gate=OPEN,
        bases: cag.Bases = "gate",
    ) -> io.NodeOutput:
        knobs = cag.Knobs(
            mode=mode,
            intent_mode=intent_mode,
            alpha_base=alpha_base,
            w_base=w_base,
            lambda_up=lambda_up,
            lambda_down=lambda_down,
            kappa_sem=kappa_sem,
            kappa_vis=kappa_vis,
            alpha_max=alpha_max,
            w_max=w_max,
            time=time,
            bases=bases,
        )
        found = cag.compute_gates(
            prompt,
            knobs,
            dictionary=_dictionary(dictionary),
            factors={
                "expression": expression_factor,
                "pose": pose_factor,
                "style": style_factor,
                "camera": camera_factor,
            },
            override=None if override_intent < 0 else override_intent,
            external=external_score,
            gate=gate,
        )
        report = found.report()
        return io.NodeOutput(
            found.semantic,
            found.visual,
            found.intent,
            report,
            ui={"text": (report,), "flexid_gate": [found.summary()]},
        )


def _dictionary_labels() -> list[str]:
    models = [
        name
        for name in folder_paths.get_filename_list("flexid")
        if Path(name).parts[0] == FOLDER and name.lower().endswith(".json")
    ]
    inputs = Path(folder_paths.get_input_directory()).glob("*.json")
    return [BUILTIN, *sorted(models), *sorted(path.name + INPUT for path in inputs)]


def _dictionary_path(label: str | None) -> Path | None:
    """The file behind a label; None for the built-in dictionary and for a linked input."""
    if label is None or label == BUILTIN:
        return None
    if label not in _dictionary_labels():
        raise FileNotFoundError(
            f"{label!r} is not among the dictionaries: put the JSON file into models/flexid/"
            f"{FOLDER} or into the input folder, press R and choose it, or choose {BUILTIN}."
        )
    if label.endswith(INPUT):
        return Path(folder_paths.get_annotated_filepath(label))
    return Path(folder_paths.get_full_path_or_raise("flexid", label))


def _dictionary(label: str) -> Dictionary:
    return load_dictionary(_dictionary_path(label))


NODES = [FlexIDContextAwareGate]
