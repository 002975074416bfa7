// Says on a node of ours that replaced another pack's node what could not be carried over, and
// says of a graph with a model that Apply VFA refuses, before its nodes are replaced.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { display } from "./flexid_display.js";
import { fit, makeRoom, settle } from "./flexid_size.js";

const HEIGHT = [48, 128];
const STYLE = { whiteSpace: "pre-wrap", userSelect: "text" };
const CHROMA =
  "This graph loads Chroma. Apply VFA needs Flux.1, because PuLID-FLUX files were trained for it, " +
  "and refuses Chroma: load a Flux.1 model, or keep the pack that this graph was made with.";
// As in nodes/replacements.py.
const FACE_ORDERS = {
  "large-small": "largest",
  "small-large": "smallest",
  "left-right": "left to right",
  "right-left": "right to left",
  "top-bottom": "top to bottom",
  "bottom-top": "bottom to top",
};

const LOSSES = new URL("./flexid_losses.json", import.meta.url);
// graph -> Map(node id -> the node as it was saved), of what will be offered to be replaced by ours
const old = new WeakMap();

function allGraphs() {
  const root = app.rootGraph ?? app.graph;
  return [root, ...(root.subgraphs?.values() ?? [])];
}

async function fetchReplacements() {
  const all = await (await api.fetchApi("/node_replacements")).json();
  const ours = Object.entries(all).map(([kind, entries]) => [kind, entries[0]]);
  return new Map(ours.filter(([, entry]) => entry.new_node_id.startsWith("FlexID")));
}

let replacements; // asked for once, when a graph has missing nodes

function loadsChroma(graphs) {
  return graphs.some((graph) =>
    graph._nodes.some(
      (node) =>
        /Loader/.test(node.type) &&
        [node.last_serialization?.widgets_values ?? node.widgets?.map((each) => each.value) ?? []]
          .flat()
          .some((value) => /chroma/i.test(value)),
    ),
  );
}

// The values of an old node by the names of its inputs; what is connected is `true`.
function oldValues(saved, names) {
  const values = Object.fromEntries(
    names.map((name, place) => [name, saved.widgets_values?.[place]]),
  );
  for (const input of saved.inputs ?? []) if (input.link != null) values[input.name] = true;
  return values;
}

async function listLosses(saved, names) {
  const values = oldValues(saved, names);
  return Object.entries(await (await fetch(LOSSES)).json())
    .filter(([name, { ours }]) => values[name] !== undefined && values[name] !== ours)
    .map(([name, { text }]) => `${name}: ${text}.`);
}

async function keepOldNodes() {
  const graphs = allGraphs();
  if (!graphs.some((graph) => graph._nodes.some((node) => node.last_serialization))) return;
  replacements ??= fetchReplacements();
  const known = await replacements;
  let some = false;
  for (const graph of graphs) {
    const found = graph._nodes.filter((node) => known.has(node.last_serialization?.type));
    old.set(graph, new Map(found.map((node) => [String(node.id), node.last_serialization])));
    some ||= found.length > 0;
  }
  if (some && loadsChroma(graphs)) {
    const toast = { severity: "warn", summary: "FlexID", detail: CHROMA, life: 15000 };
    app.extensionManager?.toast?.add(toast);
  }
}

// The old node in whose place the page has put `node`, once.
function takeOldNode(node) {
  const kept = old.get(node.graph);
  const saved = kept?.get(String(node.id));
  kept?.delete(String(node.id));
  return saved;
}

async function tellLosses(node, saved) {
  const entry = (await replacements).get(saved.type);
  const lines = await listLosses(saved, entry.old_widget_ids ?? []);
  if (lines.length) lines.unshift(`Not carried over from ${saved.type}:`);
  if (node.comfyClass === "FlexIDApplyVFAFromPhoto" && loadsChroma(allGraphs())) lines.push(CHROMA);
  if (lines.length) display(node, "flexid_replaced", HEIGHT, [lines.join("\n")], STYLE);
}

// What the page itself leaves out when it puts a new node in the old one's place.
function catchUp(node) {
  // Page 1.58 goes on drawing the old node, from a list that it renews with the graph's version;
  // with Nodes 2.0 that fails, and nothing is drawn any more.
  node.graph.incrementVersion?.();
  // Pages before 1.47 show 0 and blanks in Nodes 2.0 until the widgets know their node's id.
  for (const widget of node.widgets ?? []) widget.setNodeId?.(node.id);
}

async function finishReplacement(node) {
  const saved = takeOldNode(node);
  if (!saved) return;
  catchUp(node);
  await tellLosses(node, saved);
  fit(node, saved.size);
  await settle(node);
  if (node.graph) makeRoom(node, saved.size[0]);
  node.setDirtyCanvas?.(true, true);
}

// The page carries the old value over and then calls the widget's callback.
function translateOrder(node) {
  const widget = node.widgets?.find((each) => each.name === "order");
  if (!widget) return;
  const callback = widget.callback;
  widget.callback = function (value, ...rest) {
    if (value in FACE_ORDERS) widget.value = value = FACE_ORDERS[value];
    return callback?.call(this, value, ...rest);
  };
}

app.registerExtension({
  name: "flexid.Replaced",
  afterConfigureGraph: keepOldNodes,
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("FlexID")) return;
    if (node.comfyClass === "FlexIDChooseFace") translateOrder(node);
    // The page gives a new node its place in the graph after its creation, in the same task.
    queueMicrotask(() => node.graph && finishReplacement(node));
  },
});
