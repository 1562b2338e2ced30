/* The cache as the context grows: two areas, and the same as a table. */

import { shortCount } from "./anatomy_words.js";
import { h } from "./dom.js";
import { table } from "./pieces.js";
import { formatBytes, formatCount } from "./words.js";

const WIDTH_OF_CHART = 420; // units of the drawing
const HEIGHT_OF_CHART = 200;
const INNER = { left: 58, right: WIDTH_OF_CHART - 10, top: 12, bottom: HEIGHT_OF_CHART - 30 };
const SLIDING = "#e69f00";
const FULL = "#0072b2";

/**
 * @param {{ cache: Array<[tokens: number, sliding: number, full: number]>, window: number }} meta
 */
export function cachePanel({ cache, window }) {
  const key = (colour, text) =>
    h(
      "span",
      { class: "g4-key" },
      h("i", { class: "g4-swatch", style: { background: colour } }),
      text,
    );
  return h(
    "section",
    { class: "g4-panel g4-section", "aria-label": "Cache" },
    h("h4", { class: "g4-subtitle" }, "Cache as the context grows (tokens)"),
    cacheChart(cache),
    h(
      "div",
      { class: "g4-keys" },
      key(FULL, "full layers: every token"),
      key(SLIDING, `sliding layers: the last ${formatCount(window)}`),
    ),
    h("details", { class: "g4-fold" }, h("summary", {}, "As a table"), cacheTable(cache)),
  );
}

function cacheTable(cache) {
  const cell = (text) => h("td", { class: "g4-number" }, text);
  const rows = cache.map(([tokens, sliding, full]) =>
    h("tr", {}, ...[formatCount(tokens), formatBytes(sliding), formatBytes(full)].map(cell)),
  );
  return table("Cache by context", ["#Tokens", "#Sliding layers", "#Full layers"], rows);
}

function cacheChart(cache) {
  const [tokens, sliding, full] = cache.at(-1);
  const whole = formatBytes(sliding + full);
  const high = Math.max(1, sliding + full);
  const x = (n) => INNER.left + ((INNER.right - INNER.left) * n) / tokens;
  const y = (bytes) => INNER.bottom - ((INNER.bottom - INNER.top) * bytes) / high;
  const line = (rows, bytesOf) => rows.map((row) => `${x(row[0])} ${y(bytesOf(row))}`).join(" L ");
  const area = (low, up, fill, name) => {
    const d = `M ${line(cache, up)} L ${line([...cache].reverse(), low)} Z`;
    return h("path", { fill, "fill-opacity": 0.75, d }, h("title", {}, name));
  };
  const size = `${whole} at ${formatCount(tokens)} tokens`;
  const label = `Cache bytes by context: ${size}, ${formatBytes(sliding)} of it in sliding layers`;
  return h(
    "svg",
    {
      class: "g4-chart",
      viewBox: `0 0 ${WIDTH_OF_CHART} ${HEIGHT_OF_CHART}`,
      role: "img",
      "aria-label": label,
    },
    area(
      () => 0,
      (row) => row[1],
      SLIDING,
      "sliding layers",
    ),
    area(
      (row) => row[1],
      (row) => row[1] + row[2],
      FULL,
      "full layers",
    ),
    ...[0, 0.5, 1].flatMap((share) => byteMark(high * share, y(high * share))),
    ...[0, 0.25, 0.5, 0.75, 1].map((share) => tokenMark(tokens * share, x(tokens * share), share)),
  );
}

function byteMark(bytes, y) {
  const { left, right } = INNER;
  return [
    h("line", { x1: left, x2: right, y1: y, y2: y, stroke: "var(--g4-line)" }),
    h("text", { x: left - 6, y: y + 4, "text-anchor": "end" }, formatBytes(bytes)),
  ];
}

function tokenMark(tokens, x, share) {
  const anchor = share === 1 ? "end" : share ? "middle" : "start";
  return h("text", { x, y: HEIGHT_OF_CHART - 10, "text-anchor": anchor }, shortCount(tokens));
}
