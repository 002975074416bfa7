"""Semantic Identity Projector (FlexID, section 3.2): E' = E + α(t)·Δ on the text of a prompt.

Works wherever the conditioning is the text that the diffusion model reads: Flux (T5 stream),
SD 1.5 and SDXL (CLIP streams). A constant α is written into the prompt itself. An α that varies
over the run travels with its prompt and is added, outside the diffusion model, to the text of each
model call. All residuals of a prompt are made from the same original text and summed in an order
of their own, so their order in the graph does not matter.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..files.cache import tensor_key
from ..gates.gate import Gate, Moment, describe_ends
from ..gates.numbers import check_weight
from ..identity.identity import Identity
from ..sip.projector import Direction, Prompt, SipProjector, direction_for
from ..sip.residual import Norm, add_all, match_norms
from ..sip.scope import Scope, scope_mask, scope_used
from .call import Call, PromptRows, Site
from .run import Neutral, injections_of, payload_of, register, with_payload
from .text import Edit, edit_rows

SIP = "sip"
LABEL = "Apply SIP"
STRONGEST_CONSTANT = 1.0
"""α from which on a run without a gate is refused: the residual is as long as the token."""
SOFT = 0.3
"""α above which a constant residual is pointed out; the paper's α lies in [0.05, 0.15]."""
CONSTANT = "flexid_sip_constant"
"""Entry of a prompt's options: the Constant that is written into its text."""


@dataclass(frozen=True, eq=False)
class Residual:
    """One identity's Δ on one prompt, with its α."""

    direction: Tensor
    """(B, T, D) float32 on the CPU, already scaled."""
    weight: float
    gate: Gate | None
    """None: constant."""
    order: str
    """Digest of its content; residuals are summed in this order."""


@dataclass(frozen=True, eq=False)
class Constant:
    """What was written into a prompt's text; valid while the text is `after`."""

    before: Tensor
    after: Tensor
    residuals: tuple[Residual, ...]


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
    weight: float = 0.1,
    scope: Scope = "auto",
    norm: Norm = "token",
    wording: Wording | None = None,
    gate: Gate | None = None,
    model: ModelPatcher | None = None,
) -> Applied:
    """A copy of the conditioning whose text is moved towards `identity`.

    weight is α: after norm matching the relative change of a token (0.1 turns it by 5.7 degrees
    when δ is orthogonal to it). Without a gate the text itself is changed and `model` comes back
    as it was. With one, α follows the run through the returned model.
    Raises ValueError when conditioning, projector, identity, text or model do not fit, and for a
    constant relative α of 1 or more: so strong a node has lost the gate that held its base.
    """
    _check(conditioning, weight, gate, model)
    if gate is None:
        check_constant(weight, norm)
    wording = wording or Wording()
    prompts = [_Entry(entry, number) for number, entry in enumerate(conditioning, 1)]
    if weight == 0.0:
        return Applied([entry.copy() for entry in prompts], model, "α is 0: nothing was changed.")
    results = [entry.scale(projector, identity, scope, norm, wording) for entry in prompts]
    if not any(bool(scaled.direction.any()) for scaled in results):
        texts = [entry.copy() for entry in prompts]
    else:
        residuals = [_residual(scaled.direction, weight, gate) for scaled in results]
        if gate is not None and model is not None:
            model = follow(model)
        texts = [
            entry.with_constant(one) if gate is None else entry.with_gated(one)
            for entry, one in zip(prompts, residuals, strict=True)
        ]
    used = scope_used(scope, wording.clip, wording.text)
    lines = [_head(projector, weight, used, norm, gate)]
    lines += [line for result in results for line in result.lines]
    return Applied(texts, model, "\n".join(dict.fromkeys(lines)))


def follow(model: ModelPatcher) -> ModelPatcher:
    """A clone whose prompts may carry residuals that vary over the run."""
    patched = model.clone()
    present = injections_of(patched.model_options["transformer_options"])
    if not any(one.kind == SIP for one in present):
        register(patched, TextResiduals())
    return patched


@dataclass(frozen=True, eq=False)
class TextResiduals(Neutral):
    """An Injection: adds to each prompt's rows of the text what travels with that prompt."""

    order: str = ""
    sites: Sequence[Site] = ()

    kind = SIP
    label = LABEL

    def check_run(self, prompts: Sequence[PromptRows], options: Mapping[str, Any]) -> None:
        if not any(SIP in prompt.payloads for prompt in prompts):
            raise RuntimeError(
                "The MODEL comes from Apply SIP with a gate, but 0 of the run's prompts do. "
                "Connect the CONDITIONING that Apply SIP returns (behind Conditioning Concat: as "
                "conditioning_to), or the MODEL from before Apply SIP."
            )

    def edit_text(self, call: Call, text: Tensor) -> Tensor:
        """The call's text (R, T, D) with every residual at this moment's α; itself if all are 0."""
        return edit_rows(call, text, _edits_of, LABEL)


def _edits_of(prompt: PromptRows, moments: Sequence[Moment]) -> list[Edit]:
    return [
        Edit(one.direction, [one.gate.weight(moment, one.weight) for moment in moments])
        for one in prompt.payloads.get(SIP, ())
    ]


