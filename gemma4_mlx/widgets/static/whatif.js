/* Switches beside each expert: change some, generate again from the same cached prompt, compare. */

import { answersCompared } from "./answers.js";
import { h } from "./dom.js";
import { barCell } from "./pieces.js";
import { LabelChanges } from "./whatif_labels.js";
import { formatPercent } from "./words.js";

/**
 * Changes of one expert: key, the switch's word, what it does, and how a list of changes names it.
 */
const ACTIONS = [
  ["drop", "Drop", (e) => `Drop expert ${e}: its output becomes zero`, "dropped"],
  ["around", "Around", (e) => `Route around expert ${e}: the others renormalise`, "routed around"],
  ["swap", "Swap", (e, o) => `Swap expert ${e} for expert ${o.other}`, "swapped"],
  ["boost", "Boost", (e, o) => `Boost expert ${e}: add ${o.factor} to its router score`, "boosted"],
];

/** A change in a few words: "L6 · 40 dropped", "code above 2× dropped". */
function nameOf({ layer, expert, action, other, factor, label, above }) {
  const [, , , done] = ACTIONS.find(([name]) => name === action);
  const how = { swap: ` with ${other}`, boost: ` by ${factor}` }[action] ?? "";
  const which = label === undefined ? `L${layer} · ${expert}` : `${label} above ${above}×`;
  return `${which} ${done}${how}`;
}

