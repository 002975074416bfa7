"""`start.py bench`: what it says before it measures, and that it keeps what it says."""

import dataclasses
import importlib
import json
import re
import subprocess
import sys
from argparse import Namespace

import pytest
import torch
from flexid.bench import flux, plan, run, unet, unet_steps
from flexid.model_patches.training import precision
from pack import ROOT

pytestmark = pytest.mark.comfy
SCRIPT = ROOT / "bench" / "run.py"


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Standard output and figures of a run of the two short sections."""
    path = tmp_path_factory.mktemp("bench") / "figures.json"
    command = [sys.executable, str(SCRIPT), "--only", "intent", "requeue", "--rounds", "3"]
    done = subprocess.run(
        [*command, "--minutes", "0.5", "--json", str(path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text(encoding="utf-8"))


def test_sections_are_listed_with_an_estimate_before_they_begin(ran):
    output, figures = ran
    assert output.startswith("at most about 30 s: requeue 15 s, intent 15 s\n")
    for section, first_column in (("requeue", "weight "), ("intent", "prompts ")):
        estimate = re.search(rf"^{section}: about \d+ (s|min): .+$", output, re.MULTILINE)
        assert estimate, output
        assert estimate.start() < output.index(f"\n{first_column}")
        stated = figures["plans"][section]
        assert stated["estimate s"] > 0 and stated["took s"] > 0 and stated["what"] in estimate[0]


def test_the_figures_say_what_was_measured(ran):
    figures = ran[1]
    assert figures["machine"]["threads"] >= 1
    assert [row["encoder runs"] for row in figures["requeue"]] == [2, 0, 0]
    assert "3 rounds of" in figures["plans"]["intent"]["what"]


def test_every_section_has_a_weight_and_a_plan():
    others = {"__init__", "run", "plan", "clock", "inside", "step", "flux", "unet", "unet_steps"}
    others |= {"flux_steps", "training_memory"}  # the latter is a script of its own
    found = {path.stem for path in SCRIPT.parent.glob("*.py")} - others
    assert set(run.SECTIONS) == found
    for name in found:
        assert callable(importlib.import_module(f"flexid.bench.{name}").prepare)


def test_defaults_suit_every_machine():
    chosen = run.parse([])
    assert (chosen.minutes, chosen.dtype, chosen.only) == (15.0, "auto", None)
    for name in (["--minutes", "0"], ["--rounds", "2"]):
        with pytest.raises(SystemExit):
            run.parse(name)


def test_auto_is_what_the_machine_multiplies_fastest(monkeypatch):
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(precision, "fastest_dtype", lambda device, dtype=dtype: dtype)
        assert run.dtype_of("auto") == dtype
    assert run.dtype_of("fp32") == torch.float32 and run.dtype_of("bf16") == torch.bfloat16


def test_on_a_gpu_nothing_is_made_smaller(monkeypatch):
    asked = Namespace(double=None, single=None)
    for there, sizes, blocks in ((True, (1024,), (19, 38)), (False, None, (2, 4))):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        found = tuple(size.side for size in flux.sizes())
        assert found == (sizes or tuple(size.side for size in flux.SIZES))
        assert flux.blocks_of(asked) == blocks
    assert flux.blocks_of(Namespace(double=1, single=2)) == (1, 2)


def test_a_smaller_picture_keeps_the_share_of_the_text():
    assert (flux.SIZES[0].image, flux.SIZES[0].text) == (4096, 512)
    for size in flux.SIZES:
        assert size.text * 8 == size.image
    assert [size.work for size in flux.SIZES] == sorted(
        (size.work for size in flux.SIZES), reverse=True
    )


TINY = {"WIDTH": 256, "HEADS": 2, "TEXT_WIDTH": 64, "POOLED": 32}


@pytest.mark.parametrize("name", ["share", "steps", "sip", "couple", "fold"])
def test_heavy_sections_plan_and_measure_at_a_small_width(monkeypatch, name):
    """What each row says of its own measurement; fewer image tokens than 1024 x 1024 has."""
    for constant, value in TINY.items():
        monkeypatch.setattr(flux, constant, value)
    section = importlib.import_module(f"flexid.bench.{name}")
    monkeypatch.setattr(flux, "SIZES", tuple(map(flux.Size, (1024, 256))))
    flux.open_flux.cache_clear()
    options = Namespace(rounds=5, double=2, single=4, dtype=torch.float32)
    made = section.prepare(options, plan.Allowance(0.0))
    assert made.seconds > 0 and made.what.startswith("3 rounds")
    with torch.no_grad():
        rows = made.measure()
    for row in rows:
        assert row["rounds"] == plan.LEAST and row["image tokens"] == 256
    flux.open_flux.cache_clear()


def test_the_share_of_a_couple_is_scaled_to_all_blocks_of_flux(monkeypatch):
    """2 anchors of 2 + 4 blocks stand for 20 of 19 + 38; another ratio of blocks has no share."""
    couple = importlib.import_module("flexid.bench.couple")
    row = {"inside anchors %": 1.9}
    assert couple._with_share(row, (2, 4))[couple.WHOLE] == pytest.approx(2.0)
    assert couple._with_share(row, (19, 38))[couple.WHOLE] == pytest.approx(1.9)
    assert couple._with_share(row, (1, 4)) == row
    for constant, value in TINY.items():
        monkeypatch.setattr(flux, constant, value)
    monkeypatch.setattr(flux, "SIZES", (flux.Size(256),))
    flux.open_flux.cache_clear()
    options = Namespace(rounds=3, double=2, single=4, dtype=torch.float32)
    with torch.no_grad():
        rows = couple.prepare(options, plan.Allowance(0.0)).measure()
    assert [row["configuration"] for row in rows] == [
        "unpatched",
        "1 person",
        "2 people, boxes",
        "2 people, boxes, as the template",
        "2 by Apply VFA, masks",
    ]
    assert rows[0][couple.WHOLE] == 0 and all(row[couple.WHOLE] > 0 for row in rows[1:])
    flux.open_flux.cache_clear()


@pytest.mark.parametrize(
    ("name", "kind"), [("flexip", "SD15"), ("saa", "SD15"), ("vfa_sdxl", "SDXL")]
)
def test_sections_of_unets_plan_and_measure_at_a_small_width(monkeypatch, name, kind):
    made = getattr(unet, kind)
    narrow = {**made.unet, "model_channels": 32}
    if kind == "SDXL":
        narrow["num_head_channels"] = 32
    monkeypatch.setattr(unet, kind, dataclasses.replace(made, unet=narrow, side=256))
    monkeypatch.setattr(unet_steps, "SMALLEST", 64)
    section = importlib.import_module(f"flexid.bench.{name}")
    made = section.prepare(Namespace(rounds=5, dtype=torch.float32), plan.Allowance(0.0))
    assert made.what.startswith("3 rounds of 4 configurations") and "64x64" in made.what
    with torch.no_grad():
        rows = {row["configuration"]: row for row in made.measure()}
    idle = {"unpatched", "strength 0"} & rows.keys()
    for label, row in rows.items():
        assert (row["inside anchors %"] == 0) == (label in idle), label
        assert row["adapter MB"] == 0 and row["rounds"] == plan.LEAST


def test_a_unet_is_measured_at_its_own_size_where_there_is_time():
    assert [size.side for size in unet_steps.sizes(unet.SD15)] == [512, 256]
    assert [size.side for size in unet_steps.sizes(unet.SDXL)] == [1024, 512, 256]


def test_the_references_section_counts_predictions_and_states_the_error(monkeypatch):
    section = importlib.import_module("flexid.bench.references")
    monkeypatch.setattr(section, "STEPS", 4)
    made = section.prepare(Namespace(rounds=3, dtype=torch.float32), plan.Allowance(0.0))
    assert made.what.startswith("3 rounds of 8 runs, 4 steps, width 256")
    with torch.no_grad():
        rows = {row["run"]: row for row in made.measure()}
    assert [row["predictions per step"] for row in rows.values()] == [1, 1, 1, 1, 2, 1.5, 1.25, 1]
    assert all(row["rounds"] == 3 and row["vs without it"] > 0 for row in rows.values())
    assert 0 < rows["weight 0.5, every 2"]["error %"] < rows["weight 0.5, every 4"]["error %"] < 100
