/* Switches beside each expert: change some, generate again from the same cached prompt, compare. */

import { barCell, fold, table } from "./pieces.js";
import { formatCount, formatPercent, h, visibleToken } from "./shared.js";

/** Changes of one expert: key, the switch's word, what it does, and how a list of changes names it. */
const ACTIONS = [
  ["drop", "Drop", (e) => `Drop expert ${e}: its output becomes zero`, "dropped"],
  ["around", "Around", (e) => `Route around expert ${e}: the others renormalise`, "routed around"],
  ["swap", "Swap", (e, o) => `Swap expert ${e} for expert ${o.other}`, "swapped"],
  ["boost", "Boost", (e, o) => `Boost expert ${e}: add ${o.factor} to its router score`, "boosted"],
];

/** A change in a few words: "L6 · 40 dropped". */
const nameOf = (c) =>
  `L${c.layer} · ${c.expert} ${ACTIONS.find(([a]) => a === c.action)[3]}${c.action === "swap" ? ` with ${c.other}` : c.action === "boost" ? ` by ${c.factor}` : ""}`;

const nats = (v) => (v >= 0.001 || v === 0 ? v.toFixed(3) : v.toExponential(1));

/**
 * @param {{patiently: Function, meta: () => any, chosen: () => any, view: any, table: () => any,
 *   row: () => number, route: () => Array<[number, number]>|null, tokenName: () => string|null}} o
 *   route: the selected token's experts in the chosen layer with their shares of the gate, or null
 */
