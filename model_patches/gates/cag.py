"""Context-aware adaptive gating: FlexID, section 3.4 (arXiv 2602.07554). Plain numbers, no torch.

    alpha(t, P) = alpha_base * gamma_sem(P) * T_sem(t)        (1) semantic stream, SIP
    w(t, P)     = w_base     * gamma_vis(P) * T_vis(t)        (2) visual stream, VFA
    gamma_sem = 1 + lambda_up * I(P),  gamma_vis = 1 - lambda_down * I(P)

t runs from 1, pure noise, to 0. The paper leaves its clock and the constants of T_sem ∝ t and
T_vis ∝ 1 - t open. A sampler moves the picture by dsigma, so t is sigma for flow models, and
T_sem = 1 + kappa (2t - 1), T_vis = 1 - kappa (2t - 1) have the mean 1 over dsigma for any kappa,
scheduler, shift and number of steps: the bases keep their meaning. The limits of both streams are
those of their gates, so they hold for the product with windows and with a node's own weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .gate import OPEN, Gate, Moment, describe_ends
from .intent.dictionary import Dictionary
from .intent.intent import Intent, Match, as_binary, has_chinese, read_intent
from .numbers import LARGEST_WEIGHT, check_number

Mode = Literal["recommended", "literal"]
IntentMode = Literal["auto", "graded", "binary"]
Time = Literal["auto", "sigma", "percent"]
Bases = Literal["gate", "nodes"]
Source = Literal["prompt", "external score", "override"]
MODES: tuple[Mode, ...] = ("recommended", "literal")
INTENT_MODES: tuple[IntentMode, ...] = ("auto", "graded", "binary")
TIMES: tuple[Time, ...] = ("auto", "sigma", "percent")
BASES: tuple[Bases, ...] = ("gate", "nodes")

# Flux.1-dev's own, so that curves look like a run of the model that the paper uses.
DISPLAY_SHIFT = 1.15
SAMPLES = 51

_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Knobs:
    """Constants of equations (1) and (2). The paper gives both bases only."""

    mode: Mode = "recommended"
    intent_mode: IntentMode = "auto"
    """auto: graded in the recommended mode, binary (as the paper's) in the literal one."""
    alpha_base: float = 0.1
    w_base: float = 1.0
    lambda_up: float = 0.5
    lambda_down: float = 0.3
    kappa_sem: float = 0.5
    kappa_vis: float = 0.5
    alpha_max: float = 0.15
    w_max: float = 1.5
    time: Time = "auto"
    """auto: the diffusion time t of whatever model samples. sigma insists on a flow model's sigma,
    percent on 1 - percent = timestep / (N - 1)."""
    bases: Bases = "gate"
    """Who holds the base weights. gate: these knobs, and the nodes behind have weight 1. nodes: the
    nodes' own weights are the bases, so that a gate that is bypassed leaves both streams at them;
    alpha_base and w_base are then not read."""

    def __post_init__(self) -> None:
        for name, value, options in (
            ("mode", self.mode, MODES),
            ("intent_mode", self.intent_mode, INTENT_MODES),
            ("time", self.time, TIMES),
            ("bases", self.bases, BASES),
        ):
            if value not in options:
                raise ValueError(f"{name} is {value!r}; choose one of {', '.join(options)}.")
        for name, highest in _RANGES.items():
            check_number(name, getattr(self, name), 0.0, highest)

    @property
    def is_binary(self) -> bool:
        literal = self.intent_mode == "auto" and self.mode == "literal"
        return literal or self.intent_mode == "binary"

    @property
    def held_bases(self) -> tuple[float, float]:
        """The base weights within the semantic and the visual gate."""
        return (1.0, 1.0) if self.bases == "nodes" else (self.alpha_base, self.w_base)


_RANGES = {
    "alpha_base": LARGEST_WEIGHT,
    "w_base": LARGEST_WEIGHT,
    "lambda_up": LARGEST_WEIGHT,
    "lambda_down": 1.0,
    "kappa_sem": 1.0,
    "kappa_vis": 1.0,
    "alpha_max": LARGEST_WEIGHT,
    "w_max": LARGEST_WEIGHT,
}


def gamma_sem(intent: float, lambda_up: float) -> float:
    return 1.0 + lambda_up * intent


def gamma_vis(intent: float, lambda_down: float) -> float:
    return 1.0 - lambda_down * intent


@dataclass(frozen=True)
class DynamicWeight:
    """A Factor: base * gamma * T(t). T is a straight line over t."""

    base: float
    gamma: float
    at_noise: float
    """T(1)"""
    at_clean: float
    """T(0)"""
    time: Time = "auto"

    def weight(self, moment: Moment) -> float:
        t = self._t(moment)
        shape = self.at_noise * t + self.at_clean * (1.0 - t)
        # In this order, a base of the gate and the same base of a node give the same bits.
        return self.base * (self.gamma * shape)

    def _t(self, moment: Moment) -> float:
        if self.time == "auto":
            return moment.t
        if self.time == "percent":
            return 1.0 - moment.percent
        if moment.sigma > 1.0 + _TOLERANCE:
            raise ValueError(
                f"The context-aware gate reads sigma as its time, but this model is at sigma "
                f"{moment.sigma:.4g}, expected 0 to 1: it is no flow model. Set time to auto in "
                "Compute Context-Aware Gate."
            )
        return min(max(moment.sigma, 0.0), 1.0)


def gates_for(intent: float, knobs: Knobs) -> tuple[Gate, Gate]:
    """Equations (1) and (2) for a given I(P) in [0, 1]: the semantic and the visual gate."""
    up, down = gamma_sem(intent, knobs.lambda_up), gamma_vis(intent, knobs.lambda_down)
    alpha, w = knobs.held_bases
    if knobs.mode == "literal":
        semantic = DynamicWeight(alpha, up, 1.0, 0.0, time=knobs.time)
        visual = DynamicWeight(w, down, 0.0, 1.0, time=knobs.time)
        return Gate((semantic,)), Gate((visual,))
    sem, vis = knobs.kappa_sem, knobs.kappa_vis
    semantic = DynamicWeight(alpha, up, 1 + sem, 1 - sem, knobs.time)
    visual = DynamicWeight(w, down, 1 - vis, 1 + vis, knobs.time)
    return Gate((semantic,), knobs.alpha_max), Gate((visual,), knobs.w_max)


def choose_intent(
    parsed: float, knobs: Knobs, override: float | None = None, external: float | None = None
) -> float:
    """I(P): the override as it is, else the external or parsed score in the intent mode."""
    for name, value in (("override_intent", override), ("external_score", external)):
        if value is not None:
            check_number(name, value, 0.0, 1.0)
    if override is not None:
        return override
    score = parsed if external is None else external
    return as_binary(score) if knobs.is_binary else score


@dataclass(frozen=True)
class ContextAwareGate:
    """A prompt's two gates, and how they came about."""

    semantic: Gate
    """alpha(t, P): what SIP's alpha is at a moment."""
    visual: Gate
    """w(t, P): what VFA's weight is at a moment."""
    intent: float
    """The I(P) that both used."""
    source: Source
    parsed: Intent
    knobs: Knobs
    has_chinese: bool = False

    def curve(self, samples: int = SAMPLES) -> list[dict[str, float]]:
        """Both weights over a run of Flux.1-dev at denoise 1, percent from 0 to 1."""
        semantic, visual = self._shown_gates()
        moments = (_display_moment(i / (samples - 1)) for i in range(samples))
        return [
            {
                "percent": round(moment.percent, 4),
                "sigma": round(moment.sigma, 4),
                "semantic": round(semantic.weight(moment), 5),
                "visual": round(visual.weight(moment), 5),
            }
            for moment in moments
        ]

    def _shown_gates(self) -> tuple[Gate, Gate]:
        """Without limits where a node holds the base: they hold for a product not known here."""
        if self.knobs.bases == "nodes":
            return Gate(self.semantic.factors), Gate(self.visual.factors)
        return self.semantic, self.visual

    def courses(self) -> dict[str, str]:
        """Each stream's weight from the first to the last moment, as it is shown to the user."""
        times = "× " if self.knobs.bases == "nodes" else ""
        symbols = {"semantic": "α", "visual": "w"}
        return {
            stream: f"{symbol} {times}{describe_ends(gate)}"
            for (stream, symbol), gate in zip(symbols.items(), self._shown_gates(), strict=True)
        }

    def summary(self) -> dict[str, Any]:
        """All of it as JSON values, for the display on the node and for users of the API."""
        return {
            "intent": self.intent,
            "source": self.source,
            "categories": dict(self.parsed.categories),
            "gamma_sem": gamma_sem(self.intent, self.knobs.lambda_up),
            "gamma_vis": gamma_vis(self.intent, self.knobs.lambda_down),
            "terms": [match._asdict() for match in self.parsed.matches],
            "curve": self.curve(),
            "courses": self.courses(),
            "bases": dict(zip(("semantic", "visual"), self.knobs.held_bases, strict=True)),
        }

    def report(self) -> str:
        courses = self.courses()
        up = gamma_sem(self.intent, self.knobs.lambda_up)
        down = gamma_vis(self.intent, self.knobs.lambda_down)
        scores = ", ".join(f"{c} {s:.2f}" for c, s in self.parsed.categories.items() if s)
        kind = "binary" if self.knobs.is_binary and self.source != "override" else "graded"
        lines = [
            f"intent {self.intent:.2f} ({kind}, from the {self.source})",
            f"gamma_sem {up:.3f}, gamma_vis {down:.3f}",
            f"{courses['semantic']}, {courses['visual']}",
            *self._describe_bases(),
            f"the prompt: {scores or 'no edit found'}",
            *map(_line, self.parsed.matches),
        ]
        if self.has_chinese:
            lines.append(
                "The prompt has Chinese characters: the intent is read, but the T5 of Flux cannot "
                "read them. Translate the prompt for the picture."
            )
        return "\n".join(lines)

    def _describe_bases(self) -> list[str]:
        if self.knobs.bases == "gate":
            return []
        limits = f"at most α {self.knobs.alpha_max:g}, w {self.knobs.w_max:g} in all"
        held = "" if self.knobs.mode == "literal" else f"; {limits}"
        return [f"times alpha of Apply SIP and weight of Apply VFA{held}"]


def _line(match: Match) -> str:
    reasons = f" ({'; '.join(match.reasons)})" if match.reasons else ""
    return f"  {match.text}: {match.category} {match.score:.2f}{reasons}"


def _display_moment(percent: float) -> Moment:
    noise = math.exp(DISPLAY_SHIFT) * (1.0 - percent)
    sigma = noise / (noise + percent)
    return Moment(sigma, percent, percent, sigma)


def compute_gates(
    prompt: str,
    knobs: Knobs,
    *,
    dictionary: Dictionary | None = None,
    factors: Mapping[str, float] | None = None,
    override: float | None = None,
    external: float | None = None,
    gate: Gate = OPEN,
) -> ContextAwareGate:
    """Equations (1) and (2) for a prompt; `gate` multiplies both.

    dictionary: the built-in one when None. factors: per category, 1 when absent. override and
    external: an intent in [0, 1] in place of the parser's. Raises ValueError on values outside.
    """
    parsed = read_intent(prompt, dictionary, factors)
    intent = choose_intent(parsed.score, knobs, override, external)
    semantic, visual = gates_for(intent, knobs)
    source: Source = "prompt" if external is None else "external score"
    return ContextAwareGate(
        semantic * gate,
        visual * gate,
        intent,
        source if override is None else "override",
        parsed,
        knobs,
        has_chinese(prompt),
    )
