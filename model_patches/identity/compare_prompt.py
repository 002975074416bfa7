"""Does a picture show what its prompt says: CLIP's cosine between both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from ..encoders.clip_pair import ClipPair, pair_clip
from ..evaluate.features import clip_similarity, clip_text, sentence_alignment
from ..evaluate.modes import Mode
from ..evaluate.outcomes import Outcome, valid

PROMPT, PLAIN_PROMPT = "prompt", "plain_prompt"
"""IBench's ClipT: of what fits into CLIP's 77 tokens."""
SENTENCES = "prompt_sentences"
"""Mean over all sentences of a prompt that does not fit."""
CLIP_PLAIN = "clip_plain"
"""IBench's ClipI: cosine of the picture to the plain one, 1: the person changes nothing."""


@dataclass(frozen=True, eq=False)
class PromptText:
    """A prompt, and the network that reads it."""

    pair: ClipPair
    prompt: str

    @cached_property
    def text(self) -> Tensor:
        return self.pair.embed_text(self.prompt)

    @cached_property
    def sentences(self) -> Tensor | None:
        """None where CLIP reads the whole prompt at once."""
        cut = self.pair.is_cut(self.prompt)
        return self.pair.embed_sentences(self.prompt) if cut else None


def want_prompt(vision: object, clip: object, prompt: str, label: str) -> PromptText | None:
    """None where nothing is given. label: the node that asks, for messages.

    Raises ValueError for some of the three alone, or two halves that do not fit.
    """
    given = {
        "clip_vision": vision is not None,
        "clip": clip is not None,
        "prompt": bool(prompt.strip()),
    }
    if not any(given.values()):
        return None
    if not all(given.values()):
        absent = ", ".join(name for name, there in given.items() if not there)
        raise ValueError(
            f"{label} has {sum(given.values())} of the 3 inputs for prompt alignment, and lacks "
            f"{absent}. Connect all of clip_vision, clip and prompt, or none."
        )
    return PromptText(pair_clip(vision, clip), prompt)


def measure_prompt(
    asked: PromptText, pictures: Sequence[np.ndarray], mode: Mode
) -> dict[str, Outcome]:
    """pictures: (H, W, 3) uint8, the finished one, and the plain one where there is one."""
    features = [asked.pair.embed_picture(one, mode) for one in pictures]
    aligned = [valid(float(clip_text(one, asked.text, mode))) for one in features]
    values = {PROMPT: aligned[0]}
    if asked.sentences is not None:
        values[SENTENCES] = valid(sentence_alignment(features[0][0], asked.sentences)[1])
    if len(features) > 1:
        values[PLAIN_PROMPT] = aligned[1]
        values[CLIP_PLAIN] = valid(float(clip_similarity(features[0], features[1])))
    return values
