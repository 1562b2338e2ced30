/* One token of one head: how its weights spread over the parts of the text and over the keys. */

import { h, perFrame } from "./dom.js";
import { barCell, largest, partColor, segmented, table, tokensHolding } from "./pieces.js";
import { formatCount, formatPercent } from "./words.js";

export const counted = (/** @type {number} */ n) =>
  `${formatCount(n)} ${n === 1 ? "token" : "tokens"}`;
export function weightText(/** @type {number} */ v) {
  return v === 0 ? "0" : v >= 0.001 ? v.toFixed(4) : v.toExponential(1);
}

export class OneToken {
  #title = h("h4", { class: "g4-subtitle" }, "Selected token");
  #mode;
  #facts = h("div", { class: "g4-facts" });
  #partBox = h("div", {});
  #topBox = h("div", {});
  #weights = null;
  #pooled = 0;
  #peak = 0;
  #derived = null;
  #later = perFrame(() => this.build()); // several pages of text may arrive at once

  /**
   * @param {object} o
   * @param {() => any} o.meta @param {{token: number | null, mode: string, sink: boolean}} o.now
   * @param {(i: number, whenThere: () => void) => string | null} o.nameOf
   * @param {(query: number, key: number) => void} o.onPair @param {(mode: string) => void} o.onMode
   */
  constructor({ onMode, meta, nameOf, onPair, now }) {
    Object.assign(this, { onMode, meta, nameOf, onPair, now });
    this.#mode = segmented(
      "Direction",
      [
        ["row", "Looks at"],
        ["column", "Is looked at by"],
      ],
      "row",
      this.onMode,
    );
    this.node = h(
      "section",
      { class: "g4-panel g4-section g4-side", "aria-label": "One token" },
      this.#title,
      this.#mode.node,
      this.#facts,
      h("div", { class: "g4-tokentables" }, this.#partBox, this.#topBox),
    );
  }

  get weights() {
    return this.#weights;
  }

  get peak() {
    return this.#peak;
  }

