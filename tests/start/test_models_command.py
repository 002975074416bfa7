"""`start.py models` fetches and checks in the model folders of a real ComfyUI."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from flexid.model_patches.files.public_files import (
    ANTELOPEV2,
    EVA02_CLIP_L_336,
    FACE_T5,
    FLUX_BASE,
    PULID_FLUX_090,
    PULID_FLUX_091,
)
from pack import ROOT
from small_hub import serve_hub, sha256
from templates import TITLES

pytestmark = pytest.mark.comfy

TREE = os.environ["COMFYUI_PATH"]
SCRIPT = ROOT / "setup" / "manage_models.py"
SMALL = b"adapter" * 1000
LARGE = bytes(range(256)) * (100 << 10)
"""25 MiB: huggingface_hub writes 10 MiB at once."""


@pytest.fixture
def hub():
    with serve_hub() as running:
        running.add(f"{PULID_FLUX_090.repo}/{PULID_FLUX_090.path}", SMALL)
        running.add(f"{FACE_T5.repo}/{FACE_T5.path}", SMALL)
        yield running


@pytest.fixture
def base(tmp_path):
    """A base directory with one more place for adapters."""
    (tmp_path / "extra.yaml").write_text(f"extra:\n  base_path: {tmp_path}\n  pulid: big/pulid\n")
    return tmp_path


def arguments(*words, base):
    place = ["--tree", TREE, "--base", str(base), "--settings", str(base / "extra.yaml")]
    return [sys.executable, str(SCRIPT), *words, *place]


def environ(hub=None, **variables):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    return kept | ({"HF_ENDPOINT": hub.url} if hub else {}) | variables


def run(*words, base, hub=None, **variables):
    return subprocess.run(
        arguments(*words, base=base),
        env=environ(hub, **variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def plant(row, base):
    path = base / "models" / row.folder / row.file
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(row.bytes or 1)


def test_a_file_is_fetched_into_the_place_that_the_settings_name(hub, base):
    result = run("fetch", PULID_FLUX_090.file, base=base, hub=hub)
    assert result.returncode == 0, result.stderr
    path = base / "big" / "pulid" / PULID_FLUX_090.file
    assert path.read_bytes() == SMALL
    assert f"fetched (7.00 kB, SHA-256 as the hub says): {path.name}, {path}" in result.stdout
    again = run("fetch", PULID_FLUX_090.file, base=base, hub=hub, HF_HUB_OFFLINE="1")
    assert again.returncode == 0 and f"there: {path.name}, {path}" in again.stdout


def test_without_a_terminal_terms_need_the_option(hub, base):
    refused = run("fetch", FACE_T5.file, base=base, hub=hub)
    assert refused.returncode == 2 and "CC BY-NC 4.0" in refused.stderr
    assert "--accept-licences" in refused.stderr and "Traceback" not in refused.stderr
    assert hub.requests == []
    accepted = run("fetch", FACE_T5.file, "--accept-licences", base=base, hub=hub)
    assert accepted.returncode == 0, accepted.stderr
    assert (base / "models" / "flexid" / FACE_T5.file).read_bytes() == SMALL


@pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals")
@pytest.mark.parametrize(("answer", "code"), [("yes", 0), ("no", 2)])
def test_on_a_terminal_it_shows_the_terms_and_asks(hub, base, answer, code):
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        arguments("fetch", FACE_T5.file, base=base),
        env=environ(hub),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    os.write(ours, f"{answer}\n".encode())
    said, _ = process.communicate(timeout=120)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == code, said
    assert said.index("CC BY-NC 4.0; https://huggingface.co/ByteDance") < said.index('Type "yes"')
    assert (base / "models" / "flexid" / FACE_T5.file).exists() == (answer == "yes")


def test_offline_mode_and_wrong_names_end_with_one_sentence(hub, base):
    offline = run("fetch", PULID_FLUX_090.file, base=base, hub=hub, HF_HUB_OFFLINE="1")
    assert offline.returncode == 2 and "HF_HUB_OFFLINE forbids" in offline.stderr
    wrong = run("fetch", "vva", base=base, hub=hub)
    assert wrong.returncode == 2 and "'vva' is neither a set" in wrong.stderr
    nothing = run("fetch", base=base, hub=hub)
    assert nothing.returncode == 2 and "models list shows them" in nothing.stderr
    for result in (offline, wrong, nothing):
        assert "Traceback" not in result.stderr
    assert hub.requests == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_keeps_what_has_come(hub, base):
    hub.add(f"{PULID_FLUX_090.repo}/{PULID_FLUX_090.path}", LARGE)
    hub.seconds_per_block = 0.01
    command = [sys.executable, str(ROOT / "start.py"), "models", "fetch", PULID_FLUX_090.file]
    # The terminal sends Ctrl-C to all processes of a session's group; start.py waits for the end.
    process = subprocess.Popen(
        [*command, "--comfyui", str(make_comfyui(base)), "--python", sys.executable],
        env=environ(hub),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    folder = base / "models" / "pulid"
    part = folder / f"{PULID_FLUX_090.file}.{sha256(LARGE)[:12]}.part"
    while not (part.exists() and part.stat().st_size):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    assert "what has come is kept" in errors
    kept = part.stat().st_size
    assert 0 < kept < len(LARGE) and not (folder / PULID_FLUX_090.file).exists()
    hub.seconds_per_block = 0
    again = run("fetch", PULID_FLUX_090.file, base=base, hub=hub)
    assert again.returncode == 0, again.stderr
    assert hub.downloads() == ["", f"bytes={kept}-"]
    assert (folder / PULID_FLUX_090.file).read_bytes() == LARGE and not part.exists()


def make_comfyui(base) -> Path:
    """The ComfyUI under test with model folders of its own: its code by links."""
    (base / "extra.yaml").unlink()
    for path in Path(TREE).iterdir():
        if path.name not in ("models", "folder_paths.py", "extra_model_paths.yaml"):
            (base / path.name).symlink_to(path)
    # By a copy, because ComfyUI's models lie beside the real place of this file.
    (base / "folder_paths.py").write_text((Path(TREE) / "folder_paths.py").read_text())
    return base


def test_check_says_what_can_run_and_what_is_lacking(base):
    nothing = run("check", base=base)
    assert nothing.returncode == 1, nothing.stderr
    assert f"{PULID_FLUX_091.file} (1.14 GB) in models/pulid" in nothing.stdout
    assert "models fetch vfa sip-flux sip-sdxl vfa-sdxl ip-adapter flux\n" in nothing.stdout
    assert "By hand: Put det_10g.onnx (16.9 MB), w600k_r50.onnx (174 MB), " in nothing.stdout
    assert "The note in each graph says where its other files come from." in nothing.stdout
    for row in (PULID_FLUX_091, EVA02_CLIP_L_336, *ANTELOPEV2, *FLUX_BASE):
        plant(row, base)
    some = run("check", base=base)
    assert some.returncode == 0, some.stderr
    lines = [line.split("  ", 1) for line in some.stdout.splitlines()]
    verdicts = {one[0]: one[1].strip() for one in lines if len(one) == 2}
    assert verdicts[TITLES["vfa"]] == "can run"
    assert verdicts[TITLES["flexid"]] == "lacks face_t5_encoder.pt"
    assert "models fetch sip-flux sip-sdxl vfa-sdxl ip-adapter\n" in some.stdout
    assert run("check", TITLES["vfa"], base=base).returncode == 0
    assert run("check", TITLES["vfa"], TITLES["flexid"], base=base).returncode == 1
    unknown = run("check", "vaf", base=base)
    assert unknown.returncode == 2 and "'vaf' is no workflow of this pack" in unknown.stderr


def test_check_names_a_damaged_file_with_both_sizes(base):
    plant(PULID_FLUX_091, base)
    path = base / "models" / "pulid" / PULID_FLUX_091.file
    path.write_bytes(b"<html>")
    result = run("check", TITLES["vfa"], base=base)
    assert result.returncode == 1
    assert f"{path} has 6 bytes, expected 1142099520. Move it away, then: " in result.stdout


def test_the_proposed_command_names_the_same_comfyui(base):
    result = run("check", "--comfyui", "my comfyui", base=base)
    assert "start.py models fetch --comfyui 'my comfyui' vfa" in result.stdout
