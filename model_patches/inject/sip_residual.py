"""The semantic residual E' = E + α(t)·Δ (FlexID, section 3.2): how it is scaled, how it travels.

A constant α is written into the prompt itself. An α that varies over the run travels with its
prompt in `model_conds` and is added, outside the diffusion model, to the text of each model call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import comfy.patcher_extension
import comfy.utils
import torch
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..gates.gate import Gate, Moment
from .run import Call, read_call, watch_run

SIP = "flexid_sip"

Norm = Literal["token", "prompt", "none"]
NORMS: tuple[Norm, ...] = ("token", "prompt", "none")
ZERO = 1e-6
"""Tokens whose direction is this much shorter than the longest one have none."""


def match_norms(delta: Tensor, states: Tensor, scope: Tensor, norm: Norm = "token") -> Tensor:
    """Scale a direction so that α is the relative change of a token; zero outside of the scope.

    delta and states (B, T, D) float32, scope (T,) bool -> (B, T, D).
    norm "token": every token's direction gets its token's length. "prompt": one factor for all,
    root mean square against root mean square. "none": as it is.
    """
    if norm not in NORMS:
        raise ValueError(f"Unknown norm {norm!r}; choose one of {', '.join(NORMS)}.")
    delta = delta * scope[:, None]
    lengths = delta.norm(dim=-1, keepdim=True)
    longest = lengths.amax(dim=1, keepdim=True)
    alive = (lengths > ZERO * longest) & (longest > 0)
    delta = torch.where(alive, delta, 0.0)
    if norm == "none":
        return delta
    wanted = states.norm(dim=-1, keepdim=True)
    if norm == "token":
        return delta * torch.where(alive, wanted / lengths.clamp_min(1e-30), 0.0)
    shares = [(value.square() * alive).sum(dim=1, keepdim=True) for value in (wanted, lengths)]
    return delta * (shares[0] / shares[1].clamp_min(1e-30)).sqrt()


def add(states: Tensor, delta: Tensor, strength: float | Tensor) -> Tensor:
    """E + α·Δ, computed in float32, in the dtype of E; α one number or (B, 1, 1)."""
    return (states.float() + strength * delta).to(states.dtype)


@dataclass(frozen=True, eq=False)
class Shift:
    """One identity's residual on one prompt, with its own α over time."""

    delta: Tensor
    """(B, T, D) float32 on the CPU, already scaled."""
    strength: float
    gate: Gate


@dataclass(frozen=True, eq=False)
class Shifts:
    """All residuals of one prompt, in ComfyUI's protocol for `model_conds`."""

    shifts: tuple[Shift, ...] = ()
    length: int = 0
    """Text tokens of the prompt; known when a run begins."""

    def process_cond(self, batch_size: int, **_: Any) -> Shifts:
        return self

    def can_concat(self, other: Shifts) -> bool:
        return True

    def concat(self, others: list[Shifts]) -> CallShifts:
        return CallShifts((self, *others))

    def size(self) -> list[int]:
        return [1]

    def onto(self, call: Call, moments: Sequence[Moment], text: Tensor) -> Tensor:
        """text (B, L, D), this prompt's rows of a call; one moment per row."""
        out = text
        for shift in self.shifts:
            alphas = [shift.strength * shift.gate.weight(moment) for moment in moments]
            if any(alphas):
                out = add(out, self._delta(call, shift, text), _factor(alphas, text.device))
        return out

    def _delta(self, call: Call, shift: Shift, text: Tensor) -> Tensor:
        key = (SIP, shift, tuple(text.shape), text.device)
        if key not in call.run.cache:
            delta = _fit(shift.delta, self.length or text.shape[1], text)
            delta = comfy.utils.repeat_to_batch_size(delta, text.shape[0])
            call.run.cache[key] = delta.to(text.device)
        return call.run.cache[key]


