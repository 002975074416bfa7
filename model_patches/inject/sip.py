"""Semantic Identity Projector (FlexID, section 3.2): E' = E + α·δ on the text of a prompt.

Works wherever the conditioning is the text that the diffusion model reads: Flux (T5 stream),
SD 1.5 and SDXL (CLIP streams). All residuals of a prompt read the same original text, so their
order in the graph does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..gates.gate import Gate
from ..identity.identity import Identity
from ..sip.projector import Direction, Prompt, SipProjector, direction_for
from ..sip.scope import Scope, scope_mask, scope_used
from .sip_residual import SIP, Norm, Shift, Shifts, add, follow, match_norms

ORIGINAL = "flexid_sip_original"
"""Entry of a prompt: (text before any residual, text after), valid while the text is that one."""


@dataclass(frozen=True, eq=False)
class Applied:
    """What Apply SIP hands on."""

    conditioning: list
    model: ModelPatcher | None
    """The model that came in, patched only when α varies; None when none came in."""
    report: str


@dataclass(frozen=True, eq=False)
class Wording:
    """What tells content from padding: the CLIP and the text that made the conditioning."""

    clip: Any = None
    text: str = ""


def apply_sip(
    conditioning: Sequence,
    projector: SipProjector,
    identity: Identity,
    *,
    strength: float = 0.1,
    scope: Scope = "auto",
    norm: Norm = "token",
    wording: Wording | None = None,
    gate: Gate | None = None,
    model: ModelPatcher | None = None,
) -> Applied:
    """A copy of the conditioning whose text leans towards `identity`.

    strength is α: after norm matching the relative change of a token (0.1 turns it by 5.7 degrees
    when δ is orthogonal to it). Without a gate the text itself is changed and `model` comes back
    as it was. With one, α follows the run through the returned model.
    Raises ValueError when conditioning, projector, identity, text or model do not fit.
    """
    _check(conditioning, strength, gate, model)
    wording = wording or Wording()
    prompts = [_Prompt(entry, number) for number, entry in enumerate(conditioning, 1)]
    if strength == 0.0:
        return Applied([entry.copied() for entry in prompts], model, "α is 0: nothing was changed.")
    results = [entry.lean(projector, identity, scope, norm, wording) for entry in prompts]
    if not any(bool(lean.delta.any()) for lean in results):
        texts = [entry.copied() for entry in prompts]
    elif gate is None:
        texts = [p.shifted(r.delta, strength) for p, r in zip(prompts, results, strict=True)]
    else:
        model = follow(model)
        texts = [
            p.with_shift(Shift(r.delta, strength, gate))
            for p, r in zip(prompts, results, strict=True)
        ]
    used = scope_used(scope, wording.clip, wording.text)
    lines = [_head(projector, strength, used, norm, gate)]
    lines += [line for result in results for line in result.lines]
    return Applied(texts, model, "\n".join(dict.fromkeys(lines)))


def _check(conditioning: Sequence, strength: float, gate: Gate | None, model: Any) -> None:
    if not conditioning:
        raise ValueError("Apply SIP got 0 prompts, expected 1 or more. Connect a text encode node.")
    if not math.isfinite(strength):
        raise ValueError(f"α is {strength}, expected a finite number such as 0.1.")
    if gate is not None and model is None:
        raise ValueError(
            "Apply SIP has a gate but no model: α can follow the run only inside the model. "
            "Connect model (and use the returned one), or disconnect the gate."
        )


@dataclass(frozen=True, eq=False)
class _Lean:
    delta: Tensor
    lines: tuple[str, ...]


class _Prompt:
    """One entry of a CONDITIONING; never written to."""

    def __init__(self, entry: Sequence, number: int):
        self.text, self.extra = entry[0], entry[1]
        self.number = number
        if not isinstance(self.text, Tensor) or self.text.ndim != 3:
            shape = tuple(getattr(self.text, "shape", ()))
            raise ValueError(
                f"Prompt {number} holds text of shape {shape}, expected (batch, tokens, width). "
                "Connect the CONDITIONING of a text encode node."
            )
        before, after = self.extra.get(ORIGINAL, (self.text, self.text))
        self.original = before if after is self.text else self.text

    def lean(
        self,
        projector: SipProjector,
        identity: Identity,
        scope: Scope,
        norm: Norm,
        wording: Wording,
    ) -> _Lean:
        states = self.original.detach().float().cpu()
        mask = scope_mask(scope, states.shape[1], wording.clip, wording.text)
        found = direction_for(projector, identity, Prompt(states, wording.text))
        _check_direction(found, states, projector, self.number)
        facts = _facts(self.number, states, found.delta, mask)
        return _Lean(match_norms(found.delta, states, mask, norm), (facts, *found.notes))

    def copied(self) -> list:
        return [self.text, self.extra.copy()]

    def shifted(self, delta: Tensor, strength: float) -> list:
        text = add(self.text, delta.to(self.text.device), strength)
        return [text, {**self.extra, ORIGINAL: (self.original, text)}]

    def with_shift(self, shift: Shift) -> list:
        held = self.extra.get("model_conds", {})
        shifts = (*held.get(SIP, Shifts()).shifts, shift)
        return [self.text, {**self.extra, "model_conds": {**held, SIP: Shifts(shifts)}}]


def _check_direction(found: Direction, states: Tensor, projector: Any, number: int) -> None:
    if found.delta.shape != states.shape:
        raise ValueError(
            f"The SIP projector '{projector.name}' made a direction of shape "
            f"{tuple(found.delta.shape)} for prompt {number} of shape {tuple(states.shape)}. "
            "Choose the projector for this model's text encoder."
        )
    if not found.delta.isfinite().all():
        raise ValueError(
            f"The SIP projector '{projector.name}' made a direction with NaN or infinity for "
            f"prompt {number}. Check the weight file and the text encoder."
        )


def _head(projector: Any, strength: float, scope: str, norm: str, gate: Gate | None) -> str:
    course = "constant, written into the conditioning" if gate is None else "times the gate"
    turn = math.degrees(math.atan(abs(strength)))
    turns = norm == "token" and gate is None
    angle = f" (turns a token by up to {turn:.1f} degrees)" if turns else ""
    return f"{projector.name}: α {strength:g} {course}{angle}; scope {scope}; norm {norm}"


def _facts(number: int, states: Tensor, delta: Tensor, mask: Tensor) -> str:
    """What the raw direction is like, over the tokens in scope."""
    texts, found = states[:, mask].flatten(0, 1), delta[:, mask].flatten(0, 1)
    sizes = texts.norm(dim=-1).median().item(), found.norm(dim=-1).median().item()
    cosine = torch.nn.functional.cosine_similarity(texts, found, dim=-1).median().item()
    line = (
        f"prompt {number}: {int(mask.sum())} of {mask.numel()} tokens; median |E| {sizes[0]:.4g}, "
        f"|δ| {sizes[1]:.4g}, ratio {sizes[1] / max(sizes[0], 1e-30):.4g}, cosine {cosine:+.3f}"
    )
    return line if found.any() else f"{line}. δ is 0 here: nothing was changed"
