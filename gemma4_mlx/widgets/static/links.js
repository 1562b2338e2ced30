/* The strongest weights of one head, as the traced pass found them: a list to unfold. */

import { h, perFrame } from "./dom.js";
import { barCell, bytesOf, floats, fold, table } from "./pieces.js";
import { formatCount } from "./words.js";

export class LinkList {
  #body = h("div", {});
  #held = new Map();
  #chosen = null;
  #later = perFrame(() => this.#build().catch(this.onError));

  /**
   * @param {object} o
   * @param {(layer: number) => Promise<{content: any, buffer: DataView}>} o.load
   * @param {(i: number, whenThere: () => void) => string | null} o.nameOf
   * @param {(query: number, key: number) => void} o.onPair
   * @param {(error: Error) => void} o.onError
   */
  constructor({ onError, load, nameOf, onPair }) {
    Object.assign(this, { onError, load, nameOf, onPair });
    this.node = fold("Strongest links of this head", this.#body);
    this.node.addEventListener("toggle", () => {
      if (this.node.open) this.#build().catch(this.onError);
    });
  }

  /** @param {boolean} there  whether links of this layer can be asked for */
  choose(layer, head, there) {
    this.#chosen = there ? { layer, head } : null;
    this.node.hidden = !there;
    if (there) this.#build().catch(this.onError);
  }

  /** Links of every head of a layer: head -> [query, key, weight], strongest first. */
  #of(layer) {
    if (!this.#held.has(layer))
      this.#held.set(
        layer,
        this.load(layer)
          .then(({ content: { heads, count }, buffer }) => {
            const bytes = bytesOf(buffer).slice();
            const size = heads.length * count;
            const places = new Int32Array(bytes.buffer, 0, 2 * size);
            const weights = floats(buffer).subarray(2 * size);
            return new Map(
              heads.map((head, k) => [
                head,
                Array.from({ length: count }, (_, j) => [
                  places[k * count + j],
                  places[size + k * count + j],
                  weights[k * count + j],
                ]).filter(([, , weight]) => weight > 0),
              ]),
            );
          })
          .catch((error) => {
            this.#held.delete(layer);
            throw error;
          }),
      );
    return this.#held.get(layer);
  }

  async #build() {
    if (!this.node.open || !this.#chosen) return;
    const { layer, head } = this.#chosen;
    const found = (await this.#of(layer)).get(head) ?? [];
    if (layer !== this.#chosen?.layer || head !== this.#chosen.head) return;
    const name = (i) =>
      h(
        "span",
        {},
        h("bdi", {}, this.nameOf(i, this.#later) ?? "…"),
        " ",
        h("span", { class: "g4-note" }, formatCount(i)),
      );
    this.#body.replaceChildren(
      table(
        "Strongest links of this head",
        ["From", "To", "#Weight"],
        found.map(([query, key, weight]) => {
          const button = h(
            "button",
            {
              type: "button",
              class: "g4-quiet g4-wordlink",
              title: "Show this pair on the map",
              onclick: () => this.onPair(query, key),
            },
            name(query),
          );
          return h(
            "tr",
            {},
            h("th", { scope: "row" }, button),
            h("td", {}, name(key)),
            barCell(weight, weight.toFixed(3)),
          );
        }),
      ),
      h(
        "p",
        { class: "g4-note" },
        found.length
          ? "At most one for a query; no token's look at itself or at the first token."
          : "No weight beside those on the token itself and on the first token.",
      ),
    );
  }
}
