"""Equations (1) and (2) of FlexID, section 3.4, against values worked out by hand."""

import math

import pytest
from flexid.model_patches.gates.cag import (
    DynamicWeight,
    Knobs,
    choose_intent,
    compute_gates,
    gamma_sem,
    gamma_vis,
    gates_for,
)
from flexid.model_patches.gates.clock import Clock
from flexid.model_patches.gates.gate import OPEN, Gate, Moment, describe_ends
from flexid.model_patches.gates.window import window

pytestmark = pytest.mark.pure

PLAIN, SMILE, LAUGH = "a woman in a coat", "a woman smiling", "a man laughing"


def at(t: float) -> Moment:
    """A moment of a flow model whose sigma is t; percent and progress are something else."""
    return Moment(t, 0.123, 0.456, t)


def shifted(shift: float, percent: float) -> float:
    noise = math.exp(shift) * (1 - percent)
    return noise / (noise + percent)


@pytest.mark.parametrize(
    ("intent", "up", "down"), [(0, 1.0, 1.0), (0.5, 1.25, 0.85), (0.9, 1.45, 0.73), (1, 1.5, 0.7)]
)
def test_gamma(intent, up, down):
    assert gamma_sem(intent, 0.5) == pytest.approx(up)
    assert gamma_vis(intent, 0.3) == pytest.approx(down)


# alpha = 0.1 (1 + 0.5 I)(0.5 + t), at most 0.15; w = 1.0 (1 - 0.3 I)(1.5 - t), at most 1.5
RECOMMENDED = [
    (PLAIN, 1.0, 0.15, 0.5),
    (PLAIN, 0.75, 0.125, 0.75),
    (PLAIN, 0.5, 0.1, 1.0),
    (PLAIN, 0.0, 0.05, 1.5),
    (SMILE, 1.0, 0.15, 0.425),
    (SMILE, 0.5, 0.125, 0.85),
    (SMILE, 0.25, 0.09375, 1.0625),
    (SMILE, 0.0, 0.0625, 1.275),
    (LAUGH, 1.0, 0.15, 0.365),
    (LAUGH, 0.5, 0.145, 0.73),
    (LAUGH, 0.2, 0.1015, 0.949),
    (LAUGH, 0.0, 0.0725, 1.095),
]

# alpha = 0.1 (1 + 0.5 I) t; w = 1.0 (1 - 0.3 I)(1 - t); I is 0 or 1
LITERAL = [
    (PLAIN, 1.0, 0.1, 0.0),
    (PLAIN, 0.25, 0.025, 0.75),
    (PLAIN, 0.0, 0.0, 1.0),
    (SMILE, 1.0, 0.15, 0.0),
    (SMILE, 0.6, 0.09, 0.28),
    (LAUGH, 0.6, 0.09, 0.28),
    (LAUGH, 0.0, 0.0, 0.7),
]


@pytest.mark.parametrize(("prompt", "t", "alpha", "w"), RECOMMENDED)
def test_recommended_weights(prompt, t, alpha, w):
    gates = compute_gates(prompt, Knobs())
    assert gates.semantic.weight(at(t)) == pytest.approx(alpha)
    assert gates.visual.weight(at(t)) == pytest.approx(w)


@pytest.mark.parametrize(("prompt", "t", "alpha", "w"), LITERAL)
def test_literal_weights_are_the_papers(prompt, t, alpha, w):
    gates = compute_gates(prompt, Knobs(mode="literal"))
    assert gates.semantic.weight(at(t)) == pytest.approx(alpha)
    assert gates.visual.weight(at(t)) == pytest.approx(w)


@pytest.mark.parametrize("mode", ["recommended", "literal"])
@pytest.mark.parametrize("prompt", [PLAIN, SMILE, LAUGH])
def test_bases_in_the_nodes_give_the_same_bits_as_in_the_gate(mode, prompt):
    bases = {"alpha_base": 0.1, "w_base": 0.7}
    held = compute_gates(prompt, Knobs(mode, **bases))
    free = compute_gates(prompt, Knobs(mode, bases="nodes", alpha_base=0.9, w_base=3.0))
    for t in (i / 97 for i in range(98)):
        assert free.semantic.weight(at(t), 0.1) == held.semantic.weight(at(t))
        assert free.visual.weight(at(t), 0.7) == held.visual.weight(at(t))


