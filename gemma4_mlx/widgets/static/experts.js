/* What is known of every expert: loads and lifts from counts, the order of a layer, the filter.
 *
 * Experts are addressed by one number, row * E + expert, where row is the layer's place in the map.
 * The load is the share of the tokens that an expert worked on; its lift for a group of tokens is
 * its load among them over its load among all. Python defines both (tracing/specialisation.py).
 */

import { bytesOf } from "./pieces.js";

const LEAST_EXPECTED = 5; // as in tracing/specialisation.py
const NO_PURPOSE = 255;

/** The answer to "groups", with what follows from it. @param {any} meta @param {any} answer */
export function expertTable(meta, answer) {
  const rows = meta.layers.length;
  const E = meta.experts;
  const { groups, n, by } = answer.content;
  const cells = rows * E;
  const bytes = bytesOf(answer.buffer).slice();
  const size = answer.content.bytes;
  const Whole = { 2: Uint16Array, 4: Uint32Array, 8: Float64Array }[size];
  const counts = new Whole(bytes.buffer, 0, cells * groups.length);
  const purpose = bytes.subarray(size * counts.length);
  const load = new Float32Array(cells);
  const even = meta.k / E;
  const count = (g, i) => counts[(Math.floor(i / E) * groups.length + g) * E + (i % E)];
  for (let i = 0; i < cells; i++) {
    let sum = 0;
    for (let g = 0; g < groups.length; g++) sum += count(g, i);
    load[i] = sum / n;
  }
  return {
    by,
    groups,
    n,
    rows,
    E,
    load,
    even,
    unused: (i) => load[i] === 0,
    /** load over even load: 1 where all experts work alike */
    ratio: (i) => load[i] / even,
    /** the group an expert is for, or -1 */
    purpose: (i) => (purpose[i] === NO_PURPOSE ? -1 : purpose[i]),
    lift: (g, i) => (load[i] === 0 ? NaN : count(g, i) / groups[g].tokens / load[i]),
    enough: (g, i) => load[i] * groups[g].tokens >= LEAST_EXPECTED,
    /** the group's place in the row of colours */
    rank: (g) => g,
    /** what is said where there is not */
    unsure: "too few tokens of the group to tell",
    unusedIn(row) {
      let sum = 0;
      for (let e = 0; e < E; e++) sum += load[row * E + e] === 0;
      return sum;
    },
    groupNamed: (name) => groups.findIndex((g) => g.name === name),
  };
}

/** Experts of a row from left to right. @param {any} t @param {number} row
 * @param {{order: string, group: number}} how order: "purpose", "load", "lift" or "number" */
export function orderOf(t, row, { order, group }) {
  const list = Array.from({ length: t.E }, (_, e) => e);
  const at = (e) => row * t.E + e;
  if (order === "number") return list;
  const key = {
    load: (e) => -t.load[at(e)],
    lift: (e) => (t.unused(at(e)) ? 2 : t.enough(group, at(e)) ? -t.lift(group, at(e)) : 1),
    purpose(e) {
      // by group, clearest first; then those for nothing; then the unused
      const g = t.purpose(at(e));
      return t.unused(at(e))
        ? 1e6
        : g < 0
          ? 1e5 - t.load[at(e)]
          : 100 * g - Math.min(99, t.lift(g, at(e)));
    },
  }[order];
  const keys = list.map(key);
  return list.sort((a, b) => keys[a] - keys[b] || a - b);
}

/** Whether an expert passes "lift of at least `above` for a group". */
export const passes = (t, i, { above, group }) => t.enough(group, i) && t.lift(group, i) >= above;

/** A number as a multiple: "1.6×", "12×", "0.05×". @param {number} v */
export const times = (v) =>
  `${v === Infinity ? "∞" : v >= 10 ? Math.round(v) : v >= 0.1 ? v.toFixed(1) : v.toPrecision(1)}×`;

/** Routes of a page: experts and shares of the gate, [layer row][token of the page][k]. */
export function readRoutes(meta, { content, buffer }) {
  const bytes = bytesOf(buffer).slice();
  const n = content.stop - content.start;
  const k = meta.k;
  const cells = meta.layers.length * n * k;
  const experts =
    content.bytes === 1 ? bytes.subarray(0, cells) : new Uint16Array(bytes.buffer, 0, cells);
  const shares = bytes.subarray(content.bytes * cells);
  return {
    start: content.start,
    stop: content.stop,
    /** [expert, share] of one token in one row, strongest first */
    at(row, token) {
      const from = (row * n + token - content.start) * k;
      return Array.from({ length: k }, (_, j) => [experts[from + j], shares[from + j] / 255]);
    },
  };
}
