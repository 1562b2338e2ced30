/* Numbers of heads on scales: where a value stands between the lowest and the highest, in words. */

import { floats } from "./pieces.js";
import { formatCount, formatPercent } from "./words.js";

/** Every head in the order of the layers, and what Python's `heads` answer says of them. */
export class HeadTable {
  columns = new Map(); // summary -> a value for each head
  words = new Map(); // summary -> what it is called
  groups = [];
  method = "";
  by = "unlike";
  names = []; // of the summaries, without those that compare heads
  roles = []; // of the scores in roles, where a table of them was given
  labels = []; // each head's roles
  #scales = new Map();

  /** @param {Array<{index: number, kind: string, heads: number[]}>} layers */
  constructor(layers) {
    this.layers = layers;
    this.first = []; // place in the list of each layer's first head
    this.list = [];
    layers.forEach(({ index, kind, heads }, row) => {
      this.first.push(this.list.length);
      const item = (head, column) => ({ layer: index, head, kind, row, column });
      this.list.push(...heads.map(item));
    });
  }

  /** @param {number} layer @param {number} head */
  indexOf(layer, head) {
    return this.list.findIndex((item) => item.layer === layer && item.head === head);
  }

  /** Take in an answer. @param {{content: any, buffer: DataView}} answer */
  fill({ content, buffer }) {
    const values = floats(buffer);
    const size = this.list.length;
    const names = content.names.map(([name]) => name);
    const roles = (content.roles ?? []).map(([name]) => name);
    [...names, "unlike", "reason", "group", ...roles].forEach((name, k) => {
      this.columns.set(name, values.subarray(k * size, (k + 1) * size));
    });
    for (const [name, text] of [...content.names, ...(content.roles ?? [])])
      this.words.set(name, text);
    this.words.set("unlike", "unlike the other heads");
    this.words.set("group", "group of alike heads");
    const { groups, method, by, labels = [] } = content;
    Object.assign(this, { names, roles, labels, groups, method, by });
  }

  /** The mass from one marked span to another, as one more column. @param {Float32Array} values */
  setSpan(values) {
    this.columns.set("span", values);
    this.words.set("span", "mass from the marked span");
    this.#scales.delete("span");
  }

  scale(name) {
    if (!this.#scales.has(name)) this.#scales.set(name, scaleOf(name, this.columns.get(name)));
    return this.#scales.get(name);
  }

  value(name, index) {
    return this.columns.get(name)?.[index] ?? NaN;
  }

  say(name, index) {
    return sayValue(name, this.columns.get(name)?.[index]);
  }

  /** Heads with the highest values first. @param {string} name */
  ranked(name) {
    const values = this.columns.get(name);
    return this.list
      .map((_, index) => index)
      .sort((a, b) => (values[b] || 0) - (values[a] || 0) || a - b);
  }
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
  let low = Infinity;
  let high = -Infinity;
  for (const v of values)
    if (!Number.isNaN(v)) {
      low = Math.min(low, v);
      high = Math.max(high, v);
    }
  if (!(high >= low)) [low, high] = [0, 1];
  if (name === "unlike") low = 0;
  const from = bend(Math.max(0, low));
  const to = bend(Math.max(0, high));
  const length = to - from || 1;
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
