// What a FlexID node shows below its widgets. Imported by the other files; does nothing alone.
import { app } from "../../../scripts/app.js";
import { grow } from "./flexid_size.js";

// From top to bottom, whatever ran first; the page's own picture comes below.
const ORDER = ["flexid_gate_curve", "flexid_report", "$$canvas-image-preview"];
const MARGIN = 20; // what the page puts above and below an element in a node
const GAP = 4; // what it puts between two widgets
const STYLE = {
  boxSizing: "border-box",
  overflow: "auto",
  padding: "4px 6px",
  font: "11px/1.4 sans-serif",
  color: "var(--input-text, #ddd)",
  background: "var(--comfy-input-bg, #222)",
  borderRadius: "4px",
};

function createDisplay(node, name) {
  const element = document.createElement("div");
  Object.assign(element.style, STYLE);
  const widget = node.addDOMWidget(name, name, element, {
    serialize: false, // not part of the queued prompt
    getMinHeight: () => Math.max(0, widget.room - GAP),
  });
  widget.serialize = false; // not part of the saved workflow either
  widget.room = 0; // taken in the node's height
  const place = (each) => ORDER.indexOf(each.name); // -1 for the node's own widgets
  node.widgets.sort((one, other) => place(one) - place(other));
  return widget;
}

// Put `children` (elements or text) into the node's display `name`, at least `height` pixels tall.
export function display(node, name, height, children, style = {}) {
  const widget = node.widgets?.find((each) => each.name === name) ?? createDisplay(node, name);
  Object.assign(widget.element.style, style, { minHeight: `${height}px` });
  widget.element.replaceChildren(...children);
  const room = height + MARGIN + GAP;
  const more = room - widget.room;
  widget.room = room;
  node.setSize([node.size[0], node.size[1] + more]);
  grow(node);
  node.setDirtyCanvas?.(true, true);
}

// Displays come back with the outputs, so a saved node is as tall as without them.
function leaveOutDisplays(node, saved) {
  const room = node.widgets?.reduce((sum, each) => sum + (each.room ?? 0), 0) ?? 0;
  saved.size = [saved.size[0], saved.size[1] - room];
}

function nodeAt(locator) {
  const parts = String(locator).split(":"); // "7", or "id of a subgraph:7"
  const graph = parts.length > 1 ? app.rootGraph?.subgraphs?.get(parts[0]) : app.rootGraph;
  return (graph ?? app.graph)?.getNodeById(Number(parts.at(-1)));
}

// Call `show(node, output)` whenever a FlexID node has run, or its output is there again: after
// undo and redo, and in a workflow that comes back to the front.
export function onOutput(name, show) {
  app.registerExtension({
    name,
    beforeRegisterNodeDef(nodeType, nodeData) {
      if (!nodeData.name.startsWith("FlexID")) return;
      const { onExecuted } = nodeType.prototype;
      nodeType.prototype.onExecuted = function (output) {
        onExecuted?.apply(this, arguments);
        show(this, output ?? {});
      };
    },
    onNodeOutputsUpdated(outputs) {
      for (const [locator, output] of Object.entries(outputs ?? {})) {
        const node = nodeAt(locator);
        if (node?.comfyClass?.startsWith("FlexID")) show(node, output ?? {});
      }
    },
  });
}

app.registerExtension({
  name: "flexid.Display",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith("FlexID")) return;
    const { onSerialize } = nodeType.prototype;
    nodeType.prototype.onSerialize = function (saved) {
      onSerialize?.apply(this, arguments);
      leaveOutDisplays(this, saved);
    };
  },
});
