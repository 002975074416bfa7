"""The cached environment: keyed by pins, resumable, one set-up at a time, one ONNX runtime."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from flexid.model_patches.training import precision
from flexid.setup import environment, lock, machine, pins, probe
from flexid.setup.console import Live, SetupError, run_logged
from flexid.setup.environment import Builder, build, usable_version
from flexid.setup.steps import Step, run_steps
from pack import ROOT
from trees import archive, inside

pytestmark = pytest.mark.pure


class Recorder:
    """Stands in for run_logged: notes the commands, serves the archive, fails when told to."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.commands: list[list[str]] = []
        self.interrupt_at = self.fail_at = ""

    def __call__(self, command, *_: object) -> str:
        words = [str(word) for word in command]
        if self.interrupt_at and self.interrupt_at in words:
            raise KeyboardInterrupt
        if self.fail_at and self.fail_at in words:
            raise subprocess.CalledProcessError(1, words, "unreachable")
        self.commands.append(words)
        if "download" in words:
            target = Path(words[words.index("-d") + 1])
            target.mkdir()
            (target / "a.tar.gz").write_bytes(self.source.read_bytes())
        return ""

    def count(self, word: str) -> int:
        return sum(word in command for command in self.commands)


@pytest.fixture
def recorder(tmp_path):
    files = inside({"pkg-1/vendor/ComfyUI/requirements.txt": b"torch\nnumpy\n"})
    return Recorder(archive(tmp_path / "source.tar.gz", files))


@pytest.fixture
def builder(tmp_path, recorder, monkeypatch):
    report = {"runtimes": ["onnxruntime"], "versions": {"onnxruntime": "1.31.1"}}
    monkeypatch.setattr(environment, "probe", lambda *_: report)
    release = pins.Release("1", hashlib.sha256(recorder.source.read_bytes()).hexdigest())
    return Builder(tmp_path / "env", Path(sys.executable), release, "onnxruntime", recorder)


def test_whether_bfloat16_is_fast_is_measured_by_the_environments_torch():
    report = machine.probe(Path(sys.executable), torch=True)
    expected = report["device"] == "cpu" and precision.prefers_bfloat16("cpu")
    assert report["bfloat16"] is expected
    assert machine.probe(Path(sys.executable))["bfloat16"] is False, "not asked, not measured"


def test_a_set_up_is_done_once(builder, recorder):
    build(builder, fresh=False)
    assert (builder.tree / "main.py").exists()
    assert all(any(pin in c for c in recorder.commands) for pin in pins.TORCH)
    done = len(recorder.commands)
    build(builder, fresh=False)
    assert len(recorder.commands) == done


def test_an_interrupted_installation_starts_clean_but_keeps_the_download(builder, recorder):
    """A killed pip can leave packages that look whole."""
    recorder.interrupt_at = str(pins.requirement_files()[0])
    with pytest.raises(KeyboardInterrupt):
        build(builder, fresh=False)
    recorder.interrupt_at = ""
    build(builder, fresh=False)
    assert recorder.count("venv") == 2
    assert recorder.count(pins.TORCH[0]) == 2 + 3, "three steps name it; the third was cut short"
    assert recorder.count("download") == 1
    done = len(recorder.commands)
    build(builder, fresh=False)
    assert len(recorder.commands) == done


def test_a_failed_installation_goes_on_where_it_stopped(builder, recorder):
    """An index that cannot be reached fails before anything is installed."""
    recorder.fail_at = str(pins.requirement_files()[0])
    with pytest.raises(SetupError, match="unreachable"):
        build(builder, fresh=False)
    recorder.fail_at = ""
    build(builder, fresh=False)
    assert recorder.count("venv") == recorder.count("download") == 1


def test_fresh_starts_over(builder, recorder):
    build(builder, fresh=False)
    (builder.folder / "leftover").write_text("")
    build(builder, fresh=True)
    assert recorder.count("venv") == recorder.count("download") == 2
    assert not (builder.folder / "leftover").exists()


def test_pip_gets_the_digest_and_no_index(builder, recorder):
    build(builder, fresh=False)
    download = next(c for c in recorder.commands if "download" in c)
    assert "--require-hashes" in download
    pip = [word for command in recorder.commands for word in command if "pip" in command]
    assert not {"-i", "--index-url", "--extra-index-url", "--isolated"} & set(pip)


