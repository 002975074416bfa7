"""`start.py models`: finds the ComfyUI that is meant, and runs setup/manage_models.py for it."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from .comfyui import LANDMARKS
from .console import SetupError, run_in_foreground, say
from .environment import prepare
from .existing import find_python, find_tree
from .machine import cache_root, clean_environ
from .pins import DEFAULT_COMFYUI, ROOT

SCRIPT = ROOT / "setup" / "manage_models.py"
LIST = "list"


@dataclass(frozen=True)
class Place:
    """A ComfyUI whose model folders are meant."""

    python: Path
    tree: Path
    base: Path | None = None
    """Its base directory, where that is not the tree itself."""

    def describe_base(self) -> list[str]:
        """The options that lead manage_models.py there, with what `start.py serve` wrote."""
        if self.base is None:
            return []
        settings = [word for path in sorted(self.base.glob("*.yaml"))
                    for word in ("--settings", str(path))]  # fmt: skip
        return ["--base", str(self.base), *settings]


def manage_models(options: Namespace) -> int:
    """List, fetch or check; the exit code."""
    words = [options.action, *options.names]
    python = options.python or Path(sys.executable)
    if options.action != LIST:
        place = find_place(options)
        python = place.python
        words += ["--tree", str(place.tree)]
        words += place.describe_base()
        words += ["--comfyui", str(options.comfyui)] if options.comfyui else []
        say(f"ComfyUI: {place.base or place.tree}")
    words += ["--accept-licences"] if options.accept_licences else []
    command = [str(python), str(SCRIPT), *words]
    return run_in_foreground(command, environ=clean_environ())


def find_place(options: Namespace) -> Place:
    """The ComfyUI that is named, else the one that this copy of the pack lies in, else the private
    one of `start.py serve`. Raises SetupError when there is none of these."""
    around = ROOT.parents[1]
    if options.comfyui:
        tree = find_tree(options.comfyui)
    elif ROOT.parent.name == "custom_nodes" and all((around / one).exists() for one in LANDMARKS):
        tree = around
    else:
        return _find_private(options)
    own = options.python or find_python(tree) or Path(sys.executable)
    return Place(own.expanduser(), tree)


def _find_private(options: Namespace) -> Place:
    base = cache_root() / "serve"
    if not base.is_dir():
        raise SetupError(
            "Which ComfyUI? Name its folder with --comfyui PATH or COMFYUI_PATH. Without one, the "
            "ComfyUI that this folder lies in is meant, or the private one of `start.py serve`; "
            f"{ROOT} lies in none, and there is no {base} yet."
        )
    version = options.comfyui_version or DEFAULT_COMFYUI
    ready = prepare(version, options.python, options.fresh)
    return Place(ready.python, ready.tree, base)
