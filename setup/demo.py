"""`start.py demo`: a photo goes through a private ComfyUI and comes back as a contact sheet."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import contact
from .client import Client, Graph, GraphError, GraphRefused, check
from .console import Live, SetupError, say
from .environment import Environment
from .events import Events
from .face import find_face
from .machine import clean_environ
from .pins import ROOT
from .server import PACK, Server, log_tail, start
from .world import REFERENCE, ensure_world, is_trained

WORKFLOW = ROOT / "workflows" / "api" / "demo.api.json"
PHOTO_TOOL = Path(__file__).with_name("photo.py")
PHOTO_TITLE = "Photo"
TIMEOUT = 3600


class Phases:
    """Names and seconds of what was done, for the closing table."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = time.monotonic() - started

    def table(self) -> str:
        width = max(map(len, self.seconds))
        return "\n".join(f"  {name:<{width}}  {s:7.1f} s" for name, s in self.seconds.items())


def find_photo(path: Path) -> Path:
    """The file; raises SetupError before any set-up when it is not there."""
    path = path.expanduser()
    if path.is_dir():
        raise SetupError(f"--photo {path} is a folder. Name one picture in it.")
    if not path.is_file():
        raise SetupError(f"--photo {path}: no such file. Name a JPEG, PNG or WebP picture.")
    return path.resolve()


