/* What is said of one expert while it is pointed at. */

import { times } from "./experts.js";
import { formatPercent } from "./words.js";

const TOLD = 3; // lifts

/** Its highest lifts among the groups with enough tokens to tell, as words. */
export function liftWords(table, cell) {
  return table.groups
    .map((group, g) => ({
      name: group.name,
      lift: table.lift(g, cell),
      known: table.enough(g, cell),
    }))
    .filter(({ known }) => known)
    .sort((a, b) => b.lift - a.lift)
    .slice(0, TOLD)
    .map(({ name, lift }) => `${name} ${times(lift)}`)
    .join(", ");
}

/**
 * @param {any} table experts.js @param {number} cell
 * @param {number | null} difference load in B minus load in A, where that is shown
 * @param {number | undefined} share of the gate for the selected token
 */
export function expertFacts(table, cell, difference, share) {
  if (table.unused(cell)) return `never used in ${table.where ?? "this trace"}`;
  const tokens = table.where ? `the tokens of ${table.where}` : "the tokens";
  const load = `load ${formatPercent(table.load[cell])} of ${tokens}`;
  const lifts = liftWords(table, cell);
  return [
    difference === null
      ? `${load}, ${times(table.ratio(cell))} even load`
      : `${(100 * difference).toFixed(1)} points more of the tokens in B than in A`,
    lifts && `lift ${lifts}`,
    share && `${formatPercent(share)} of the gate for the selected token`,
  ]
    .filter(Boolean)
    .join(" · ");
}
