"""Public files are fetched whole, checked, once, only with consent, and never over a file."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
from flexid.model_patches.files import fetch as fetching
from flexid.model_patches.files.fetch import choose, describe_state, describe_terms, fetch
from flexid.model_patches.files.hub import FetchError
from flexid.model_patches.files.public_files import (
    ANTELOPEV2,
    APACHE,
    BUFFALO_L,
    EVA02_CLIP_L_336,
    FACE_T5,
    FLUX_BASE,
    PARSING_BISENET,
    PULID_FLUX_090,
    PULID_FLUX_091,
    SETS,
    WEIGHTS,
    WeightFile,
)
from huggingface_hub import constants
from pack import ROOT
from small_hub import serve_hub, sha256

pytestmark = pytest.mark.pure

BLOCK = 64 << 10
CONTENT = bytes(range(256)) * 4096
"""1 MiB: sixteen blocks."""
TENTHS = sorted({10 * block // 16 for block in range(1, 17)} - {0})
ROW = WeightFile(
    "adapter.safetensors",
    "pulid",
    "people/adapter",
    APACHE,
    "tests",
    path="adapter.safetensors",
    url="https://huggingface.co/people/adapter/resolve/main/adapter.safetensors",
)


@pytest.fixture
def hub(monkeypatch):
    """A small hub that huggingface_hub takes for the real one, as HF_ENDPOINT makes it do."""
    with serve_hub() as running:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", BLOCK)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        running.add("people/adapter/adapter.safetensors", CONTENT)
        yield running


@pytest.fixture
def folders(tmp_path):
    return lambda name: [tmp_path / "models" / name, tmp_path / "extra" / name]


class Watcher:
    """Keeps what is said and shown; stops at a number of bytes."""

    def __init__(self, stop_at=None):
        self.lines, self.progress, self.stop_at = [], [], stop_at

    def progressed(self, done, total):
        self.progress.append((done, total))
        if self.stop_at is not None and done >= self.stop_at:
            raise KeyboardInterrupt


def run(rows, folders, consent=False, watcher=None):
    watcher = watcher or Watcher()
    return fetch(rows, folders, consent, watcher.lines.append, watcher.progressed)


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# The way it should go


def test_a_file_lands_in_the_first_folder_with_its_hash_checked(hub, folders, tmp_path):
    watcher = Watcher()
    report = run([ROW], folders, watcher=watcher)
    target = tmp_path / "models" / "pulid" / "adapter.safetensors"
    assert target.read_bytes() == CONTENT
    assert f"fetched (1.05 MB, SHA-256 as the hub says): adapter.safetensors, {target}" == report
    assert listing(tmp_path) == ["models/pulid/adapter.safetensors"], "no part, no lock is left"
    assert watcher.progress[0] == (BLOCK, len(CONTENT))
    assert watcher.progress[-1] == (len(CONTENT), len(CONTENT))
    assert "file 1 of 1" in watcher.lines[0] and str(target) in watcher.lines[0]


def test_progress_runs_over_all_files(hub, folders):
    hub.add("people/adapter/second.safetensors", CONTENT)
    name = "second.safetensors"
    second = replace(ROW, file=name, path=name, url=f"/{name}")
    watcher = Watcher()
    run([ROW, second], folders, watcher=watcher)
    done = [one for one, _ in watcher.progress]
    assert done == sorted(done) and done[-1] == 2 * len(CONTENT)
    assert {total for _, total in watcher.progress} == {2 * len(CONTENT)}


def test_each_tenth_is_said_where_there_is_no_terminal(hub, folders, monkeypatch):
    watcher = Watcher()
    run([ROW], folders, watcher=watcher)
    assert [line.split(":")[0] for line in watcher.lines[1:]] == [f"{n}0 %" for n in TENTHS]
    assert watcher.lines[-1] == "100 %: 1.05 MB of 1.05 MB"
    monkeypatch.setattr("sys.stderr", namedtuple("terminal", "isatty")(lambda: True))
    silent = Watcher()
    fetching._tell_tenths(silent.progressed, silent.lines.append)(5, 10)
    assert silent.progress == [(5, 10)] and silent.lines == []


def test_the_tables_hash_goes_before_the_hubs(hub, folders):
    row = replace(ROW, bytes=len(CONTENT), sha256=sha256(CONTENT))
    assert "SHA-256 as the pack's table says" in run([row], folders)


def test_the_mode_follows_the_umask(hub, folders, tmp_path):
    run([ROW], folders)
    plain = tmp_path / "plain"
    plain.touch()
    target = tmp_path / "models" / "pulid" / "adapter.safetensors"
    assert target.stat().st_mode == plain.stat().st_mode


def test_a_release_file_comes_from_its_own_address_without_the_hubs_token(
    hub, folders, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    path = "/releases/download/v1/parser.pth"
    digest = hub.add(path, CONTENT)
    row = WeightFile(
        "parser.pth", "facexlib", "people/parser", APACHE, "tests", "v1", len(CONTENT), digest,
        url=hub.url + path,
    )  # fmt: skip
    assert "SHA-256 as the pack's table says" in run([row], folders)
    assert (tmp_path / "models" / "facexlib" / "parser.pth").read_bytes() == CONTENT
    assert [(one.path, one.authorization) for one in hub.requests] == [(path, "")]


def test_the_token_goes_to_the_hub_and_not_to_the_host_of_the_bytes(hub, folders, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    run([ROW], folders)
    sent = {("/resolve/" in one.path, one.authorization) for one in hub.requests}
    assert sent == {(True, "Bearer hf_secret"), (False, "")}


# Interrupted


def test_an_interrupted_download_goes_on_where_it_was(hub, folders, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run([ROW], folders, watcher=Watcher(stop_at=5 * BLOCK))
    part = tmp_path / "models" / "pulid" / f"adapter.safetensors.{sha256(CONTENT)[:12]}.part"
    assert part.read_bytes() == CONTENT[: 5 * BLOCK]
    assert not (part.parent / "adapter.safetensors").exists()
    watcher = Watcher()
    run([ROW], folders, watcher=watcher)
    assert (part.parent / "adapter.safetensors").read_bytes() == CONTENT
    assert hub.downloads() == ["", f"bytes={5 * BLOCK}-"]
    assert watcher.progress[0] == (6 * BLOCK, len(CONTENT)) and not part.exists()


def test_an_interrupt_while_the_hash_is_read_loses_nothing(hub, folders):
    with pytest.raises(KeyboardInterrupt):
        run([ROW], folders, watcher=Watcher(stop_at=len(CONTENT)))
    run([ROW], folders)
    assert hub.downloads() == [""], "all bytes were there"


def test_a_connection_that_breaks_is_taken_up_again(hub, folders, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.cuts = [3 * BLOCK, 4 * BLOCK]
    run([ROW], folders)
    assert (tmp_path / "models" / "pulid" / "adapter.safetensors").read_bytes() == CONTENT
    assert hub.downloads() == ["", f"bytes={3 * BLOCK}-", f"bytes={7 * BLOCK}-"]


def test_a_connection_that_keeps_breaking_says_what_is_kept(hub, folders, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.cuts = [BLOCK, *[0] * 20]
    with pytest.raises(FetchError, match=r"not be read to its end .*65.5 kB are there.*Start"):
        run([ROW], folders)
    hub.cuts = []
    run([ROW], folders)
    assert hub.downloads()[-1] == f"bytes={BLOCK}-"
    assert (tmp_path / "models" / "pulid" / "adapter.safetensors").read_bytes() == CONTENT


def test_a_host_that_ignores_ranges_starts_the_file_anew(hub, folders, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run([ROW], folders, watcher=Watcher(stop_at=5 * BLOCK))
    hub.ignores_range = True
    run([ROW], folders)
    assert (tmp_path / "models" / "pulid" / "adapter.safetensors").read_bytes() == CONTENT


def test_a_part_of_another_version_is_not_continued(hub, folders, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run([ROW], folders, watcher=Watcher(stop_at=5 * BLOCK))
    newer = CONTENT[::-1]
    hub.add("people/adapter/adapter.safetensors", newer)
    run([ROW], folders)
    assert (tmp_path / "models" / "pulid" / "adapter.safetensors").read_bytes() == newer
    assert hub.downloads() == ["", ""]


def test_a_part_that_is_too_long_is_started_anew(hub, folders, tmp_path):
    part = tmp_path / "models" / "pulid" / f"adapter.safetensors.{sha256(CONTENT)[:12]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT + b"more")
    run([ROW], folders)
    assert (part.parent / "adapter.safetensors").read_bytes() == CONTENT


# Wrong content


def test_damaged_bytes_are_refused_with_both_hashes_and_removed(hub, folders, tmp_path):
    hub.damage = True
    zeros, wanted = sha256(bytes(len(CONTENT))), sha256(CONTENT)
    with pytest.raises(FetchError, match=f"{zeros}, but the hub says {wanted}.*removed"):
        run([ROW], folders)
    assert [name for name in listing(tmp_path) if not name.endswith(".lock")] == []
    hub.damage = False
    assert "fetched" in run([ROW], folders)


@pytest.mark.parametrize(
    ("known", "fact"),
    [
        ({"bytes": 7, "sha256": sha256(CONTENT)}, f"bytes {len(CONTENT)}.*table says 7"),
        ({"bytes": len(CONTENT), "sha256": "0" * 64}, f"{sha256(CONTENT)}.*table says {'0' * 64}"),
    ],
)
def test_another_file_on_the_hub_is_noticed_before_a_byte_comes(hub, folders, known, fact):
    with pytest.raises(FetchError, match=f"{fact}.*nothing was fetched"):
        run([replace(ROW, **known)], folders)
    assert hub.downloads() == []


# Refused by the hub


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_says_to_accept_and_log_in(hub, folders, status):
    hub.gated["people/adapter"] = status
    page = "https://huggingface.co/people/adapter"
    with pytest.raises(
        FetchError, match=f"{page} is gated .status {status}.*accept.*hf auth login"
    ):
        run([ROW], folders)


def test_a_file_that_is_gone_names_its_address(hub, folders):
    row = replace(ROW, path="moved.safetensors")
    with pytest.raises(FetchError, match="moved.* answers status 404, expected 200.*hand"):
        run([row], folders)


def test_a_repository_that_is_gone_names_it(hub, folders):
    with pytest.raises(FetchError, match="no repository people/other for you .status 404"):
        run([replace(ROW, repo="people/other")], folders)


def test_a_release_file_that_is_gone_names_its_address(hub, folders):
    url = f"{hub.url}/releases/download/v1/gone.pth"
    row = replace(ROW, file="gone.pth", path="", url=url, bytes=7, sha256="0" * 64)
    with pytest.raises(FetchError, match=f"{url} answers status 404"):
        run([row], folders)


def test_no_hub_at_all_names_the_address(hub, folders, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(FetchError, match=r"127.0.0.1:9/people.*check the network and HF_ENDPOINT"):
        run([ROW], folders)


# Checked before anything is asked or written


def test_offline_mode_is_obeyed(hub, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FetchError, match="HF_HUB_OFFLINE forbids the network.*Unset it"):
        run([ROW], folders)
    assert hub.requests == [] and listing(tmp_path) == []


def test_offline_mode_does_not_matter_when_all_is_there(hub, folders, monkeypatch):
    run([ROW], folders)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert run([ROW], folders).startswith("there: adapter.safetensors")


def test_terms_are_shown_and_must_be_accepted(hub, folders, tmp_path):
    row = replace(ROW, licence="CC BY-NC 4.0")
    with pytest.raises(FetchError) as caught:
        run([ROW, row], folders)
    said = str(caught.value)
    assert "adapter.safetensors: CC BY-NC 4.0; https://huggingface.co/people/adapter" in said
    assert "accept_licences on the node" in said and "--accept-licences" in said
    assert hub.requests == [] and listing(tmp_path) == []
    assert "fetched" in run([row], folders, consent=True)


def test_terms_of_files_that_are_there_are_not_asked_for_again(hub, folders):
    row = replace(ROW, licence="CC BY-NC 4.0")
    run([row], folders, consent=True)
    assert run([row], folders).startswith("there: ")


def test_a_full_disk_is_noticed_before_a_byte_comes(hub, folders, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 200_400_000))
    with pytest.raises(FetchError, match=r"need 1.05 MB and 200 MB to spare.*has 200 MB free"):
        run([ROW], folders)
    assert hub.downloads() == []


def test_what_is_there_already_is_not_counted_as_needed(hub, folders, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        run([ROW], folders, watcher=Watcher(stop_at=15 * BLOCK))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 200_100_000))
    assert "fetched" in run([ROW], folders)


def test_a_disk_that_fills_up_meanwhile_keeps_the_part(hub, folders, tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(FetchError, match="the disk is full after .*start again; what is there is"):
        fetch([ROW], folders, False, lambda _: None, no_space)
    assert "fetched" in run([ROW], folders)


def test_an_archive_is_named_and_not_fetched(hub, folders):
    with pytest.raises(FetchError, match=r"archive.*buffalo_l\.zip into models/insightface"):
        run(BUFFALO_L[:1], folders, consent=True)
    assert hub.requests == []


# Files that are there


def test_an_existing_file_is_kept_whatever_it_holds(hub, folders, tmp_path):
    target = tmp_path / "models" / "pulid" / "adapter.safetensors"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"mine")
    row = replace(ROW, bytes=len(CONTENT), sha256=sha256(CONTENT))
    report = run([row], folders)
    assert target.read_bytes() == b"mine" and hub.requests == []
    assert f"damaged: adapter.safetensors has 4 bytes, expected {len(CONTENT)}" in report


def test_a_file_that_appears_meanwhile_is_kept(hub, folders, tmp_path):
    target = tmp_path / "models" / "pulid" / "adapter.safetensors"

    def appear(*_):
        target.write_bytes(b"mine")

    report = fetch([ROW], folders, False, lambda _: None, appear)
    assert target.read_bytes() == b"mine" and report.startswith("there: ")
    assert [name for name in listing(tmp_path) if name.endswith(".part")] == []


@pytest.mark.parametrize(
    ("row", "place"),
    [
        (ROW, "extra/pulid/adapter.safetensors"),
        (ANTELOPEV2[0], "extra/insightface/models/antelopev2/scrfd_10g_bnkps.onnx"),
        (ANTELOPEV2[0], "models/insightface/models/antelopev2/antelopev2/scrfd_10g_bnkps.onnx"),
        (EVA02_CLIP_L_336, "models/text_encoders/EVA02_CLIP_L_336_psz14_s6B.pt"),
    ],
)
def test_a_file_counts_wherever_its_node_finds_it(folders, tmp_path, row, place):
    assert describe_state([row], folders).startswith(f"missing: {row.file}")
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_bytes(b"short")
    assert str(path) in describe_state([replace(row, bytes=5)], folders)
    assert describe_state([replace(row, bytes=5)], folders).startswith("there: ")


def test_of_old_and_new_folder_names_the_new_one_is_filled(hub, tmp_path):
    folders = {"pulid": [tmp_path / "old", tmp_path / "pulid", tmp_path / "elsewhere" / "pulid"]}
    run([ROW], folders.__getitem__)
    assert listing(tmp_path) == ["pulid/adapter.safetensors"]


def test_a_default_place_of_extra_model_paths_goes_first(hub, tmp_path):
    folders = {"pulid": [tmp_path / "big" / "adapters", tmp_path / "models" / "pulid"]}
    run([ROW], folders.__getitem__)
    assert listing(tmp_path) == ["big/adapters/adapter.safetensors"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_named(hub, folders, tmp_path):
    (tmp_path / "models").mkdir(mode=0o500)
    with pytest.raises(FetchError, match="cannot make the folder"):
        run([ROW], folders)


# Two at once

CHILD = """
import runpy, sys
runpy.run_path({pack!r})["open_pack"]()
from flexid.model_patches.files.fetch import fetch
from flexid.model_patches.files.weight_file import WeightFile
name = "adapter.safetensors"
row = WeightFile(name, "pulid", "people/adapter", "Apache-2.0", "tests", path=name, url="/" + name)
print(fetch([row], lambda name: [{models!r} + "/" + name], False, print, lambda *_: None))
"""


def start_child(hub, models):
    environ = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1"}
    code = CHILD.format(pack=str(ROOT / "setup" / "pack.py"), models=str(models))
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def test_two_processes_fetch_a_file_once(hub, tmp_path):
    hub.seconds_per_block = 0.15
    children = [start_child(hub, tmp_path) for _ in range(2)]
    said = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    assert (tmp_path / "pulid" / "adapter.safetensors").read_bytes() == CONTENT
    assert hub.downloads() == [""], "the second one waited"
    assert sorted(text.count("\nfetched (") for text in said) == [0, 1], said
    assert any("another process fetches adapter.safetensors already" in text for text in said)
    assert listing(tmp_path) == ["pulid/adapter.safetensors"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_killed_process_leaves_a_part_that_the_next_one_continues(hub, tmp_path):
    large = CONTENT * 24  # more than twice what huggingface_hub writes at once
    hub.add("people/adapter/adapter.safetensors", large)
    part = tmp_path / "pulid" / f"adapter.safetensors.{sha256(large)[:12]}.part"
    hub.seconds_per_block = 0.02
    child = start_child(hub, tmp_path)
    while not (part.exists() and part.stat().st_size):
        assert child.poll() is None, child.communicate()
        time.sleep(0.02)
    child.kill()
    child.communicate()
    hub.seconds_per_block = 0
    kept = part.stat().st_size
    run([ROW], lambda name: [tmp_path / name])
    assert hub.downloads() == ["", f"bytes={kept}-"] and 0 < kept < len(large)
    assert (tmp_path / "pulid" / "adapter.safetensors").read_bytes() == large


# The table


def test_names_are_sets_or_files():
    assert choose(["vfa"]) == SETS["vfa"].rows
    assert choose([PULID_FLUX_090.file, PULID_FLUX_090.file]) == (PULID_FLUX_090,)
    for row in WEIGHTS:
        assert choose([row.file]) == (row,)
    with pytest.raises(FetchError, match="'vva' is neither a set of files .vfa, .*nor a file"):
        choose(["vva"])


def test_what_is_not_free_needs_consent():
    terms = describe_terms(SETS["vfa"].rows)
    assert terms.count("\n") == 0 and "antelopev2" in terms and "non-commercial" in terms
    assert describe_terms([PULID_FLUX_091, PARSING_BISENET, EVA02_CLIP_L_336]) == ""
    for row in (FACE_T5, *ANTELOPEV2, FLUX_BASE[0], FLUX_BASE[-1]):
        assert row.licence in describe_terms([row])


def test_fetching_is_left_to_the_user():
    """Only the node and the command reach the network, both through `fetch`."""
    callers = {
        str(path.relative_to(ROOT))
        for path in [*ROOT.glob("nodes/**/*.py"), *ROOT.glob("model_patches/**/*.py"),
                     *ROOT.glob("setup/**/*.py")]
        if re.search(r"files\.fetch import|from \.fetch import", path.read_text("utf-8"))
    }  # fmt: skip
    assert callers == {"nodes/fetch.py", "setup/manage_models.py"}
    assert Path(fetching.__file__).name == "fetch.py"