  /** @param {Float32Array | null} values
   * @param {number} width of the bins they are spread over, 0 for exact ones */
  set(values, width = 0) {
    this.#weights = values;
    this.#pooled = width;
    this.#peak = 0;
    if (this.#weights)
      for (let i = 0; i < this.#weights.length; i++)
        if (!this.#skip(i) && this.#weights[i] > this.#peak) this.#peak = this.#weights[i];
    this.#derived = this.#weights && this.#derive();
    this.build();
  }

  /** The strongest key or query, or null. */
  strongest() {
    return this.#derived?.top[0]?.[0] ?? null;
  }

  #skip(i) {
    return this.now.sink && i === 0;
  }

  /** What is read off a row or column once, not each time a token's text arrives. */
  #derive() {
    let total = 0;
    for (const v of this.#weights) total += v;
    const sums = this.meta().parts.map((part) => {
      let s = 0;
      for (let i = part.start; i < part.stop; i++) s += this.#weights[i];
      return { ...part, s };
    });
    const bins = this.#pooled
      ? Float32Array.from(
          { length: Math.ceil(this.#weights.length / this.#pooled) },
          (_, b) =>
            this.#weights[b * this.#pooled] *
            (Math.min(this.#weights.length, (b + 1) * this.#pooled) - b * this.#pooled),
        )
      : null;
    const top = bins
      ? largest(bins, 10).map(([b, v]) => [
          b * this.#pooled,
          v,
          Math.min(this.#weights.length, (b + 1) * this.#pooled) - 1,
        ])
      : largest(this.#weights, 10, (i) => this.#skip(i)).map(([i, v]) => [i, v, i]);
    return { total, sums, holding: this.#pooled ? 0 : tokensHolding(this.#weights, 0.9), top };
  }

  build() {
    this.#title.replaceChildren(h("span", {}, ...this.#titleWords()));
    if (!this.#weights) {
      const hint =
        "Click a token in the text or a cell of the map. Its weights are then drawn over the " +
        "whole text.";
      this.#facts.replaceChildren(h("p", { class: "g4-note" }, hint));
      this.#partBox.replaceChildren();
      this.#topBox.replaceChildren();
      return;
    }
    this.#facts.replaceChildren(...(this.#row ? this.#rowFacts() : this.#columnFacts()));
    this.#partBox.replaceChildren(this.#partTable());
    this.#topBox.replaceChildren(this.#topTable());
  }

  /** Whether it is shown what the token looks at, and not who looks at it. */
  get #row() {
    return this.now.mode === "row";
  }

  #titleWords() {
    const { token } = this.now;
    if (token === null) return ["Select a token"];
    const name = h("bdi", {}, `“${this.nameOf(token, this.#later) ?? ""}”`);
    const place = `(${formatCount(token)})`;
    return this.#row ? ["What ", name, ` ${place} looks at`] : ["Who looks at ", name, ` ${place}`];
  }

  #rowFacts() {
    const { total, top } = this.#derived;
    const first = this.#weights[0];
    const bin = top.find(([i]) => i === 0)?.[1] ?? first * this.#pooled;
    return [
      fact(
        this.#pooled ? "First bin, with the sink" : "Sink (first token)",
        formatPercent(this.#pooled ? bin : first),
        this.now.sink ? "taken out of the colours" : "included in the colours",
      ),
      ...this.#spread(`of ${formatCount(this.now.token + 1)} visible`),
      fact("Sum of weights", total.toFixed(4), this.#exactness),
    ];
  }

  #columnFacts() {
    const { total, top } = this.#derived;
    const largest = this.#pooled ? "Largest bin" : "Largest weight";
    const could = formatCount(this.meta().n - this.now.token);
    return [
      fact(
        "Mass received",
        total.toFixed(2),
        "sum over all queries; 1.00 is one query's whole attention",
      ),
      ...this.#spread(`of ${could} that could look`),
      fact(largest, weightText(top[0]?.[1] ?? 0), this.#exactness),
    ];
  }

  /** On how many tokens most of it is; bins do not tell. */
  #spread(ofHowMany) {
    if (this.#pooled) return [];
    return [fact("90 % of it on", counted(this.#derived.holding), ofHowMany)];
  }

  get #exactness() {
    return this.#pooled ? `pooled: bins of ${this.#pooled} tokens` : "exact, not pooled";
  }

  #partTable() {
    const { sums, total } = this.#derived;
    const rows = [...massByName(sums)].map(([name, { role, mass, tokens }]) => {
      const colour = partColor(role);
      const share = mass / (total || 1);
      const swatch = h("i", { class: "g4-swatch", style: { background: colour } });
      return h(
        "tr",
        {},
        h("th", { scope: "row" }, swatch, name),
        h("td", { class: "g4-number" }, formatCount(tokens)),
        barCell(share, formatPercent(share), colour),
      );
    });
    return table("Mass by part of the conversation", ["Part", "#Tokens", "#Mass"], rows);
  }

  #topTable() {
    const { top } = this.#derived;
    const high = top[0]?.[1] || 1;
    return table(
      this.#row ? "Strongest keys" : "Strongest queries",
      [this.#row ? "Looks at" : "Looked at by", "#Position", "#Weight"],
      top.map((each) => this.#topRow(each, high)),
    );
  }

  /** First token of the bin, its weight, last token of the bin. */
  #topRow([i, weight, last], high) {
    const word = `${this.nameOf(i, this.#later) ?? "…"}${last > i ? " …" : ""}`;
    const { token } = this.now;
    const row = this.#row;
    const button = h(
      "button",
      {
        type: "button",
        class: "g4-quiet g4-wordlink",
        title: `${word}: show this pair on the map`,
        onclick: () => (row ? this.onPair(token, i) : this.onPair(i, token)),
      },
      h("bdi", {}, word),
    );
    const place = last > i ? `${formatCount(i)} to ${formatCount(last)}` : formatCount(i);
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, button),
      h("td", { class: "g4-number" }, place),
      barCell(weight / high, row ? formatPercent(weight) : weightText(weight)),
    );
  }
}

/** Parts of one name together: role, mass, tokens. */
function massByName(parts) {
  const byName = new Map();
  for (const { name, role, s, start, stop } of parts) {
    const sum = byName.get(name) ?? { role, mass: 0, tokens: 0 };
    sum.mass += s;
    sum.tokens += stop - start;
    byName.set(name, sum);
  }
  return byName;
}

const fact = (name, value, note) =>
  h(
    "div",
    { class: "g4-fact" },
    h("span", { class: "g4-note" }, name),
    h("strong", {}, value),
    h("span", { class: "g4-note" }, note),
  );
