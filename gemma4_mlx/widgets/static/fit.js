/* Memory, model, bits, context: what fits, and where the bytes go. The plans come from Python.
   A memory of null is this machine as it is, any other a Mac with so many GiB. */

import { barCell, exportPicker, headline, problemNote, segmented, table } from "./pieces.js";
import { formatCount, h, mount, request, setTraits, watch } from "./shared.js";

const GIB = 2 ** 30;

function render({ model, el }) {
  const view = mount(model, el, "fit");
  const { root, signal } = view;
  root.classList.add("g4-view");
  const meta = model.get("meta");
  const { problem, show } = problemNote();
  const cache = new Map(); // `${model} ${kv} ${here}` -> answer
  const names = Object.fromEntries(meta.parts.map(([key, name, color]) => [key, { name, color }]));
  const keys = meta.parts.map(([key]) => key);
  const gib = (bytes) =>
    bytes < 0.1 * GIB
      ? `${Math.round(bytes / 2 ** 20)} MiB`
      : `${(bytes / GIB).toFixed(bytes < 10 * GIB ? 2 : 1)} GiB`;

  const now = () => ({
    memory: model.get("memory"),
    model: model.get("model"),
    bits: model.get("bits"),
    context: model.get("context"),
    kv: model.get("kv_bits"),
  });
  async function plansOf(name, { kv, memory }) {
    const here = memory === null,
      key = `${name} ${kv} ${here}`;
    if (!cache.has(key))
      cache.set(
        key,
        request(model, "plans", { model: name, kv_bits: kv, here }, { signal }).then(
          (a) => a.content,
        ),
      );
    return cache.get(key);
  }

  // ---- choices --------------------------------------------------------------------------------
  const choice = (label, node, note) =>
    h("div", { class: "g4-choice" }, h("span", {}, label), node, note ?? null);
  const memory = h(
    "select",
    { "aria-label": "Machine" },
    h("option", { value: "null" }, meta.here.name),
    ...meta.memories.map((m) => h("option", { value: String(m) }, `a Mac, ${m} GiB`)),
  );
  memory.addEventListener("change", () => setTraits(model, { memory: JSON.parse(memory.value) }), {
    signal,
  });
  const which = segmented(
    "Model",
    meta.models.map(([name, repo]) => [name, name, repo]),
    now().model,
    (value) => setTraits(model, { model: value }),
  );
  const bits = segmented(
    "Bits of the weights",
    meta.bits.map((b) => [String(b), b === 16 ? "16 (plain)" : String(b)]),
    String(now().bits),
    (value) => setTraits(model, { bits: Number(value) }),
  );
  const kv = segmented(
    "Bits of the cache",
    meta.kv_bits.map((b) => [String(b), b === 16 ? "16 (plain)" : String(b)]),
    String(now().kv),
    (value) => setTraits(model, { kv_bits: Number(value) }),
  );
  const slider = h("input", {
    type: "range",
    min: 0,
    max: meta.contexts.length - 1,
    step: 1,
    "aria-label": "Tokens of context",
  });
  const sliderText = h("output", {});
  slider.addEventListener(
    "input",
    () => setTraits(model, { context: meta.contexts[Number(slider.value)] }),
    { signal },
  );

  // ---- the bar --------------------------------------------------------------------------------
  const verdict = h("div", { class: "g4-verdict", role: "status" });
  const bar = h("svg", { class: "g4-stack", viewBox: "0 0 1000 92", role: "img" });
  const partTable = h("div", {}),
    matrix = h("div", { class: "g4-scroll" });

  function drawBar(sizes, usable, total, memoryBytes) {
    const W = 1000,
      high = Math.max(memoryBytes, total) * 1.01,
      px = (b) => (b / high) * W;
    bar.replaceChildren(
      h("rect", {
        x: 0,
        y: 28,
        width: px(memoryBytes),
        height: 36,
        rx: 4,
        fill: "var(--g4-sunken)",
      }),
    );
    let x = 0;
    keys.forEach((key, i) => {
      if (!sizes[i]) return;
      const wide = px(sizes[i]),
        text = `${names[key].name}: ${gib(sizes[i])}`;
      bar.append(
        h(
          "rect",
          {
            class: "g4-piece",
            x,
            y: 28,
            width: Math.max(0.4, wide),
            height: 36,
            fill: names[key].color,
          },
          h("title", {}, text),
        ),
      );
      x += wide;
    });
    const marks = [
      [usable, `usable by a model ${gib(usable)}`, "var(--g4-bad)", 18],
      [memoryBytes, `memory ${gib(memoryBytes)}`, "var(--g4-line-strong)", 82],
    ];
    for (const [size, text, colour, y] of marks) {
      const at = px(size);
      const words = at > 220 ? { x: at - 5, "text-anchor": "end" } : { x: at + 5 }; // where there is room
      bar.append(
        h("line", { x1: at, x2: at, y1: 22, y2: 70, stroke: colour, "stroke-width": 2 }),
        h("text", { ...words, y, class: "g4-faint" }, text),
      );
    }
    const beside = memoryBytes < 0.7 * high ? { x: W - 2, "text-anchor": "end" } : { x: 2 };
    bar.append(h("text", { ...beside, y: 82, class: "g4-faint" }, `needs ${gib(total)}`));
    bar.setAttribute(
      "aria-label",
      `${gib(total)} needed of ${gib(usable)} usable and ${gib(memoryBytes)} of memory`,
    );
  }

  async function draw() {
    const n = now();
    memory.value = String(n.memory);
    which.set(n.model);
    bits.set(String(n.bits));
    kv.set(String(n.kv));
    slider.value = String(Math.max(0, meta.contexts.indexOf(n.context)));
    sliderText.textContent = `${formatCount(n.context)} tokens`;
    let mine, all;
    try {
      mine = await plansOf(n.model, n);
      all = await Promise.all(meta.models.map(([name]) => plansOf(name, n)));
    } catch (error) {
      show(error);
      return;
    }
    if (JSON.stringify(n) !== JSON.stringify(now())) return; // changed meanwhile
    const usable = mine.usable[String(n.memory)],
      sizes = mine.plans[String(n.bits)]?.[String(n.context)];
    const most = mine.most[String(n.bits)]?.[String(n.memory)] ?? 0;
    if (!sizes) {
      verdict.replaceChildren(
        h("strong", {}, "Too long"),
        `${n.model} takes at most ${formatCount(mine.longest)} tokens.`,
      );
      bar.replaceChildren();
      partTable.replaceChildren();
    } else {
      const [lends, whole] =
        n.memory === null
          ? [meta.here.lends, meta.here.memory]
          : ["macOS lets a model use", n.memory * GIB];
      const total = sizes.reduce((a, b) => a + b, 0),
        spare = usable - total;
      verdict.replaceChildren(
        h(
          "span",
          { class: `g4-chip ${spare >= 0 ? "g4-is-good" : "g4-is-bad"}` },
          spare >= 0 ? "fits" : "does not fit",
        ),
        h("strong", {}, gib(total)),
        h(
          "span",
          {},
          spare >= 0
            ? `${gib(spare)} to spare of ${gib(usable)} that ${lends}.`
            : `${gib(-spare)} more than the ${gib(usable)} that ${lends}.`,
        ),
        h(
          "span",
          { class: "g4-note" },
          most
            ? `Longest context here: ${formatCount(most)} tokens.`
            : "No context fits at this width.",
        ),
      );
      drawBar(sizes, usable, total, whole);
      partTable.replaceChildren(
        table(
          "Where the bytes go",
          ["Part", "#Size"],
          keys
            .map((key, i) => [key, sizes[i]])
            .filter(([, v]) => v)
            .map(([key, v]) =>
              h(
                "tr",
                {},
                h(
                  "th",
                  { scope: "row" },
                  h("i", { class: "g4-swatch", style: { background: names[key].color } }),
                  names[key].name,
                ),
                barCell(v / Math.max(...sizes), gib(v), names[key].color),
              ),
            ),
        ),
      );
    }
    drawMatrix(all, n, usable);
  }

  /** Every model at every width, at the chosen context: choose by clicking. */
  function drawMatrix(all, n, usable) {
    const focused = document.activeElement?.closest?.("td.g4-cell")
      ? document.activeElement.dataset.at
      : null;
    const rows = meta.models.map(([name, repo], i) =>
      h(
        "tr",
        {},
        h("th", { scope: "row", title: repo }, name),
        ...meta.bits.map((b) => {
          const sizes = all[i].plans[String(b)][String(n.context)];
          if (!sizes)
            return h("td", { class: "g4-cell" }, h("span", { class: "g4-note" }, "too long"));
          const [lends, whole] =
            n.memory === null
              ? [meta.here.lends, meta.here.memory]
              : ["macOS lets a model use", n.memory * GIB];
          const total = sizes.reduce((a, c) => a + c, 0),
            fits = total <= usable,
            on = name === n.model && b === n.bits;
          return h(
            "td",
            { class: "g4-cell" },
            h(
              "button",
              {
                type: "button",
                dataset: { fits: String(fits), at: `${name} ${b}` },
                "aria-pressed": String(on),
                "aria-label": `${name}, ${b} bits: ${gib(total)}, ${fits ? "fits" : "does not fit"}`,
                onclick: () => setTraits(model, { model: name, bits: b }),
              },
              `${fits ? "✓ " : ""}${gib(total)}`,
            ),
          );
        }),
        h("td", { class: "g4-number" }, longest(all[i], n)),
      ),
    );
    matrix.replaceChildren(
      table(
        `Every model at ${formatCount(n.context)} tokens`,
        ["Model", ...meta.bits.map((b) => `${b} bit`), "#Longest context"],
        rows,
      ),
    );
    if (focused) matrix.querySelector(`[data-at="${focused}"]`)?.focus();
  }
  const longest = (plans, n) => {
    const most = plans.most[String(n.bits)]?.[String(n.memory)] ?? 0;
    return most ? `${formatCount(most)} at ${n.bits} bit` : `none at ${n.bits} bit`;
  };

  root.append(
    headline("What fits?", [], [exportPicker(model, "fit", show)]),
    problem,
    h(
      "section",
      { class: "g4-panel g4-section", "aria-label": "Choices" },
      h(
        "div",
        { class: "g4-choices" },
        choice("Machine", memory),
        choice("Model", which.node),
        choice("Weights, bits", bits.node),
        choice("Cache, bits", kv.node),
        choice("Context", slider, sliderText),
      ),
      verdict,
      bar,
    ),
    h(
      "div",
      { class: "g4-columns" },
      h(
        "section",
        { class: "g4-panel g4-section", "aria-label": "Parts" },
        h("h4", { class: "g4-subtitle" }, "Where the bytes go"),
        partTable,
      ),
      h(
        "section",
        { class: "g4-panel g4-section", "aria-label": "All models" },
        h("h4", { class: "g4-subtitle" }, "Every model at this context"),
        matrix,
        h(
          "p",
          { class: "g4-note" },
          "Weights and cache are counted tensor by tensor; activations are an upper bound for reading a prompt. Nothing is downloaded.",
        ),
      ),
    ),
  );
  watch(model, ["memory", "model", "bits", "context", "kv_bits"], draw, signal);
  return view.cleanup;
}

export default { render };