def _factor(alphas: Sequence[float], device: torch.device) -> float | Tensor:
    if len(set(alphas)) == 1:
        return alphas[0]
    return torch.tensor(alphas, dtype=torch.float32, device=device)[:, None, None]


def _fit(delta: Tensor, length: int, text: Tensor) -> Tensor:
    """Zeros for tokens appended behind the prompt; repeated as ComfyUI repeats prompts of unequal
    length into one batch."""
    tokens, width = text.shape[1:]
    if delta.shape[-1] != width or tokens % length:
        raise RuntimeError(
            f"Apply SIP made a residual for a prompt of {length} tokens x {delta.shape[-1]}; the "
            f"model reads {tokens} x {width}. Another node changes the text inside the model: "
            "remove it, or use Apply SIP without gate."
        )
    delta = F.pad(delta[:, :length], (0, 0, 0, max(0, length - delta.shape[1])))
    return delta.repeat(1, tokens // length, 1)


class CallShifts:
    """The residuals of every prompt in one model call, in the order of its rows."""

    def __init__(self, parts: tuple[Shifts, ...]):
        self.parts = parts

    @property
    def dtype(self) -> torch.dtype:
        """ComfyUI asks whatever reaches the model for its type. This should not have got there."""
        raise RuntimeError(
            "The prompt comes from Apply SIP with a gate, but the MODEL does not: its α could not "
            "follow the run. Connect the MODEL that Apply SIP returns, or disconnect its gate."
        )

    def onto(self, call: Call, text: Tensor) -> Tensor:
        """The call's text (R, L, D) with every residual at this moment's α; itself if all are 0."""
        rows = text.shape[0] // len(self.parts)
        spans = [slice(i * rows, (i + 1) * rows) for i in range(len(self.parts))]
        parts = [
            part.onto(call, call.moments[span], text[span])
            for part, span in zip(self.parts, spans, strict=True)
        ]
        changed = any(p.data_ptr() != text[s].data_ptr() for p, s in zip(parts, spans, strict=True))
        return torch.cat(parts) if changed else text


def bind_prompts(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """OUTER_SAMPLE wrapper: every prompt of the run gets a (mostly empty) entry, so that prompts
    with and without a residual still share one model call."""
    found = False
    for conds in executor.class_obj.conds.values():
        for cond in conds:
            held = cond.get("model_conds", {})
            shifts = held.get(SIP, Shifts())
            found = found or bool(shifts.shifts)
            text = cond.get("cross_attn")
            length = 0 if text is None else text.shape[1]
            cond["model_conds"] = {**held, SIP: replace(shifts, length=length)}
    if not found:
        raise RuntimeError(
            "The MODEL comes from Apply SIP with a gate, but 0 of the run's prompts do. Connect "
            "the CONDITIONING that Apply SIP returns (behind Conditioning Concat: as "
            "conditioning_to), or the MODEL from before Apply SIP."
        )
    return executor(*args, **kwargs)


def shifted_call(
    executor: Any,
    x: Tensor,
    t: Tensor,
    c_concat: Tensor | None = None,
    c_crossattn: Tensor | None = None,
    control: Any = None,
    transformer_options: dict | None = None,
    **conds: Any,
) -> Tensor:
    """APPLY_MODEL wrapper: adds α(t)·Δ to each prompt's rows of the text."""
    options = dict(transformer_options or {})
    call = read_call(executor.class_obj, x, t, options, conds)
    shifts: CallShifts | None = conds.pop(SIP, None)
    if shifts is not None and c_crossattn is not None:
        c_crossattn = shifts.onto(call, c_crossattn)
    return executor(x, t, c_concat, c_crossattn, control, options, **conds)


def follow(model: ModelPatcher) -> ModelPatcher:
    """A clone whose prompts may carry residuals that vary over the run."""
    patched = model.clone()
    watch_run(patched, SIP, shifted_call)
    outer = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    if not patched.get_wrappers(outer, SIP):
        patched.add_wrapper_with_key(outer, SIP, bind_prompts)
    return patched
