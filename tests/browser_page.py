"""One open page of the server in a headless browser, and how to ask it things."""

SECOND = 1000
HARMLESS = ("Failed to load resource", "before initialization", "Content Security Policy")
"""What ComfyUI's own page says on the console: absent user files, its news and its registry."""


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

    def run(self):
        """Click Run and wait for the end."""
        self.tab.evaluate(
            """() => { window.ended = '';
            for (const kind of ['execution_success', 'execution_error'])
                app.api.addEventListener(kind, event => { window.ended = kind + JSON.stringify(
                    event.detail) }) }"""
        )
        self.tab.get_by_role("button", name="Run", exact=True).first.click()
        self.tab.wait_for_function("window.ended", timeout=300 * SECOND)
        assert self.tab.evaluate("window.ended").startswith("execution_success")

    def cut(self):
        """Nodes whose widgets stick out of them: type, size, needed size."""
        return self.tab.evaluate(
            """() => app.graph._nodes.filter(node => node.computeSize()[1] > node.size[1] + 1)
                .map(node => [node.type, ...node.size, ...node.computeSize()])"""
        )

    def errors(self):
        """What the page's error panel says; it opens by a button that appears with an error."""
        button = self.tab.get_by_text("View details")
        if not button.count():
            return ""
        button.first.click()
        self.tab.wait_for_timeout(SECOND)
        return self.tab.inner_text("body")
