// Shows what a FlexID node reports about its run (output "text") on the node itself.
// The core draws such text only on its own preview nodes.
import { display, onOutput } from "./flexid_display.js";

const HEIGHT = [48, 128];
const STYLE = { whiteSpace: "pre-wrap", userSelect: "text" };

onOutput("flexid.Report", (node, { text }) => {
  if (text) display(node, "flexid_report", HEIGHT, [[text].flat().join("\n")], STYLE);
});