def _check(conditioning: Sequence, weight: float, gate: Gate | None, model: Any) -> None:
    if not conditioning:
        raise ValueError("Apply SIP got 0 prompts, expected 1 or more. Connect a text encode node.")
    check_weight("α of Apply SIP", weight)
    if gate is not None and model is None:
        raise ValueError(
            "Apply SIP has a gate but no model: α can follow the run only inside the model. "
            "Connect model (and use the returned one), or disconnect the gate."
        )


def check_constant(weight: float, norm: Norm) -> None:
    """Raise ValueError for a relative α without gate that leaves nothing of the text."""
    if norm != "none" and abs(weight) >= STRONGEST_CONSTANT:
        raise ValueError(
            f"Apply SIP has α {weight:g} and no gate: every token would change by its whole "
            f"length, expected below {STRONGEST_CONSTANT:g}, normally 0.05 to 0.15. If you "
            "bypassed a gate that holds alpha_base, set alpha to 0.1, or set bases to nodes on "
            "that gate. To use this α all the same, connect a constant Make Window Gate."
        )


def _residual(direction: Tensor, weight: float, gate: Gate | None) -> Residual:
    content = repr((tensor_key(direction), weight, gate))
    return Residual(direction, weight, gate, hashlib.sha256(content.encode()).hexdigest())


def _sort_residuals(residuals: Sequence[Residual]) -> tuple[Residual, ...]:
    return tuple(sorted(residuals, key=lambda one: one.order))


@dataclass(frozen=True, eq=False)
class _Scaled:
    direction: Tensor
    lines: tuple[str, ...]


class _Entry:
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
        constant = self.extra.get(CONSTANT)
        if constant is None or constant.after is not self.text:
            constant = Constant(self.text, self.text, ())
        self.constant: Constant = constant

    def scale(
        self,
        projector: SipProjector,
        identity: Identity,
        scope: Scope,
        norm: Norm,
        wording: Wording,
    ) -> _Scaled:
        states = self.constant.before.detach().float().cpu()
        mask = scope_mask(scope, states.shape[1], wording.clip, wording.text)
        found = direction_for(projector, identity, Prompt(states, wording.text))
        _check_direction(found, states, projector, self.number)
        facts = _facts(self.number, states, found.vectors, mask)
        return _Scaled(match_norms(found.vectors, states, mask, norm), (facts, *found.notes))

    def copy(self) -> list:
        return [self.text, self.extra.copy()]

    def with_constant(self, residual: Residual) -> list:
        residuals = _sort_residuals((*self.constant.residuals, residual))
        before = self.constant.before
        text = add_all(before, [(one.direction.to(before.device), one.weight) for one in residuals])
        return [text, {**self.extra, CONSTANT: Constant(before, text, residuals)}]

    def with_gated(self, residual: Residual) -> list:
        held = payload_of(self.extra, SIP) or ()
        return [self.text, with_payload(self.extra, SIP, _sort_residuals((*held, residual)))]


def _check_direction(found: Direction, states: Tensor, projector: Any, number: int) -> None:
    if found.vectors.shape != states.shape:
        raise ValueError(
            f"The SIP projector '{projector.name}' made a direction of shape "
            f"{tuple(found.vectors.shape)} for prompt {number} of shape {tuple(states.shape)}. "
            "Choose the projector for this model's text encoder."
        )
    if not found.vectors.isfinite().all():
        raise ValueError(
            f"The SIP projector '{projector.name}' made a direction with NaN or infinity for "
            f"prompt {number}. Check the weight file and the text encoder."
        )


def _head(projector: Any, weight: float, scope: str, norm: str, gate: Gate | None) -> str:
    options = f"scope {scope}; norm {norm}"
    if gate is not None:
        course = f"α {weight:g} times the gate: {describe_ends(gate, weight)}"
        return f"{projector.name}: {course}; {options}"
    turn = math.degrees(math.atan(abs(weight)))
    angle = f" (turns a token by up to {turn:.1f} degrees)" if norm == "token" else ""
    course = f"α {weight:g} constant, written into the conditioning{angle}"
    strong = norm != "none" and abs(weight) > SOFT
    advice = f"\n|α| is above {SOFT:g} all the way: the words may be lost; 0.05 to 0.15 is normal"
    return f"{projector.name}: {course}; {options}{advice * strong}"


def _facts(number: int, states: Tensor, direction: Tensor, mask: Tensor) -> str:
    """What the raw direction is like, over the tokens in scope."""
    texts, found = states[:, mask].flatten(0, 1), direction[:, mask].flatten(0, 1)
    sizes = texts.norm(dim=-1).median().item(), found.norm(dim=-1).median().item()
    cosine = F.cosine_similarity(texts, found, dim=-1).median().item()
    line = (
        f"prompt {number}: {int(mask.sum())} of {mask.numel()} tokens; median |E| {sizes[0]:.4g}, "
        f"|δ| {sizes[1]:.4g}, ratio {sizes[1] / max(sizes[0], 1e-30):.4g}, "
        f"cosine {round(cosine, 3) + 0.0:+.3f}"  # + 0.0: no "-0.000"
    )
    return line if found.any() else f"{line}. δ is 0 here: nothing was changed"
