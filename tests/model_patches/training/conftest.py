"""Two processes that train together, started once for all trainers: each of them loads ComfyUI."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pack import ROOT

TRAINERS = ("test_flexip_training", "test_pulid_training", "test_imr_training")
"""Modules whose `train_briefly(folder)` trains as one of any number of processes."""
SCRIPT = """
import importlib, os, sys
from pathlib import Path
from pack import open_pack
launched = "RANK" in os.environ
open_pack(os.environ["COMFYUI_PATH"] if launched else None)
from flexid.model_patches.training import distributed
if not launched:
    distributed.launch(2, sys.argv)
    sys.exit(0)
import torch
from flexid.model_patches.training import precision
torch.set_num_threads(1)
distributed.join(torch.device("cpu"))
assert distributed.count() == 2
precision.prefers_bfloat16 = lambda kind: False  # halves of a batch round differently
for name in sys.argv[2:]:
    folder = Path(sys.argv[1]) / name
    trained = importlib.import_module(name).train_briefly(folder)
    if not distributed.rank():
        torch.save(trained.state_dict(), folder / "weights.pt")
distributed.leave()
"""


@pytest.fixture(scope="session")
def trained_by_two(tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    """Module of a trainer -> the weights that two processes trained."""
    folder = tmp_path_factory.mktemp("two_processes")
    for name in TRAINERS:
        (folder / name).mkdir()
    script = folder / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    path = os.pathsep.join([str(ROOT / "tests"), str(Path(__file__).parent)])
    environ = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(folder), *TRAINERS],
        env=environ, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {name: torch.load(folder / name / "weights.pt", weights_only=True) for name in TRAINERS}
