/* One expert in words: its load, its lifts, its texts and partners; and the list that passes a filter. */

import { barCell, chip, table } from "./pieces.js";
import { cssOf, hueOf } from "./expertcolours.js";
import { passes, times } from "./experts.js";
import { formatCount, formatPercent, h, visibleToken } from "./shared.js";

const LISTED = 60; // rows of the list

/**
 * @param {any} t experts.js table @param {number} i the expert @param {any} about the answer to "expert", or null where a page without a kernel lacks it
 * @param {{layer: number, ink: any, scale: number|null, count: number,
 *   onToken: (token: number) => void, onExpert: (e: number) => void}} o
 */
export function expertCard(t, i, about, o) {
  const e = i % t.E,
    facts = [
      chip(`load ${formatPercent(t.load[i])} of the tokens`),
      chip(`${times(t.ratio(i))} even load`),
    ];
  if (about) facts.push(chip(`rank ${about.rank} of ${t.E}`));
  if (o.scale !== null)
    facts.push(
      h(
        "span",
        {
          class: "g4-chip",
          title:
            "What the model multiplies this expert's share of the gate with, learned in training",
        },
        `learned scale ${o.scale.toFixed(2)}`,
      ),
    );
  const texts = about?.texts ?? [];
  const words = texts.map(([text, first, count, share, gate]) => {
    const button = h(
      "button",
      {
        type: "button",
        class: "g4-quiet g4-wordlink",
        title: `Show token ${formatCount(first)}`,
        onclick: () => o.onToken(first),
      },
      h("bdi", {}, visibleToken(text)),
    );
    button.disabled = first >= o.count;
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, button),
      h("td", { class: "g4-number" }, formatCount(count)),
      barCell(share, formatPercent(share)),
      h("td", { class: "g4-number" }, formatPercent(gate)),
    );
  });
  const lifts = t.groups
    .map((group, g) => ({ group, g, lift: t.lift(g, i) }))
    .filter(({ lift }) => !Number.isNaN(lift))
    .sort((a, b) => Number(t.enough(b.g, i)) - Number(t.enough(a.g, i)) || b.lift - a.lift);
  const liftRows = lifts.map(({ group, g, lift }) =>
    h(
      "tr",
      {},
      h(
        "th",
        { scope: "row", style: { "white-space": "nowrap" } },
        h("i", { class: "g4-swatch", style: { background: cssOf(hueOf(g, o.ink.dark)) } }),
        group.name,
      ),
      t.enough(g, i)
        ? barCell(lift / 8, times(lift), cssOf(hueOf(g, o.ink.dark)))
        : h("td", { class: "g4-number g4-note" }, "too few"),
      h("td", { class: "g4-number" }, formatPercent(lift * t.load[i])),
    ),
  );
  const partners = (about?.partners ?? []).map(([other, share]) =>
    h(
      "button",
      {
        type: "button",
        class: "g4-step",
        title: `${formatPercent(share)} of its tokens went to expert ${other} as well`,
        style: { "--share": `${(100 * share).toFixed(0)}%` },
        onclick: () => o.onExpert(other),
      },
      h("b", {}, String(other)),
      formatPercent(share),
    ),
  );
  return h(
    "div",
    { class: "g4-card2" },
    h("h4", { class: "g4-subtitle" }, `Expert ${e} of layer ${o.layer}`, ...facts),
    texts.length
      ? ""
      : h(
          "p",
          { class: "g4-note" },
          about
            ? "No token of this trace was routed here."
            : "This page holds no texts of this expert; the notebook has them.",
        ),
    h(
      "div",
      { class: "g4-halves" },
      texts.length
        ? h(
            "div",
            { class: "g4-tall" },
            table(
              "Texts that are most this expert's own",
              ["Text", "#Times here", "#Of its occurrences", "#Share of the gate"],
              words,
            ),
          )
        : "",
      h(
        "div",
        {},
        h(
          "div",
          { class: "g4-tall" },
          table(`Lift by ${t.by}`, [`By ${t.by}`, "#Lift", "#Of them came here"], liftRows),
        ),
        partners.length
          ? h("p", { class: "g4-note g4-partners" }, "Chosen together with ", ...partners)
          : "",
      ),
    ),
  );
}