export function whatIf(o) {
  const number = (props) => h("input", { type: "number", ...props });
  const other = number({
    min: 0,
    max: o.meta().experts - 1,
    value: 0,
    "aria-label": "Expert to swap with",
  });
  const factor = number({
    min: -20,
    max: 20,
    step: 0.5,
    value: 3,
    "aria-label": "Amount that a boost adds to the router's score",
  });
  const tokens = number({ min: 1, max: 400, value: 40 }),
    everywhere = h("input", { type: "checkbox" });
  const search = h("input", {
    type: "search",
    class: "g4-search",
    placeholder: "number or group",
    "aria-label": "Find experts of the layer by number or by what they are for",
  });
  const title = h("h4", { class: "g4-subtitle" }),
    list = h("div", { class: "g4-switches" }),
    result = h("div", { class: "g4-result" }),
    changed = h("div", { class: "g4-changes" });
  const changes = new Map(); // "layer expert" -> {layer, expert, action, other?, factor?}
  let run = 0,
    focus = "",
    drawn = "",
    sort = { key: "share", down: true };
  const heads = [
    ["expert", "Expert", ""],
    ["share", "Share of the gate", "#"],
    ["load", "Load", "#"],
    ["for", "For", ""],
  ];

  const settings = () => ({ other: Number(other.value), factor: Number(factor.value) });

  /** Experts of the chosen layer that the search finds, sorted. */
  function experts() {
    const t = o.table(),
      row = o.row(),
      route = new Map(o.route() ?? []),
      wanted = search.value.trim().toLowerCase();
    const all = Array.from({ length: t.E }, (_, expert) => {
      const i = row * t.E + expert,
        g = t.purpose(i);
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
    const by = (a, b) => (a[sort.key] < b[sort.key] ? -1 : a[sort.key] > b[sort.key] ? 1 : 0);
    return found.sort(
      (a, b) => (sort.down ? by(b, a) : by(a, b)) || b.load - a.load || a.expert - b.expert,
    );
  }

  function draw() {
    if (!o.table()) return;
    const { layer, expert } = o.chosen(),
      shown = experts(),
      now = settings(),
      word = o.tokenName();
    const stamp = JSON.stringify([layer, shown, now, [...changes], word, expert, sort]);
    if (stamp === drawn) return; // keeps the focus where it is
    drawn = stamp;
    title.textContent = `What if experts of layer ${layer} changed?`;
    const hadFocus = list.contains(document.activeElement),
      at = list.scrollTop;
    const head = heads.map(([key, name, right]) =>
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
              sort = { key, down: sort.key === key ? !sort.down : right === "#" };
              draw();
            },
          },
          key === "share" && word !== null ? `Share of the gate for “${word}”` : name,
          sort.key === key ? (sort.down ? " ↓" : " ↑") : "",
        ),
      ),
    );
    list.replaceChildren(
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
              h("td", {}, switches(layer, e.expert, now)),
            ),
          ),
        ),
      ),
    );
    list.scrollTop = at;
    const buttons = [...list.querySelectorAll("button[role=switch]")],
      stop = buttons.find((b) => b.dataset.key === focus) ?? buttons[0];
    if (stop) {
      stop.tabIndex = 0;
      if (hadFocus) stop.focus({ preventScroll: true });
    }
    drawChanges();
  }

  /** One tab stop for all the switches of the layer; arrow keys move among them. */
  function switches(layer, expert, now) {
    const on = changes.get(`${layer} ${expert}`)?.action;
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
            onclick: () => turn(layer, expert, action),
          },
          word,
        ),
      ),
    );
  }

  function drawChanges() {
    const made = [...changes].map(([key, c]) =>
      h(
        "button",
        {
          type: "button",
          title: "Take this change away",
          onclick: () => {
            changes.delete(key);
            draw();
          },
        },
        `${nameOf(c)} ✕`,
      ),
    );
    const go = h(
      "button",
      { type: "button", class: "g4-primary", disabled: !changes.size, onclick: generate },
      "Generate again",
    );
    changed.replaceChildren(
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

  list.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[
      event.key
    ];
    if (!step || !event.target.matches("button[role=switch]")) return;
    event.preventDefault();
    event.stopPropagation();
    const rows = [...list.querySelectorAll("tbody tr")].map((row) => [
      ...row.querySelectorAll("button"),
    ]);
    let row = rows.findIndex((r) => r.includes(event.target)),
      column = rows[row].indexOf(event.target);
    do {
      row += step[0];
      column += step[1];
    } while (rows[row]?.[column]?.disabled);
    rows[row]?.[column]?.focus();
  });
  list.addEventListener("focusin", (event) => {
    if (!event.target.matches("button[role=switch]")) return;
    for (const button of list.querySelectorAll("button[role=switch]")) button.tabIndex = -1;
    event.target.tabIndex = 0;
    focus = event.target.dataset.key;
  });
  for (const input of [other, factor]) input.addEventListener("change", () => draw());
  search.addEventListener("input", () => draw());

  function turn(layer, expert, action) {
    const key = `${layer} ${expert}`,
      now = settings();
    if (changes.get(key)?.action === action) changes.delete(key);
    else
      changes.set(key, {
        layer,
        expert,
        action,
        ...(action === "swap"
          ? { other: now.other }
          : action === "boost"
            ? { factor: now.factor }
            : {}),
      });
    draw();
  }

  async function generate() {
    const mine = ++run,
      asked = {
        changes: [...changes.values()],
        tokens: Number(tokens.value),
        everywhere: everywhere.checked,
      };
    const bar = h("progress", { max: 1, value: 0, "aria-label": "Generating" });
    result.replaceChildren(
      h(
        "p",
        { class: "g4-note", role: "status" },
        "Generating three answers: as it is, with the changes, and with random experts of the same load changed… ",
        bar,
      ),
    );
    try {
      const answer = await o.patiently(
        "whatif",
        asked,
        (share) => {
          bar.value = share;
        },
        () => mine === run,
      );
      if (mine === run) result.replaceChildren(...resultOf(answer.content, o.view));
    } catch (error) {
      if (mine === run)
        result.replaceChildren(
          h("p", { class: "g4-problem", role: "alert" }, error.message.replace(/^\w+Error: /, "")),
        );
    }
  }

  const node = h(
    "section",
    { class: "g4-panel g4-section g4-whatif", "aria-label": "What if" },
    title,
    h(
      "div",
      { class: "g4-toolbar" },
      search,
      h("label", {}, "swap with expert", other),
      h("label", {}, "boost by", factor),
      h("label", {}, "up to", tokens, "tokens"),
      h(
        "label",
        {
          title:
            "Otherwise the prompt is read as it is and only the answer is generated with the changes, from one shared cache",
        },
        everywhere,
        "also while reading the prompt",
      ),
    ),
    list,
    changed,
    result,
  );
  return { node, draw };
}

