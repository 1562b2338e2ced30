/* One token of one head: how its weights spread over the parts of the text and over the keys. */

import { barCell, largest, partColor, segmented, table, tokensHolding } from "./pieces.js";
import { formatCount, formatPercent, h, perFrame } from "./shared.js";

export const counted = (/** @type {number} */ n) =>
  `${formatCount(n)} ${n === 1 ? "token" : "tokens"}`;
export function weightText(/** @type {number} */ v) {
  return v === 0 ? "0" : v >= 0.001 ? v.toFixed(4) : v.toExponential(1);
}

/**
 * @param {object} o
 * @param {() => any} o.meta @param {{token: number | null, mode: string, sink: boolean}} o.now
 * @param {(i: number, whenThere: () => void) => string | null} o.nameOf
 * @param {(query: number, key: number) => void} o.onPair @param {(mode: string) => void} o.onMode
 */
export function oneToken(o) {
  const { now } = o;
  const title = h("h4", { class: "g4-subtitle" }, "Selected token");
  const mode = segmented(
    "Direction",
    [
      ["row", "Looks at"],
      ["column", "Is looked at by"],
    ],
    "row",
    o.onMode,
  );
  const facts = h("div", { class: "g4-facts" }),
    partBox = h("div", {}),
    topBox = h("div", {});
  const node = h(
    "section",
    { class: "g4-panel g4-section g4-side", "aria-label": "One token" },
    title,
    mode.node,
    facts,
    h("div", { class: "g4-tokentables" }, partBox, topBox),
  );
  let weights = null,
    pooled = 0,
    peak = 0,
    derived = null;
  const skip = (i) => now.sink && i === 0;

  /** What is read off a row or column once, not each time a token's text arrives. */
  function derive() {
    let total = 0;
    for (const v of weights) total += v;
    const sums = o.meta().parts.map((part) => {
      let s = 0;
      for (let i = part.start; i < part.stop; i++) s += weights[i];
      return { ...part, s };
    });
    const bins = pooled
      ? Float32Array.from(
          { length: Math.ceil(weights.length / pooled) },
          (_, b) => weights[b * pooled] * (Math.min(weights.length, (b + 1) * pooled) - b * pooled),
        )
      : null;
    const top = bins
      ? largest(bins, 10).map(([b, v]) => [
          b * pooled,
          v,
          Math.min(weights.length, (b + 1) * pooled) - 1,
        ])
      : largest(weights, 10, skip).map(([i, v]) => [i, v, i]);
    return { total, sums, holding: pooled ? 0 : tokensHolding(weights, 0.9), top };
  }

  const later = perFrame(() => build()); // several pages of text may arrive at once

  function build() {
    const name = h(
        "bdi",
        {},
        `“${(now.token === null ? null : o.nameOf(now.token, later)) ?? ""}”`,
      ),
      place = `(${formatCount(now.token ?? 0)})`;
    title.replaceChildren(
      h(
        "span",
        {},
        ...(now.token === null
          ? ["Select a token"]
          : now.mode === "row"
            ? ["What ", name, ` ${place} looks at`]
            : ["Who looks at ", name, ` ${place}`]),
      ),
    );
    if (!weights) {
      facts.replaceChildren(
        h(
          "p",
          { class: "g4-note" },
          "Click a token in the text or a cell of the map. Its weights are then drawn over the whole text.",
        ),
      );
      partBox.replaceChildren();
      topBox.replaceChildren();
      return;
    }
    const { total, sums, holding, top } = derived,
      row = now.mode === "row";
    const exactly = pooled ? `pooled: bins of ${pooled} tokens` : "exact, not pooled";
    facts.replaceChildren(
      ...[
        row
          ? fact(
              pooled ? "First bin, with the sink" : "Sink (first token)",
              formatPercent(
                pooled ? (top.find(([i]) => i === 0)?.[1] ?? weights[0] * pooled) : weights[0],
              ),
              now.sink ? "taken out of the colours" : "included in the colours",
            )
          : fact(
              "Mass received",
              total.toFixed(2),
              "sum over all queries; 1.00 is one query's whole attention",
            ),
        pooled
          ? null
          : fact(
              "90 % of it on",
              counted(holding),
              `of ${formatCount(row ? now.token + 1 : o.meta().n - now.token)} ${row ? "visible" : "that could look"}`,
            ),
        row
          ? fact("Sum of weights", total.toFixed(4), exactly)
          : fact(pooled ? "Largest bin" : "Largest weight", weightText(top[0]?.[1] ?? 0), exactly),
      ].filter(Boolean),
    );
    const byName = new Map();
    for (const part of sums) {
      const e = byName.get(part.name) ?? { role: part.role, s: 0, tokens: 0 };
      e.s += part.s;
      e.tokens += part.stop - part.start;
      byName.set(part.name, e);
    }
    partBox.replaceChildren(
      table(
        "Mass by part of the conversation",
        ["Part", "#Tokens", "#Mass"],
        [...byName].map(([part, e]) =>
          h(
            "tr",
            {},
            h(
              "th",
              { scope: "row" },
              h("i", { class: "g4-swatch", style: { background: partColor(e.role) } }),
              part,
            ),
            h("td", { class: "g4-number" }, formatCount(e.tokens)),
            barCell(e.s / (total || 1), formatPercent(e.s / (total || 1)), partColor(e.role)),
          ),
        ),
      ),
    );
    const high = top[0]?.[1] || 1;
    topBox.replaceChildren(
      table(
        row ? "Strongest keys" : "Strongest queries",
        [row ? "Looks at" : "Looked at by", "#Position", "#Weight"],
        top.map(([i, v, last]) => {
          const word = `${o.nameOf(i, later) ?? "…"}${last > i ? " …" : ""}`;
          const button = h(
            "button",
            {
              type: "button",
              class: "g4-quiet g4-wordlink",
              title: `${word}: show this pair on the map`,
            },
            h("bdi", {}, word),
          );
          button.addEventListener("click", () =>
            row ? o.onPair(now.token, i) : o.onPair(i, now.token),
          );
          return h(
            "tr",
            {},
            h("th", { scope: "row" }, button),
            h(
              "td",
              { class: "g4-number" },
              last > i ? `${formatCount(i)} to ${formatCount(last)}` : formatCount(i),
            ),
            barCell(v / high, row ? formatPercent(v) : weightText(v)),
          );
        }),
      ),
    );
  }

  const fact = (name, value, note) =>
    h(
      "div",
      { class: "g4-fact" },
      h("span", { class: "g4-note" }, name),
      h("strong", {}, value),
      h("span", { class: "g4-note" }, note),
    );

  return {
    node,
    build,
    get weights() {
      return weights;
    },
    get peak() {
      return peak;
    },
    /** @param {Float32Array | null} values  @param {number} width of the bins they are spread over, 0 for exact ones */
    set(values, width = 0) {
      weights = values;
      pooled = width;
      peak = 0;
      if (weights)
        for (let i = 0; i < weights.length; i++)
          if (!skip(i) && weights[i] > peak) peak = weights[i];
      derived = weights && derive();
      build();
    },
    /** The strongest key or query, or null. */
    strongest: () => derived?.top[0]?.[0] ?? null,
  };
}
