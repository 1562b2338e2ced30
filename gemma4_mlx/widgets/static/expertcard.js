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
  const lifts = table(
    `Lift by ${t.by}`,
    [`By ${t.by}`, "#Lift", "#Of them came here"],
    liftRows(t, i, o.ink),
  );
  const own = table(
    "Texts that are most this expert's own",
    ["Text", "#Times here", "#Of its occurrences", "#Share of the gate"],
    texts.map((text) => textRow(text, o)),
  );
  const none = about
    ? "No token of this trace was routed here."
    : "This page holds no texts of this expert; the notebook has them.";
  const together = partners.map((partner) => partnerButton(partner, o.onExpert));
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
  const title =
    "What the model multiplies this expert's share of the gate with, learned in training";
  return [
    chip(`load ${formatPercent(t.load[i])} of the tokens`),
    chip(`${times(t.ratio(i))} even load`),
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

/** The groups that an expert has worked for, highest lift first, those too small to tell last. */
function liftRows(t, i, ink) {
  const known = (g) => Number(t.enough(g, i));
  return t.groups
    .map((group, g) => ({ name: group.name, g, lift: t.lift(g, i) }))
    .filter(({ lift }) => !Number.isNaN(lift))
    .sort((a, b) => known(b.g) - known(a.g) || b.lift - a.lift)
    .map(({ name, g, lift }) => {
      const colour = cssOf(hueOf(g, ink.dark));
      const swatch = h("i", { class: "g4-swatch", style: { background: colour } });
      return h(
        "tr",
        {},
        h("th", { scope: "row", style: { "white-space": "nowrap" } }, swatch, name),
        known(g)
          ? barCell(lift / 8, times(lift), colour)
          : h("td", { class: "g4-number g4-note" }, "too few"),
        h("td", { class: "g4-number" }, formatPercent(lift * t.load[i])),
      );
    });
}

function partnerButton([other, share], onExpert) {
  return h(
    "button",
    {
      type: "button",
      class: "g4-step",
      title: `${formatPercent(share)} of its tokens went to expert ${other} as well`,
      style: { "--share": `${(100 * share).toFixed(0)}%` },
      onclick: () => onExpert(other),
    },
    h("b", {}, String(other)),
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
const HIGHEST_FIRST = new Set(["lift", "load", "ratio"]);

export class ExpertList {
  #body = h("div", { class: "g4-tall g4-list" });
  #title = h("h4", { class: "g4-subtitle" });
  #sort = { key: "lift", down: true };

  /** The list of experts: all, or those that pass the filter; sorted by its heads.
   * @param {{table: () => any, layers: number[], filter: () => any,
   *   chosen: () => number|null, onPick: (i: number) => void}} o */
  constructor({ table, filter, onPick, layers, chosen }) {
    Object.assign(this, { table, filter, onPick, layers, chosen });
    this.node = h("div", {}, this.#title, this.#body);
  }

  draw() {
    const t = this.table();
    if (!t) return;
    const filter = this.filter();
    const rows = this.#rows(t, filter);
    this.#title.textContent = listTitle(rows, t, filter);
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
        h("thead", {}, h("tr", {}, ...HEADS.map((head) => this.#head(head)))),
        h("tbody", {}, ...rows.slice(0, LISTED).map((row) => this.#line(row))),
      ),
      rows.length ? "" : note(none),
      rows.length > LISTED ? note(`the first ${LISTED} of ${formatCount(rows.length)}`) : "",
    );
    this.#body.scrollTop = at;
    this.mark();
  }

  /** The experts of the list, in order. */
  #rows(t, filter) {
    const rows = [];
    for (let i = 0; i < t.rows * t.E; i++) {
      if (t.unused(i)) continue;
      const g = filter.on ? filter.group : t.purpose(i);
      if (filter.on ? !passes(t, i, filter) : g < 0) continue;
      const place = { i, layer: Math.floor(i / t.E), expert: i % t.E };
      const numbers = { lift: t.lift(g, i), load: t.load[i], ratio: t.ratio(i) };
      rows.push({ ...place, for: t.groups[g].name, ...numbers });
    }
    const { key, down } = this.#sort;
    const order = (a, b) => Number(a[key] > b[key]) - Number(a[key] < b[key]);
    return rows.sort((a, b) => (down ? order(b, a) : order(a, b)) || b.lift - a.lift);
  }

  #head([key, word, right]) {
    const { key: by, down } = this.#sort;
    const mine = key === by;
    const sort = () => {
      this.#sort = { key, down: mine ? !down : HIGHEST_FIRST.has(key) };
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

  #line(row) {
    const layer = this.layers[row.layer];
    const number = (text) => h("td", { class: "g4-number" }, text);
    const label = `Choose expert ${row.expert} of layer ${layer}`;
    const pick = { type: "button", class: "g4-quiet g4-pickexpert", "aria-label": label };
    return h(
      "tr",
      { dataset: { i: row.i }, onclick: () => this.onPick(row.i) },
      h("td", {}, `L${layer}`),
      h("td", {}, h("button", pick, String(row.expert))),
      h("td", {}, row.for),
      number(times(row.lift)),
      number(formatPercent(row.load)),
      number(times(row.ratio)),
    );
  }

  mark() {
    for (const line of this.#body.querySelectorAll("tbody tr"))
      line.classList.toggle("g4-chosen", Number(line.dataset.i) === this.chosen());
  }
}

function listTitle(rows, t, filter) {
  const count = formatCount(rows.length);
  if (!filter.on) return `${count} experts that are for something, by ${t.by}`;
  const layers = new Set(rows.map((row) => row.layer)).size;
  const group = t.groups[filter.group]?.name;
  return `${count} experts above ${times(filter.above)} for “${group}”, in ${layers} layers`;
}
