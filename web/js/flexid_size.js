// Lets a FlexID node be as large as its widgets need, and no larger. The page does so when it loads
// a graph, but not when it replaces another pack's node by ours: ours then keeps the old node's size.
import { app } from "../../../scripts/app.js";

const GAP = 10;
const SETTLE = { every: 100, calm: 3, most: 20 }; // milliseconds, and numbers of looks

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

// In Nodes 2.0 the elements of the page take the room that they need.
const byElements = () => Boolean(window.LiteGraph?.vueNodesMode);

const title = () => window.LiteGraph?.NODE_TITLE_HEIGHT ?? 30;

// Width and height below the title, as drawn; older pages write the element's size into the node.
function drawnSize(node) {
  const element = byElements() && document.querySelector(`[data-node-id="${node.id}"]`);
  if (element?.offsetHeight) return [element.offsetWidth, element.offsetHeight - title()];
  return [node.size[0], node.flags?.collapsed ? 0 : node.size[1]];
}

// Give `node` the size that it needs, and at least the `saved` one. The page has stretched the old
// node to show its values without their widgets, and ours takes its size.
export function fit(node, saved) {
  if (byElements()) return;
  const [width, height] = node.computeSize();
  node.setSize([Math.max(width, saved[0]), Math.max(height, saved[1])]);
}

// Wait until the page's elements have given `node` its size.
export async function settle(node) {
  let [calm, last] = [0, ""];
  for (let look = 0; byElements() && calm < SETTLE.calm && look < SETTLE.most; look++) {
    await new Promise((done) => setTimeout(done, SETTLE.every));
    const now = drawnSize(node).join();
    calm = now === last ? calm + 1 : 0;
    last = now;
  }
}

// What a node covers, with its title.
function area(node) {
  const [x, y] = node.pos;
  const [width, height] = drawnSize(node);
  return { left: x, top: y - title(), right: x + width, bottom: y + height };
}

function overlap(a, b) {
  return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}

// Move the nodes that `node` covers: to the right when they were beside it, at its former `width`,
// else down. Nodes that begin above it stay.
export function makeRoom(node, width, moved = new Set([node])) {
  const own = area(node);
  for (const other of node.graph._nodes) {
    const place = area(other);
    if (moved.has(other) || !overlap(own, place)) continue;
    const beside = place.left >= own.left + width;
    if (!beside && place.top < own.top) continue;
    moved.add(other);
    other.pos = beside ? [own.right + GAP, other.pos[1]] : [other.pos[0], own.bottom + GAP + title()];
    makeRoom(other, drawnSize(other)[0], moved);
  }
}

app.registerExtension({
  name: "flexid.Size",
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("FlexID")) return;
    if (byElements()) foldAdvanced(node);
    // Size and place are given to a new node after its creation, in the same task.
    queueMicrotask(() => {
      if (node.graph && !byElements()) grow(node);
    });
  },
});
