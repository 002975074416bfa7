// Says on Sweep Values which of its values is running, in place of the list of them. The bar of the
// node is the page's own; nodes/sweep_progress.py moves it, and it counts values.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { translate } from "./flexid_language.js";

const ENDS = ["execution_success", "execution_error", "execution_interrupted"];
const lists = new Map(); // node -> what it showed before

// "7", or "12:7" for node 7 of the subgraph that node 12 is.
function nodeAt(path) {
  return path
    .split(":")
    .reduce((outer, id) => (outer?.subgraph ?? outer)?.getNodeById?.(Number(id)), app.rootGraph ?? app.graph);
}

const panelOf = (node) => node.widgets?.find((each) => each.name === "flexid_report")?.element;

function restore(node) {
  const panel = panelOf(node);
  if (panel && lists.has(node)) panel.textContent = lists.get(node);
  lists.delete(node);
}

function show(node, { value, max }, title) {
  const panel = panelOf(node);
  if (!panel) return;
  if (!lists.has(node)) lists.set(node, panel.textContent);
  const number = Math.min(max, Math.floor(value) + 1);
  const [word, of] = ["value", "of"].map((text) => translate("chart", text));
  panel.textContent = `${word} ${number} ${of} ${max}: ${title}`;
}

function follow({ detail }) {
  const states = Object.entries(detail.nodes).map(([path, state]) => [nodeAt(path), state]);
  const isSweep = (node) => node?.comfyClass === "FlexIDSweepValues";
  const running = states.find(([node, { state }]) => node && !isSweep(node) && state === "running");
  for (const [node, state] of states.filter(([node]) => isSweep(node))) {
    if (state.state === "running" && state.value > 0 && running) show(node, state, running[0].title);
    else restore(node);
  }
}

app.registerExtension({
  name: "flexid.Sweep",
  setup() {
    api.addEventListener("progress_state", follow);
    for (const end of ENDS) api.addEventListener(end, () => [...lists.keys()].forEach(restore));
  },
});
