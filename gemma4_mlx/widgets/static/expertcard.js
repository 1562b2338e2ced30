/* One expert in words: its load, its lifts, its texts and partners; and the list of experts that
 * pass a filter. */

import { cssOf } from "./colours.js";
import { h } from "./dom.js";
import { hueOf } from "./expertcolours.js";
import { passes, times } from "./experts.js";
import { barCell, chip, table } from "./pieces.js";
import { formatCount, formatPercent, visibleToken } from "./words.js";

const LISTED = 60; // rows of the list

/**
 * @param {any} t experts.js table @param {number} i the expert
 * @param {any} about the answer to "expert", or null where a page without a kernel lacks it
 * @param {{layer: number, ink: any, scale: number|null, count: number,
 *   onToken: (token: number) => void, onExpert: (e: number) => void}} o
 */
export function expertCard(t, i, about, o) {
  const texts = about?.texts ?? [];
  const partners = about?.partners ?? [];
  const lifts = t.where ? "" : liftTable(t, i, o.ink); // an atlas's are on its own card
  const own = table(
    "Texts that are most this expert's own",
    ["Text", "#Times here", "#Of its occurrences", "#Share of the gate"],
    texts.map((text) => textRow(text, o)),
  );
  const none = about
    ? "No token of this trace was routed here."
    : "This page holds no texts of this expert; the notebook has them.";
  const together = partners.map(([other, share]) => {
    const title = `${formatPercent(share)} of its tokens went to expert ${other} as well`;
    return stepButton(String(other), share, title, () => o.onExpert(other));
  });
  return h(
    "div",
    { class: "g4-card2" },
    h(
      "h4",
      { class: "g4-subtitle" },
      `Expert ${i % t.E} of layer ${o.layer}`,
      ...factChips(t, i, about, o.scale),
    ),
    texts.length ? "" : h("p", { class: "g4-note" }, none),
    h(
      "div",
      { class: "g4-halves" },
      texts.length ? h("div", { class: "g4-tall" }, own) : "",
      h(
        "div",
        {},
        h("div", { class: "g4-tall" }, lifts),
        partners.length
          ? h("p", { class: "g4-note g4-partners" }, "Chosen together with ", ...together)
          : "",
      ),
    ),
  );
}

function factChips(t, i, about, scale) {
  const load = about?.load ?? t.load[i];
  const title =
    "What the model multiplies this expert's share of the gate with, learned in training";
  return [
    chip(`load ${formatPercent(load)} of the tokens`),
    chip(`${times(load / t.even)} even load`),
    about && chip(`rank ${about.rank} of ${t.E}`),
    scale !== null && h("span", { class: "g4-chip", title }, `learned scale ${scale.toFixed(2)}`),
  ].filter(Boolean);
}

/** A text with how often it came here, of how many, and its mean share of the gate. */
function textRow([text, first, count, share, gate], { count: tokens, onToken }) {
  const button = h(
    "button",
    {
      type: "button",
      class: "g4-quiet g4-wordlink",
      title: `Show token ${formatCount(first)}`,
      onclick: () => onToken(first),
    },
    h("bdi", {}, visibleToken(text)),
  );
  button.disabled = first >= tokens;
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, button),
    h("td", { class: "g4-number" }, formatCount(count)),
    barCell(share, formatPercent(share)),
    h("td", { class: "g4-number" }, formatPercent(gate)),
  );
}

/** The groups that an expert has worked for, highest lift first, those that say nothing last. */
export function liftTable(t, i, ink) {
  const known = (g) => Number(t.enough(g, i));
  const rows = t.groups
    .map((group, g) => ({ name: group.name, g, lift: t.lift(g, i) }))
    .filter(({ lift }) => !Number.isNaN(lift))
    .sort((a, b) => known(b.g) - known(a.g) || b.lift - a.lift)
    .map((row) => liftRow(t, i, row, ink));
  const heads = [`By ${t.by}`, "#Lift", "#Of them came here"];
  return table(`Lift by ${t.by}`, t.chance ? [...heads, "#Chance"] : heads, rows);
}

function liftRow(t, i, { name, g, lift }, ink) {
  const colour = cssOf(hueOf(t, g, ink.dark));
  const swatch = h("i", { class: "g4-swatch", style: { background: colour } });
  const number = (text) => h("td", { class: "g4-number" }, text);
  const sure = t.enough(g, i);
  return h(
    "tr",
    { class: sure ? null : "g4-note" },
    h("th", { scope: "row" }, swatch, h("bdi", {}, name)),
    sure || t.chance ? barCell(lift / 8, times(lift), sure ? colour : ink.zero) : number("too few"),
    number(formatPercent(lift * t.load[i])),
    t.chance ? number(t.chance(g, i)) : null,
  );
}

/** An expert as a button that is filled as far as its share.
 * @param {string} word @param {number} share @param {string} title @param {() => void} onclick */
export function stepButton(word, share, title, onclick) {
  return h(
    "button",
    {
      type: "button",
      class: "g4-step",
      title,
      style: { "--share": `${(100 * Math.min(1, share)).toFixed(0)}%` },
      onclick,
    },
    h("b", {}, word),
    formatPercent(share),
  );
}

const HEADS = [
  ["layer", "Layer", false],
  ["expert", "Expert", false],
  ["for", "For", false],
  ["lift", "Lift", true],
  ["load", "Load", true],
  ["ratio", "× even", true],
];
const HIGHEST_FIRST = new Set(["lift", "load", "ratio", "extra"]);

