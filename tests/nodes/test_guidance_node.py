"""Apply Reference Guidance, as ComfyUI runs it."""

import pytest
import tiny
import torch
from flexid.model_patches.gates.gate import Gate
from flexid.model_patches.gates.window import Window
from flexid.model_patches.inject.guidance.apply import apply_reference_guidance
from flexid.nodes.guidance import REFERENCES, FlexIDApplyReferenceGuidance


def reference():
    return torch.randn(1, 16, 8, 12, generator=torch.Generator().manual_seed(1))


def prompt():
    return tiny.conditioning(10, reference_latents=[reference()])


@pytest.fixture(scope="module")
def model():
    return tiny.flux()


def run(model, conditioning, weight=1.0, reference="all", every=1, **options):
    output = FlexIDApplyReferenceGuidance.execute(
        model, conditioning, weight, reference, "two predictions", every, **options
    )
    return output.args


def test_the_widgets_reach_the_model(model):
    guided, conditioning, report = run(model, prompt(), 0.0, "1")
    out = tiny.sample(guided, positive=conditioning)
    assert torch.equal(out, tiny.sample(model, positive=tiny.conditioning(10)))
    assert report == "reference 1: weight 0\nmethod: two predictions"


def test_the_gate_display_and_the_mask_are_reported(model):
    gate = Gate((Window(0.2, 1.0, "percent"),))
    mask = torch.zeros(1, 4, 4)
    mask[..., :1] = 1.0
    *_, report = run(model, prompt(), 0.5, gate=gate, mask=mask)
    assert report.startswith("every reference: weight 0.5, times the gate, on 25% of the picture")


def test_a_box_stands_in_for_a_mask(model):
    left = torch.zeros(1, 64, 64)
    left[..., :32] = 1.0
    guided, conditioning, report = run(model, prompt(), 0.5, elements=[{"bbox": [0, 0, 1000, 500]}])
    assert report.startswith("every reference: weight 0.5, on 50% of the picture")
    masked, *_ = run(model, prompt(), 0.5, mask=left)
    drawn = [tiny.sample(one, positive=conditioning) for one in (guided, masked)]
    torch.testing.assert_close(*drawn, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="Apply Reference Guidance has a mask and a box"):
        run(model, prompt(), 0.5, mask=left, elements=[{"bbox": [0, 0, 1000, 500]}])


def test_each_number_of_the_widget_is_a_reference(model):
    assert REFERENCES == ("all", "1", "2", "3", "4")
    for name in REFERENCES[1:]:
        *_, report = run(model, prompt(), 0.5, name)
        assert report.startswith(f"reference {name}: weight 0.5")


def test_every_reaches_the_model_and_the_report(model):
    guided, conditioning, report = run(model, prompt(), 0.5, every=2)
    assert report.endswith("method: two predictions, the difference predicted in one of 2 steps")
    expected = apply_reference_guidance(model, prompt(), weight=0.5, every=2).model
    assert torch.equal(
        tiny.sample(guided, positive=conditioning), tiny.sample(expected, positive=prompt())
    )
