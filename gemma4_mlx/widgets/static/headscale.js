/* Numbers of heads on scales: where a value stands between the lowest and the highest, in words. */

import { floats } from "./pieces.js";
import { formatCount, formatPercent } from "./shared.js";

/** Every head in the order of `layers`, and what Python's `heads` answer says of them.
 * @param {Array<{index: number, kind: string, heads: number[]}>} layers */
export function headTable(layers) {
  const list = layers.flatMap((layer, row) =>
    layer.heads.map((head, column) => ({
      layer: layer.index,
      head,
      kind: layer.kind,
      row,
      column,
    })),
  );
  const first = [];
  let at = 0;
  for (const layer of layers) {
    first.push(at);
    at += layer.heads.length;
  }
  const columns = new Map(),
    words = new Map(),
    scales = new Map();
  const table = {
    list,
    layers,
    first,
    columns,
    words,
    groups: [],
    method: "",
    by: "unlike",
    names: [],
    /** @param {number} layer @param {number} head */
    indexOf: (layer, head) => list.findIndex((item) => item.layer === layer && item.head === head),
    /** Take in an answer. @param {{content: any, buffer: DataView}} answer */
    fill({ content, buffer }) {
      const values = floats(buffer),
        size = list.length;
      const names = content.names.map(([name]) => name);
      [...names, "unlike", "reason", "group"].forEach((name, k) =>
        columns.set(name, values.subarray(k * size, (k + 1) * size)),
      );
      for (const [name, text] of content.names) words.set(name, text);
      words.set("unlike", "unlike the other heads");
      words.set("group", "group of alike heads");
      Object.assign(table, {
        names,
        groups: content.groups,
        method: content.method,
        by: content.by,
      });
    },
    /** The mass from one marked span to another, as one more column. @param {Float32Array} values */
    setSpan(values) {
      columns.set("span", values);
      words.set("span", "mass from the marked span");
      scales.delete("span");
    },
    scale(name) {
      if (!scales.has(name)) scales.set(name, scaleOf(name, columns.get(name)));
      return scales.get(name);
    },
    value: (name, index) => columns.get(name)?.[index] ?? NaN,
    say: (name, index) => sayValue(name, columns.get(name)?.[index]),
    /** Heads with the highest values first. @param {string} name */
    ranked(name) {
      const values = columns.get(name);
      return list
        .map((_, index) => index)
        .sort((a, b) => (values[b] || 0) - (values[a] || 0) || a - b);
    },
  };
  return table;
}

/** A summary's value for people. @param {string} name @param {number | undefined} value */
export function sayValue(name, value) {
  if (value === undefined || Number.isNaN(value)) return "not kept";
  if (name === "entropy") return `${value.toFixed(2)} nats`;
  if (name === "distance") return `${formatCount(value)} tokens`;
  if (name === "unlike") return `${value.toFixed(1)} spreads`;
  if (name === "group") return `group ${value + 1}`;
  return formatPercent(value);
}

/** Square roots of masses and logarithms of distances keep both ends apart.
 * @param {string} name @param {Float32Array} values */
function scaleOf(name, values) {
  const bend =
    name === "distance"
      ? Math.log1p
      : name === "entropy" || name === "unlike"
        ? (/** @type {number} */ v) => v
        : Math.sqrt;
  const back =
    name === "distance"
      ? Math.expm1
      : name === "entropy" || name === "unlike"
        ? (/** @type {number} */ v) => v
        : (/** @type {number} */ v) => v * v;
  let low = Infinity,
    high = -Infinity;
  for (const v of values)
    if (!Number.isNaN(v)) {
      low = Math.min(low, v);
      high = Math.max(high, v);
    }
  if (!(high >= low)) [low, high] = [0, 1];
  if (name === "unlike") low = 0;
  const from = bend(Math.max(0, low)),
    to = bend(Math.max(0, high)),
    length = to - from || 1;
  return {
    low,
    high,
    /** 0 to 1. */
    place: (/** @type {number} */ v) =>
      Math.max(0, Math.min(1, (bend(Math.max(0, v)) - from) / length)),
    /** The value at a place, for ticks. */
    at: (/** @type {number} */ t) => back(from + t * length),
  };
}
