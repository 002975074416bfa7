"""The loop learns, and a stopped run ends where an uninterrupted one does."""

import csv
import os
import signal

import pytest
import torch
from flexid.model_patches.training import distributed, stopping
from flexid.model_patches.training.loop import Recipe, Training, schedule, train
from torch import nn

pytestmark = pytest.mark.pure

RECIPE = Recipe("line", steps=60, rate=0.05, warmup=5, average=0.9)


def module():
    torch.manual_seed(0)
    return nn.Linear(2, 1)


def loss_of(model, stop_at=None):
    def loss(step, rng):
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.from_numpy(rng.normal(size=(64, 2))).float()
        error = (model(x).float() - (3 * x[:, :1] - x[:, 1:] + 0.5)).square().mean()
        return error, {"bias": model.bias.detach()[0]}

    return loss


def test_it_learns(tmp_path):
    model = module()
    train(Recipe("line", steps=400, rate=0.15, warmup=5), model, loss_of(model), tmp_path)
    assert model.weight.flatten().tolist() == pytest.approx([3, -1], abs=0.05)
    with (tmp_path / "line.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["loss"]) < 0.01 * float(rows[0]["loss"])
    assert "bias" in rows[0]


def whole_and_broken(tmp_path):
    """The module of a run in "whole"; one in "broken" was stopped."""
    whole = module()
    train(RECIPE, whole, loss_of(whole), tmp_path / "whole")
    broken = module()
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, broken, loss_of(broken, stop_at=37), tmp_path / "broken")
    return whole


def test_a_stopped_run_goes_on_as_if_nothing_had_happened(tmp_path):
    whole = whole_and_broken(tmp_path)
    resumed = module()
    train(RECIPE, resumed, loss_of(resumed), tmp_path / "broken")
    assert torch.equal(whole.weight, resumed.weight)
    curves = [(tmp_path / run / "line.csv").read_text() for run in ("whole", "broken")]
    steps = [[row.split(",")[0] for row in curve.splitlines()] for curve in curves]
    assert steps[0] == steps[1]


def test_a_checkpoint_older_than_shares_goes_on(tmp_path):
    whole = whole_and_broken(tmp_path)
    path = tmp_path / "broken" / "line.ckpt"
    saved = torch.load(path, weights_only=True)
    for optimiser in saved["optimisers"]:
        for group in optimiser["param_groups"]:
            del group["share"]
    torch.save(saved, path)
    resumed = module()
    train(RECIPE, resumed, loss_of(resumed), tmp_path / "broken")
    assert torch.equal(whole.weight, resumed.weight)


