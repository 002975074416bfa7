// Shows what a FlexID node reports about its run (output "text") on the node itself.
// The core draws such text only on its own preview nodes.
import { app } from "../../../scripts/app.js";

const NAME = "flexid_report";
const LINE = 16;

function createReport(node) {
  const element = document.createElement("div");
  Object.assign(element.style, {
    boxSizing: "border-box",
    overflow: "auto",
    padding: "4px 6px",
    font: "11px/1.4 sans-serif",
    whiteSpace: "pre-wrap",
    userSelect: "text",
    color: "var(--input-text, #ddd)",
    background: "var(--comfy-input-bg, #222)",
    borderRadius: "4px",
  });
  const widget = node.addDOMWidget(NAME, NAME, element, {
    serialize: false, // not part of the queued prompt
    getMinHeight: () => 3 * LINE,
    getMaxHeight: () => 8 * LINE,
  });
  widget.serialize = false; // not part of the saved workflow either
  return widget;
}

function showReport(node, text) {
  const widget = node.widgets?.find((each) => each.name === NAME) ?? createReport(node);
  widget.element.textContent = text;
  const [width, height] = node.computeSize();
  node.setSize([Math.max(width, node.size[0]), Math.max(height, node.size[1])]);
  node.setDirtyCanvas?.(true, true);
}

app.registerExtension({
  name: "FlexID.Report",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith("FlexID")) return;
    const onExecuted = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      if (output?.text) showReport(this, [output.text].flat().join("\n"));
    };
  },
});
