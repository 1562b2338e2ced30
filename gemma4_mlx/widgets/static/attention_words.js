/* What the Attention view says in numbers and words, and how dark a weight colours the text. */

import { weightText } from "./onetoken.js";
import { formatCount } from "./words.js";

/** Tokens of a cell: below ten a part of one matters. */
export const cellLength = (cell) =>
  Number.isInteger(cell) || cell >= 10 ? formatCount(cell) : cell.toFixed(1);

/** An end of the colour scale. */
export const shortNumber = (weight) =>
  weight >= 0.01 ? weight.toFixed(2) : weight.toExponential(0);

/** What stands below the ends of a colour scale. @param {"log" | "linear" | "rank"} scale */
export function scaleEnds(scale, { low, high }) {
  if (scale === "rank") return ["lowest", "highest"];
  return [scale === "linear" ? "0" : shortNumber(low), shortNumber(high)];
}

/** @param {"mean" | "max"} stat of a cell that holds several tokens */
const pooledValue = (stat, weight) =>
  `${stat === "mean" ? "mean mass" : "largest weight"} ${weightText(weight)}`;

/** A cell of the map. @param {(token: number) => string} nameOf */
export function cellSentence(cell, stat, nameOf) {
  const single = cell.queryStop - cell.query === 1;
  const tokens = (start, stop) =>
    single ? nameOf(start) : `tokens ${formatCount(start)} to ${formatCount(stop - 1)}`;
  const value = () => {
    if (cell.masked) return "not visible from there";
    if (cell.value === null) return "on its way";
    return single ? `weight ${weightText(cell.value)}` : pooledValue(stat, cell.value);
  };
  const queries = tokens(cell.query, cell.queryStop);
  return `${queries} → ${tokens(cell.key, cell.keyStop)}: ${value()}`;
}

/** A cell of the map of a sliding head by offset. */
export function offsetSentence(cell, stat) {
  const first = formatCount(cell.offset);
  const single = cell.offsetStop - cell.offset === 1;
  const back = single ? `${first} back` : `${first} to ${formatCount(cell.offsetStop - 1)} back`;
  const queries = `tokens ${formatCount(cell.query)} to ${formatCount(cell.queryStop - 1)}`;
  return `${queries} → ${back}: ${cell.masked ? "before the text" : pooledValue(stat, cell.value)}`;
}

/** A token, its name isolated: a right-to-left one must not turn the sentence around. */
export const quotedToken = (name, token) =>
  name ? `“\u2068${name}\u2069” (${formatCount(token)})` : formatCount(token);

/** First and last token of a span, both of it. @param {[number, number] | null} span */
export function spanWords(span) {
  if (!span) return "not set";
  const [first, last] = span;
  return `${formatCount(first)}${last > first ? ` to ${formatCount(last)}` : ""}`;
}

/** Darkness of a weight over the text, 0 to 1, where `peak` is the largest.
 * @param {"log" | "linear" | "rank"} scale */
export function shadeOf(scale, weight, peak) {
  const share = weight / peak;
  if (scale === "linear") return Math.min(1, share);
  if (scale === "log") return Math.min(1, Math.max(0, 1 + Math.log10(share) / 3)); // three decades
  return Math.min(1, Math.sqrt(share));
}
