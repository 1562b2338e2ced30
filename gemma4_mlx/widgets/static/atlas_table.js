/* What an atlas says of experts, worked out of its numbers: which lifts are more than chance, two
 * labels side by side, scales of measures. Experts are numbered as in experts.js. */

import { HUES } from "./expertcolours.js";

const FALSE = 0.05; // as in studies/data/labels.py
const FLOOR = 0.5; // log2

/** The table of labels with what is known of chance.
 * @param {any} t experts.js table @param {Float32Array} q [row][label][expert]; NaN: not tested
 * @param {boolean} sure whether a lift says something only if it is more than chance */
export function withSignificance(t, q, sure) {
  const groups = t.groups.length;
  const at = (g, i) => q[(Math.floor(i / t.E) * groups + g) * t.E + (i % t.E)];
  const sureOf = (g, i) => at(g, i) <= FALSE;
  const found = (g, i) => sureOf(g, i) && Math.abs(Math.log2(t.lift(g, i))) >= FLOOR;
  const purpose = new Int16Array(t.rows * t.E).fill(-1);
  for (let i = 0; i < purpose.length; i++) {
    let most = 1;
    for (let g = 0; g < groups; g++) {
      const lift = t.lift(g, i);
      if (lift > most && found(g, i)) [most, purpose[i]] = [lift, g];
    }
  }
  const rank = rankOf(purpose, groups);
  return {
    ...t,
    purpose: (i) => purpose[i],
    rank: (g) => rank[g],
    sure: sureOf,
    found,
    enough: sure ? sureOf : (g, i) => t.enough(g, i),
    unsure: sure ? "no more than chance explains" : t.unsure,
    rest: "more labels",
    chance: (g, i) => chanceWords(at(g, i)),
  };
}

/** Each label's place in the row of colours: that of its name, or where there are more labels than
 * colours, those with most experts first. */
function rankOf(purpose, groups) {
  const order = Array.from({ length: groups }, (_, g) => g);
  if (groups <= HUES.length) return order;
  const experts = new Array(groups).fill(0);
  for (const g of purpose) if (g >= 0) experts[g]++;
  const rank = new Array(groups);
  order.sort((a, b) => experts[b] - experts[a] || a - b);
  order.forEach((g, place) => {
    rank[g] = place;
  });
  return rank;
}

/** A corrected chance: "< 0.001", "0.02", "–" where nothing was tested. @param {number} q */
export function chanceWords(q) {
  if (Number.isNaN(q)) return "–";
  return q < 0.001 ? "< 0.001" : q.toPrecision(q < 0.1 ? 1 : 2);
}

/** The labels that an expert is found for, highest lift first: [name, lift]. */
export function labelsOf(t, i) {
  return t.groups
    .map(({ name }, g) => [name, t.lift(g, i), t.found?.(g, i)])
    .filter(([, lift, found]) => found && lift > 1)
    .sort((a, b) => b[1] - a[1])
    .map(([name, lift]) => [name, lift]);
}

/** Share of a group's tokens that an expert worked on. */
const loadOf = (t, g, i) => (t.unused(i) ? 0 : t.lift(g, i) * t.load[i]);

/** log2 of the load in documents of one label over that of another; NaN where neither says
 * something, infinite where one never goes there.
 * @param {any} t @param {number} a @param {number} b */
export const logRatio = (t, a, b) => (i) =>
  t.enough(a, i) || t.enough(b, i) ? Math.log2(loadOf(t, a, i) / loadOf(t, b, i)) : NaN;

/** Two labels compared: the distance of their loads in each row (0: the same, 1: no expert in
 * common), and how many experts are found for one, the other and both.
 * @param {any} t @param {number} a @param {number} b @param {number} k */
export function labelsCompared(t, a, b, k) {
  const distance = new Array(t.rows).fill(0);
  const counts = { a: 0, b: 0, both: 0 };
  for (let i = 0; i < t.rows * t.E; i++) {
    distance[Math.floor(i / t.E)] += Math.abs(loadOf(t, a, i) - loadOf(t, b, i)) / (2 * k);
    const [forA, forB] = [a, b].map((g) => t.found?.(g, i) && t.lift(g, i) > 1);
    if (forA && forB) counts.both++;
    else if (forA) counts.a++;
    else if (forB) counts.b++;
  }
  return { distance, counts };
}

/** A logarithmic scale from the first to the 99th percentile of positive numbers.
 * @param {Float32Array} values */
export function logScale(values) {
  const sorted = values.filter((v) => v > 0 && Number.isFinite(v)).sort();
  if (!sorted.length) return { value: () => NaN, ends: ["", "", ""] };
  const at = (share) => sorted[Math.round(share * (sorted.length - 1))];
  const [low, high] = [at(0.01), at(0.99)];
  const wide = Math.log(high / low);
  return {
    value: (v) => (v > 0 ? (wide ? Math.log(v / low) / wide : 0.5) : v === 0 ? 0 : NaN),
    ends: [low, Math.sqrt(low * high), high].map(measureWords),
  };
}

/** A measure with three digits. @param {number} v */
export const measureWords = (v) =>
  v !== 0 && (v < 0.01 || v >= 1e5) ? v.toExponential(1) : String(Number(v.toPrecision(3)));
