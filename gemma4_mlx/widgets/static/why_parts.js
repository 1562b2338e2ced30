/* The parts of the model that pushed for the token and against it, each with its share and a button
 * that takes it away. */

import { h } from "./dom.js";
import { segmented } from "./pieces.js";
import { shareColour } from "./why_colours.js";
import { partsOfKind, sums } from "./why_values.js";
import { partName, signed } from "./why_words.js";
import { formatCount } from "./words.js";

const LISTED = 12; // parts shown at first
const CHOICES = [
  ["all", "All"],
  ["heads", "Heads"],
  ["experts", "Experts"],
  ["mlps", "MLPs"],
  ["embeddings", "Embeddings"],
];
const SELECTABLE = ["head", "expert"]; // in the other views of a trace
export const partKey = ({ kind, layer, index }) => `${kind} ${layer} ${index}`;

export class PartList {
  #choice = "all";
  #listed = LISTED;
  #body = h("div", { class: "g4-whyparts" });
  #sum = h("p", { class: "g4-note" });
  #kinds = segmented("Parts", CHOICES, "all", (choice) => {
    this.#choice = choice;
    this.#listed = LISTED;
    this.draw();
  });

  /**
   * @param {WhyScene} scene
   * @param {object} o
   * @param {(part: any) => void} o.onPick show it in the other views
   * @param {(part: any) => void} o.onRemove
   * @param {() => Set<string>} o.removed keys of what is taken away
   * @param {() => any} o.chosen layer, head and expert of the selection
   */
  constructor(scene, o) {
    Object.assign(this, { scene, ...o });
    this.node = h(
      "section",
      { class: "g4-panel g4-section", "aria-label": "Parts of the model" },
      h("h4", { class: "g4-subtitle" }, "Parts for and against", this.#kinds.node),
      this.#body,
      this.#sum,
    );
  }

  draw() {
    const { shown, ink } = this.scene;
    if (!shown) return;
    const parts = partsOfKind(shown.parts, this.#choice);
    const focused = this.#body.contains(document.activeElement)
      ? document.activeElement.dataset.key
      : null;
    const rows = parts.slice(0, this.#listed).map((part) => this.#row(part, shown.partHigh, ink));
    const list = h(
      "ul",
      { class: "g4-whylist", "aria-label": "Parts, the largest first" },
      ...rows,
    );
    this.#body.replaceChildren(
      parts.length ? list : h("p", { class: "g4-note" }, this.#emptyWords(shown)),
    );
    if (parts.length > this.#listed) this.#body.append(this.#moreButton(parts.length));
    const { pro, contra } = sums(parts);
    this.#sum.textContent = parts.length
      ? `${formatCount(parts.length)} parts: ${signed(pro)} for, ${signed(contra)} against, ` +
        `${signed(pro + contra)} together.`
      : "";
    if (focused) this.#body.querySelector(`[data-key="${focused}"]`)?.focus();
  }

  #emptyWords(shown) {
    return shown.parts.length
      ? "There are none in this model."
      : "This method gives the parts of the model no shares; another one does.";
  }

  #moreButton(count) {
    const all = () => {
      this.#listed += 4 * LISTED;
      this.draw();
    };
    const left = formatCount(count - this.#listed);
    return h("button", { type: "button", class: "g4-quiet", onclick: all }, `Show more of ${left}`);
  }

  #row(part, high, ink) {
    const { layer, head, expert } = this.chosen();
    const index = { head, expert }[part.kind];
    const mine = part.layer === layer && part.index !== null && part.index === index;
    return h(
      "li",
      { class: mine ? "g4-chosen" : null },
      this.#nameOf(part),
      signedBar(part.share / (high || 1), ink),
      h("span", { class: "g4-number" }, signed(part.share)),
      this.#removeButton(part),
    );
  }

  #nameOf(part) {
    const name = partName(part);
    if (!SELECTABLE.includes(part.kind)) return h("span", { class: "g4-partname" }, name);
    return h(
      "button",
      {
        type: "button",
        class: "g4-quiet g4-partname",
        title: "Select it, in the other views of the trace as well",
        dataset: { key: `name ${partKey(part)}` },
        onclick: () => this.onPick(part),
      },
      name,
    );
  }

  /** Takes the part away, or puts it back; the answer is then generated again. */
  #removeButton(part) {
    if (!this.scene.meta.live || this.scene.model.isStatic) return h("span", {});
    const away = this.removed().has(partKey(part));
    const says = `${away ? "Put back" : "Remove"} ${partName(part)} and answer again`;
    return h(
      "button",
      {
        type: "button",
        "aria-pressed": String(away),
        "aria-label": says,
        title: says,
        dataset: { key: `remove ${partKey(part)}` },
        onclick: () => this.onRemove(part),
      },
      away ? "removed" : "remove",
    );
  }
}

/** A bar from the middle to the right for, to the left against. @param {number} v -1 to 1 */
export function signedBar(v, ink) {
  const wide = `${(50 * Math.min(1, Math.abs(v))).toFixed(1)}%`;
  const side = v >= 0 ? { left: "50%" } : { right: "50%" };
  const fill = h("span", {
    class: "g4-signedfill",
    style: { width: wide, background: shareColour(v || 1, ink), ...side },
  });
  return h("span", { class: "g4-signedbar", "aria-hidden": "true" }, fill);
}