def test_a_failed_step_leaves_no_stamp_and_says_what_to_do(builder):
    def fail(*_: object) -> str:
        raise subprocess.CalledProcessError(1, ["pip", "install"], "Could not find a version")

    build_steps = builder.steps
    builder.steps = lambda: [*build_steps()[:2], Step("torch", "t", fail)]
    with pytest.raises(SetupError, match=r"(?s)Could not find.*PIP_INDEX_URL.*--fresh"):
        build(builder, fresh=False)
    assert sorted(path.name for path in builder.stamps.iterdir()) == ["comfyui", "venv"]


@pytest.mark.parametrize(
    ("wanted", "present", "calls"),
    [
        ("onnxruntime", ["onnxruntime"], []),
        ("onnxruntime-gpu", ["onnxruntime-gpu"], []),
        ("onnxruntime-gpu", ["onnxruntime"], ["uninstall", "install"]),
        ("onnxruntime-gpu", ["onnxruntime", "onnxruntime-gpu"], ["uninstall", "install"]),
        ("onnxruntime", ["onnxruntime", "onnxruntime-gpu"], ["uninstall", "install"]),
    ],
)
def test_exactly_one_runtime_is_left(builder, recorder, monkeypatch, wanted, present, calls):
    report = {"runtimes": present, "versions": dict.fromkeys(present, "1.31.1")}
    monkeypatch.setattr(environment, "probe", lambda *_: report)
    builder.runtime = wanted
    builder.choose_runtime(Live("x"))
    verbs = [command[3] for command in recorder.commands]
    assert verbs == calls
    if calls:
        assert set(present) <= set(recorder.commands[0])
        assert recorder.commands[1][-2:] == ["--no-deps", f"{wanted}==1.31.1"]


@pytest.mark.parametrize(
    ("nvidia", "processor", "system", "package"),
    [
        (True, "x86_64", "Linux", "onnxruntime-gpu"),
        (True, "AMD64", "Windows", "onnxruntime-gpu"),
        (False, "x86_64", "Linux", "onnxruntime"),
        (True, "aarch64", "Linux", "onnxruntime"),
        (False, "arm64", "Darwin", "onnxruntime"),
    ],
)
def test_which_runtime_a_machine_gets(nvidia, processor, system, package):
    assert machine.runtime_package(nvidia, processor, system) == package


def test_the_folder_name_follows_every_pin(tmp_path, monkeypatch):
    base = ("0.30.0", "3.11", "onnxruntime")
    names = {pins.environment_name(*base)}
    names.add(pins.environment_name("0.27.0", "3.11", "onnxruntime"))
    names.add(pins.environment_name("0.30.0", "3.12", "onnxruntime"))
    names.add(pins.environment_name("0.30.0", "3.11", "onnxruntime-gpu"))
    monkeypatch.setattr(pins, "TORCH", ("torch==2.12.0",))
    names.add(pins.environment_name(*base))
    changed = tmp_path / "requirements.txt"
    changed.write_text("other\n")
    monkeypatch.setattr(pins, "requirement_files", lambda: (changed, changed))
    names.add(pins.environment_name(*base))
    assert len(names) == 6
    assert pins.environment_name(*base) == pins.environment_name(*base)


def test_requirements_leave_torch_and_numpy_to_the_user():
    names = {line.split(">")[0].split("=")[0].strip() for line in
             (ROOT / "requirements.txt").read_text().splitlines()}  # fmt: skip
    assert not names & {"torch", "torchvision", "torchaudio", "numpy", "onnxruntime-gpu"}
    pinned = (ROOT / "requirements-dev.txt").read_text()
    assert all(f"{name}==" in pinned for name in names)


@pytest.mark.parametrize(("version", "fine"), [("3.9.1", 0), ("3.10.2", 1), ("3.15.0", 0)])
def test_a_python_without_a_torch_is_refused_by_name(version, fine):
    if fine:
        assert usable_version(Path("py"), version) == "3.10"
        return
    with pytest.raises(SetupError, match=rf"{version}.*3\.10 to 3\.14.*--python"):
        usable_version(Path("py"), version)


def test_a_python_that_does_not_run_is_named(tmp_path):
    with pytest.raises(SetupError, match="nothing-here.*--python"):
        machine.probe(tmp_path / "nothing-here")