/** The list of experts: all, or those that pass the filter; sorted by its heads.
 * @param {{table: () => any, layers: number[], filter: () => any, chosen: () => number|null, onPick: (i: number) => void}} o */
export function expertList(o) {
  const body = h("div", { class: "g4-tall g4-list" }),
    title = h("h4", { class: "g4-subtitle" });
  let sort = { key: "lift", down: true };
  const heads = [
    ["layer", "Layer", false],
    ["expert", "Expert", false],
    ["for", "For", false],
    ["lift", "Lift", true],
    ["load", "Load", true],
    ["ratio", "× even", true],
  ];

  function draw() {
    const t = o.table();
    if (!t) return;
    const filter = o.filter(),
      rows = [];
    for (let i = 0; i < t.rows * t.E; i++) {
      if (t.unused(i)) continue;
      const g = filter.on ? filter.group : t.purpose(i);
      if (filter.on ? !passes(t, i, filter) : g < 0) continue;
      rows.push({
        i,
        layer: Math.floor(i / t.E),
        expert: i % t.E,
        for: t.groups[g].name,
        lift: t.lift(g, i),
        load: t.load[i],
        ratio: t.ratio(i),
      });
    }
    const layers = new Set(rows.map((r) => r.layer)).size;
    title.textContent = filter.on
      ? `${formatCount(rows.length)} experts above ${times(filter.above)} for “${t.groups[filter.group]?.name}”, in ${layers} layers`
      : `${formatCount(rows.length)} experts that are for something, by ${t.by}`;
    rows.sort(
      (a, b) =>
        (sort.down ? -1 : 1) *
          (a[sort.key] < b[sort.key] ? -1 : a[sort.key] > b[sort.key] ? 1 : 0) || b.lift - a.lift,
    );
    const head = heads.map(([key, word, right]) =>
      h(
        "th",
        {
          scope: "col",
          class: right ? "g4-number" : null,
          "aria-sort": sort.key === key ? (sort.down ? "descending" : "ascending") : "none",
        },
        h(
          "button",
          {
            type: "button",
            class: "g4-quiet g4-sort",
            onclick: () => {
              sort = {
                key,
                down:
                  sort.key === key
                    ? !sort.down
                    : key !== "layer" && key !== "expert" && key !== "for",
              };
              draw();
            },
          },
          word,
          sort.key === key ? (sort.down ? " ↓" : " ↑") : "",
        ),
      ),
    );
    const lines = rows.slice(0, LISTED).map((r) =>
      h(
        "tr",
        { dataset: { i: r.i }, onclick: () => o.onPick(r.i) },
        h("td", {}, `L${o.layers[r.layer]}`),
        h(
          "td",
          {},
          h(
            "button",
            {
              type: "button",
              class: "g4-quiet g4-pickexpert",
              "aria-label": `Choose expert ${r.expert} of layer ${o.layers[r.layer]}`,
            },
            String(r.expert),
          ),
        ),
        h("td", {}, r.for),
        h("td", { class: "g4-number" }, times(r.lift)),
        h("td", { class: "g4-number" }, formatPercent(r.load)),
        h("td", { class: "g4-number" }, times(r.ratio)),
      ),
    );
    const at = body.scrollTop;
    body.replaceChildren(
      h(
        "table",
        { class: "g4-table g4-sticky" },
        h("caption", { class: "g4-hidden" }, "Experts"),
        h("thead", {}, h("tr", {}, ...head)),
        h("tbody", {}, ...lines),
      ),
      rows.length
        ? ""
        : h(
            "p",
            { class: "g4-note" },
            filter.on
              ? "No expert passes."
              : "None clearly: it takes more tokens of several groups. Loads say more here.",
          ),
      rows.length > LISTED
        ? h("p", { class: "g4-note" }, `the first ${LISTED} of ${formatCount(rows.length)}`)
        : "",
    );
    body.scrollTop = at;
    mark();
  }
  function mark() {
    for (const line of body.querySelectorAll("tbody tr"))
      line.classList.toggle("g4-chosen", Number(line.dataset.i) === o.chosen());
  }
  return { node: h("div", {}, title, body), draw, mark };
}
