"""Graphs in API format as recipes for a picture: their slots, and the same graph without a person.

A slot is found by a node's title (Prompt, Photo, Result) or is named by the user. What a slot gets
is written into its input; a seed goes into every input that is called seed or noise_seed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Graph = dict[str, dict[str, Any]]
"""Node number -> class_type, inputs, _meta."""
PROMPT, PHOTO, RESULT = SLOTS = ("prompt", "photo", "result")
TITLES = {PROMPT: "Prompt", PHOTO: "Photo", RESULT: "Result"}
SEEDS = ("seed", "noise_seed")
TEXTS = ("value", "text", "string", "prompt")
"""Inputs of a prompt's node, the first that is there and no link counts."""
SAVE = "SaveImage"
PASSED_ON: dict[str, tuple[str, ...]] = {
    "FlexIDApply": ("model", "conditioning"),
    "FlexIDApplyFlexIP": ("model", "positive", "negative"),
    "FlexIDApplyIDCFG": ("model",),
    "FlexIDApplyIDGuidance": ("model",),
    "FlexIDApplyReferenceGuidance": ("model", "conditioning"),
    "FlexIDApplySAA": ("model",),
    "FlexIDApplySIP": ("conditioning", "model"),
    "FlexIDApplyVFA": ("model",),
    "FlexIDApplyVFAFromPhoto": ("model",),
    "FlexIDApplyVisualSIP": ("conditioning",),
}
"""Nodes that bring a person in -> the input behind each output when they are bypassed."""


class GraphError(ValueError):
    """What a graph lacks to be painted, and what to do."""


@dataclass(frozen=True)
class Place:
    """Where a slot is: an input of a node; of the result, a node alone."""

    node: str
    input: str = ""


@dataclass(frozen=True)
class Recipe:
    """A graph whose slots are known."""

    graph: Graph
    prompt: Place
    result: Place
    photo: Place | None
    """None where the person is left out."""

    def fill(self, text: str, seed: int, photo: str) -> Graph:
        """The graph of one picture; photo: a file name in ComfyUI's input folder."""
        made = copy.deepcopy(self.graph)
        made[self.prompt.node]["inputs"][self.prompt.input] = text
        if self.photo is not None:
            made[self.photo.node]["inputs"][self.photo.input] = photo
        for node in made.values():
            for name in SEEDS:
                if name in node["inputs"] and not is_link(node["inputs"][name]):
                    node["inputs"][name] = seed
        return made


def read_recipe(graph: Graph, slots: Mapping[str, Place] | None = None) -> Recipe:
    """slots: what the user named; the others are found. Raises GraphError for what is not there."""
    slots = dict(slots or {})
    for name, place in slots.items():
        _check_place(graph, name, place)
    result = slots.get(RESULT) or _find_result(graph)
    graph = keep_needed(graph, result.node)
    prompt = slots.get(PROMPT) or _find_prompt(graph)
    photo = slots.get(PHOTO) or _find_photo(graph)
    if not any(name in node["inputs"] for node in graph.values() for name in SEEDS):
        raise GraphError(
            f"0 nodes have an input {' or '.join(SEEDS)}, expected 1 or more: without one all "
            "pictures have the same noise. Use KSampler, or RandomNoise."
        )
    return Recipe(graph, prompt, result, photo)


def _check_place(graph: Graph, name: str, place: Place) -> None:
    node = graph.get(place.node)
    if node is None:
        raise GraphError(f"slot {name} is in node {place.node}; the graph has {', '.join(graph)}.")
    if place.input and place.input not in node["inputs"]:
        raise GraphError(
            f"slot {name} is input {place.input} of node {place.node}, which has "
            f"{', '.join(node['inputs']) or 'none'}."
        )


def _find_result(graph: Graph) -> Place:
    """The node titled Result, else the only SaveImage, or the only one behind a person."""
    saves = [key for key, node in graph.items() if node["class_type"] == SAVE]
    titled = [key for key in saves if title_of(graph[key]) == TITLES[RESULT]]
    behind = [key for key in saves if _has_person(keep_needed(graph, key))]
    for found in (titled, saves, behind):
        if len(found) == 1:
            return Place(found[0])
    raise GraphError(
        f"{len(saves)} nodes save a picture, expected 1 Save Image. Give the one that counts the "
        f'title "{TITLES[RESULT]}".'
    )


def _has_person(graph: Graph) -> bool:
    return any(node["class_type"] in PASSED_ON for node in graph.values())


def _find_prompt(graph: Graph) -> Place:
    titled = [key for key, node in graph.items() if title_of(node) == TITLES[PROMPT]]
    if len(titled) != 1:
        raise GraphError(
            f'{len(titled)} nodes are titled "{TITLES[PROMPT]}", expected 1. Give that title to '
            "the node that holds the prompt, or name its input: --slot prompt=NODE.INPUT."
        )
    inputs = graph[titled[0]]["inputs"]
    texts = [name for name in TEXTS if isinstance(inputs.get(name), str)]
    if not texts:
        raise GraphError(
            f'the node titled "{TITLES[PROMPT]}" has 0 texts among {", ".join(inputs)}, expected '
            f"one of {', '.join(TEXTS)}; name its input: --slot prompt={titled[0]}.INPUT."
        )
    return Place(titled[0], texts[0])