def test_a_weight_that_rounds_to_nothing_is_not_minus_0():
    assert describe_ends(Gate((window("constant", 0.0, 1.0, first=-1e-5),))) == "0.000 → 0.000"


def test_literal_mode_is_the_papers_formula_for_any_constants():
    constants = {"alpha_base": 0.37, "w_base": 1.9, "lambda_up": 1.7, "lambda_down": 0.8}
    knobs = Knobs("literal", kappa_sem=0.2, kappa_vis=0.9, alpha_max=0.01, w_max=0.01, **constants)
    for prompt, indicator in ((PLAIN, 0), (SMILE, 1), (LAUGH, 1)):
        gates = compute_gates(prompt, knobs)
        for t in (1.0, 0.83, 0.5, 0.31, 0.0):
            paper_alpha = 0.37 * (1 + 1.7 * indicator) * t
            paper_w = 1.9 * (1 - 0.8 * indicator) * (1 - t)
            assert gates.semantic.weight(at(t)) == pytest.approx(paper_alpha)
            assert gates.visual.weight(at(t)) == pytest.approx(paper_w)


def test_directions_semantic_falls_and_visual_rises_over_a_run():
    for mode in ("recommended", "literal"):
        semantic, visual = gates_for(0.5, Knobs(mode, alpha_max=1.0))
        run = [at(sigma) for sigma in (1.0, 0.8, 0.4, 0.1, 0.0)]
        early_to_late = [semantic.weight(moment) for moment in run]
        assert early_to_late == sorted(early_to_late, reverse=True)
        early_to_late = [visual.weight(moment) for moment in run]
        assert early_to_late == sorted(early_to_late)


