"""Adding directions to the text of a model call, each to the rows of its own prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import comfy.utils
import torch
import torch.nn.functional as F
from torch import Tensor

from ..gates.gate import Moment
from ..sip.residual import add_all
from .call import Call, PromptRows


@dataclass(frozen=True, eq=False)
class Edit:
    """A direction on one prompt's text, at its weights in this call."""

    direction: Tensor
    """(B, T, D) float32 on the CPU."""
    weights: Sequence[float]
    """One per row of the prompt."""


def edit_rows(
    call: Call,
    text: Tensor,
    edits_of: Callable[[PromptRows, Sequence[Moment]], Sequence[Edit]],
    label: str,
) -> Tensor:
    """The call's text (R, T, D) with every edit added, summed as given; itself if all are 0.

    edits_of: of a prompt and the moments of its rows. label: the node, for messages. Raises
    RuntimeError when another node gave the text another shape.
    """
    rows = [call.rows_of(number) for number in range(len(call.prompts))]
    edited = [
        _edit_prompt(call, prompt, edits_of(prompt, call.moments[span]), text[span], label)
        for prompt, span in zip(call.prompts, rows, strict=True)
    ]
    if all(part is None for part in edited):
        return text
    parts = [text[span] if part is None else part for part, span in zip(edited, rows, strict=True)]
    return torch.cat(parts)


def _edit_prompt(
    call: Call, prompt: PromptRows, edits: Sequence[Edit], text: Tensor, label: str
) -> Tensor | None:
    """One prompt's rows (B, T, D); None when nothing is added."""
    residuals = [
        (_fit_direction(call, prompt, one.direction, text, label), _factor(one.weights, text))
        for one in edits
        if any(one.weights)
    ]
    return add_all(text, residuals) if residuals else None


def _factor(weights: Sequence[float], text: Tensor) -> float | Tensor:
    if len(set(weights)) == 1:
        return weights[0]
    return torch.tensor(weights, dtype=torch.float32, device=text.device)[:, None, None]


def _fit_direction(
    call: Call, prompt: PromptRows, direction: Tensor, text: Tensor, label: str
) -> Tensor:
    """The direction on the call's device, once per run: zeros for tokens appended behind the
    prompt, repeated as ComfyUI repeats prompts of unequal length into one batch."""
    key = ("text", direction, prompt.length, tuple(text.shape), text.device)
    if key in call.run.cache:
        return call.run.cache[key]
    tokens, width = text.shape[1:]
    length = prompt.length or tokens
    if direction.shape[-1] != width or tokens % length:
        raise RuntimeError(
            f"{label} made a residual for a prompt of {length} tokens x {direction.shape[-1]}; the "
            f"model reads {tokens} x {width}. Another node changes the text inside the model: "
            f"remove it, or use {label} without gate."
        )
    beyond = max(0, length - direction.shape[1])
    fitted = F.pad(direction[:, :length], (0, 0, 0, beyond)).repeat(1, tokens // length, 1)
    fitted = comfy.utils.repeat_to_batch_size(fitted, text.shape[0])
    call.run.cache[key] = fitted.to(text.device)
    return call.run.cache[key]
