// Lets a FlexID node be as large as its widgets need, and no larger. The page does so when it loads
// a graph, but not when it replaces another pack's node by ours: ours then keeps the old node's size.
import { app } from "../../../scripts/app.js";

export function grow(node) {
  const [width, height] = node.computeSize();
  if (width <= node.size[0] && height <= node.size[1]) return;
  node.setSize([Math.max(width, node.size[0]), Math.max(height, node.size[1])]);
  node.setDirtyCanvas?.(true, true);
}

// Nodes 2.0 folds advanced inputs, but measures a loaded node as if they were open, and a text box
// fills the rest. The page leaves out what the widget itself calls advanced.
function foldAdvanced(node) {
  for (const widget of node.widgets ?? []) widget.advanced ??= widget.options?.advanced;
}

app.registerExtension({
  name: "flexid.Size",
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("FlexID")) return;
    if (window.LiteGraph?.vueNodesMode) foldAdvanced(node);
    // Size and place are given to a new node after its creation, in the same task.
    queueMicrotask(() => {
      // In Nodes 2.0 the elements of the page take the room that they need.
      if (node.graph && !window.LiteGraph?.vueNodesMode) grow(node);
    });
  },
});
