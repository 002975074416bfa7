"""One open page of the server in a headless browser, and how to ask it things."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

SECOND = 1000
FLAGS = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
FLAGS += " --disable-sync --no-first-run --disable-dev-shm-usage"
HARMLESS = ("Failed to load resource", "before initialization", "Content Security Policy")
"""What ComfyUI's own page says on the console: absent user files, its news and its registry."""

EMPTY = {"nodes": [], "links": [], "groups": [], "version": 0.4, "config": {}, "extra": {}}
EMPTY |= {"last_node_id": 0, "last_link_id": 0}
CLEARED = """async empty => {
    document.activeElement?.blur();
    await app.loadGraphData(empty);
    app.canvas.ds.reset();
    const workflows = app.extensionManager.workflow, kept = workflows.activeWorkflow.path;
    for (const other of [...workflows.openWorkflows])
        if (other.path != kept) await workflows.closeWorkflow(other) }"""

CROSSED = """() => {
    const context = document.createElement("canvas").getContext("2d"), found = [];
    context.lineWidth = 3;
    context.font = "24px Arial";
    const bars = app.graph._nodes.map(node => ({ id: node.id, title: node.title,
        x: node.pos[0], y: node.pos[1] - 30, width: node.size[0], height: 30 }));
    for (const group of app.graph._groups) bars.push({ title: group.title, x: group.pos[0],
        y: group.pos[1], width: context.measureText(group.title).width + 10, height: 34 });
    const touched = (path, bar) => {
        for (let x = bar.x; x <= bar.x + bar.width; x += 4)
            for (let y = bar.y + 2; y < bar.y + bar.height; y += 3)
                if (context.isPointInStroke(path, x, y)) return true;
    };
    for (const link of app.graph.links.values()) {
        const parts = [link], ends = [link.origin_id, link.target_id];
        for (let id = link.parentId; id; id = app.graph.reroutes.get(id).parentId)
            parts.push(app.graph.reroutes.get(id));
        for (const bar of bars.filter(bar => !ends.includes(bar.id)))
            if (parts.some(part => touched(part.path, bar))) found.push([link.type, bar.title]);
    }
    return found;
}"""
"""In page coordinates: the page keeps the curve of each link that it has drawn."""
SHOWN = """kind => app.graph._nodes.filter(n => n.type == kind).map(n => [n.widgets
    .filter(w => w.name == 'flexid_report').map(w => w.element.innerText).join(''),
    app.nodeOutputs[n.id]?.images?.length ?? 0])[0]"""


def from_start(name: str, reason: str) -> str:
    """A path that `start.py test` found. CI must have it; elsewhere its tests are skipped."""
    path = os.environ.get(name, "")
    if path:
        return path
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def open_browser() -> Iterator:
    """Chromium without a window, closed at the end."""
    reason = "no Chromium: install one, or name it in FLEXID_CHROMIUM"
    path = from_start("FLEXID_CHROMIUM", reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS.split())
        try:
            yield running
        finally:
            running.close()


class Page:
    """One open page of the server."""

    def __init__(self, tab):
        self.tab = tab
        self.problems = []
        tab.on("pageerror", lambda error: self.problems.append(str(error)))
        tab.on("console", self._console)

    def _console(self, message):
        if message.type == "error" and not any(part in message.text for part in HARMLESS):
            self.problems.append(message.text)

    def clear(self):
        """Leave an empty graph, no other open one, and no problems, for the next test."""
        self.tab.evaluate(CLEARED, EMPTY)
        self.tab.wait_for_function("!app.graph._nodes.length")
        self.problems.clear()

    def load(self, graph, name="test"):
        self.tab.evaluate("([g, n]) => app.loadGraphData(g, true, true, n)", [graph, name])
        self.tab.wait_for_function(f"app.graph._nodes.length == {len(graph['nodes'])}")
        self.tab.wait_for_timeout(SECOND)

    def prompt(self):
        return self.tab.evaluate("async () => (await app.graphToPrompt()).output")

    def add(self, kind):
        script = "k => { const n = LiteGraph.createNode(k); n.pos = [400, 300]; app.graph.add(n);"
        self.tab.evaluate(script + " app.canvas.selectNode(n) }", kind)
        self.tab.wait_for_timeout(SECOND)

    def search(self, words):
        """Open the node search as a user does and type; a page that still starts misses clicks."""
        for _ in range(10):
            self.tab.mouse.dblclick(700, 700)
            self.tab.wait_for_timeout(SECOND)
            if self.tab.evaluate("document.activeElement?.tagName == 'INPUT'"):
                break
        self.tab.keyboard.type(words)

    def run(self, button="Run"):
        """Click Run, called `button` in the page's language, and wait for the end."""
        self.tab.evaluate(
            """() => { window.ended = '';
            for (const kind of ['execution_success', 'execution_error'])
                app.api.addEventListener(kind, event => { window.ended = kind + JSON.stringify(
                    event.detail) }) }"""
        )
        self.tab.get_by_role("button", name=button, exact=True).first.click()
        self.tab.wait_for_function("window.ended", timeout=300 * SECOND)
        assert self.tab.evaluate("window.ended").startswith("execution_success")

    def cut(self):
        """Nodes whose widgets stick out of them: type, size, needed size."""
        return self.tab.evaluate(
            """() => app.graph._nodes.filter(node => node.computeSize()[1] > node.size[1] + 1)
                .map(node => [node.type, ...node.size, ...node.computeSize()])"""
        )

    def show_all(self):
        """Zoom out until the whole graph is in sight, so that every link is drawn."""
        self.tab.evaluate(
            """() => { const nodes = app.graph._nodes, [width, height] = [1500, 850];
            const left = Math.min(...nodes.map(n => n.pos[0])) - 60;
            const top = Math.min(...nodes.map(n => n.pos[1])) - 160;
            const right = Math.max(...nodes.map(n => n.pos[0] + n.size[0])) + 60;
            const bottom = Math.max(...nodes.map(n => n.pos[1] + n.size[1])) + 60;
            app.canvas.ds.scale = Math.min(width / (right - left), height / (bottom - top));
            app.canvas.ds.offset = [-left, -top]; app.canvas.setDirty(true, true) }"""
        )
        self.tab.wait_for_timeout(SECOND)

    def shown(self, kind):
        """On the first node of a kind: its report, and how many pictures."""
        return self.tab.evaluate(SHOWN, kind)

    def crossed(self):
        """Titles of nodes and groups that a link crosses: what is linked, the title."""
        return self.tab.evaluate(CROSSED)

    def errors(self):
        """What the page's error panel says; it opens by a button that appears with an error."""
        button = self.tab.get_by_text("View details")
        if not button.count():
            return ""
        button.first.click()
        self.tab.wait_for_timeout(SECOND)
        return self.tab.inner_text("body")
