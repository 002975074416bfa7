// Draws the two gates of Compute Context-Aware Gate over the run (output "flexid_gate"), with the
// words that were found: the same in the classic page and in Nodes 2.0.
import { display, onOutput } from "./flexid_display.js";
import { translate } from "./flexid_language.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 180;
const STREAMS = [
  { key: "semantic", colour: "#e0a030" },
  { key: "visual", colour: "#4aa3df" },
];
const STEPS = [0.1, 0.25, 0.5, 1, 2, 5, 10, 25, 50];
const MOST_STEPS = 4;
const ENDS = ["noise", "× base weight", "picture"];

function html(style, ...children) {
  const element = document.createElement("div");
  Object.assign(element.style, style);
  element.append(...children);
  return element;
}

function svg(kind, attributes) {
  const element = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// One axis for both: weights in units of their bases, so 0.1 and 1.0 stand at the same height.
function share(summary, key, sample) {
  const base = summary.bases[key];
  return base ? sample[key] / base : 0;
}

function axisOf(summary) {
  const values = STREAMS.flatMap(({ key }) => summary.curve.map((each) => share(summary, key, each)));
  const [low, high] = [Math.min(0, ...values), Math.max(1, ...values)];
  const step = STEPS.find((each) => (high - low) / each <= MOST_STEPS) ?? STEPS.at(-1);
  const [first, last] = [Math.floor(low / step), Math.ceil(high / step - 1e-9)];
  const ticks = Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
  return { ticks, place: (value) => 100 * (1 - (value / step - first) / (last - first)) };
}

function line(points, attributes) {
  const unscaled = { fill: "none", "vector-effect": "non-scaling-stroke" };
  return svg("polyline", { points, ...unscaled, ...attributes });
}

// Stretched to the node's width; only lines are inside, so that no letter is stretched or cut.
function plot(summary, axis) {
  const picture = svg("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img" });
  picture.setAttribute("aria-label", translate("chart", "Gate weights over the run"));
  Object.assign(picture.style, { flex: "1", minWidth: "0", height: "100%", overflow: "visible" });
  for (const tick of axis.ticks) {
    const y = axis.place(tick);
    picture.append(line(`0,${y} 100,${y}`, { stroke: "currentColor", opacity: tick ? 0.15 : 0.5 }));
  }
  for (const { key, colour } of STREAMS) {
    const points = summary.curve.map((each) => {
      const y = axis.place(share(summary, key, each));
      return `${(100 * each.percent).toFixed(2)},${y.toFixed(2)}`;
    });
    picture.append(
      line(points.join(" "), { stroke: colour, "stroke-width": 2, class: `flexid-${key}` }),
    );
  }
  return picture;
}

function scale(axis) {
  const labels = axis.ticks.map((tick) =>
    html(
      { position: "absolute", right: "0", top: `${axis.place(tick)}%`, transform: "translateY(-50%)" },
      `×${tick}`,
    ),
  );
  return html({ position: "relative", width: "28px", flex: "none" }, ...labels);
}

function legend(summary) {
  const style = { display: "flex", flexWrap: "wrap", justifyContent: "space-between", gap: "0 8px" };
  const entries = STREAMS.map(({ key, colour }) =>
    html({ color: colour }, `${translate("chart", key)} ${summary.courses[key]}`),
  );
  return html(style, ...entries);
}

function chart(summary) {
  const axis = axisOf(summary);
  const row = { display: "flex", gap: "6px", height: "76px", margin: "8px 4px 6px 0" };
  const ends = { display: "flex", justifyContent: "space-between", margin: "0 4px 0 34px" };
  return html(
    {},
    legend(summary),
    html(row, scale(axis), plot(summary, axis)),
    html(ends, ...ENDS.map((text) => html({}, translate("chart", text)))),
  );
}

function words(summary) {
  const found = summary.terms.map(
    ({ text, category, score }) => `${text} (${translate("chart", category)} ${score.toFixed(2)})`,
  );
  const all = found.join(", ") || translate("chart", "no edit found");
  return html({}, `${translate("chart", "intent")} ${summary.intent.toFixed(2)}: ${all}`);
}

onOutput("flexid.Gate", (node, { flexid_gate: gate }) => {
  const summary = gate?.[0];
  if (summary?.curve && summary.bases) {
    display(node, "flexid_gate_curve", HEIGHT, [chart(summary), words(summary)]);
  }
});
