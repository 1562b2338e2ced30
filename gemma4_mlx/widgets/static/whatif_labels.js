/* Changes by label: every expert that an atlas knows to be for one, in all layers at once. */

import { h } from "./dom.js";
import { formatCount } from "./words.js";

const ACTIONS_OF_LABEL = [
  ["around", "route around"],
  ["drop", "drop"],
  ["boost", "boost"],
];

export class LabelChanges {
  #label = h("select", { "aria-label": "Label" });
  #above = h("input", {
    type: "number",
    min: 1.1,
    max: 50,
    step: 0.5,
    value: 2,
    "aria-label": "Least lift of the label's experts",
  });
  #action = h(
    "select",
    { "aria-label": "What to do with the label's experts" },
    ...ACTIONS_OF_LABEL.map(([value, word]) => h("option", { value }, word)),
  );
  #count = h("span", { class: "g4-note", role: "status" });
  #add = h("button", { type: "button", onclick: () => this.onAdd(this.#change()) }, "Add");

  /**
   * @param {{table: () => any, signal: AbortSignal,
   *   onAdd: (change: {label: string, above: number, action: string}) => void}} o
   *   table: of the atlas's labels, or null while it is on its way
   */
  constructor({ table, signal, onAdd }) {
    Object.assign(this, { table, onAdd });
    for (const input of [this.#label, this.#above])
      input.addEventListener("change", () => this.#say(), { signal });
    this.node = h(
      "div",
      { class: "g4-toolbar", role: "group", "aria-label": "Change experts by label" },
      this.#action,
      h("label", {}, "every expert whose lift for", this.#label),
      h("label", {}, "is above", this.#above, "×"),
      this.#count,
      this.#add,
    );
    this.fill();
  }

  /** The labels are there. */
  fill() {
    const t = this.table();
    const names = t?.groups.map(({ name }) => h("option", {}, name)) ?? [];
    this.#label.replaceChildren(...names);
    this.#say();
  }

  #change() {
    const above = Number(this.#above.value) || 2;
    return { label: this.#label.value, above, action: this.#action.value };
  }

  #say() {
    const t = this.table();
    const { above } = this.#change();
    const found = t && labelExperts(t, this.#label.selectedIndex, above);
    this.#add.disabled = !found?.experts || !(above > 1);
    const { experts, layers } = found ?? {};
    const no = "no expert by more than chance";
    this.#count.textContent = !found ? "" : experts ? countWords(experts, layers) : no;
  }
}

const many = (n, word) => `${formatCount(n)} ${word}${n > 1 ? "s" : ""}`;
const countWords = (experts, layers) => `${many(experts, "expert")} in ${many(layers, "layer")}`;

/** How many experts are chosen `above` times as often for a label, by more than chance, and in how
 * many layers: those that studies/interventions.py takes. */
export function labelExperts(t, g, above) {
  let experts = 0;
  const layers = new Set();
  for (let i = 0; i < t.rows * t.E; i++) {
    if (!t.sure(g, i) || !(t.lift(g, i) >= above)) continue;
    experts++;
    layers.add(Math.floor(i / t.E));
  }
  return { experts, layers: layers.size };
}
