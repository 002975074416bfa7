"""Apply ID CFG, as ComfyUI runs it."""

import tiny
import torch
from flexid.model_patches.gates.gate import Gate
from flexid.model_patches.gates.window import Window
from flexid.model_patches.inject.id_cfg import apply_id_cfg
from flexid.model_patches.inject.vfa import apply_vfa
from flexid.nodes.id_cfg import FlexIDApplyIDCFG


def test_the_widgets_reach_the_model():
    model = apply_vfa(tiny.flux(), tiny.adapter(), tiny.identity())
    early = Window(0.0, 0.6, "progress")
    (made,) = FlexIDApplyIDCFG.execute(model, 0.7, 0.0, 0.6, "progress").args
    direct = apply_id_cfg(model, scale=0.7, gate=Gate((early,)))
    runs = [tiny.sample(one, size=(8, 8), steps=3) for one in (made, direct, model)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_windows_are_checked_before_anything_runs():
    assert "starts at 0.9" in FlexIDApplyIDCFG.validate_inputs(0.9, 0.2)
