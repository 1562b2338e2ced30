/* Memory, model, bits, context: what fits, and where the bytes go. The plans come from Python.
   A memory of null is this machine as it is, any other a Mac with so many GiB. */

import { h } from "./dom.js";
import { FitBar, GIB, gib } from "./fit_bar.js";
import { mount } from "./frame.js";
import { request, setTraits, watch } from "./kernel.js";
import { barCell, exportPicker, headline, problemNote, segmented, table } from "./pieces.js";
import { formatCount } from "./words.js";

const TRAITS = ["memory", "model", "bits", "context", "kv_bits"];
const EXPLAINED =
  "Weights and cache are counted tensor by tensor; activations are an upper bound for reading a " +
  "prompt. Nothing is downloaded.";

const sum = (sizes) => sizes.reduce((a, b) => a + b, 0);

function render({ model, el }) {
  const view = mount(model, el, "fit");
  view.root.classList.add("g4-view");
  new FitView(model, view).start();
  return view.cleanup;
}

class FitView {
  #plans = new Map(); // `${model} ${kv} ${here}` -> answer
  #verdict = h("div", { class: "g4-verdict", role: "status" });
  #bar = new FitBar();
  #partTable = h("div", {});
  #matrix = h("div", { class: "g4-scroll" });
  #contextText = h("output", {});

  constructor(model, view) {
    Object.assign(this, { model, view, meta: model.get("meta"), note: problemNote() });
    const { models, bits, kv_bits: kvBits } = this.meta;
    const width = (b) => [String(b), b === 16 ? "16 (plain)" : String(b)];
    const choose = (label, choices, trait, read = String) =>
      segmented(label, choices, String(model.get(trait)), (value) =>
        setTraits(model, { [trait]: read(value) }),
      );
    const names = models.map(([name, repo]) => [name, name, repo]);
    this.which = choose("Model", names, "model");
    this.bits = choose("Bits of the weights", bits.map(width), "bits", Number);
    this.kv = choose("Bits of the cache", kvBits.map(width), "kv_bits", Number);
    this.memory = this.#makeMemory();
    this.context = this.#makeContext();
  }

  start() {
    const section = (label, ...children) =>
      h("section", { class: "g4-panel g4-section", "aria-label": label }, ...children);
    const title = (text) => h("h4", { class: "g4-subtitle" }, text);
    this.view.root.append(
      headline("What fits?", [], [exportPicker(this.model, "fit", this.note.show)]),
      this.note.problem,
      section("Choices", this.#choices(), this.#verdict, this.#bar.node),
      h(
        "div",
        { class: "g4-columns" },
        section("Parts", title("Where the bytes go"), this.#partTable),
        section(
          "All models",
          title("Every model at this context"),
          this.#matrix,
          h("p", { class: "g4-note" }, EXPLAINED),
        ),
      ),
    );
    watch(this.model, TRAITS, () => this.#draw(), this.view.signal);
  }

  // ---- choices ---------------------------------------------------------------------------------

  #makeMemory() {
    const { here, memories } = this.meta;
    const select = h(
      "select",
      { "aria-label": "Machine" },
      h("option", { value: "null" }, here.name),
      ...memories.map((m) => h("option", { value: String(m) }, `a Mac, ${m} GiB`)),
    );
    const changed = () => setTraits(this.model, { memory: JSON.parse(select.value) });
    select.addEventListener("change", changed, { signal: this.view.signal });
    return select;
  }

  #makeContext() {
    const { contexts } = this.meta;
    const slider = h("input", {
      type: "range",
      min: 0,
      max: contexts.length - 1,
      step: 1,
      "aria-label": "Tokens of context",
    });
    const changed = () => setTraits(this.model, { context: contexts[Number(slider.value)] });
    slider.addEventListener("input", changed, { signal: this.view.signal });
    return slider;
  }

  #choices() {
    const choice = (label, ...nodes) =>
      h("div", { class: "g4-choice" }, h("span", {}, label), ...nodes);
    return h(
      "div",
      { class: "g4-choices" },
      choice("Machine", this.memory),
      choice("Model", this.which.node),
      choice("Weights, bits", this.bits.node),
      choice("Cache, bits", this.kv.node),
      choice("Context", this.context, this.#contextText),
    );
  }

  /** What is chosen. */
  #now() {
    const { model } = this;
    return {
      memory: model.get("memory"),
      model: model.get("model"),
      bits: model.get("bits"),
      context: model.get("context"),
      kv: model.get("kv_bits"),
    };
  }

