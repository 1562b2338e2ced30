/* Who works on a token, a text or a kind of tokens; and which experts are alike. */

import { h } from "./dom.js";
import { times } from "./experts.js";
import { NotRecorded } from "./kernel.js";
import { barCell, floats, picker, table } from "./pieces.js";
import { formatCount, formatPercent, visibleToken } from "./words.js";

const VOCABULARIES = [
  ["input", "reads"],
  ["next", "is followed by"],
  ["predicted", "predicts"],
];
const SAID = 12; // tokens that are named
const FOUND_LISTED = 20; // experts

export class Finder {
  /** The bar. */
  node;
  /** What was found. */
  result = h("section", { class: "g4-found", "aria-live": "polite" });
  #run = 0;
  #kind;
  #kinds = {}; // vocabulary -> kinds of tokens
  #text = h("input", {
    type: "search",
    class: "g4-search",
    placeholder: "a token or a text",
    "aria-label": "Find the experts of a token or a text",
  });

  /**
   * @param {AtlasScene} scene
   * @param {object} o
   * @param {(measure: {word: string, values: Float32Array, kind: string}) => void} o.onFound
   * @param {() => void} o.onClear
   * @param {(layer: number, expert: number) => void} o.onExpert
   */
  constructor(scene, o) {
    Object.assign(this, { scene, ...o });
    this.vocabulary = picker("Who", VOCABULARIES, "input", () => {
      this.#fillKinds();
      this.#again();
    });
    this.#kind = h("select", { "aria-label": "Find the experts of a kind of tokens" });
    this.#fillKinds();
    const { signal } = scene.view;
    this.#text.addEventListener("keydown", (event) => event.key === "Enter" && this.#again(), {
      signal,
    });
    // Its own cross empties the field.
    this.#text.addEventListener("search", () => this.#text.value || this.clear(), { signal });
    this.#kind.addEventListener("change", () => {
      this.#text.value = "";
      if (this.#kind.value) this.find({ kind: this.#kind.value });
      else this.clear();
    });
    const go = { type: "button", onclick: () => this.#again() };
    this.node = h(
      "div",
      { class: "g4-toolbar g4-finder", role: "search" },
      this.vocabulary.node,
      this.#text,
      h("button", go, "Find"),
      h("label", {}, "or", this.#kind),
    );
  }

  /** Ask what can be looked for. */
  async load() {
    const { content } = await this.scene.ask("kinds");
    this.#kinds = content;
    for (const option of this.vocabulary.select.options) option.hidden = !(option.value in content);
    this.#fillKinds();
  }

  #fillKinds() {
    const kinds = this.#kinds[this.vocabulary.select.value] ?? [];
    const option = (value, text) => h("option", { value }, text);
    this.#kind.replaceChildren(
      option("", "a kind of tokens…"),
      ...kinds.map((kind) => option(kind, kind)),
    );
  }

  #again() {
    if (this.#text.value) {
      this.#kind.value = "";
      this.find({ text: this.#text.value });
    } else if (this.#kind.value) this.find({ kind: this.#kind.value });
  }

  clear() {
    this.#run++;
    this.result.replaceChildren();
    this.onClear();
  }

  /** A token of a card. @param {string} text @param {string} vocabulary */
  ofToken(text, vocabulary) {
    this.vocabulary.select.value = vocabulary;
    this.#fillKinds();
    this.#text.value = text;
    this.#again();
  }

  /** @param {{text?: string, kind?: string}} what */
  async find(what) {
    const vocabulary = this.vocabulary.select.value;
    const asked = { ...what, vocabulary };
    const name = what.kind ?? `“${visibleToken(what.text)}”`;
    const verb = VOCABULARIES.find(([key]) => key === vocabulary)[1];
    const answer = await this.#ask("find", asked, () => this.#inCards(what.text, vocabulary));
    if (!answer) return;
    const { tokens, kinds, occurrences, counted, rows } = answer.content;
    const more = kinds > SAID ? ` and ${formatCount(kinds - SAID)} more` : "";
    const said = tokens
      .slice(0, SAID)
      .map((text) => h("code", {}, h("bdi", {}, visibleToken(text))));
    this.#show(
      `Who ${verb} ${name}?`,
      h(
        "p",
        { class: "g4-note g4-foundtokens" },
        ...said,
        more,
        `, ${formatCount(occurrences)} times`,
      ),
      howCounted(counted, rows.length),
      table(
        "Experts found",
        ["Expert", "#Of these tokens", "#Over its load"],
        rows.map(([layer, expert, share, lift]) =>
          h(
            "tr",
            {},
            this.#expert(layer, expert),
            barCell(share, formatPercent(share)),
            h("td", { class: "g4-number" }, times(lift)),
          ),
        ),
      ),
    );
    if (!answer.buffer) return;
    this.onFound({ word: `${verb} ${name}`, values: floats(answer.buffer), kind: "lift" });
  }

  /** Experts like the chosen one. @param {"tokens" | "labels"} by */
  async alike(by) {
    const { layer, expert } = this.scene.now;
    const answer = await this.#ask("neighbours", { layer, expert, by });
    if (!answer) return;
    const name = `expert ${expert} of layer ${layer}`;
    const says = {
      tokens: "Likeness of the tokens that they read: 1 the same share of each, 0 none in common.",
      labels: "Likeness of the labels whose documents use them: 1 the same share of each.",
    }[by];
    this.#show(
      `Experts like ${name}, by ${by}`,
      h("p", { class: "g4-note" }, says),
      table(
        "Experts alike",
        ["Expert", "#Likeness"],
        answer.content.rows
          .slice(0, FOUND_LISTED)
          .map(([l, e, like]) => h("tr", {}, this.#expert(l, e), barCell(like, like.toFixed(2)))),
      ),
    );
    const values = floats(answer.buffer);
    this.onFound({ word: `like ${name}`, values, kind: "share" });
  }

  /** Ask, or say why there is no answer; null where another question came meanwhile. */
  async #ask(type, args, otherwise = () => null) {
    const run = ++this.#run;
    try {
      const answer = await this.scene.ask(type, args, { slot: "find" });
      return run === this.#run ? answer : null;
    } catch (error) {
      const found = error instanceof NotRecorded && otherwise();
      if (found || run !== this.#run) return found || null;
      const says = error.message.replace(/^\w+Error: /, "");
      this.result.replaceChildren(h("p", { class: "g4-problem", role: "status" }, says));
      return null;
    }
  }

  /** What a page without a kernel finds in the cards that it has. */
  #inCards(text, vocabulary) {
    if (!text || !this.scene.model.held) return null;
    return { content: foundInCards(this.scene.model.held("card"), text, vocabulary), buffer: null };
  }

  #expert(layer, expert) {
    const props = {
      type: "button",
      class: "g4-quiet g4-pickexpert",
      onclick: () => this.onExpert(layer, expert),
    };
    return h("th", { scope: "row" }, h("button", props, `layer ${layer}, expert ${expert}`));
  }

  #show(title, ...nodes) {
    const clear = { type: "button", class: "g4-quiet", onclick: () => this.clear() };
    this.result.replaceChildren(
      h("h4", { class: "g4-subtitle" }, h("bdi", {}, title), h("button", clear, "Clear")),
      ...nodes,
    );
  }
}

