"""Precision follows what the device really does; Muon gives the same in either format."""

import pytest
import torch
from flexid.model_patches.training import muon, precision
from flexid.model_patches.training.muon import Muon, orthogonalise

pytestmark = pytest.mark.pure

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


@pytest.fixture
def prefer(monkeypatch):
    """Overrule the measurement in every module that asks for it."""

    def overrule(bfloat16: bool) -> None:
        for module in (precision, muon):
            monkeypatch.setattr(module, "prefers_bfloat16", lambda kind: bfloat16)

    return overrule


def test_the_faster_format_is_taken(monkeypatch):
    seconds = {torch.float32: 1.0, torch.bfloat16: 0.5}
    monkeypatch.setattr(precision, "_product_seconds", seconds.__getitem__)
    fresh = precision.prefers_bfloat16.__wrapped__
    assert fresh("cpu")
    seconds[torch.bfloat16] = 0.9
    assert not fresh("cpu"), "nearly a tie: float32"
    seconds[torch.bfloat16] = 50.0
    assert not fresh("cpu")


def test_the_measurement_takes_well_under_a_second_and_tells_the_formats_apart():
    import time

    started = time.perf_counter()
    precision.prefers_bfloat16.__wrapped__("cpu")
    assert time.perf_counter() - started < 5
    assert precision._product_seconds(torch.float32) > 0


def test_the_formats_are_timed_on_one_thread(monkeypatch):
    """With several, other programs' load decides: two of three measurements went wrong by it."""
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        count = lambda dtype: seen.append(torch.get_num_threads()) or 1.0  # noqa: E731
        monkeypatch.setattr(precision, "_product_seconds", count)
        precision.prefers_bfloat16.__wrapped__("cpu")
        assert seen == [1, 1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bfloat16", [True, False])
def test_autocast_and_dtype_agree(prefer, bfloat16):
    prefer(bfloat16)
    wanted = torch.bfloat16 if bfloat16 else torch.float32
    assert precision.fastest_dtype("cpu") == wanted
    with precision.autocast("cpu"):
        assert torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2)).dtype == wanted


def _train(optimiser: type, steps: int = 4, **options) -> tuple[torch.Tensor, dict]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(12, 20, generator=generator))
    made = optimiser([weight], lr=0.02, **options)
    for _ in range(steps):
        weight.grad = torch.randn(weight.shape, generator=generator)
        made.step()
    return weight.detach(), made.state_dict()


@pytest.mark.parametrize("rule", [None, "original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_in_float32_is_torchs_but_for_rounding(prefer, rule, nesterov):
    prefer(False)
    options = {"adjust_lr_fn": rule, "nesterov": nesterov, "weight_decay": 0.1}
    ours, state = _train(Muon, **options)
    theirs, reference = _train(torch.optim.Muon, **options)
    start = _train(Muon, steps=0)[0]
    assert (ours - theirs).norm() < 0.02 * (theirs - start).norm()
    momentum = [one["state"][0]["momentum_buffer"] for one in (state, reference)]
    assert torch.allclose(*momentum, atol=1e-6), "a checkpoint of one goes on with the other"


def test_muon_in_bfloat16_is_torchs_to_the_bit(prefer):
    prefer(True)
    assert torch.equal(_train(Muon)[0], _train(torch.optim.Muon)[0])


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (16, 16)])
def test_orthogonalise_brings_singular_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalise(matrix, NEWTON_SCHULZ, 5, 1e-7))
    assert values.min() > 0.5 and values.max() < 1.3


def test_muon_refuses_a_closure():
    weight = torch.nn.Parameter(torch.ones(2, 2))
    with pytest.raises(ValueError, match="no closure"):
        Muon([weight]).step(lambda: torch.zeros(()))
