"""`start.py serve`: ComfyUI with the pack, its models and workflows, for use by hand."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from .console import run_in_foreground, say
from .demo import prepare_photo
from .environment import Environment
from .lock import exclusive
from .machine import clean_environ
from .pins import ROOT
from .server import PACK, command, free_port, make_base
from .world import ensure_world

WORKFLOWS = ROOT / "workflows"


def serve(environment: Environment, port: int, existing: bool, extra: list[str]) -> int:
    """Run in the foreground until Ctrl-C. Inputs, outputs and settings stay for the next time."""
    base = environment.cache / "serve"
    with exclusive(environment.cache / "serve.lock", "`start.py serve`", wait=False):
        models = {"flexid_mini": ensure_world(environment)}
        if existing and (environment.tree / "models").is_dir():
            models["existing"] = environment.tree / "models"
        settings = make_base(base, models)
        workflows = _workflows(base)
        portrait = base / "input" / "portrait.png"
        if not portrait.exists():
            prepare_photo(environment, "sample", portrait)
        chosen = free_port(port)
        if port and chosen != port:
            say(f"port {port} is taken; using {chosen}")
        say(f"ComfyUI:    http://127.0.0.1:{chosen}  (Ctrl-C ends it)")
        say(f"workflows:  in the page under Workflows > {PACK}; files in {workflows}")
        say(f"own models: {base / 'models'}")
        say(f"pictures:   {base / 'output'}")
        words = command(environment, base, settings, chosen, *extra)
        with suppress(KeyboardInterrupt):
            return run_in_foreground(words, base, clean_environ())
        return 0


def _workflows(base: Path) -> Path:
    """Put the page-format workflows where ComfyUI's page lists them; the folder."""
    folder = base / "user" / "default" / "workflows" / PACK
    folder.mkdir(parents=True, exist_ok=True)
    for path in WORKFLOWS.glob("*.json"):
        if not path.name.endswith(".api.json"):
            shutil.copy(path, folder)
    return folder
