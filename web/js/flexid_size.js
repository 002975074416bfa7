// Lets a FlexID node be as large as its widgets need. The page does so when it loads a graph, but
// not when it replaces another pack's node by ours: ours then keeps the old node's size, and needs
// more. What it would cover then makes room.
import { app } from "../../../scripts/app.js";

const GAP = 10;

export function grow(node) {
  const [width, height] = node.computeSize();
  if (width <= node.size[0] && height <= node.size[1]) return;
  node.setSize([Math.max(width, node.size[0]), Math.max(height, node.size[1])]);
  node.setDirtyCanvas?.(true, true);
}

const title = () => window.LiteGraph?.NODE_TITLE_HEIGHT ?? 30;

// What a node covers: left, top, right, bottom, with its title.
function area(node) {
  const [x, y] = node.pos;
  const height = node.flags?.collapsed ? 0 : node.size[1];
  return [x, y - title(), x + node.size[0], y + height];
}

function overlap(a, b) {
  return a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
}

// Move what `node` newly covers: down when it lay below `before`, else to the right.
function makeRoom(node, before, moved) {
  const now = area(node);
  for (const other of node.graph._nodes) {
    const place = area(other);
    if (moved.has(other) || !overlap(now, place) || overlap(before, place)) continue;
    moved.add(other);
    const below = place[1] >= before[3];
    other.pos = below
      ? [other.pos[0], now[3] + GAP + title()]
      : [now[2] + GAP, other.pos[1]];
    makeRoom(other, place, moved);
  }
}

// Call `change`, which may make `node` larger, and move the neighbours that it would cover.
export function growAmong(node, change) {
  const before = area(node);
  change();
  makeRoom(node, before, new Set([node]));
}

app.registerExtension({
  name: "FlexID.Size",
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("FlexID")) return;
    // Size and place are given to a new node after its creation, in the same task.
    queueMicrotask(() => {
      // In Nodes 2.0 the elements of the page take the room that they need.
      if (node.graph && !window.LiteGraph?.vueNodesMode) growAmong(node, () => grow(node));
    });
  },
});