export class WhatIf {
  #other;
  #factor;
  #tokens;
  #everywhere = h("input", { type: "checkbox" });
  #search = h("input", {
    type: "search",
    class: "g4-search",
    placeholder: "number or group",
    "aria-label": "Find experts of the layer by number or by what they are for",
  });
  #title = h("h4", { class: "g4-subtitle" });
  #list = h("div", { class: "g4-switches" });
  #result = h("div", { class: "g4-result" });
  #changed = h("div", { class: "g4-changes" });
  #changes = new Map(); // "layer expert", or a label -> {layer, expert or label, action, ...}
  #labels = null;
  #run = 0;
  #focus = "";
  #drawn = "";
  #sort = { key: "share", down: true };
  #heads = [
    ["expert", "Expert", ""],
    ["share", "Share of the gate", "#"],
    ["load", "Load", "#"],
    ["for", "For", ""],
  ];

  /**
   * @param {{patiently: Function, meta: () => any, chosen: () => any, view: any, table: () => any,
   * row: () => number, route: () => Array<[number, number]>|null, tokenName: () => string|null,
   * atlas: (() => any) | null}} o atlas: the table of its labels
   * route: the selected token's experts in the chosen layer with their shares of the gate, or null
   */
  constructor(o) {
    Object.assign(this, o);
    this.#other = this.#number({
      min: 0,
      max: this.meta().experts - 1,
      value: 0,
      "aria-label": "Expert to swap with",
    });
    this.#factor = this.#number({
      min: -20,
      max: 20,
      step: 0.5,
      value: 3,
      "aria-label": "Amount that a boost adds to the router's score",
    });
    this.#tokens = this.#number({ min: 1, max: 400, value: 40 });
    this.#list.addEventListener("keydown", (event) => this.#moveInList(event));
    this.#list.addEventListener("focusin", (event) => this.#rememberFocus(event));
    for (const input of [this.#other, this.#factor])
      input.addEventListener("change", () => this.draw());
    this.#search.addEventListener("input", () => this.draw());
    if (this.atlas) this.#labels = this.#makeLabels();
    this.node = h(
      "section",
      { class: "g4-panel g4-section g4-whatif", "aria-label": "What if" },
      this.#title,
      h(
        "div",
        { class: "g4-toolbar" },
        this.#search,
        h("label", {}, "swap with expert", this.#other),
        h("label", {}, "boost by", this.#factor),
        h("label", {}, "up to", this.#tokens, "tokens"),
        h(
          "label",
          {
            title:
              "Otherwise the prompt is read as it is and only the answer is generated with the " +
              "changes, from one shared cache",
          },
          this.#everywhere,
          "also while reading the prompt",
        ),
      ),
      this.#list,
      this.#labels?.node ?? "",
      this.#changed,
      this.#result,
    );
  }

  #makeLabels() {
    return new LabelChanges({
      table: this.atlas,
      signal: this.view.signal,
      onAdd: (change) => {
        const boost = change.action === "boost" ? { factor: this.#settings().factor } : {};
        this.#changes.set(`label ${change.label}`, { ...change, ...boost });
        this.draw();
      },
    });
  }

  /** The atlas's labels are there. */
  fillLabels() {
    this.#labels?.fill();
  }

  #moveInList(event) {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[
      event.key
    ];
    if (!step || !event.target.matches("button[role=switch]")) return;
    event.preventDefault();
    event.stopPropagation();
    const rows = [...this.#list.querySelectorAll("tbody tr")].map((row) => [
      ...row.querySelectorAll("button"),
    ]);
    let row = rows.findIndex((r) => r.includes(event.target));
    let column = rows[row].indexOf(event.target);
    do {
      row += step[0];
      column += step[1];
    } while (rows[row]?.[column]?.disabled);
    rows[row]?.[column]?.focus();
  }

  #rememberFocus(event) {
    if (!event.target.matches("button[role=switch]")) return;
    for (const button of this.#list.querySelectorAll("button[role=switch]")) button.tabIndex = -1;
    event.target.tabIndex = 0;
    this.#focus = event.target.dataset.key;
  }

  #number(props) {
    return h("input", { type: "number", ...props });
  }

  #settings() {
    return { other: Number(this.#other.value), factor: Number(this.#factor.value) };
  }

  /** Experts of the chosen layer that the search finds, sorted. */
  #experts() {
    const t = this.table();
    const row = this.row();
    const route = new Map(this.route() ?? []);
    const wanted = this.#search.value.trim().toLowerCase();
    const all = Array.from({ length: t.E }, (_, expert) => {
      const i = row * t.E + expert;
      const g = t.purpose(i);
      return {
        expert,
        share: route.get(expert) ?? -1,
        load: t.load[i],
        for: t.unused(i) ? "never used" : g < 0 ? "" : t.groups[g].name,
      };
    });
    const found = wanted
      ? all.filter((e) => String(e.expert) === wanted || e.for.toLowerCase().includes(wanted))
      : all;
    const by = (a, b) =>
      a[this.#sort.key] < b[this.#sort.key] ? -1 : a[this.#sort.key] > b[this.#sort.key] ? 1 : 0;
    return found.sort(
      (a, b) => (this.#sort.down ? by(b, a) : by(a, b)) || b.load - a.load || a.expert - b.expert,
    );
  }

  draw() {
    if (!this.table()) return;
    const { layer, expert } = this.chosen();
    const shown = this.#experts();
    const now = this.#settings();
    const word = this.tokenName();
    const stamp = JSON.stringify([layer, shown, now, [...this.#changes], word, expert, this.#sort]);
    if (stamp === this.#drawn) return; // keeps the focus where it is
    this.#drawn = stamp;
    this.#title.textContent = `What if experts of layer ${layer} changed?`;
    const hadFocus = this.#list.contains(document.activeElement);
    const at = this.#list.scrollTop;
    const head = this.#heads.map(([key, name, right]) =>
      h(
        "th",
        {
          scope: "col",
          class: right ? "g4-number" : null,
          "aria-sort":
            this.#sort.key === key ? (this.#sort.down ? "descending" : "ascending") : "none",
        },
        h(
          "button",
          {
            type: "button",
            class: "g4-quiet g4-sort",
            onclick: () => {
              this.#sort = { key, down: this.#sort.key === key ? !this.#sort.down : right === "#" };
              this.draw();
            },
          },
          key === "share" && word !== null ? `Share of the gate for “${word}”` : name,
          this.#sort.key === key ? (this.#sort.down ? " ↓" : " ↑") : "",
        ),
      ),
    );
    this.#list.replaceChildren(
      h(
        "table",
        { class: "g4-table" },
        h("caption", { class: "g4-hidden" }, "Experts of the layer, each with its switches"),
        h("thead", {}, h("tr", {}, ...head, h("th", { scope: "col" }, "Change it"))),
        h(
          "tbody",
          {},
          ...shown.map((e) =>
            h(
              "tr",
              { class: e.expert === expert ? "g4-chosen" : null },
              h("th", { scope: "row" }, `expert ${e.expert}`),
              e.share < 0
                ? h("td", { class: "g4-number g4-note" }, "not chosen")
                : barCell(e.share, formatPercent(e.share)),
              h("td", { class: "g4-number" }, formatPercent(e.load)),
              h("td", {}, e.for),
              h("td", {}, this.#switches(layer, e.expert, now)),
            ),
          ),
        ),
      ),
    );
    this.#list.scrollTop = at;
    const buttons = [...this.#list.querySelectorAll("button[role=switch]")];
    const stop = buttons.find((b) => b.dataset.key === this.#focus) ?? buttons[0];
    if (stop) {
      stop.tabIndex = 0;
      if (hadFocus) stop.focus({ preventScroll: true });
    }
    this.#drawChanges();
  }

  /** One tab stop for all the switches of the layer; arrow keys move among them. */
  #switches(layer, expert, now) {
    const on = this.#changes.get(`${layer} ${expert}`)?.action;
    return h(
      "span",
      { class: "g4-segmented", role: "group", "aria-label": `Change expert ${expert}` },
      ...ACTIONS.map(([action, word, says]) =>
        h(
          "button",
          {
            type: "button",
            role: "switch",
            "aria-checked": String(on === action),
            tabIndex: -1,
            disabled: action === "swap" && now.other === expert,
            title: says(expert, now),
            "aria-label": says(expert, now),
            dataset: { key: `${expert} ${action}` },
            onclick: () => this.#turn(layer, expert, action),
          },
          word,
        ),
      ),
    );
  }

  #drawChanges() {
    const made = [...this.#changes].map(([key, c]) =>
      h(
        "button",
        {
          type: "button",
          title: "Take this change away",
          onclick: () => {
            this.#changes.delete(key);
            this.draw();
          },
        },
        `${nameOf(c)} ✕`,
      ),
    );
    const go = h(
      "button",
      {
        type: "button",
        class: "g4-primary",
        disabled: !this.#changes.size,
        onclick: () => this.#generate(),
      },
      "Generate again",
    );
    this.#changed.replaceChildren(
      ...(made.length
        ? made
        : [
            h(
              "span",
              { class: "g4-note" },
              "Switch on one change or several, in one layer or in many.",
            ),
          ]),
      go,
    );
  }

  #turn(layer, expert, action) {
    const key = `${layer} ${expert}`;
    const now = this.#settings();
    if (this.#changes.get(key)?.action === action) this.#changes.delete(key);
    else
      this.#changes.set(key, {
        layer,
        expert,
        action,
        ...(action === "swap"
          ? { other: now.other }
          : action === "boost"
            ? { factor: now.factor }
            : {}),
      });
    this.draw();
  }

  async #generate() {
    const mine = ++this.#run;
    const asked = {
      changes: [...this.#changes.values()],
      tokens: Number(this.#tokens.value),
      everywhere: this.#everywhere.checked,
    };
    const bar = h("progress", { max: 1, value: 0, "aria-label": "Generating" });
    this.#result.replaceChildren(
      h(
        "p",
        { class: "g4-note", role: "status" },
        "Generating three answers: as it is, with the changes, and with random experts of the " +
          "same load changed… ",
        bar,
      ),
    );
    try {
      const answer = await this.patiently(
        "whatif",
        asked,
        (share) => {
          bar.value = share;
        },
        () => mine === this.#run,
      );
      if (mine === this.#run)
        this.#result.replaceChildren(...answersCompared(answer.content, this.view));
    } catch (error) {
      if (mine === this.#run)
        this.#result.replaceChildren(
          h("p", { class: "g4-problem", role: "alert" }, error.message.replace(/^\w+Error: /, "")),
        );
    }
  }
}

/**
 * What a page without a kernel has of it: the changes that were tried in the notebook.
 * @param {{tried: any[], ask: Function, view: any}} o tried: the recorded requests
 */
export function triedChanges({ tried, ask, view }) {
  const result = h("div", { class: "g4-result" });
  const buttons = h("div", { class: "g4-changes" });
  async function show(index) {
    for (const [i, button] of [...buttons.children].entries())
      button.setAttribute("aria-pressed", String(i === index));
    result.replaceChildren(...answersCompared((await ask("whatif", tried[index])).content, view));
  }
  buttons.append(
    ...tried.map(({ changes }, i) =>
      h("button", { type: "button", onclick: () => show(i) }, changes.map(nameOf).join(", ")),
    ),
  );
  show(0);
  return h(
    "section",
    { class: "g4-panel g4-section g4-whatif", "aria-label": "What if" },
    h("h4", { class: "g4-subtitle" }, "What if experts changed?"),
    h(
      "p",
      { class: "g4-note" },
      "This page holds what was tried in the notebook, which runs the model for other changes.",
    ),
    buttons,
    result,
  );
}
