"""The suite of EditIDv2's ways on the trained small world, as small as it can be."""

import argparse
import json

import pytest
import torch
from flexid.mini import world
from flexid.mini.study import editid_job, editid_suite, options, rows
from flexid.mini.study.suite import prepare_rows
from safetensors import safe_open
from safetensors.torch import save_file

pytestmark = [
    pytest.mark.comfy,
    pytest.mark.skipif(not world.is_trained(), reason="mini/weights is not whole yet"),
]


def write_ablation(folder):
    """The small world's adapter, each time with other layers and its own encoder."""
    folder.mkdir()
    with safe_open(world.WEIGHTS / world.PULID, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        metadata = file.metadata()
    for number, name in enumerate(editid_suite.ABLATION, 1):
        draw = torch.Generator().manual_seed(number)
        moved = {
            key: value + 0.05 * value.float().std() * torch.randn(value.shape, generator=draw)
            if key.startswith("pulid_ca.")
            else value
            for key, value in tensors.items()
        }
        save_file(moved, folder / f"{name}.safetensors", metadata)


def test_the_suite_merges_paints_and_writes_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(editid_job, "SHEET_PROMPTS", ("left",))
    monkeypatch.setattr(editid_job, "SHOWN", editid_job.SHOWN[:1])
    write_ablation(tmp_path / "ablation")
    parser = argparse.ArgumentParser()
    options.add_options(parser)
    words = ["--suite", "editid", "--out", str(tmp_path / "out"), "--people", "1", "--steps", "2",
             "--prompts", "left", "--ablation", str(tmp_path / "ablation"), "--rows",
             "query-zero-0.8", "adapter-lambda_0.5_other-1", "adapter-lerp_half-0.75"]  # fmt: skip
    chosen = parser.parse_args(words)
    options.check(chosen)
    chosen = argparse.Namespace(**vars(chosen), models=world.WEIGHTS, cache=tmp_path / "cache")
    said = []
    editid_job.run(chosen, lambda _: None, said.append)
    files = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert files.keys() == {"editid.json", "editid.csv", "editid.png", "editid_sheet.png"}
    document = json.loads(files["editid.json"].read_text(encoding="utf-8"))
    assert set(document["beats_line"]) == {row.key for row in chosen.rows}
    assert len(document["line"]) == 7 and len(document["rows"]) == 10
    told = document["adapters"]
    assert told["lerp_half"]["merge"]["method"] == "lerp" and "lambda_0.5_other" in told
    merges = {path.name for path in (tmp_path / "cache" / "merged").iterdir()}
    assert len(merges) == len(editid_suite.MERGES)
    assert "10 pictures are missing" in said[0]
    found = editid_job.find_all(chosen)
    again = prepare_rows(chosen, chosen.rows, found)
    assert again.evaluation.to_paint() == 0, "all of it was kept"
    assert {path.name for path in (tmp_path / "cache" / "merged").iterdir()} == merges

    chosen.rows, chosen.join = [rows.mix_row("loose")], tmp_path / "out" / "editid.json"
    chosen.out = tmp_path / "joined"
    chosen.ablation = None
    editid_job.run(chosen, lambda _: None, said.append)
    assert ": 1 pictures are missing" in said[1]
    joined = json.loads((chosen.out / "editid.json").read_text(encoding="utf-8"))
    ways = ["query-zero-0.8", "mix-loose", "adapter-lambda_0.5_other-1", "adapter-lerp_half-0.75"]
    assert list(joined["beats_line"]) == ways and joined["adapters"] == told
    assert "adapters/lerp_half.safetensors" in joined["weights"], "digests of both runs"
    chosen.steps = 3
    with pytest.raises(ValueError, match="settings is .*'steps': 2.* and .*'steps': 3"):
        editid_job.run(chosen, lambda _: None, said.append)
    assert len(said) == 2, "refused before anything was painted"