export class ExpertList {
  #body = h("div", { class: "g4-tall g4-list" });
  #title = h("h4", { class: "g4-subtitle" });
  #sort = { key: "lift", down: true };

  /** The list of experts: those for something, or those that pass the filter; sorted by its heads.
   * `extra`: what the map is coloured by, a last column: its name, value and words; or null.
   * @param {{table: () => any, layers: number[], filter: () => any,
   *   chosen: () => number|null, onPick: (i: number) => void,
   *   extra?: () => {word: string, value: (i: number) => number, text: (v: number) => string}|null
   * }} o */
  constructor({ table, filter, onPick, layers, chosen, extra = () => null }) {
    Object.assign(this, { table, filter, onPick, layers, chosen, extra });
    this.node = h("div", {}, this.#title, this.#body);
  }

  draw() {
    const t = this.table();
    if (!t) return;
    const filter = this.filter();
    const extra = this.extra();
    if (this.#sort.key === "extra" && !extra) this.#sort = { key: "lift", down: true };
    const rows = this.#rows(t, filter, extra);
    const heads = extra ? [...HEADS, ["extra", extra.word, true]] : HEADS;
    this.#title.textContent = listTitle(rows, t, filter, extra);
    const none = filter.on
      ? "No expert passes."
      : "None clearly: it takes more tokens of several groups. Loads say more here.";
    const note = (text) => h("p", { class: "g4-note" }, text);
    const at = this.#body.scrollTop;
    this.#body.replaceChildren(
      h(
        "table",
        { class: "g4-table g4-sticky" },
        h("caption", { class: "g4-hidden" }, "Experts"),
        h("thead", {}, h("tr", {}, ...heads.map((head) => this.#head(head)))),
        h("tbody", {}, ...rows.slice(0, LISTED).map((row) => this.#line(row, extra))),
      ),
      rows.length ? "" : note(none),
      rows.length > LISTED ? note(`the first ${LISTED} of ${formatCount(rows.length)}`) : "",
    );
    this.#body.scrollTop = at;
    this.mark();
  }

  /** The order of the next drawing. @param {string} key a head's @param {boolean} down */
  sortBy(key, down = true) {
    this.#sort = { key, down };
  }

  /** The experts of the list, in order. */
  #rows(t, filter, extra) {
    const rows = [];
    for (let i = 0; i < t.rows * t.E; i++) {
      if (t.unused(i)) continue;
      const g = filter.on ? filter.group : t.purpose(i);
      const value = extra?.value(i);
      if (filter.on && !passes(t, i, filter)) continue;
      if (!filter.on && (extra ? Number.isNaN(value) : g < 0)) continue;
      const place = { i, layer: Math.floor(i / t.E), expert: i % t.E };
      const lift = g < 0 ? 0 : t.lift(g, i);
      const numbers = { lift, load: t.load[i], ratio: t.ratio(i), extra: value ?? 0 };
      rows.push({ ...place, for: t.groups[g]?.name ?? "", ...numbers });
    }
    const { key, down } = this.#sort;
    const order = (a, b) => Number(a[key] > b[key]) - Number(a[key] < b[key]);
    return rows.sort((a, b) => (down ? order(b, a) : order(a, b)) || b.lift - a.lift);
  }

  #head([key, word, right]) {
    const { key: by, down } = this.#sort;
    const mine = key === by;
    const sort = () => {
      this.sortBy(key, mine ? !down : HIGHEST_FIRST.has(key));
      this.draw();
    };
    const direction = down ? "descending" : "ascending";
    const arrow = down ? " ↓" : " ↑";
    return h(
      "th",
      {
        scope: "col",
        class: right ? "g4-number" : null,
        "aria-sort": mine ? direction : "none",
      },
      h(
        "button",
        { type: "button", class: "g4-quiet g4-sort", onclick: sort },
        word,
        mine ? arrow : "",
      ),
    );
  }

  #line(row, extra) {
    const layer = this.layers[row.layer];
    const number = (text) => h("td", { class: "g4-number" }, text);
    const label = `Choose expert ${row.expert} of layer ${layer}`;
    const pick = { type: "button", class: "g4-quiet g4-pickexpert", "aria-label": label };
    return h(
      "tr",
      { dataset: { i: row.i }, onclick: () => this.onPick(row.i) },
      h("td", {}, `L${layer}`),
      h("td", {}, h("button", pick, String(row.expert))),
      h("td", {}, h("bdi", {}, row.for)),
      number(row.lift ? times(row.lift) : "–"),
      number(formatPercent(row.load)),
      number(times(row.ratio)),
      extra ? number(Number.isNaN(row.extra) ? "–" : extra.text(row.extra)) : null,
    );
  }

  mark() {
    for (const line of this.#body.querySelectorAll("tbody tr"))
      line.classList.toggle("g4-chosen", Number(line.dataset.i) === this.chosen());
  }
}

function listTitle(rows, t, filter, extra) {
  const count = formatCount(rows.length);
  if (extra && !filter.on) return `${count} experts by ${extra.word}`;
  if (!filter.on) return `${count} experts that are for something, by ${t.by}`;
  const layers = new Set(rows.map((row) => row.layer)).size;
  const group = t.groups[filter.group]?.name;
  return `${count} experts above ${times(filter.above)} for “${group}”, in ${layers} layers`;
}
