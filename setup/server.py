"""A private ComfyUI on loopback with this pack and a folder of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .client import DIRECT
from .console import SetupError
from .environment import Environment
from .machine import clean_environ
from .pins import ROOT

PACK = "flexid"
STARTUP_SECONDS = 300
STOP_SECONDS = 15
ATTEMPTS = 3
LOG_TAIL = 40
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
NOT_SERVED = shutil.ignore_patterns(".*", "__pycache__", "tests", "bench", "setup")


@dataclass
class Server:
    """A running ComfyUI. `stop` ends it and everything it started."""

    process: subprocess.Popen[bytes]
    url: str
    base: Path
    log: Path

    def stop(self) -> None:
        """End the process group: politely first, and certainly after STOP_SECONDS."""
        if self.process.poll() is None:
            _signal_group(self.process, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        if self.process.poll() is None:
            _signal_group(self.process, getattr(signal, "SIGKILL", signal.SIGTERM))
            self.process.kill()
        self.process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    if os.name == "nt":
        process.terminate()
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def make_base(base: Path, models: Mapping[str, Path]) -> list[Path]:
    """Fill a base directory: the pack under custom_nodes, and settings that point to `models`.

    `models` maps a label to a models folder, first one first. Returns the files to give to
    --extra-model-paths-config.
    """
    for name in ("custom_nodes", "input", "output", "temp", "user", "models"):
        (base / name).mkdir(parents=True, exist_ok=True)
    link_pack(base / "custom_nodes" / PACK)
    settings = []
    for label, folder in models.items():
        kinds = sorted(path.name for path in folder.iterdir() if path.is_dir())
        # JSON strings are valid YAML, whatever the path contains.
        lines = [f"{label}:", f"  base_path: {json.dumps(str(folder))}"]
        lines += [f"  {json.dumps(kind)}: {json.dumps(kind)}" for kind in kinds]
        settings.append(base / f"{label}.yaml")
        settings[-1].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return settings


def link_pack(target: Path) -> None:
    """Make the pack appear as `target`: a link where links are allowed, else a junction or copy."""
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        shutil.rmtree(target)
    try:
        target.symlink_to(ROOT, target_is_directory=True)
    except OSError:
        try:
            import _winapi

            _winapi.CreateJunction(str(ROOT), str(target))
        except (ImportError, AttributeError, OSError):
            shutil.copytree(ROOT, target, ignore=NOT_SERVED)


def free_port(preferred: int = 0) -> int:
    """`preferred` when nobody listens there, else any free port of the loopback interface."""
    for port in (preferred, 0):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return probe.getsockname()[1]
    raise SetupError("no free port on 127.0.0.1; is the loopback interface up?")


def command(
    environment: Environment, base: Path, settings: Iterable[Path], port: int, *extra: str
) -> list[str]:
    """The command line of the private server."""
    arguments = [str(environment.python), str(environment.tree / "main.py")]
    arguments += ["--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch"]
    arguments += ["--base-directory", str(base), "--disable-api-nodes"]
    arguments += ["--database-url", f"sqlite:///{(base / 'user' / 'comfyui.db').as_posix()}"]
    for path in settings:
        arguments += ["--extra-model-paths-config", str(path)]
    return arguments + (["--cpu"] if environment.device == "cpu" else []) + list(extra)


def start(environment: Environment, base: Path, models: Mapping[str, Path], *extra: str) -> Server:
    """Start a server in `base` on a free port and wait until it answers.

    `extra`: more arguments for ComfyUI. Raises SetupError with the end of its log when it does
    not come up.
    """
    settings = make_base(base, models)
    for attempt in range(ATTEMPTS):
        server = _launch(environment, base, settings, free_port(), *extra)
        try:
            wait_until_answers(server)
            return server
        except SetupError as error:
            server.stop()
            # Another process may take the port between the choice and the bind.
            if "already in use" not in str(error) or attempt == ATTEMPTS - 1:
                raise
        except BaseException:
            server.stop()
            raise
    raise AssertionError("unreachable")


def _launch(
    environment: Environment, base: Path, settings: list[Path], port: int, *extra: str
) -> Server:
    log = base / "server.log"
    # ComfyUI's own choice on a CPU takes three times as long for pictures as small as the demo's.
    faster = ["--use-pytorch-cross-attention"] if environment.device == "cpu" else []
    faster += ["--bf16-unet"] if environment.bfloat16 else []
    own_group = (
        {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        if os.name == "nt"
        else {"start_new_session": True}
    )
    with log.open("wb") as file:
        process = subprocess.Popen(
            command(environment, base, settings, port, *faster, *extra),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=base,
            env=clean_environ(PYTHONUNBUFFERED="1"),
            **own_group,
        )
    return Server(process, f"http://127.0.0.1:{port}", base, log)


def wait_until_answers(server: Server) -> None:
    """Return once the page answers. Raises SetupError with the end of the log when it does not."""
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            time.sleep(0.2)  # its last words may still be on their way into the log
            raise SetupError(
                f"ComfyUI ended with exit code {server.process.returncode} while starting. "
                f"The end of {server.log}:\n{log_tail(server.log)}"
            )
        try:
            DIRECT.open(server.url, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return  # the server is up; another address of it may still be good
        except OSError:
            time.sleep(0.2)
    raise SetupError(
        f"ComfyUI did not answer at {server.url} within {STARTUP_SECONDS} s. "
        f"The end of {server.log}:\n{log_tail(server.log)}"
    )


def log_tail(log: Path, lines: int = LOG_TAIL) -> str:
    """The last lines of a server log, without the colours."""
    text = COLOURS.sub("", log.read_text(encoding="utf-8", errors="replace"))
    return "\n".join(text.splitlines()[-lines:])
