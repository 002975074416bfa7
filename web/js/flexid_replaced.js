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

async function fetchFacts() {
  return (await fetch(new URL("./flexid_old_graphs.json", import.meta.url))).json();
}

// Asked for once, when a graph has missing nodes: what replaces what, and what the server knows.
let [replacements, facts] = [new Map(), { values: {}, losses: {} }];
let asked;

async function ask() {
  [replacements, facts] = await Promise.all([fetchReplacements(), fetchFacts()]);
}

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

// The values of an old node by the names of its inputs.
function oldValues(saved, names) {
  const values = Object.fromEntries(
    names.map((name, place) => [name, saved.widgets_values?.[place]]),
  );
  for (const input of saved.inputs ?? []) if (input.link != null) values[input.name] = "connected";
  return values;
}

function listLosses(saved, names) {
  const values = oldValues(saved, names);
  return Object.entries(facts.losses)
    .filter(([name, { ours }]) => values[name] !== undefined && values[name] !== ours)
    .map(([name, { text }]) => `${name}: ${text}.`);
}

async function keepOldNodes() {
  const graphs = allGraphs();
  if (!graphs.some((graph) => graph._nodes.some((node) => node.last_serialization))) return;
  await (asked ??= ask());
  let some = false;
  for (const graph of graphs) {
    const found = graph._nodes.filter((node) => replacements.has(node.last_serialization?.type));
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

function tellLosses(node, saved) {
  const lines = listLosses(saved, replacements.get(saved.type).old_widget_ids ?? []);
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
  tellLosses(node, saved);
  const size = saved.size ?? node.size;
  fit(node, size);
  await settle(node);
  if (node.graph) makeRoom(node, size[0]);
  node.setDirtyCanvas?.(true, true);
}

// The page carries the old value over and then calls the widget's callback.
function translateValues(node) {
  for (const name of ["order", "method"]) {
    const widget = node.widgets?.find((each) => each.name === name);
    if (!widget) continue;
    const callback = widget.callback;
    widget.callback = function (value, ...rest) {
      const known = facts.values[name] ?? {};
      if (Object.hasOwn(known, value)) widget.value = value = known[value];
      return callback?.call(this, value, ...rest);
    };
  }
}

const TRANSLATED = ["FlexIDChooseFace", "FlexIDApplyVFAFromPhoto"];

app.registerExtension({
  name: "flexid.Replaced",
  afterConfigureGraph: keepOldNodes,
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("FlexID")) return;
    if (TRANSLATED.includes(node.comfyClass)) translateValues(node);
    // The page gives a new node its place in the graph after its creation, in the same task.
    queueMicrotask(() => node.graph && finishReplacement(node));
  },
});
