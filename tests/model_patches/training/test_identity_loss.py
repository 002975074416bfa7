"""The identity loss: its cosines, where it looks, and its gradient."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flexid.model_patches.face.crops import crop_grid
from flexid.model_patches.training.identity_loss import IdentityLoss, centres
from seeding import seeded_input
from smooth_pictures import pictures, points
from torch import nn

pytestmark = pytest.mark.pure


def recogniser():
    torch.manual_seed(0)
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(3 * 14 * 14, 8))


def loss(window=12):
    return IdentityLoss(lambda latents: F.pixel_shuffle(latents, 8), recogniser(), window)


def test_latents_and_pictures_are_judged_alike():
    """A face that shows who it should has cosine 1."""
    shown = pictures(96, 96, 3) * 2 - 1
    where = points((10, 10), (20, 4), (15, 15))
    crops = F.grid_sample(shown, crop_grid(where, (96, 96)), align_corners=False)
    wanted = F.normalize(recogniser()(crops), dim=-1).detach()
    judge = loss()
    latents = F.pixel_unshuffle(shown, 8)
    torch.testing.assert_close(judge.of_latents(latents, where, (96, 96), wanted), torch.ones(3))
    there = torch.tensor([True, False, True])
    found = judge.of_pictures(shown, torch.from_numpy(where), there, wanted)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 1.0]))
    assert not judge.of_pictures(shown, torch.from_numpy(where), there & False, wanted).any()


class Given(nn.Module):
    """A recogniser that sees these embeddings (B, D), whatever is shown."""

    def __init__(self, embeddings):
        super().__init__()
        self.embeddings = embeddings

    def forward(self, crops):
        return self.embeddings


def test_the_published_loss_on_given_embeddings(golden):
    """One minus the cosine. Nobody, an embedding of zeros, costs exactly 1: the published training
    asks for nobody, always."""
    known = json.loads((golden / "editidv2_scalars.json").read_text())["id_loss"]
    shown = seeded_input("idloss.gen", (2, 512))
    wanted = seeded_input("idloss.ref", (2, 512)) + 0.7 * shown
    where = points((10, 10), (20, 4))

    def losses(shown, wanted):
        judge = IdentityLoss(lambda latents: F.pixel_shuffle(latents, 8), Given(shown), 12)
        latents = torch.zeros(2, 192, 12, 12)
        return 1 - judge.of_latents(latents, where, (96, 96), F.normalize(wanted, dim=-1))

    found = losses(shown, wanted)
    rows = 1 - torch.tensor(known["per_row_cos_fp32"])
    torch.testing.assert_close(found, rows, atol=1e-6, rtol=0)
    assert found.mean().item() == pytest.approx(known["fp32"], abs=1e-6)
    rounded = losses(shown.bfloat16(), wanted.bfloat16().float()).mean().item()
    assert rounded == pytest.approx(known["bf16"], abs=2e-3), "judged in float32"
    nobody = torch.zeros_like(shown)
    for name, pair in {
        "same": (shown, shown),
        "opposite": (shown, -shown),
        "ref_zero": (shown, nobody),
        "gen_zero": (nobody, wanted),
        "both_zero": (nobody, nobody),
    }.items():
        assert losses(*pair).mean().item() == pytest.approx(known[name], abs=1e-6), name


def test_the_gradient_is_that_of_finite_differences():
    torch.manual_seed(1)
    latents = torch.randn(1, 192, 6, 6, requires_grad=True)
    wanted = F.normalize(torch.randn(1, 8), dim=-1)
    where, judge = points((2, 2), scale=0.3), loss(window=6)

    def value(at):
        return (1 - judge.of_latents(at * 0.3, where, (48, 48), wanted)).sum()

    value(latents).backward()
    direction = torch.randn_like(latents)
    step = 1e-2 * direction / direction.norm() * latents.detach().norm()
    with torch.no_grad():
        change = (value(latents + step) - value(latents - step)) / 2
    assert latents.grad.norm() > 0
    assert float((latents.grad * step).sum()) == pytest.approx(float(change), rel=0.05)


def test_centres_are_unit_means_of_each_person():
    embeddings = np.array([[2.0, 0.0], [0.0, 3.0], [0.0, -1.0]], np.float32)
    found = centres(embeddings, np.array([0, 0, 1]))
    torch.testing.assert_close(found, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, -1.0]]))
