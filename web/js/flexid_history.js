// Shows again, after the page was reloaded, what FlexID nodes had shown: the server still has it.
// Nodes that are not run again, because nothing changed, would stay empty otherwise.
import { app } from "../../../scripts/app.js";

const RUNS = 20; // of the latest, to look through

let reloaded; // Promise of { graph, outputs } for the workflow that the page came back with

async function readHistory(graph) {
  const response = await app.api.fetchApi(`/history?max_items=${RUNS}`);
  const runs = response.ok ? Object.values(await response.json()) : [];
  const outputs = {};
  for (const { prompt, outputs: shown } of runs) { // from the oldest to the latest
    if (prompt?.[3]?.extra_pnginfo?.workflow?.id === graph) Object.assign(outputs, shown);
  }
  return { graph, outputs };
}

function showAgain({ graph, outputs }) {
  if (app.rootGraph?.id !== graph) return;
  for (const node of app.rootGraph.nodes) {
    const output = outputs[node.id];
    if (!output || !node.comfyClass?.startsWith("FlexID") || app.nodeOutputs?.[node.id]) continue;
    // The page takes it as it takes the server's own message, pictures included.
    const id = String(node.id);
    app.api.dispatchCustomEvent("executed", { node: id, display_node: id, output, merge: false });
  }
}

app.registerExtension({
  name: "flexid.History",
  afterConfigureGraph() {
    const graph = app.rootGraph?.id;
    if (!graph || !app.api?.dispatchCustomEvent) return;
    reloaded ??= readHistory(graph).catch(() => ({ outputs: {} }));
    reloaded.then(showAgain); // the page does not wait for it
  },
});