def _find_photo(graph: Graph) -> Place | None:
    loaders = [key for key, node in graph.items() if node["class_type"] == "LoadImage"]
    titled = [key for key in loaders if title_of(graph[key]) == TITLES[PHOTO]]
    for found in (titled, loaders):
        if len(found) == 1:
            return Place(found[0], "image")
    raise GraphError(
        f"{len(loaders)} Load Image nodes lead to the result, {len(titled)} of them titled "
        f'"{TITLES[PHOTO]}", expected 1. Give that title to the one with the person\'s photo.'
    )


def without_person(recipe: Recipe) -> Recipe | None:
    """The same picture without anybody: every node of PASSED_ON bypassed. None without one.

    Noise, size, sampler and prompt stay as they are.
    """
    if not _has_person(recipe.graph):
        return None
    graph = copy.deepcopy(recipe.graph)
    for node in graph.values():
        for name, value in node["inputs"].items():
            node["inputs"][name] = _pass_on(recipe.graph, value)
    kept = keep_needed(graph, recipe.result.node)
    photo = recipe.photo if recipe.photo and recipe.photo.node in kept else None
    return Recipe(kept, recipe.prompt, recipe.result, photo)


def _pass_on(graph: Graph, value: Any) -> Any:
    """Where a link leads once the nodes in between are bypassed."""
    while is_link(value) and graph[value[0]]["class_type"] in PASSED_ON:
        node = graph[value[0]]
        names = PASSED_ON[node["class_type"]]
        if value[1] >= len(names) or names[value[1]] not in node["inputs"]:
            raise GraphError(
                f"output {value[1]} of {title_of(node)} is read, and has no input to pass on when "
                "the person is left out. Disconnect it."
            )
        value = node["inputs"][names[value[1]]]
    return value


def keep_needed(graph: Graph, result: str) -> Graph:
    """The nodes that lead to one node, in their order; the graph is not changed."""
    needed, wanted = set(), [result]
    while wanted:
        key = wanted.pop()
        if key in needed:
            continue
        if key not in graph:
            raise GraphError(f"a link leads to node {key}, and the graph has {', '.join(graph)}.")
        needed.add(key)
        wanted += [value[0] for value in graph[key]["inputs"].values() if is_link(value)]
    return {key: node for key, node in graph.items() if key in needed}


def describe(graph: Graph, result: str) -> list[Any]:
    """What leads to the result's pictures, without the numbers of nodes; texts and numbers of their
    own count as if they were written into the input that reads them."""
    known: dict[str, Any] = {}

    def tell(value: Any) -> Any:
        if not is_link(value):
            return value
        node = graph[value[0]]
        if node["class_type"].startswith("Primitive"):
            return node["inputs"].get("value")
        if value[0] not in known:
            known[value[0]] = len(known), tell_node(node)
        return ["output", value[1], known[value[0]]]

    def tell_node(node: Mapping[str, Any]) -> list[Any]:
        inputs = sorted(node["inputs"].items())
        return [node["class_type"], [[name, tell(value)] for name, value in inputs]]

    return tell(pictures_of(graph, result))


def pictures_of(graph: Graph, result: str) -> list[Any]:
    """The link through which the result's node gets its pictures. Raises GraphError without one."""
    inputs = graph[result]["inputs"]
    link = inputs.get("images", inputs.get("image"))
    if not is_link(link):
        raise GraphError(
            f"{title_of(graph[result])} is the result and reads no pictures; its inputs are "
            f"{', '.join(inputs) or 'none'}. Name a node such as Save Image."
        )
    return link


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def title_of(node: Mapping[str, Any]) -> str:
    return node.get("_meta", {}).get("title") or node["class_type"]


def set_inputs(graph: Graph, values: Mapping[str, Any]) -> Graph:
    """A copy in which every input of these names that is no link has this value."""
    made = copy.deepcopy(graph)
    for node in made.values():
        for name in values.keys() & node["inputs"].keys():
            if not is_link(node["inputs"][name]):
                node["inputs"][name] = values[name]
    return made


def rename_files(graph: Graph, names: Mapping[str, str]) -> Graph:
    """A copy in which other model files are named."""
    made = copy.deepcopy(graph)
    for node in made.values():
        for name, value in node["inputs"].items():
            if isinstance(value, str) and value in names:
                node["inputs"][name] = names[value]
    return made


def nodes_of(graph: Graph, kinds: Iterable[str]) -> list[str]:
    """Numbers of the nodes of these classes."""
    wanted = set(kinds)
    return [key for key, node in graph.items() if node["class_type"] in wanted]
