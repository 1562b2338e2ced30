/* The architecture to scale. Area is parameters or bytes; a click shows formula, code and taps. */

import { chip, exportPicker, headline, problemNote, segmented, table } from "./pieces.js";
import {
  formatBytes,
  formatCount,
  formatPercent,
  h,
  mount,
  request,
  setTraits,
  watch,
} from "./shared.js";

const PART_COLORS = {
  vision: "#cc79a7",
  audio: "#d55e00",
  embedding: "#8d8d8d",
  per_layer_table: "#c4b400",
  attention: "#0072b2",
  mlp: "#56b4e9",
  router: "#9c5a00",
  experts: "#009e73",
  per_layer: "#e69f00",
  norms: "#666666",
};
const WIDTH = 1000,
  TOP = 74,
  HEIGHT = 190;

function render({ model, el }) {
  const view = mount(model, el, "anatomy");
  const { root, signal } = view;
  root.classList.add("g4-view");
  const meta = model.get("meta");
  const { problem, show } = problemNote();
  let unit = "params",
    open = null;

  const amount = (value) => (unit === "params" ? shortCount(value) : formatBytes(value));
  const total = (key) =>
    meta.blocks.reduce((sum, b) => sum + b.parts.reduce((s, p) => s + p[key], 0), 0);
  const factOf = (layer) => meta.layers[layer];
  const blockName = (block) =>
    block.layer === null ? meta.names[block.parts[0].part] : `Layer ${block.layer}`;

  // ---- the plan ---------------------------------------------------------------------------------
  const plan = h("svg", {
    class: "g4-plan",
    role: "group",
    "aria-label": "Blocks of the model, area by size. Arrow keys move, Enter chooses.",
    viewBox: `0 0 ${WIDTH} ${TOP + HEIGHT + 60}`,
  });

  function drawPlan() {
    plan.replaceChildren();
    const whole = total(unit),
      middles = new Map();
    let x = 0;
    const arcs = h("g"),
      bodies = h("g"),
      labels = h("g");
    let labelEnd = -99,
      lowerEnd = 0;
    for (const block of meta.blocks) {
      const size = block.parts.reduce((s, p) => s + p[unit], 0),
        wide = (WIDTH * size) / whole,
        column = h("g");
      let y = TOP;
      for (const part of block.parts) {
        const high = (HEIGHT * part[unit]) / size;
        const on = model.get("chosen").block === block.id && model.get("chosen").part === part.part;
        const name = `${blockName(block)}, ${meta.names[part.part]}: ${amount(part[unit])}, ${formatPercent(part[unit] / whole)}`;
        const node = h(
          "rect",
          {
            class: "g4-segment",
            x,
            y,
            width: Math.max(0.5, wide),
            height: Math.max(0.5, high),
            fill: PART_COLORS[part.part],
            role: "button",
            tabindex: on ? 0 : -1,
            "aria-label": name,
            "aria-pressed": String(on),
            "data-block": block.id,
            "data-part": part.part,
          },
          h("title", {}, name),
        );
        column.append(node);
        y += high;
      }
      if (block.layer !== null) {
        middles.set(block.layer, x + wide / 2);
        const fact = factOf(block.layer),
          full = fact.kind === "full";
        labels.append(
          h(
            "rect",
            {
              x: x + 1,
              y: TOP + HEIGHT + 4,
              width: Math.max(1, wide - 2),
              height: 5,
              fill: full ? "var(--g4-accent)" : "var(--g4-line)",
            },
            h("title", {}, layerText(fact)),
          ),
        );
        if (x + wide / 2 - labelEnd > 22) {
          labels.append(
            h(
              "text",
              {
                x: x + wide / 2,
                y: TOP + HEIGHT + 24,
                "font-size": 12,
                "text-anchor": "middle",
                class: full ? null : "g4-faint",
              },
              `L${block.layer}`,
            ),
          );
          labelEnd = x + wide / 2;
        }
      } else {
        // A name wider than its block stands in a row of its own below, with a line to the block.
        const words = block.id === "output" ? "Output" : blockName(block),
          long = words.length * 7,
          middle = x + wide / 2;
        if (wide > long) {
          labels.append(
            h(
              "text",
              {
                x: middle,
                y: TOP + HEIGHT + 24,
                "font-size": 12,
                "text-anchor": "middle",
                class: "g4-faint",
              },
              words,
            ),
          );
          labelEnd = middle;
        } else {
          const start = Math.max(lowerEnd, Math.min(middle - 4, WIDTH - long));
          labels.append(
            h("path", {
              d: `M ${middle} ${TOP + HEIGHT + 2} L ${middle} ${TOP + HEIGHT + 30} L ${Math.max(middle, start + 4)} ${TOP + HEIGHT + 40}`,
              fill: "none",
              stroke: "var(--g4-line-strong)",
            }),
            h(
              "text",
              { x: start, y: TOP + HEIGHT + 52, "font-size": 12, class: "g4-faint" },
              words,
            ),
          );
          lowerEnd = start + long + 12;
        }
      }
      bodies.append(column);
      x += wide;
    }
    for (const fact of meta.layers) {
      if (fact.donor === null) continue;
      const a = middles.get(fact.donor),
        b = middles.get(fact.layer),
        lift = Math.min(58, 16 + Math.abs(b - a) * 0.22);
      const on = [`layer${fact.layer}`, `layer${fact.donor}`].includes(model.get("chosen").block);
      arcs.append(
        h(
          "path",
          {
            class: on ? "g4-arc g4-on" : "g4-arc",
            d: `M ${a} ${TOP - 2} C ${a} ${TOP - lift * 1.3}, ${b} ${TOP - lift * 1.3}, ${b} ${TOP - 2}`,
          },
          h("title", {}, `Layer ${fact.layer} reads the keys and values of layer ${fact.donor}`),
        ),
      );
    }
    plan.append(arcs, bodies, labels);
    if (meta.layers.some((f) => f.donor !== null))
      plan.append(
        h(
          "text",
          { x: 0, y: 14, "font-size": 12, class: "g4-faint" },
          "Arcs: layers that read another layer's keys and values",
        ),
      );
  }

  const layerText = (f) =>
    `Layer ${f.layer}: ${f.kind === "full" ? "full attention" : `sliding attention, window ${formatCount(f.window)}`}`;

  plan.addEventListener("click", (event) => pick(event.target), { signal });
  plan.addEventListener(
    "keydown",
    (event) => {
      const nodes = [...plan.querySelectorAll(".g4-segment")],
        at = nodes.indexOf(document.activeElement);
      if (at < 0) return;
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        pick(document.activeElement);
        return;
      }
      const here = nodes[at].dataset;
      let to = null;
      if (event.key === "ArrowDown") to = nodes[at + 1];
      if (event.key === "ArrowUp") to = nodes[at - 1];
      if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
        const ids = meta.blocks.map((b) => b.id),
          next = ids[ids.indexOf(here.block) + (event.key === "ArrowRight" ? 1 : -1)];
        to =
          nodes.find((n) => n.dataset.block === next && n.dataset.part === here.part) ??
          nodes.find((n) => n.dataset.block === next);
      }
      if (!to) return;
      event.preventDefault();
      nodes[at].tabIndex = -1;
      to.tabIndex = 0;
      to.focus();
      view.announce(to.getAttribute("aria-label"));
    },
    { signal },
  );
  function pick(node) {
    if (!node?.dataset?.block) return;
    const focused = document.activeElement === node;
    setTraits(model, { chosen: { block: node.dataset.block, part: node.dataset.part } });
    if (focused) plan.querySelector('[aria-pressed="true"]')?.focus();
  }

  // ---- one part in detail -----------------------------------------------------------------------
  const title = h("h4", { class: "g4-subtitle" }),
    detail = h("div", {});

  async function drawDetail() {
    const chosen = model.get("chosen"),
      block = meta.blocks.find((b) => b.id === chosen.block);
    if (!block) return;
    const part = block.parts.find((p) => p.part === chosen.part) ?? block.parts[0],
      want = `${block.id} ${part.part}`;
    open = want;
    title.replaceChildren(
      `${meta.names[part.part]}${block.layer === null ? "" : ` of layer ${block.layer}`}`,
    );
    let answer;
    try {
      answer = await request(
        model,
        "part",
        { block: block.id, part: part.part },
        { signal, slot: "part" },
      );
    } catch (error) {
      if (open === want) {
        detail.replaceChildren(h("p", { class: "g4-note" }, error.message));
      }
      return;
    }
    if (!answer || open !== want) return;
    const d = answer.content,
      facts = block.layer === null ? [] : factChips(factOf(block.layer), part.part);
    detail.replaceChildren(
      h(
        "div",
        { class: "g4-facts2" },
        chip(`${formatCount(part.params)} parameters`),
        chip(`${formatBytes(part.bytes)} as ${part.types.join(", ")}`),
        chip(`${formatPercent(part.params / total("params"))} of the model`),
        ...facts,
      ),
      h(
        "pre",
        { class: "g4-formula", tabindex: 0, "aria-label": "Formula" },
        ...d.formula.split(/(\s+)/).map((word) => (word.trim() ? h("span", {}, word) : word)),
      ),
      d.taps.length
        ? table(
            "Taps: what model.observe shows here",
            ["Tap", "Shape and meaning"],
            d.taps.map(([name, text]) =>
              h("tr", {}, h("th", { scope: "row" }, h("code", {}, name)), h("td", {}, text)),
            ),
          )
        : h("p", { class: "g4-note" }, "Nothing is tapped inside this part."),
      h("h5", { class: "g4-subtitle" }, "Code"),
      ...d.code.flatMap((c) => [
        h("div", { class: "g4-file" }, `${c.file}:${c.line}  ${c.name}`),
        h("pre", { class: "g4-code", tabindex: 0, "aria-label": `Source of ${c.name}` }, c.source),
      ]),
      h(
        "details",
        { class: "g4-fold" },
        h("summary", {}, `${d.tensors.length + d.more} tensors`),
        h(
          "div",
          { class: "g4-tensors", tabindex: 0, role: "region", "aria-label": "Tensors" },
          table(
            "Tensors of this part",
            ["Name", "Shape", "Type", "#Bytes"],
            d.tensors.map(([name, shape, type, , bytes]) =>
              h(
                "tr",
                {},
                h(
                  "th",
                  { scope: "row" },
                  h("code", {}, name.replace(/^language_model\.model\./, "…")),
                ),
                h("td", {}, shape),
                h("td", {}, type),
                h("td", { class: "g4-number" }, formatBytes(bytes)),
              ),
            ),
          ),
          d.more ? h("p", { class: "g4-note" }, `and ${d.more} more`) : "",
        ),
      ),
    );
  }

  function factChips(f, part) {
    if (part === "attention") {
      const list = [
        chip(layerText(f).replace(/^Layer \d+: /, ""), f.kind === "full" ? "g4-is-good" : ""),
        chip(`${f.heads} heads, ${f.kv_heads} KV, size ${f.head_dim}`),
      ];
      if (f.donor !== null) list.push(chip(`keys and values of layer ${f.donor}`, "g4-is-warn"));
      if (f.k_eq_v) list.push(chip("values = keys before norm and rope"));
      return list;
    }
    if (part === "mlp") return [chip(`width ${formatCount(f.mlp_width)}`)];
    if (part === "experts" || part === "router")
      return [
        chip(`${meta.k} of ${meta.experts} experts per token`),
        part === "experts" ? chip(`${formatPercent(meta.k / meta.experts)} active per token`) : "",
      ].filter(Boolean);
    return [];
  }

  // ---- the cache ----------------------------------------------------------------------------------
  function cacheChart() {
    const W = 420,
      H = 200,
      left = 58,
      bottom = 30,
      top = 12,
      right = 10;
    const last = meta.cache.at(-1),
      high = Math.max(1, last[1] + last[2]);
    const px = (n) => left + ((W - left - right) * n) / last[0],
      py = (b) => H - bottom - ((H - top - bottom) * b) / high;
    const area = (low, up, colour, name) =>
      h(
        "path",
        {
          fill: colour,
          "fill-opacity": 0.75,
          d: `M ${meta.cache.map((r) => `${px(r[0])} ${py(up(r))}`).join(" L ")} L ${[...meta.cache]
            .reverse()
            .map((r) => `${px(r[0])} ${py(low(r))}`)
            .join(" L ")} Z`,
        },
        h("title", {}, name),
      );
    const svg = h(
      "svg",
      {
        class: "g4-chart",
        viewBox: `0 0 ${W} ${H}`,
        role: "img",
        "aria-label": `Cache bytes by context: ${formatBytes(last[1] + last[2])} at ${formatCount(last[0])} tokens, ${formatBytes(last[1])} of it in sliding layers`,
      },
      area(
        () => 0,
        (r) => r[1],
        "#e69f00",
        "sliding layers",
      ),
      area(
        (r) => r[1],
        (r) => r[1] + r[2],
        "#0072b2",
        "full layers",
      ),
    );
    for (const share of [0, 0.5, 1])
      svg.append(
        h("line", {
          x1: left,
          x2: W - right,
          y1: py(high * share),
          y2: py(high * share),
          stroke: "var(--g4-line)",
        }),
        h(
          "text",
          { x: left - 6, y: py(high * share) + 4, "text-anchor": "end" },
          formatBytes(high * share),
        ),
      );
    for (const share of [0, 0.25, 0.5, 0.75, 1])
      svg.append(
        h(
          "text",
          {
            x: px(last[0] * share),
            y: H - 10,
            "text-anchor": share === 1 ? "end" : share ? "middle" : "start",
          },
          shortCount(last[0] * share),
        ),
      );
    svg.append(h("text", { x: (left + W) / 2, y: H - 10, "text-anchor": "middle" }, ""));
    return svg;
  }

  const key = (part) =>
    h(
      "span",
      { class: "g4-key" },
      h("i", { class: "g4-swatch", style: { background: PART_COLORS[part] } }),
      meta.names[part],
    );
  const used = Object.keys(meta.names).filter((part) =>
    meta.blocks.some((b) => b.parts.some((p) => p.part === part)),
  );
  const units = segmented(
    "Area shows",
    [
      ["params", "parameters"],
      ["bytes", "bytes in memory"],
    ],
    "params",
    (value) => {
      unit = value;
      drawPlan();
      drawTotals();
    },
  );
  const totals = h("div", {});
  function drawTotals() {
    const whole = total(unit),
      byPart = new Map(used.map((p) => [p, 0]));
    for (const b of meta.blocks)
      for (const p of b.parts) byPart.set(p.part, byPart.get(p.part) + p[unit]);
    totals.replaceChildren(
      table(
        `Whole model by part, in ${unit === "params" ? "parameters" : "bytes"}`,
        ["Part", `#${unit === "params" ? "Parameters" : "Bytes"}`, "#Share"],
        [...byPart]
          .sort((a, b) => b[1] - a[1])
          .map(([part, v]) =>
            h(
              "tr",
              {},
              h("th", { scope: "row" }, key(part)),
              h("td", { class: "g4-number" }, amount(v)),
              h("td", { class: "g4-number" }, formatPercent(v / whole)),
            ),
          ),
      ),
    );
  }
  const sliding = meta.layers.filter((f) => f.kind === "sliding").length,
    shared = meta.layers.filter((f) => f.donor !== null).length;
  const active = activeParameters(meta);
  root.append(
    headline(
      `Anatomy of ${meta.source || "the model"}`,
      [
        chip(`${shortCount(total("params"))} parameters`),
        active < total("params") ? chip(`${shortCount(active)} used per text token`) : "",
        chip(`${formatBytes(total("bytes"))} as ${meta.types.join(", ")}`),
        chip(
          `${meta.layers.length} layers: ${sliding} sliding, ${meta.layers.length - sliding} full${shared ? `, ${shared} share KV` : ""}`,
        ),
      ].filter(Boolean),
      [exportPicker(model, "anatomy", show)],
    ),
    problem,
    h(
      "section",
      { class: "g4-panel g4-section", "aria-label": "Plan of the model" },
      h(
        "div",
        { class: "g4-toolbar" },
        units.node,
        h("span", { class: "g4-note" }, "Data flows from left to right. Click a part."),
      ),
      plan,
      h(
        "div",
        { class: "g4-keys" },
        ...used.map(key),
        h(
          "span",
          { class: "g4-key" },
          h("i", { class: "g4-swatch", style: { background: "var(--g4-accent)" } }),
          "full attention below the block",
        ),
      ),
    ),
    h(
      "div",
      { class: "g4-columns" },
      h("section", { class: "g4-panel g4-section", "aria-label": "Chosen part" }, title, detail),
      h(
        "div",
        {},
        h(
          "section",
          { class: "g4-panel g4-section", "aria-label": "Whole model" },
          h("h4", { class: "g4-subtitle" }, "Whole model"),
          totals,
        ),
        h(
          "section",
          { class: "g4-panel g4-section", "aria-label": "Cache" },
          h("h4", { class: "g4-subtitle" }, "Cache as the context grows (tokens)"),
          cacheChart(),
          h(
            "div",
            { class: "g4-keys" },
            h(
              "span",
              { class: "g4-key" },
              h("i", { class: "g4-swatch", style: { background: "#0072b2" } }),
              "full layers: every token",
            ),
            h(
              "span",
              { class: "g4-key" },
              h("i", { class: "g4-swatch", style: { background: "#e69f00" } }),
              `sliding layers: the last ${formatCount(meta.window)}`,
            ),
          ),
          h(
            "details",
            { class: "g4-fold" },
            h("summary", {}, "As a table"),
            table(
              "Cache by context",
              ["#Tokens", "#Sliding layers", "#Full layers"],
              meta.cache.map((r) =>
                h(
                  "tr",
                  {},
                  ...[formatCount(r[0]), formatBytes(r[1]), formatBytes(r[2])].map((t) =>
                    h("td", { class: "g4-number" }, t),
                  ),
                ),
              ),
            ),
          ),
        ),
      ),
    ),
  );
  drawTotals();
  watch(
    model,
    ["chosen"],
    () => {
      drawPlan();
      drawDetail();
    },
    signal,
  );
  return view.cleanup;
}

/** Parameters a text token passes through: no towers, k of E experts, one row of each table. */
function activeParameters(meta) {
  let sum = 0;
  for (const b of meta.blocks)
    for (const p of b.parts) {
      if (p.part === "vision" || p.part === "audio") continue;
      sum +=
        p.part === "experts"
          ? (p.params * meta.k) / meta.experts
          : p.part === "per_layer_table"
            ? p.params * 0
            : p.params;
    }
  return sum;
}

function shortCount(n) {
  for (const [size, name] of [
    [1e9, "B"],
    [1e6, "M"],
    [1e3, "K"],
  ])
    if (n >= size)
      return `${(n / size).toFixed(n / size < 10 ? 2 : n / size < 100 ? 1 : 0)} ${name}`;
  return String(Math.round(n));
}

export default { render };
