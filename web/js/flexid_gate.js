// Draws the two gates of Compute Context-Aware Gate over the run (output "flexid_gate"), with the
// words that were found. SVG in a DOM widget: the same in the classic page and in Nodes 2.0.
import { display, onOutput } from "./flexid_display.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM] = [300, 130, 8, 20, 292, 112];
const STREAMS = [
  { key: "semantic", label: "semantic α", colour: "#e0a030" },
  { key: "visual", label: "visual w", colour: "#4aa3df" },
];

function shape(kind, attributes, text) {
  const element = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function label(x, y, text, attributes = {}) {
  return shape("text", { x, y, "font-size": 10, fill: "currentColor", ...attributes }, text);
}

// Each stream has its own scale, so that 0.1 and 1.0 can be compared in shape; 0 is the base line.
function curve(samples, stream) {
  const peak = Math.max(...samples.map((each) => Math.abs(each[stream.key])), 1e-9);
  const points = samples.map((each) => {
    const x = LEFT + (RIGHT - LEFT) * each.percent;
    const y = BOTTOM - (BOTTOM - TOP) * (each[stream.key] / peak);
    return `${x.toFixed(1)},${y.toFixed(1)}`;
  });
  const line = { points: points.join(" "), fill: "none", stroke: stream.colour };
  return shape("polyline", { ...line, "stroke-width": 2, class: `flexid-${stream.key}` });
}

function legend(samples, stream, x) {
  const [first, last] = [samples[0], samples[samples.length - 1]].map((each) => each[stream.key]);
  const text = `${stream.label} ${first.toFixed(3)} → ${last.toFixed(3)}`;
  return label(x, 12, text, { fill: stream.colour });
}

function plot(samples) {
  const view = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: "100%", role: "img" };
  const picture = shape("svg", { ...view, "aria-label": "Gate weights over the run" });
  const axis = { x1: LEFT, x2: RIGHT, y1: BOTTOM, y2: BOTTOM, stroke: "currentColor" };
  picture.append(
    shape("line", { ...axis, opacity: 0.4 }),
    label(LEFT, HEIGHT - 6, "noise"),
    label(RIGHT, HEIGHT - 6, "picture", { "text-anchor": "end" }),
    ...STREAMS.map((stream, i) => legend(samples, stream, LEFT + (i * WIDTH) / 2)),
    ...STREAMS.map((stream) => curve(samples, stream)),
  );
  return picture;
}

function words(summary) {
  const element = document.createElement("div");
  const found = summary.terms.map((term) => `${term.text} (${term.category} ${term.score.toFixed(2)})`);
  const intent = `intent ${summary.intent.toFixed(2)}`;
  element.textContent = `${intent}: ${found.join(", ") || "no edit found"}`;
  return element;
}

onOutput("flexid.Gate", (node, { flexid_gate: gate }) => {
  const summary = gate?.[0];
  if (summary?.curve) {
    display(node, "flexid_gate_curve", [220, 260], [plot(summary.curve), words(summary)]);
  }
});
