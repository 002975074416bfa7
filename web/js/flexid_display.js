// What a FlexID node shows below its widgets. Imported by the other files; does nothing alone.
import { app } from "../../../scripts/app.js";
import { grow } from "./flexid_size.js";

const STYLE = {
  boxSizing: "border-box",
  overflow: "auto",
  padding: "4px 6px",
  font: "11px/1.4 sans-serif",
  color: "var(--input-text, #ddd)",
  background: "var(--comfy-input-bg, #222)",
  borderRadius: "4px",
};

function createDisplay(node, name, low, high) {
  const element = document.createElement("div");
  Object.assign(element.style, STYLE);
  const widget = node.addDOMWidget(name, name, element, {
    serialize: false, // not part of the queued prompt
    getMinHeight: () => low,
    getMaxHeight: () => high,
  });
  widget.serialize = false; // not part of the saved workflow either
  return widget;
}

// Put `children` (elements or text) into the node's display `name`, low to high pixels tall.
export function display(node, name, [low, high], children, style = {}) {
  const known = node.widgets?.find((each) => each.name === name);
  const { element } = known ?? createDisplay(node, name, low, high);
  Object.assign(element.style, style);
  element.replaceChildren(...children);
  grow(node);
  node.setDirtyCanvas?.(true, true);
}

// Call `show(node, output)` whenever a FlexID node has run, or its cached output is sent again.
export function onOutput(name, show) {
  app.registerExtension({
    name,
    beforeRegisterNodeDef(nodeType, nodeData) {
      if (!nodeData.name.startsWith("FlexID")) return;
      const onExecuted = nodeType.prototype.onExecuted;
      nodeType.prototype.onExecuted = function (output) {
        onExecuted?.apply(this, arguments);
        show(this, output ?? {});
      };
    },
  });
}
