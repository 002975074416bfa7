"""`start.py test`: style, types, spelling and every test tier. `start.py bench`: the benchmark."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from .console import Live, SetupError, run_logged, say
from .environment import Environment
from .lock import exclusive
from .machine import clean_environ
from .pins import DEFAULT_COMFYUI, FRONTEND, ROOT

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
             "msedge", "microsoft-edge")  # fmt: skip
USUAL_PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)
DOWNLOADED = (
    "chrome-linux*/chrome",
    "chrome-mac*/*.app/Contents/MacOS/*",
    "chrome-win*/chrome.exe",
)
# The repository root must not be on the module path: its nodes/ would hide ComfyUI's nodes.py.
RUN_MODULE = (
    "import runpy, sys; sys.path.pop(0); name = sys.argv.pop(1); "
    "runpy.run_module(name, run_name='__main__', alter_sys=True)"
)
# A layer sees the packages of the Python below it, but not that one's folder of programs.
RUN_PROGRAM = (
    "import importlib.metadata, subprocess, sys; name = sys.argv[1]; "
    "files = importlib.metadata.distribution(name).files; "
    "program = next(file for file in files if file.name in (name, name + '.exe')); "
    "sys.exit(subprocess.call([program.locate(), *sys.argv[2:]]))"
)
SPELLED = (".", ".ci", ".github")
"""typos passes over hidden folders that are not named."""


def run_tests(environment: Environment, arguments: Sequence[str]) -> int:
    """Lint, types, spelling, pytest; the first failure's exit code. pytest has the last word."""
    environ = clean_environ(COMFYUI_PATH=str(environment.tree))
    browser = find_browser(environment)
    if browser:
        environ["FLEXID_CHROMIUM"] = browser
    frontend = find_frontend(environment)
    if frontend:
        environ["FLEXID_FRONTEND"] = frontend
    tests = module(environment.python, ["pytest", *arguments])
    for command, extra in (*lint(environment), (tests, {})):
        code = subprocess.call(command, cwd=ROOT, env=environ | extra)
        if code:
            return code
    return 0


def lint(environment: Environment) -> Iterator[tuple[list[str], dict[str, str]]]:
    """The commands of the lint step, each with the variables that it needs beside ours.

    Types depend on the release of ComfyUI, so they are checked against the default one only.
    """
    python = environment.python
    yield module(python, ["ruff", "check", "."]), {}
    yield module(python, ["ruff", "format", "--check", "."]), {}
    yield [str(python), "-c", RUN_PROGRAM, "typos", *SPELLED], {}
    found = read_version(environment.tree)
    if found != DEFAULT_COMFYUI:
        say(f"types are not checked: this is ComfyUI {found}, they are for {DEFAULT_COMFYUI}")
        return
    # pyright asks this Python for its module path; it also asks PyPI for its own latest version.
    offline = {"PYTHONPATH": str(environment.tree), "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    yield module(python, ["pyright", "--pythonpath", str(python)]), offline


def read_version(tree: Path) -> str:
    """The version that a ComfyUI tree states; empty when it states none."""
    try:
        text = (tree / "comfyui_version.py").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(r'__version__ = "(.+)"', text)
    return found[1] if found else ""


def run_bench(environment: Environment, arguments: Sequence[str]) -> int:
    """The benchmark inside the environment, with its own arguments."""
    script = ROOT / "bench" / "run.py"
    if not script.exists():
        raise SetupError(f"{script} is missing; this copy of the pack came without benchmarks.")
    environ = clean_environ(COMFYUI_PATH=str(environment.tree))
    return subprocess.call([environment.python, script, *arguments], cwd=ROOT, env=environ)


def module(python: Path, arguments: Sequence[str]) -> list[str]:
    """`python -m` without the current folder on the module path."""
    return [str(python), "-c", RUN_MODULE, *arguments]


def find_browser(environment: Environment) -> str:
    """A Chromium for the browser tests, fetched when there is none; empty when that fails."""
    browsers = environment.cache / "browsers"
    found = os.environ.get("FLEXID_CHROMIUM") or installed_browser(browsers)
    if found:
        return found
    log = environment.cache / "browser.log"
    with exclusive(environment.cache / "browsers.lock", "browser download"):
        for title, commands, environ in _sources(environment, browsers):
            try:
                with Live(f"fetching Chromium ({title})") as live:
                    for command in commands:
                        run_logged(command, log, live, environ)
            except (OSError, subprocess.CalledProcessError) as error:
                say(f"that did not work: {error}; see {log}")
            if found := installed_browser(browsers):
                return found
    say("no Chromium: the browser tests cannot run. Install one or set FLEXID_CHROMIUM.")
    return ""


def installed_browser(browsers: Path) -> str:
    """A Chromium on the PATH, in the usual places, or downloaded earlier; empty without one."""
    for name in CHROMIUMS:
        if found := shutil.which(name):
            return found
    places = [Path(place) for place in USUAL_PLACES]
    places += [path for pattern in DOWNLOADED for path in browsers.glob(f"chromium-*/{pattern}")]
    return next((str(path) for path in places if path.is_file()), "")


def find_frontend(environment: Environment) -> str:
    """The files of ComfyUI's newest page, fetched when they are not there; empty on failure.

    They lie in a folder of their own: the environment keeps the page that ComfyUI asks for.
    """
    if named := os.environ.get("FLEXID_FRONTEND"):
        return named
    folder = environment.cache / f"frontend-{FRONTEND}"
    static = folder / "comfyui_frontend_package" / "static"
    log = environment.cache / "frontend.log"
    with exclusive(environment.cache / "frontend.lock", "page download"):
        if static.is_dir():
            return str(static)
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        wanted = ["--no-deps", "--target", str(part), f"comfyui-frontend-package=={FRONTEND}"]
        command = module(environment.python, ["pip", "install", "--no-input", *wanted])
        try:
            with Live(f"fetching ComfyUI's page {FRONTEND}") as live:
                run_logged(command, log, live, clean_environ())
            part.rename(folder)
        except (OSError, subprocess.CalledProcessError) as error:
            say(f"that did not work: {error}; see {log}. The newest page is not tested.")
            return ""
    return str(static)


def _sources(
    environment: Environment, browsers: Path
) -> list[tuple[str, list[list[str]], dict[str, str]]]:
    """Ways to get one: title, commands, variables. Only root on Debian itself asks apt-get."""
    sources = []
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0 and is_debian():
        quiet = clean_environ(DEBIAN_FRONTEND="noninteractive")
        install = ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]
        sources.append(("apt-get", [["apt-get", "update"], install], quiet))
    command = module(environment.python, ["playwright", "install", "chromium"])
    own = clean_environ(PLAYWRIGHT_BROWSERS_PATH=str(browsers))
    return [*sources, ("playwright", [command], own)]


def is_debian(release: Path = Path("/etc/os-release")) -> bool:
    """Debian, not Ubuntu: there the package named chromium is only a pointer to a snap."""
    try:
        lines = release.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return "ID=debian" in lines