def test_the_probe_reports_this_python(tmp_path):
    (tmp_path / "r.txt").write_text("pytest>=1\nno-such-package-at-all>=2\npytest==0.0.1\n")
    report = machine.probe(Path(sys.executable), tmp_path / "r.txt")
    assert report["missing"] == ["no-such-package-at-all>=2"]
    assert report["version"].startswith("3.")


@pytest.mark.parametrize(
    ("found", "requirement", "met"),
    [
        ({"a": "2.1"}, "a>=2.0", True),
        ({"a": "0.7.3"}, "a>=2.0", False),
        ({"a": "2.0.1+cu1"}, "a>=2.0.1", True),
        ({"a": "1"}, "a", True),
        ({}, "a", False),
        ({"a": "1"}, "a==2", True),
        ({"onnxruntime-gpu": "1.20"}, "onnxruntime", True),
        ({}, "onnxruntime", False),
    ],
)
def test_when_a_requirement_counts_as_met(monkeypatch, found, requirement, met):
    monkeypatch.setattr(probe, "find_version", found.get)
    assert probe.is_met(requirement) is met


HOLDER = """
import sys, time, types
from pathlib import Path
package = types.ModuleType("flexid"); package.__path__ = [sys.argv[1]]
sys.modules["flexid"] = package
from flexid.setup.lock import exclusive
with exclusive(Path(sys.argv[2]), "set-up"):
    print("held", flush=True)
    with open(sys.argv[3], "a") as file:
        file.write("in "); file.flush(); time.sleep(float(sys.argv[4])); file.write("out ")
"""


def hold(path, journal, seconds):
    command = [sys.executable, "-c", HOLDER, str(ROOT), str(path), str(journal), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_set_ups_take_turns_and_the_second_says_for_whom_it_waits(tmp_path):
    path, journal = tmp_path / "e.lock", tmp_path / "journal"
    first = hold(path, journal, 1)
    assert first.stdout.readline() == "held\n"
    second = hold(path, journal, 0)
    waiting = second.stdout.readline()
    assert "waiting" in waiting and f"pid {first.pid}" in waiting
    assert first.wait(20) == second.wait(20) == 0
    assert journal.read_text().split() == ["in", "out", "in", "out"]


def test_a_killed_set_up_releases_its_lock(tmp_path):
    path = tmp_path / "e.lock"
    first = hold(path, tmp_path / "journal", 60)
    first.stdout.readline()
    with pytest.raises(SetupError, match=f"already runs.*pid {first.pid}"):
        with lock.exclusive(path, "it", wait=False):
            pass
    first.kill()
    first.wait()
    with lock.exclusive(path, "it", wait=False):
        assert path.read_text().strip() == str(os.getpid())


def test_a_step_that_ends_early_is_not_stamped(tmp_path):
    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_steps([Step("a", "a", lambda _: None), Step("b", "b", stop)], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b.begun"]
    done = []
    run_steps([Step("a", "a", done.append), Step("b", "b", done.append, ("a",))], tmp_path)
    assert len(done) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_failed_command_shows_its_last_words(tmp_path):
    code = "print('first'); print('the reason'); raise SystemExit(3)"
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run_logged([sys.executable, "-c", code], tmp_path / "log", Live("x"))
    assert caught.value.returncode == 3 and "the reason" in caught.value.output
    assert "first" in (tmp_path / "log").read_text()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_interrupting_a_command_ends_it(tmp_path, monkeypatch):
    pid_file = tmp_path / "pid"
    code = f"import os,time; open({str(pid_file)!r},'w').write(str(os.getpid())); print(1,flush=True); time.sleep(60)"  # noqa: E501
    live = Live("x")
    monkeypatch.setattr(Live, "detail", property(lambda s: "", _interrupt), raising=False)
    with pytest.raises(KeyboardInterrupt):
        run_logged([sys.executable, "-c", code], tmp_path / "log", live)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def _interrupt(live, value):
    if value:
        raise KeyboardInterrupt


def test_the_cache_follows_the_custom_of_the_system(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert machine.cache_root() == tmp_path / "flexid"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert machine.cache_root() == Path.home() / "Library" / "Caches" / "flexid"


def test_too_small_a_disk_is_refused_before_anything_is_fetched(builder, recorder, monkeypatch):
    usage = environment.shutil.disk_usage("/")._replace(free=3 << 30)
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SetupError, match=r"9 GB.*3\.0 GB.*XDG_CACHE_HOME"):
        build(builder, fresh=False)
    assert recorder.commands == []