@pytest.mark.parametrize("kappa", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("shift", [0.0, 1.15, 3.0])
@pytest.mark.parametrize("steps", [4, 25])
def test_the_mean_over_dsigma_is_the_base(kappa, shift, steps):
    """Steps of Euler move the picture by dsigma; at the middle of each the mean is exact."""
    knobs = Knobs(kappa_sem=kappa, kappa_vis=kappa, alpha_max=9.0, w_max=9.0)
    semantic, visual = gates_for(0.0, knobs)
    sigmas = [shifted(shift, i / steps) for i in range(steps + 1)]
    pairs = list(zip(sigmas, sigmas[1:], strict=False))
    for gate, base in ((semantic, 0.1), (visual, 1.0)):
        mean = sum(gate.weight(at((a + b) / 2)) * (a - b) for a, b in pairs)
        assert mean == pytest.approx(base)


@pytest.mark.parametrize(
    ("mode", "kappa", "step_mean", "dsigma_mean", "first", "last"),
    [
        ("literal", 0.5, 0.297, 0.470, 0.00, 0.88),
        ("recommended", 1.0, 0.594, 0.940, 0.00, 1.77),
        ("recommended", 0.5, 0.797, 0.970, 0.50, 1.38),
    ],
)
def test_25_steps_of_flux_as_sampled(mode, kappa, step_mean, dsigma_mean, first, last):
    """Weights at the start of each step, as a sampler asks for them, at shift 1.15."""
    visual = gates_for(0.0, Knobs(mode, kappa_vis=kappa, w_max=9.0))[1]
    sigmas = [shifted(1.15, i / 25) for i in range(26)]
    weights = [visual.weight(at(sigma)) for sigma in sigmas[:-1]]
    moved = [a - b for a, b in zip(sigmas, sigmas[1:], strict=False)]
    assert sum(weights) / 25 == pytest.approx(step_mean, abs=6e-4)
    total = sum(w * d for w, d in zip(weights, moved, strict=True))
    assert total == pytest.approx(dsigma_mean, abs=6e-4)
    assert [weights[0], weights[-1]] == pytest.approx([first, last], abs=6e-3)


def test_partial_denoise_keeps_the_absolute_time():
    """A run that begins at sigma 0.4 begins with a strong visual gate."""
    clock = Clock(lambda percent: shifted(1.15, percent), [0.4, 0.2, 0.0])
    moment = clock.moment(0.4)
    assert moment.progress == 0.0
    assert gates_for(0.0, Knobs())[1].weight(moment) == pytest.approx(1.1)


def test_percent_time_is_the_timestep_of_eps_models():
    semantic, visual = gates_for(0.0, Knobs(time="percent"))
    moment = Moment(14.6, 0.25, 0.0, 0.75)
    assert semantic.weight(moment) == pytest.approx(0.125)
    assert visual.weight(moment) == pytest.approx(0.75)


def test_a_sigma_of_an_eps_model_is_refused():
    with pytest.raises(ValueError, match="14.6.*0 to 1.*Set time to auto"):
        gates_for(0.0, Knobs(time="sigma"))[0].weight(Moment(14.6, 0.0, 0.0, 1.0))


def test_auto_time_is_the_diffusion_time_of_either_kind_of_model():
    eps, flow = Moment(14.6, 0.25, 0.0, 0.75), Moment(0.75, 0.4, 0.0, 0.75)
    for gate in gates_for(0.3, Knobs()):
        assert gate.weight(eps) == gate.weight(flow)
    for gate, percent in zip(
        gates_for(0.3, Knobs()), gates_for(0.3, Knobs(time="percent")), strict=True
    ):
        assert gate.weight(eps) == percent.weight(eps)


def test_limits_hold_for_the_product_with_windows_and_the_nodes_weight():
    double = Gate((window("constant", 0.0, 1.0, first=2.0),))
    half = Gate((window("constant", 0.0, 1.0, first=0.5),))
    semantic, visual = (gate * double for gate in gates_for(0.0, Knobs()))
    assert semantic.weight(at(1.0)) == 0.15, "0.15 x 2 without the limit"
    assert visual.weight(at(0.0)) == 1.5
    assert visual.weight(at(0.0), -3.0) == -1.5
    strong = gates_for(1.0, Knobs(w_base=4.0))[1]
    assert (strong * half).weight(at(0.0)) == 1.5, "4.2 x 0.5 is still above the limit"


def test_limits_hold_in_the_recommended_mode_only():
    semantic, visual = gates_for(1.0, Knobs(w_base=4.0))
    assert semantic.weight(at(1.0)) == 0.15
    assert visual.weight(at(0.0)) == 1.5
    semantic, visual = gates_for(1.0, Knobs("literal", w_base=4.0))
    assert semantic.weight(at(1.0)) == pytest.approx(0.15)
    assert visual.weight(at(0.0)) == pytest.approx(2.8)


def test_zero_bases_close_the_gates_exactly():
    semantic, visual = gates_for(0.7, Knobs(alpha_base=0.0, w_base=0.0))
    assert semantic.weight(at(0.9)) == visual.weight(at(0.1)) == 0.0


def test_kappa_zero_is_the_static_ablation():
    semantic, visual = gates_for(0.0, Knobs(kappa_sem=0.0, kappa_vis=0.0))
    for t in (1.0, 0.4, 0.0):
        assert semantic.weight(at(t)) == pytest.approx(0.1)
        assert visual.weight(at(t)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("parsed", "options", "override", "external", "expected"),
    [
        (0.6, {}, None, None, 0.6),
        (0.6, {"intent_mode": "binary"}, None, None, 1.0),
        (0.1, {"intent_mode": "binary"}, None, None, 0.0),
        (0.6, {"mode": "literal"}, None, None, 1.0),
        (0.6, {"mode": "literal", "intent_mode": "graded"}, None, None, 0.6),
        (0.6, {}, None, 0.3, 0.3),
        (0.6, {"intent_mode": "binary"}, None, 0.3, 1.0),
        (0.6, {}, 0.0, 0.3, 0.0),
        (0.6, {"intent_mode": "binary"}, 0.4, None, 0.4),
    ],
)
def test_where_the_intent_comes_from(parsed, options, override, external, expected):
    assert choose_intent(parsed, Knobs(**options), override, external) == expected


def test_category_factors_weigh_the_intent():
    prompt = "a woman laughing, oil painting"
    both = compute_gates(prompt, Knobs()).intent
    assert both == pytest.approx(1 - (1 - 0.9) * (1 - 0.7))
    assert compute_gates(prompt, Knobs(), factors={"style": 0.0}).intent == pytest.approx(0.9)
    half = compute_gates(prompt, Knobs(), factors={"style": 0.0, "expression": 0.5})
    assert half.intent == pytest.approx(0.45)


def test_another_gate_multiplies():
    late = Gate((window("constant", 0.5, 1.0),))
    gates = compute_gates(PLAIN, Knobs(), gate=late)
    for percent, open_ in ((0.2, 0.0), (0.8, 1.0)):
        moment = Moment(0.5, percent, percent, 0.5)
        assert gates.semantic.weight(moment) == pytest.approx(0.1 * open_)
        assert gates.visual.weight(moment) == pytest.approx(1.0 * open_)
    assert compute_gates(PLAIN, Knobs(), gate=OPEN).visual.weight(at(0.5)) == pytest.approx(1.0)


def test_curve_is_what_the_gates_say_over_a_flux_run():
    gates = compute_gates(LAUGH, Knobs())
    curve = gates.curve(11)
    assert [point["percent"] for point in curve] == pytest.approx([i / 10 for i in range(11)])
    assert curve[0]["sigma"] == 1.0 and curve[-1]["sigma"] == 0.0
    for point in curve:
        assert point["sigma"] == pytest.approx(shifted(1.15, point["percent"]), abs=1e-4)
        sigma = shifted(1.15, point["percent"])
        moment = Moment(sigma, point["percent"], 0.0, sigma)
        assert point["semantic"] == pytest.approx(gates.semantic.weight(moment), abs=1e-5)
        assert point["visual"] == pytest.approx(gates.visual.weight(moment), abs=1e-5)


def test_the_report_names_intent_gammas_and_terms():
    report = compute_gates("a man laughing, not smiling", Knobs()).report()
    for fact in ("intent 0.90 (graded, from the prompt)", "1.450", "0.730", "negated by not"):
        assert fact in report
    assert "Chinese" not in report
    assert "T5" in compute_gates("大笑的男人", Knobs()).report()
    by_hand = compute_gates(PLAIN, Knobs(), override=1.0).report()
    assert "from the override" in by_hand and "no edit found" in by_hand


def test_weights_are_equal_by_value():
    """Gates are cached and compared by value elsewhere."""
    assert gates_for(0.5, Knobs()) == gates_for(0.5, Knobs())
    assert isinstance(hash(DynamicWeight(1.0, 1.0, 1.0, 0.0)), int)


@pytest.mark.parametrize(
    ("call", "facts"),
    [
        (lambda: Knobs(mode="paper"), ["mode is 'paper'", "recommended, literal"]),
        (lambda: Knobs(intent_mode="soft"), ["soft", "auto, graded, binary"]),
        (lambda: Knobs(time="step"), ["step", "auto, sigma, percent"]),
        (lambda: Knobs(lambda_down=1.2), ["lambda_down is 1.2", "[0, 1]"]),
        (lambda: Knobs(kappa_sem=-0.1), ["kappa_sem is -0.1", "[0, 1]"]),
        (lambda: Knobs(alpha_base=float("nan")), ["alpha_base is nan", "finite"]),
        (lambda: Knobs(w_max=float("inf")), ["w_max is inf", "finite"]),
        (lambda: choose_intent(0, Knobs(), external=-0.5), ["external_score is -0.5", "[0, 1]"]),
        (lambda: choose_intent(0, Knobs(), override=2), ["override_intent is 2", "[0, 1]"]),
        (lambda: choose_intent(0, Knobs(), external=float("nan")), ["nan"]),
        (lambda: compute_gates("", Knobs(), factors={"mood": 1.0}), ["mood", "expression"]),
        (lambda: compute_gates("", Knobs(), factors={"pose": -1.0}), ["pose", "-1"]),
    ],
)
def test_bad_values_say_what_is_wrong(call, facts):
    with pytest.raises(ValueError) as error:
        call()
    for fact in facts:
        assert fact in str(error.value), str(error.value)