/** What is known of the tokens: rare ones are counted together with others. */
function howCounted(counted, rows) {
  const part = counted < 0.995 ? `Told by ${formatPercent(counted)} of these occurrences. ` : "";
  const none = rows ? "" : "Too rare to tell apart from tokens that are counted with them.";
  return part || none ? h("p", { class: "g4-note" }, part + none) : "";
}

/** As the answer to "find", of the tokens on recorded cards.
 * @param {Array<[any, any]>} cards requests and answers @param {string} text
 * @param {string} vocabulary */
export function foundInCards(cards, text, vocabulary) {
  const wanted = text.trim().toLowerCase() || text;
  const tokens = new Set();
  const rows = [];
  let occurrences = 0;
  for (const [{ layer, expert }, card] of cards) {
    const mine = card[vocabulary].filter(([said]) => said.toLowerCase().includes(wanted));
    if (!mine.length) continue;
    for (const [said, count] of mine) {
      tokens.add(said);
      occurrences += count;
    }
    const [best] = mine.sort((a, b) => b[1] * b[3] - a[1] * a[3]);
    rows.push([layer, expert, best[2], best[3]]);
  }
  rows.sort((a, b) => b[2] * Math.log2(b[3]) - a[2] * Math.log2(a[3]));
  if (!rows.length) throw new Error("No card of this page has such a token; the notebook has all.");
  return {
    tokens: [...tokens],
    kinds: tokens.size,
    occurrences,
    counted: 1,
    rows: rows.slice(0, FOUND_LISTED),
  };
}
