"""Search Merge and its report: a whole search on a small Flux, ended by the merge it chose."""

from types import SimpleNamespace

import folder_paths
import pytest
import tiny
import torch
from comfy_execution.graph import ExecutionBlocker
from flexid.mini.random_adapter import write_adapter
from flexid.model_patches.adapters.pulid_flux import load_adapter
from flexid.model_patches.inject.vfa import apply_vfa
from flexid.nodes.merge import FlexIDMergeAdapters
from flexid.nodes.merge_search import FlexIDSearchMerge, FlexIDSearchMergeReport
from identities import identity_of
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.comfy

WIDGETS = {
    "prompts": "laughing", "seed": 0, "method": "lerp", "steps": 3, "weights": "",
    "layers": "all", "paths": "all", "encoder": "equal",
}  # fmt: skip
TEXTS = {"name": "search", "x_name": "likeness", "x_better": "higher", "y_name": "change"}
TEXTS |= {"y_better": "lower", "tolerance": 0.05}


class Report(FlexIDSearchMergeReport):
    """As ComfyUI calls it: with the graph."""

    hidden = SimpleNamespace(
        prompt={"9": {"class_type": "x", "inputs": {}}}, unique_id="9", extra_pnginfo=None
    )


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A ComfyUI with two files of one encoder, and its output folder."""
    folder = tmp_path / "pulid"
    first = load_file(write_adapter(folder / "a.safetensors", 1))
    trained = {k: -t if "pulid_ca" in k and "to_out" in k else t for k, t in first.items()}
    save_file(trained, folder / "b.safetensors")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "pulid", ([str(folder)], set()))
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    return folder


def test_a_search_from_the_first_trial_to_the_file(home):
    """b is a turned round: half of each adds nothing, so 0.5, 0.5 is the plain picture."""
    files = [load_adapter(home / f"{name}.safetensors") for name in "ab"]
    sockets = {f"adapter{number}": one for number, one in enumerate(files)}
    people = {}
    for seed in (0, 1):
        tokens = torch.randn(
            1, 8, files[0].token_dim, generator=torch.Generator().manual_seed(seed)
        )
        people[f"identity{seed}"] = identity_of(
            {"pulid_flux": tokens}, encoder=files[0].encoder_digest
        )
    model = tiny.flux()
    plain = tiny.sample(model)
    for trial in range(6):
        adapter, who, prompt, seed, which, text = FlexIDSearchMerge.execute(
            sockets, people, trial=trial, **WIDGETS
        ).result
        assert prompt == "laughing" and seed == trial // 3 and f"trial {trial} of" in text
        change = (tiny.sample(apply_vfa(model, adapter, who)) - plain).abs().mean().item()
        done = Report.execute(which, -change, y=change, **TEXTS)
        assert isinstance(done.result[3], ExecutionBlocker) == (trial < 5)
    chart, report, table, weights = done.result
    assert weights == "0.5, 0.5" and table.splitlines()[2].endswith(",best")
    assert "6 of 6 trials done" in report and chart.std() > 0
    assert "100 % of 1000 draws" in report and done.ui["text"] == (report,)
    merged = FlexIDMergeAdapters.execute(
        sockets, "lerp", weights, "", "all", "all", "equal", True, "auto"
    )[0]
    adapter = FlexIDSearchMerge.execute(sockets, people, trial=1, **WIDGETS)[0]
    for key, value in merged.cross_attention.items():
        assert torch.equal(adapter.cross_attention[key], value), key


def test_widgets_are_read_before_anything_runs():
    given = {"prompts": "a", "layers": "all", "paths": "all"}
    assert FlexIDSearchMerge.validate_inputs(**given) is True
    assert "0 prompts" in FlexIDSearchMerge.validate_inputs(**{**given, "prompts": ""})
    assert "Cannot read" in FlexIDSearchMerge.validate_inputs(**{**given, "layers": "x"})
    assert FlexIDSearchMergeReport.validate_inputs("a b") is True
    assert "name is '../a'" in FlexIDSearchMergeReport.validate_inputs("../a")
