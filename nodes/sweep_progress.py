"""A bar over all values of a sweep, on Sweep Values itself.

ComfyUI runs a node for all values before the next one, and each of these runs has its own bar. This
one stands at Sweep Values and counts values: 2.5 of 5 is the third value, half done, of the node
that runs now.
"""

from __future__ import annotations

from collections import deque

from comfy_execution.graph_utils import is_link
from comfy_execution.progress import (
    NodeState,
    ProgressHandler,
    ProgressRegistry,
    get_progress_state,
)
from comfy_execution.utils import get_executing_context

import nodes


def watch_sweep(count: int) -> None:
    """Show the bar of the node that calls this, in the run that is on; count: its values.

    Outside of a run of ComfyUI it does nothing.
    """
    running = get_executing_context()
    if running is not None:
        registry = get_progress_state()
        handler = SweepProgress(running.node_id, count)
        handler.set_registry(registry)
        registry.register_handler(handler)


class SweepProgress(ProgressHandler):
    """Moves the bar of one Sweep Values whenever a node behind it moves its own."""

    def __init__(self, node: str, count: int) -> None:
        super().__init__(f"flexid.sweep.{node}")
        self.node, self.count = node, count
        self.swept: frozenset[str] = frozenset()

    def set_registry(self, registry: ProgressRegistry) -> None:
        self.registry = registry
        self.swept = find_swept(registry.dynprompt.original_prompt, self.node)

    def update_handler(self, node_id, value, max_value, state, prompt_id, image=None) -> None:
        running = get_executing_context()
        if node_id not in self.swept or running is None or running.list_index is None:
            return
        # A list of another node that is longer makes more runs, with the last value in each.
        index = min(running.list_index, self.count - 1)
        share = min(1.0, max(0.0, value / max_value)) if max_value else 0.0
        self.registry.update_progress(self.node, index + share, self.count)

    def finish_handler(self, node_id, state, prompt_id) -> None:
        own = self.registry.ensure_entry(self.node)
        if node_id in self.swept and own["state"] == NodeState.Running:
            self.registry.finish_progress(self.node)


def find_swept(prompt: dict, node: str) -> frozenset[str]:
    """The nodes of an API prompt that run once for each value of `node`.

    A node that takes lists, such as Sweep Report, runs once, and so does all behind it.
    """
    kinds = getattr(nodes, "NODE_CLASS_MAPPINGS", {})
    behind: dict[str, list[str]] = {}
    for key, each in prompt.items():
        for value in each["inputs"].values():
            if is_link(value):
                behind.setdefault(value[0], []).append(key)
    found: set[str] = set()
    queue = deque([node])
    while queue:
        for key in behind.get(queue.popleft(), ()):
            kind = kinds[prompt[key]["class_type"]]
            if key not in found and not getattr(kind, "INPUT_IS_LIST", False):
                found.add(key)
                queue.append(key)
    return frozenset(found)
