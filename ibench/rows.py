"""The ways to paint that are compared: the pack's own workflows, and the user's. Standard library
only: start.py reads them, too."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .graphs import Graph, GraphError, nodes_of, set_inputs

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows" / "api"
WEIGHTS = (0.5, 0.75, 1.0, 1.25)
PRESETS = ("consistency", "balanced", "editability")
"""Names of model_patches.inject.editid.PRESETS."""
RIGID = re.compile(r"vfa-(\d+(?:\.\d+)?)")
VFA, SLIDER = ("vfa", "demo"), ("flexid", "flexid_demo")
"""API workflows for Flux.1, and the same for the small world."""
EQUAL = {"vfa": {"steps": 25, "guidance": 4.0}}
"""Of a workflow, where another one of the same model paints otherwise: in a comparison only the way
to keep the person may differ."""


@dataclass(frozen=True)
class Row:
    """One way to paint. Build it with `row_of`."""

    key: str
    title: str
    workflows: tuple[str, ...] = ()
    """Names below workflows/api; the first one whose files are there paints."""
    file: Path | None = None
    """A workflow of the user's, in API format."""
    weight: float | None = None
    preset: str = ""
    alone: bool = False
    """Paint the workflow without the person."""
    given: bool = False
    """The pictures are there already: an evaluation file brings them."""

    def graphs(self) -> list[Graph]:
        """What may paint this row, the most wanted first. Raises GraphError for a bad file."""
        if self.file:
            return [load_graph(self.file)]
        return [self._change(name) for name in self.workflows]

    def _change(self, name: str) -> Graph:
        graph = set_inputs(load_graph(WORKFLOWS / f"{name}.api.json"), EQUAL.get(name, {}))
        if self.weight is not None:
            for key in nodes_of(graph, ("FlexIDApplyVFA",)):
                graph[key]["inputs"]["weight"] = self.weight
        return add_preset(graph, self.preset) if self.preset else graph


def add_preset(graph: Graph, preset: str) -> Graph:
    """The graph of Apply VFA with Choose EditID Preset in it."""
    key = "editid_preset"
    chosen = {"class_type": "FlexIDEditIDPreset", "inputs": {"preset": preset}}
    made = graph | {key: chosen}
    for kind, name, output in (("FlexIDEncodeIdentity", "mix", 0), ("FlexIDApplyVFA", "query", 1)):
        for node in nodes_of(made, (kind,)):
            made[node]["inputs"][name] = [key, output]
    return made


def load_graph(file: Path) -> Graph:
    """Raises GraphError for anything but a workflow in API format."""
    try:
        graph = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise GraphError(f"{file}: {error.strerror}. Name a workflow in API format.") from error
    except ValueError as error:
        raise GraphError(f"{file} is not JSON: {error}.") from error
    nodes = graph.values() if isinstance(graph, Mapping) else ()
    whole = [isinstance(node, Mapping) and "class_type" in node for node in nodes]
    if not whole or not all(whole):
        raise GraphError(
            f"{file} is not in API format (nodes by number, each with class_type): "
            f"{sum(whole)} of {len(whole)} entries are nodes. In ComfyUI choose Workflow > Export "
            "(API)."
        )
    return {key: {**node, "inputs": dict(node.get("inputs", {}))} for key, node in graph.items()}


ALONE = Row("alone", "prompt alone", VFA, alone=True)
GIVEN = Row("given", "pictures of the evaluation file", given=True)


def rigid_row(weight: float) -> Row:
    return Row(f"vfa-{weight:g}", f"rigid VFA {weight:g}", VFA, weight=weight)


def preset_row(preset: str) -> Row:
    return Row(f"editid-{preset}", f"VFA, EditID {preset}", VFA, weight=1.0, preset=preset)


ROWS = (
    ALONE,
    *map(rigid_row, WEIGHTS),
    Row("flexid", "FlexID (SIP + VFA + CAG)", SLIDER),
    *map(preset_row, PRESETS),
    Row("flexid-sdxl", "FlexID on SDXL", ("flexid_sdxl",)),
    Row("flexip", "FlexIP on SD 1.5", ("flexip",)),
    Row("dynamicid", "DynamicID on SD 1.5", ("dynamicid",)),
)
"""What is painted without --rows, as far as the files are there."""


def row_of(text: str) -> Row:
    """A key of ROWS, vfa-W at any weight W, "given", or NAME=FILE with a workflow in API format.

    Raises ValueError naming the choices.
    """
    if "=" in text:
        return _own_row(text)
    if (found := RIGID.fullmatch(text)) and math.isfinite(float(found[1])):
        return rigid_row(float(found[1]))
    known = {row.key: row for row in (*ROWS, GIVEN)}
    if text not in known:
        raise ValueError(
            f"no row is called {text!r}; there are {', '.join(known)}, vfa-W at any weight W, and "
            "NAME=FILE with your own workflow in API format"
        )
    return known[text]


def _own_row(text: str) -> Row:
    name, _, file = text.partition("=")
    if not re.fullmatch(r"[\w.-]+", name) or name in {row.key for row in (*ROWS, GIVEN)}:
        raise ValueError(
            f"{name!r} cannot name a row of yours: use letters, digits, . - _, and no name of "
            f"{', '.join(row.key for row in ROWS)}"
        )
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"{text}: there is no file {path}")
    return Row(name, name, file=path.resolve())