/**
 * What a page without a kernel has of it: the changes that were tried in the notebook.
 * @param {{tried: any[], ask: Function, view: any}} o tried: the recorded requests
 */
export function triedChanges({ tried, ask, view }) {
  const result = h("div", { class: "g4-result" }),
    buttons = h("div", { class: "g4-changes" });
  async function show(index) {
    [...buttons.children].forEach((button, i) =>
      button.setAttribute("aria-pressed", String(i === index)),
    );
    result.replaceChildren(...resultOf((await ask("whatif", tried[index])).content, view));
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

/** Three answers side by side, and how far they part; spoken as well. */
function resultOf(r, view) {
  const high = Math.max(0.05, ...r.answers.flatMap((a) => a.divergence)),
    most = Math.max(1e-9, ...r.answers.map((a) => a.mean));
  const column = (a) => {
    const box = h("div", { class: "g4-answer", dir: "auto" });
    a.tokens.forEach((word, i) => {
      const node = h(
        "span",
        { class: a.parts !== null && i >= a.parts ? "g4-word g4-changed" : "g4-word" },
        h("bdi", {}, word),
      );
      if (i === a.parts) node.classList.add("g4-first");
      const kl = a.divergence[i];
      if (kl !== undefined) {
        node.title = `divergence ${nats(kl)} nats`;
        node.style.setProperty("--kl", `${Math.min(1, kl / high) * 14}px`);
        node.classList.add("g4-kl");
      }
      box.append(node);
    });
    if (!a.tokens.length) box.append(h("em", { class: "g4-note" }, "(no token)"));
    return h(
      "div",
      { class: "g4-answercard g4-card" },
      h("h5", {}, a.name),
      h("p", { class: "g4-note" }, a.note),
      box,
    );
  };
  const others = r.answers.slice(1),
    parted = (a) =>
      a.parts === null
        ? "none"
        : `${formatCount(a.parts)} ${a.tokens[a.parts] === undefined ? "(stops)" : `“${visibleToken(a.tokens[a.parts])}”`}`;
  view.announce(
    others
      .map(
        (a) => `${a.name}: ${a.parts === null ? "same answer" : `differs from token ${a.parts}`}`,
      )
      .join("; "),
  );
  return [
    h("h4", { class: "g4-subtitle" }, others[0].name),
    h("div", { class: "g4-answers" }, ...r.answers.map(column)),
    h("p", { class: "g4-note" }, r.note),
    table(
      "Answers compared",
      ["Answer", "#First token that differs", "#Mean divergence per token (nats)"],
      others.map((a) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, a.name),
          h("td", { class: "g4-number" }, parted(a)),
          barCell(a.mean / most, nats(a.mean)),
        ),
      ),
    ),
    fold("Divergence of every token, as a table", perToken(others, high)),
  ];
}

/** Rows are places in the answers; a changed answer's token stands beside its divergence. */
function perToken(answers, high) {
  const longest = Math.max(0, ...answers.map((a) => a.tokens.length));
  return table(
    "Divergence of every token",
    ["#Token", ...answers.flatMap((a) => [a.name, "#Nats"])],
    Array.from({ length: longest }, (_, i) =>
      h(
        "tr",
        {},
        h("th", { scope: "row", class: "g4-number" }, formatCount(i)),
        ...answers.flatMap((a) => {
          const kl = a.divergence[i],
            word = a.tokens[i];
          return [
            h(
              "td",
              { class: i === a.parts ? "g4-first" : null },
              word === undefined ? "" : h("bdi", {}, visibleToken(word)),
            ),
            kl === undefined ? h("td") : barCell(kl / high, nats(kl)),
          ];
        }),
      ),
    ),
  );
}