def test_parts_learn_at_their_share_of_the_rate(tmp_path):
    """Layers (Muon) and their biases (AdamW); a share of nothing keeps a part as it is."""
    moved = {}
    for share in (1.0, 0.1, 0.0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        before = [parameter.detach().clone() for parameter in model.parameters()]
        recipe = Recipe("shares", 1, 0.05, warmup=1, average=0.0, shares={"0": share})
        train(recipe, model, loss_of_both(model), tmp_path / str(share))
        after = [parameter.detach() for parameter in model.parameters()]
        moved[share] = [float((a - b).norm()) for a, b in zip(after, before, strict=True)]
    first, last = slice(0, 2), slice(2, 4)
    assert moved[0.0][first] == [0, 0] and all(value > 0 for value in moved[1.0])
    assert moved[0.1][first] == pytest.approx([value / 10 for value in moved[1.0][first]], rel=1e-3)
    assert moved[0.1][last] == moved[0.0][last] == moved[1.0][last]


def loss_of_both(model):
    def loss(step, rng):
        x = torch.from_numpy(rng.normal(size=(64, 2))).float()
        return (model(x).float() - x.sum(1, keepdim=True) - 1).square().mean(), {}

    return loss


def test_memory_layout_makes_no_difference(tmp_path):
    trained = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
        before = [weight.detach().clone() for weight in model.parameters()]
        model.to(memory_format=layout)

        def loss(step, rng, model=model):
            x = torch.from_numpy(rng.normal(size=(8, 3, 3, 3))).float()
            return (model(x).float() - x[:, :2, 1, 1]).square().mean(), {}

        recipe = Recipe("conv", steps=5, rate=0.05, warmup=1, average=0)
        train(recipe, model, loss, tmp_path / str(layout))
        trained.append([weight.detach() for weight in model.parameters()])
        for old, new in zip(before, trained[-1], strict=True):
            assert (new - old).abs().mean() > 0.005, "a layer stood still"
    for plain, last in zip(*trained, strict=True):
        assert torch.allclose(plain, last, atol=0.01)


def test_divergence_is_reported_and_leaves_no_checkpoint(tmp_path):
    model = module()

    def loss(step, rng):
        return model.weight.sum() * float("nan"), {}

    with pytest.raises(FloatingPointError, match="line.*step 0.*rate"):
        train(RECIPE, model, loss, tmp_path)
    assert not (tmp_path / "line.ckpt").exists()


def test_only_parameters_that_want_gradients_are_trained(tmp_path):
    model = module()
    model.bias.requires_grad_(False)
    before = model.bias.clone()
    train(RECIPE, model, loss_of(model), tmp_path)
    assert torch.equal(model.bias, before)


def test_schedule_rises_then_falls():
    shares = [schedule(step, RECIPE) for step in range(RECIPE.steps + 1)]
    assert shares[0] == pytest.approx(1 / 5)
    assert max(shares) == 1.0
    assert shares[-1] == pytest.approx(0.05)


def first_release_checkpoint():
    """As written before training became part of the pack, at step 4 of 10: the layout is kept."""
    muon = {"weight_decay": 0.01, "momentum": 0.95, "nesterov": True, "eps": 1e-7, "ns_steps": 5}
    muon |= {"ns_coefficients": (3.4445, -4.775, 2.0315), "adjust_lr_fn": "match_rms_adamw"}
    adam = {"betas": (0.9, 0.99), "eps": 1e-8, "amsgrad": False, "maximize": False}
    adam |= {"foreach": None, "capturable": False, "differentiable": False, "fused": True}
    adam["decoupled_weight_decay"] = True
    table, layer, bias = torch.full((3, 2), 0.5), torch.full((1, 2), 0.25), torch.tensor([0.125])

    def moments(like):
        return {"step": torch.tensor(4.0), "exp_avg": like / 10, "exp_avg_sq": like**2}

    muon_state = {0: {"momentum_buffer": layer / 10}}
    adam_state = {0: moments(table), 1: moments(bias)}
    groups = [
        {"share": 1.0, "lr": 0.04, **adam, "weight_decay": 0.01, "params": [0]},
        {"share": 0.5, "lr": 0.02, **adam, "weight_decay": 0.0, "params": [1]},
    ]
    return {
        "step": 4,
        "module": {"0.weight": table, "1.weight": layer, "1.bias": bias},
        "averages": [table / 2, layer / 2, bias / 2],
        "optimisers": [
            {
                "state": muon_state,
                "param_groups": [{"share": 0.5, "lr": 0.02, **muon, "params": [0]}],
            },
            {"state": adam_state, "param_groups": groups},
        ],
    }


def test_checkpoints_of_the_first_release_go_on(tmp_path):
    saved = first_release_checkpoint()
    torch.save(saved, tmp_path / "line.ckpt")
    recipe = Recipe("line", 10, 0.05, warmup=2, average=0.9, shares={"1": 0.5})
    model = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 1))
    run = Training(recipe, model, tmp_path)
    assert run.step == 4
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved["module"][name]), name
    for mine, stored in zip(run.averages, saved["averages"], strict=True):
        assert torch.equal(mine, stored)
    run.save()
    written = torch.load(tmp_path / "line.ckpt", weights_only=True)
    assert plain(written) == plain(saved), "and what is written today has the same layout"

    def loss(step, rng):
        x = torch.from_numpy(rng.integers(3, size=8))
        return (model(x).float() - x[:, None]).square().mean(), {}

    train(recipe, model, loss, tmp_path)
    assert torch.load(tmp_path / "line.ckpt", weights_only=True)["step"] == 10


def plain(value):
    """Comparable: tensors as lists."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def test_a_step_that_broke_off_half_taken_is_not_saved(tmp_path, monkeypatch):
    """The checkpoint before it stays."""
    model = module()
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, model, loss_of(model, stop_at=3), tmp_path)
    before = (tmp_path / "line.ckpt").read_bytes()

    model = module()
    started = []

    def break_off(tensors, owners):
        if started:  # the initial weights are handed out, too
            raise RuntimeError("another process is gone")
        started.append(1)

    monkeypatch.setattr(distributed, "hand_out", break_off)
    with pytest.raises(RuntimeError, match="gone"):
        train(RECIPE, model, loss_of(model), tmp_path)
    assert (tmp_path / "line.ckpt").read_bytes() == before


def test_a_signal_ends_the_run_between_two_steps(tmp_path):
    """And a second one at once."""
    model = module()
    plain_loss = loss_of(model)

    def loss(step, rng):
        if step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain_loss(step, rng)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, model, loss, tmp_path)
    assert torch.load(tmp_path / "line.ckpt", weights_only=True)["step"] == 8
    assert signal.getsignal(signal.SIGTERM) is before
    with stopping.defer_stop() as asked, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        os.kill(os.getpid(), signal.SIGINT)
        asked()