  #showChoices(now) {
    this.memory.value = String(now.memory);
    this.which.set(now.model);
    this.bits.set(String(now.bits));
    this.kv.set(String(now.kv));
    this.context.value = String(Math.max(0, this.meta.contexts.indexOf(now.context)));
    this.#contextText.textContent = `${formatCount(now.context)} tokens`;
  }

  // ---- what fits -------------------------------------------------------------------------------

  #plansOf(name, { kv, memory }) {
    const here = memory === null;
    const key = `${name} ${kv} ${here}`;
    if (!this.#plans.has(key)) {
      const asked = { model: name, kv_bits: kv, here };
      const answer = request(this.model, "plans", asked, { signal: this.view.signal });
      this.#plans.set(
        key,
        answer.then(({ content }) => content),
      );
    }
    return this.#plans.get(key);
  }

  async #draw() {
    const now = this.#now();
    this.#showChoices(now);
    let mine;
    let all;
    try {
      mine = await this.#plansOf(now.model, now);
      all = await Promise.all(this.meta.models.map(([name]) => this.#plansOf(name, now)));
    } catch (error) {
      this.note.show(error);
      return;
    }
    if (JSON.stringify(now) !== JSON.stringify(this.#now())) return; // changed meanwhile
    const sizes = mine.plans[String(now.bits)]?.[String(now.context)];
    const usable = mine.usable[String(now.memory)];
    if (sizes) this.#showPlan(mine, sizes, now, usable);
    else this.#showTooLong(now.model, mine.longest);
    this.#drawMatrix(all, now, usable);
  }

  #showTooLong(name, longest) {
    const most = `${name} takes at most ${formatCount(longest)} tokens.`;
    this.#verdict.replaceChildren(h("strong", {}, "Too long"), most);
    this.#bar.clear();
    this.#partTable.replaceChildren();
  }

  #showPlan(plans, sizes, now, usable) {
    const { here, parts } = this.meta;
    const lends = now.memory === null ? here.lends : "macOS lets a model use";
    const memory = now.memory === null ? here.memory : now.memory * GIB;
    const total = sum(sizes);
    const spare = usable - total;
    const fits = spare >= 0;
    const most = plans.most[String(now.bits)]?.[String(now.memory)] ?? 0;
    this.#verdict.replaceChildren(
      h(
        "span",
        { class: `g4-chip ${fits ? "g4-is-good" : "g4-is-bad"}` },
        fits ? "fits" : "does not fit",
      ),
      h("strong", {}, gib(total)),
      h(
        "span",
        {},
        fits
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
    const there = parts
      .map(([, name, color], i) => ({ name, color, size: sizes[i] }))
      .filter(({ size }) => size);
    this.#bar.draw(there, { usable, total, memory });
    this.#partTable.replaceChildren(partTable(there));
  }

  /** Every model at every width, at the chosen context: choose by clicking. */
  #drawMatrix(all, now, usable) {
    const { activeElement } = document;
    const focused = activeElement?.closest?.("td.g4-cell") ? activeElement.dataset.at : null;
    const { models, bits } = this.meta;
    const rows = models.map(([name, repo], i) =>
      h(
        "tr",
        {},
        h("th", { scope: "row", title: repo }, name),
        ...bits.map((b) => this.#matrixCell(name, b, all[i].plans[String(b)], now, usable)),
        h("td", { class: "g4-number" }, longestAt(all[i], now)),
      ),
    );
    const heads = ["Model", ...bits.map((b) => `${b} bit`), "#Longest context"];
    const caption = `Every model at ${formatCount(now.context)} tokens`;
    this.#matrix.replaceChildren(table(caption, heads, rows));
    if (focused) this.#matrix.querySelector(`[data-at="${focused}"]`)?.focus();
  }

  #matrixCell(name, bits, plans, now, usable) {
    const sizes = plans[String(now.context)];
    if (!sizes) return h("td", { class: "g4-cell" }, h("span", { class: "g4-note" }, "too long"));
    const total = sum(sizes);
    const fits = total <= usable;
    const words = fits ? "fits" : "does not fit";
    const props = {
      type: "button",
      dataset: { fits: String(fits), at: `${name} ${bits}` },
      "aria-pressed": String(name === now.model && bits === now.bits),
      "aria-label": `${name}, ${bits} bits: ${gib(total)}, ${words}`,
      onclick: () => setTraits(this.model, { model: name, bits }),
    };
    return h("td", { class: "g4-cell" }, h("button", props, `${fits ? "✓ " : ""}${gib(total)}`));
  }
}

function longestAt(plans, { bits, memory }) {
  const most = plans.most[String(bits)]?.[String(memory)] ?? 0;
  return most ? `${formatCount(most)} at ${bits} bit` : `none at ${bits} bit`;
}

function partTable(parts) {
  const most = Math.max(...parts.map(({ size }) => size));
  const rows = parts.map(({ name, color, size }) => {
    const swatch = h("i", { class: "g4-swatch", style: { background: color } });
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, swatch, name),
      barCell(size / most, gib(size), color),
    );
  });
  return table("Where the bytes go", ["Part", "#Size"], rows);
}

export default { render };
