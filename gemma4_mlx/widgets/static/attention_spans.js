/* Which head carries it: two spans are marked in the text, and the heads ranked by the mass that
 * goes from one to the other. */

import { spanWords } from "./attention_words.js";
import { h } from "./dom.js";
import { patient } from "./kernel.js";
import { barCell, floats, table } from "./pieces.js";
import { formatPercent } from "./words.js";

const BEST = 12; // heads that are listed

export class SpanRanking {
  node = h("div", { class: "g4-spans" });
  ranking = h("div", {});
  #spans = { from: null, to: null }; // first and last token
  #newest = 0; // the ranking that was asked for last

  /**
   * @param {AttentionScene} scene
   * @param {object} o
   * @param {() => [number, number] | null} o.marked first and last token of the reader's mark
   * @param {() => void} o.onRanked the table of heads has the masses
   * @param {(index: number) => string} o.describe
   * @param {(head: { layer: number, head: number }, query: number, key: number) => void} o.onPick
   */
  constructor(scene, { marked, onRanked, describe, onPick }) {
    Object.assign(this, { scene, marked, onRanked, describe, onPick });
  }

  build() {
    const note = (text) => h("span", { class: "g4-note" }, text);
    if (this.scene.isStatic) {
      const sentence = "Ranking the heads needs the notebook: this page is a snapshot.";
      this.node.replaceChildren(note(sentence));
      return;
    }
    const marked = this.marked();
    const { from, to } = this.#spans;
    this.node.replaceChildren(
      note(
        marked
          ? `Marked in the text: ${spanWords(marked)} (Shift extends it).`
          : "Mark a token in the text; Shift extends it to a span.",
      ),
      this.#setter("from", "These tokens look:", marked),
      this.#setter("to", "at these:", marked),
      h(
        "button",
        {
          type: "button",
          class: "g4-primary",
          disabled: !from || !to,
          onclick: () => this.#rank(),
        },
        "Rank the heads",
      ),
    );
  }

  #setter(which, label, marked) {
    const use = () => {
      this.#spans[which] = [...marked];
      this.build();
    };
    return h(
      "div",
      { class: "g4-spanset" },
      h("span", { class: "g4-note" }, label),
      h("strong", {}, spanWords(this.#spans[which])),
      h("button", { type: "button", disabled: !marked, onclick: use }, "Use the mark"),
    );
  }

  /** @param {boolean} compute run the model for exact masses */
  async #rank(compute = false) {
    const mine = ++this.#newest;
    const { from, to } = this.#spans;
    const bar = h("progress", { max: 1, value: 0, "aria-label": "Reading the prompt" });
    this.#say(
      ...(compute
        ? ["The model reads the prompt once more… ", bar]
        : ["Adding up every head's weights…"]),
    );
    try {
      const asked = { source: [from[0], from[1] + 1], target: [to[0], to[1] + 1], compute };
      const ask = patient((type, args) => this.scene.ask(type, args));
      const tell = (share) => {
        bar.value = share;
      };
      const answer = await ask("span", asked, tell, () => mine === this.#newest);
      if (mine === this.#newest) this.#showRanking(answer, from[0], to[0]);
    } catch (error) {
      if (mine === this.#newest) this.#say(error.message);
    }
  }

  #say(...words) {
    this.ranking.replaceChildren(h("p", { class: "g4-note", role: "status" }, ...words));
  }

  #showRanking({ content, buffer }, query, key) {
    const { heads, view } = this.scene;
    heads.setSpan(floats(buffer));
    this.onRanked();
    const best = heads.ranked("span").slice(0, BEST);
    const high = heads.value("span", best[0]) || 1;
    const rows = best.map((index) => this.#row(index, high, query, key));
    const exact = { type: "button", onclick: () => this.#rank(true) };
    this.ranking.replaceChildren(
      table(
        "Heads by the mass from the first span to the second",
        ["Head", "Kind", "#Mass per query"],
        rows,
      ),
      h(
        "p",
        { class: "g4-note" },
        content.note,
        content.demand ? h("button", exact, "Run the model for exact ones") : "",
      ),
    );
    view.announce(`Strongest: ${this.describe(best[0])}`);
  }

  #row(index, high, query, key) {
    const { heads } = this.scene;
    const { layer, head, kind } = heads.list[index];
    const mass = heads.value("span", index);
    const onclick = () => this.onPick({ layer, head }, query, key);
    const button = { type: "button", class: "g4-quiet", onclick };
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, h("button", button, `Layer ${layer}, head ${head}`)),
      h("td", {}, kind),
      barCell(mass / high, formatPercent(mass)),
    );
  }
}