def load_graph(path: Path) -> Graph:
    """An API-format graph. Raises SetupError for anything else, the page's own format included."""
    try:
        graph = json.loads(path.expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise SetupError(f"--workflow {path}: {error.strerror}. Name a .api.json file.") from error
    except ValueError as error:
        raise SetupError(f"--workflow {path} is not JSON: {error}.") from error
    nodes = graph.values() if isinstance(graph, dict) else []
    if not nodes or not all(isinstance(node, dict) and "class_type" in node for node in nodes):
        raise SetupError(
            f"--workflow {path} is not in API format (nodes by number, each with class_type). "
            "In ComfyUI choose Workflow > Export (API)."
        )
    return graph


def put_photo(graph: Graph, name: str, insist: bool) -> Graph:
    """The graph with its photo replaced: LoadImage nodes titled "Photo", or the only LoadImage.

    Raises SetupError when there is none, or several without that title, and `insist` is set.
    """
    loaders = {key: node for key, node in graph.items() if node["class_type"] == "LoadImage"}
    titled = {key for key, n in loaders.items() if n.get("_meta", {}).get("title") == PHOTO_TITLE}
    chosen = titled or (set(loaders) if len(loaders) == 1 else set())
    if insist and not chosen:
        raise SetupError(
            f"the workflow has {len(loaders)} LoadImage nodes and none is titled "
            f'"{PHOTO_TITLE}", so there is no place for --photo. Give one of them that title.'
        )
    return {
        key: node | {"inputs": node["inputs"] | {"image": name}} if key in chosen else node
        for key, node in graph.items()
    }


def demo(
    environment: Environment,
    photo: Path | None,
    workflow: Path | None,
    output: Path,
    phases: Phases,
) -> int:
    """Run the demo; returns the exit code. The server is gone when this returns.

    Without a workflow it paints the contact sheet.
    """
    graph = load_graph(workflow) if workflow else None
    with tempfile.TemporaryDirectory(prefix="flexid-", ignore_cleanup_errors=True) as folder:
        with phases("models"):
            models = ensure_world(environment)
        picture = _photo(environment, photo, Path(folder))
        detector = contact.choose_detector(photo is not None)
        if graph is None:
            with phases("face"):
                found = find_face(environment, models, picture, detector, Path(folder))
        with phases("server start"), Live("starting ComfyUI"):
            server = start(environment, Path(folder) / "comfyui", {"flexid_mini": models})
        try:
            client = Client(server.url)
            require_pack(client, server)
            name = client.upload(picture)
            with phases("pictures"):
                if graph is None:
                    graph, entry = contact.paint(client, name, detector, run_with_progress)
                else:
                    ready = put_photo(graph, name, insist=photo is not None)
                    entry = run_with_progress(client, ready)
            pictures = client.pictures(entry)
        except GraphRefused as error:
            say(str(error))
            return 1
        except (GraphError, OSError) as error:  # OSError: the server is gone or too slow
            say(f"{error}\nThe server's last words:\n{log_tail(server.log, 15)}")
            return 1
        finally:
            server.stop()
        if workflow is None:
            with phases("sheet"):
                pictures = _sheet(environment, models, photo is not None, found, graph, pictures)
    return _report(pictures, output, picture.stem, phases, photo is not None)


def _sheet(
    environment: Environment,
    models: Path,
    own_photo: bool,
    found: Mapping[str, Any],
    graph: Graph,
    pictures: list[tuple[str, bytes]],
) -> list[tuple[str, bytes]]:
    """Name and content of what is left for the user: the sheet, and the graph that painted it."""
    with tempfile.TemporaryDirectory(prefix="flexid-") as folder, Live("laying out the sheet"):
        made = Path(folder) / "sheet.png"
        contact.compose(environment, models, found, pictures, made, own_photo)
        saved = json.dumps(graph, indent=1).encode()
        return [("sheet.png", made.read_bytes()), ("sheet.api.json", saved)]


def _photo(environment: Environment, photo: Path | None, folder: Path) -> Path:
    picture = photo or folder / "portrait.png"
    prepare_photo(environment, "check" if photo else "sample", picture)
    return picture


def prepare_photo(environment: Environment, verb: str, picture: Path) -> None:
    """Check that `picture` is one, or write the sample portrait there; see photo.py.

    The sample is the trained models' own kind of person where they are there.
    """
    if verb == "sample" and is_trained():
        shutil.copy(REFERENCE, picture)
        return
    command = [str(environment.python), str(PHOTO_TOOL), verb, str(picture)]
    result = subprocess.run(command, capture_output=True, text=True, env=clean_environ())
    if result.returncode:
        reason = result.stderr.strip().splitlines()[-1:] or ["unknown reason"]
        raise SetupError(f"{picture} cannot be read as a picture: {reason[0]}. Name another file.")


def require_pack(client: Client, server: Server) -> None:
    """Raise SetupError with what the server logged unless it has this pack's nodes."""
    if any(name.startswith("FlexID") for name in client.object_info()):
        return
    raise SetupError(
        f"ComfyUI runs but did not load custom_nodes/{PACK}. Its log says:\n{log_tail(server.log)}"
    )


def run_with_progress(client: Client, graph: Graph) -> dict[str, Any]:
    """Queue the graph and show node and step until it is done; the history entry."""
    with Live("painting") as live:
        events = Events(client.url, client.id, lambda kind, data: _show(live, graph, kind, data))
        try:
            entry = client.wait(client.submit(graph), TIMEOUT)
        finally:
            events.close()
        check(entry)
    return entry


def _show(live: Live, graph: Graph, kind: str, data: Mapping[str, Any]) -> None:
    node = graph.get(str(data.get("node")), {})
    title = node.get("_meta", {}).get("title") or node.get("class_type", "")
    if kind == "executing" and title:
        live.detail = title
    elif kind == "progress" and title:
        live.detail = f"{title}  {data['value']}/{data['max']}"


def _report(
    pictures: list[tuple[str, bytes]], output: Path, photo: str, phases: Phases, own_photo: bool
) -> int:
    if not pictures:
        say("the graph ran but saved no picture: it has no SaveImage node that is connected.")
        return 1
    output = output.expanduser().resolve()
    output.mkdir(parents=True, exist_ok=True)
    say("written:")
    for name, data in pictures:
        path = output / f"{photo}-{name.replace('_00001_', '')}"
        path.write_bytes(data)
        say(f"  {path}  ({len(data) / 1024:.0f} KB)")
    say(f"time:\n{phases.table()}\n{contact.note(own_photo)}")
    return 0
