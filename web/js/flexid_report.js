// Shows what a FlexID node reports about its run (output "text") on the node itself.
// The core draws such text only on its own preview nodes.
import { display, onOutput } from "./flexid_display.js";

const [LINE, PADDING, MOST] = [16, 8, 128]; // pixels; a longer report scrolls
const LETTER = 5.5; // mean width of one
const STYLE = { whiteSpace: "pre-wrap", userSelect: "text" };

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
