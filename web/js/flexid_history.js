// Shows again, after the page was reloaded, what FlexID nodes had shown: the server still has it.
// Nodes that ComfyUI does not run again, because nothing changed, would stay empty otherwise.
import { app } from "../../../scripts/app.js";

const RUNS = 20; // of the latest, to look through
const histories = new Map(); // id of a graph -> Promise of its runs, the latest first

async function readHistory(graph) {
  const response = await app.api.fetchApi(`/history?max_items=${RUNS}`);
  const runs = response.ok ? Object.values(await response.json()) : [];
  return runs
    .map(({ prompt, outputs }) => ({ workflow: prompt?.[3]?.extra_pnginfo?.workflow, outputs }))
    .filter(({ workflow }) => workflow?.id === graph)
    .reverse();
}

// Node by node: what it is, its widgets, and where its inputs come from.
function describe(workflow) {
  const links = (workflow.links ?? []).filter(Array.isArray);
  const from = new Map(links.map(([link, origin, slot]) => [link, [String(origin), slot]]));
  const nodes = workflow.nodes.map(({ id, type, mode, inputs, widgets_values: values }) => {
    const linked = (inputs ?? []).filter(({ link }) => from.has(link));
    const sources = linked.map(({ name, link }) => [name, ...from.get(link)]).sort();
    const own = JSON.stringify([type, mode, values ?? [], sources]);
    return [String(id), { own, origins: sources.map(([, origin]) => origin) }];
  });
  return new Map(nodes);
}

// Whether a node and all those before it are the same in both graphs, so that its output is.
function comparer(one, other) {
  const known = new Map();
  return function isSame(id) {
    if (!known.has(id)) {
      known.set(id, true); // where a loop ends
      const node = one.get(id);
      known.set(id, !!node && node.own === other.get(id)?.own && node.origins.every(isSame));
    }
    return known.get(id);
  };
}

function showAgain(runs) {
  const current = describe(app.rootGraph.serialize());
  const isSame = runs.map(({ workflow }) => comparer(current, describe(workflow)));
  for (const { id, comfyClass } of app.rootGraph.nodes) {
    const key = String(id);
    if (!comfyClass?.startsWith("FlexID") || app.nodeOutputs?.[key]) continue;
    const run = runs.find(({ outputs }, i) => outputs?.[key] && isSame[i](key));
    if (!run) continue;
    // The page takes it as it takes the server's own message, pictures included.
    const detail = { node: key, display_node: key, output: run.outputs[key], merge: false };
    app.api.dispatchCustomEvent("executed", detail);
  }
}

app.registerExtension({
  name: "flexid.History",
  afterConfigureGraph() {
    const graph = app.rootGraph?.id;
    if (!graph || !app.api?.dispatchCustomEvent) return;
    if (!app.rootGraph.nodes.some((node) => node.comfyClass?.startsWith("FlexID"))) return;
    if (!histories.has(graph)) histories.set(graph, readHistory(graph).catch(() => []));
    // The page does not wait for it, and may show another graph by then.
    histories.get(graph).then((runs) => {
      if (runs.length && app.rootGraph.id === graph) showAgain(runs);
    });
  },
});
