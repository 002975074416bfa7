"""People as a prompt asks for them: expression and pose, by the small world's motion editor."""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path

import comfy.sd
import torch

from ...model_patches.adapters.imr import MotionEditor, load_editor
from ...model_patches.face.analyser import FaceAnalyser
from ...model_patches.identity.edit_motion import edit_identity
from ...model_patches.identity.identity import Identity
from ...model_patches.identity.motion_words import ORIENTATIONS, Target
from .. import world
from ..imr_layout import expression_in_pack
from .prompts import Prompt
from .studio import Sitter

KEPT = 64
"""Edited identities that are kept."""


class Edits:
    """Edits each sitter once for each prompt."""

    def __init__(self, models: Path, clip: comfy.sd.CLIP, analyser: FaceAnalyser) -> None:
        self.models, self.clip, self.analyser = models, clip, analyser
        self.edited = lru_cache(KEPT)(self._edit)

    @cached_property
    def editor(self) -> MotionEditor:
        return load_editor(self.models / world.IMR, self.models / world.KEY_POINTS)

    @torch.inference_mode()
    def _edit(self, sitter: Sitter, prompt: Prompt) -> Identity:
        """The sitter's identity with what the prompt asks of a face; as it is where that is
        nothing. Reference photos are neutral."""
        target = target_of(prompt)
        if target is None:
            return sitter.identity
        done = edit_identity(
            self.editor,
            sitter.identity,
            self.clip,
            [target],
            source_words="neutral",
            analyser=self.analyser,
            source=sitter.photo,
        )
        return done.identities[0]


def target_of(prompt: Prompt) -> Target | None:
    """What a user would choose on the node for this prompt; None for nothing.

    The orientation is the nearest of the list, and the front view where a prompt asks for none:
    from the five points of a drawn face its pitch is often wrong by thirty degrees, either way, and
    the editor learnt from true ones. A tilt is left to the prompt: the encoder sees every face
    upright.
    """
    turned = prompt.yaw is not None or prompt.pitch is not None
    if not turned and prompt.expression is None:
        return None
    orientation = nearest_orientation(prompt.yaw or 0.0, prompt.pitch or 0.0)
    return Target(prompt.expression and expression_in_pack(prompt.expression), orientation)


def nearest_orientation(yaw: float, pitch: float) -> str:
    """Degrees -> a key of ORIENTATIONS."""

    def distance(name: str) -> float:
        across, along = ORIENTATIONS[name]
        return (across - yaw) ** 2 + (along - pitch) ** 2

    return min(ORIENTATIONS, key=distance)
