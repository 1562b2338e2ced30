/* Roles of heads, from a table of many prompts: a letter in the map, and buttons that mark them. */

import { h } from "./dom.js";

/** Role -> its letter in a cell of the map. */
const LETTERS = {
  retrieval: "R",
  induction: "I",
  duplicate: "D",
  previous: "P",
  picture: "V",
  sound: "A",
  sink: "S",
};

/** The letter of a head's first role, "" without one. @param {string[] | undefined} roles */
export function letterOf(roles) {
  return roles?.length ? (LETTERS[roles[0]] ?? "") : "";
}

/** A head's roles as a clause, "" without any. @param {string[] | undefined} roles */
export function sayRoles(roles) {
  return roles?.length ? `${roles.join(" and ")} head` : "";
}

/** Role -> the heads that have it, of roles that some head has. @param {string[][]} labels */
export function headsByRole(labels) {
  const found = new Map();
  for (const role of Object.keys(LETTERS)) {
    const heads = new Set();
    labels.forEach((roles, index) => {
      if (roles.includes(role)) heads.add(index);
    });
    if (heads.size) found.set(role, heads);
  }
  return found;
}

/** Fill a row with a button for each role that marks its heads.
 * @param {HTMLElement} row @param {{labels: string[][], roles: string[]}} table
 * @param {(heads: Set<number>, reason: string) => void} mark */
export function fillRoles(row, { labels, roles }, mark) {
  const buttons = [...headsByRole(labels)].map(([role, heads]) => {
    const count = `${heads.size} ${heads.size === 1 ? "head" : "heads"}`;
    return h(
      "button",
      {
        type: "button",
        class: "g4-quiet",
        title: `Mark the ${count}`,
        onclick: () => mark(heads, `${count} marked: ${role}.`),
      },
      h("b", {}, LETTERS[role]),
      role,
      h("span", { class: "g4-note" }, String(heads.size)),
    );
  });
  const said = buttons.length ? "Roles:" : "No head has a role.";
  const title = "Over many prompts, of which this text need not be one";
  row.replaceChildren(h("span", { class: "g4-note", title }, said), ...buttons);
  row.hidden = !roles.length;
}
