// Shows what a FlexID node reports about its run (output "text") on the node itself.
// The core draws such text only on its own preview nodes.
import { display, onOutput } from "./flexid_display.js";

const [LINE, PADDING, MOST] = [16, 8, 128]; // pixels; a longer report scrolls
const LETTER = 5.5; // mean width of one
// Nodes 2.0 would make the panel as tall as the whole text; "size" leaves it at its minimum, and at
// what the node gives it.
const STYLE = { whiteSpace: "pre-wrap", userSelect: "text", contain: "size" };

function heightOf(report, width) {
  const letters = Math.max(20, (width - 40) / LETTER);
  const lines = report.split("\n").map((line) => Math.max(1, Math.ceil(line.length / letters)));
  return Math.min(MOST, PADDING + LINE * lines.reduce((sum, count) => sum + count, 0));
}

onOutput("flexid.Report", (node, { text }) => {
  if (!text) return;
  const report = [text].flat().join("\n");
  display(node, "flexid_report", heightOf(report, node.size[0]), [report], STYLE);
});
