/* The architecture to scale. Area is parameters or bytes; a click shows formula, code and taps. */

import { cachePanel } from "./anatomy_cache.js";
import { PartDetail } from "./anatomy_detail.js";
import { AnatomyPlan } from "./anatomy_plan.js";
import { activeParameters, PART_COLORS, shortCount, totalOf } from "./anatomy_words.js";
import { h } from "./dom.js";
import { mount } from "./frame.js";
import { setTraits, watch } from "./kernel.js";
import { chip, exportPicker, headline, problemNote, segmented, table } from "./pieces.js";
import { formatBytes, formatPercent } from "./words.js";

function render({ model, el }) {
  const view = mount(model, el, "anatomy");
  view.root.classList.add("g4-view");
  new AnatomyView(model, view).start();
  return view.cleanup;
}

class AnatomyView {
  #unit = "params"; // what area shows, or "bytes"
  #totals = h("div", {});

  constructor(model, view) {
    Object.assign(this, { model, view, meta: model.get("meta") });
    this.plan = new AnatomyPlan({
      meta: this.meta,
      chosen: () => model.get("chosen"),
      onPick: (chosen) => setTraits(model, { chosen }),
      amount: (value) => this.#amount(value),
      say: view.announce,
      signal: view.signal,
    });
    this.detail = new PartDetail(model, this.meta, totalOf(this.meta, "params"), view.signal);
  }

  start() {
    const { problem, show } = problemNote();
    const section = (label, ...children) =>
      h("section", { class: "g4-panel g4-section", "aria-label": label }, ...children);
    const whole = h("h4", { class: "g4-subtitle" }, "Whole model");
    this.view.root.append(
      headline(`Anatomy of ${this.meta.source || "the model"}`, this.#chips(), [
        exportPicker(this.model, "anatomy", show),
      ]),
      problem,
      section("Plan of the model", this.#tools(), this.plan.node, this.#keys()),
      h(
        "div",
        { class: "g4-columns" },
        section("Chosen part", this.detail.title, this.detail.node),
        h("div", {}, section("Whole model", whole, this.#totals), cachePanel(this.meta)),
      ),
    );
    this.#drawTotals();
    const chosen = () => {
      this.#drawPlan();
      this.detail.load(this.model.get("chosen"));
    };
    watch(this.model, ["chosen"], chosen, this.view.signal);
  }

  /** The kinds of parts that the model has. */
  get #used() {
    const there = new Set(this.meta.blocks.flatMap(({ parts }) => parts.map(({ part }) => part)));
    return Object.keys(this.meta.names).filter((part) => there.has(part));
  }

  #amount(value) {
    return this.#unit === "params" ? shortCount(value) : formatBytes(value);
  }

  #chips() {
    const { layers, types } = this.meta;
    const whole = totalOf(this.meta, "params");
    const active = activeParameters(this.meta);
    const sliding = layers.filter(({ kind }) => kind === "sliding").length;
    const shared = layers.filter(({ donor }) => donor !== null).length;
    const kinds = `${layers.length} layers: ${sliding} sliding, ${layers.length - sliding} full`;
    const chips = [chip(`${shortCount(whole)} parameters`)];
    if (active < whole) chips.push(chip(`${shortCount(active)} used per text token`));
    chips.push(chip(`${formatBytes(totalOf(this.meta, "bytes"))} as ${types.join(", ")}`));
    chips.push(chip(shared ? `${kinds}, ${shared} share KV` : kinds));
    return chips;
  }

  #tools() {
    const choices = [
      ["params", "parameters"],
      ["bytes", "bytes in memory"],
    ];
    const units = segmented("Area shows", choices, "params", (value) => {
      this.#unit = value;
      this.#drawPlan();
      this.#drawTotals();
    });
    const hint = "Data flows from left to right. Click a part.";
    return h("div", { class: "g4-toolbar" }, units.node, h("span", { class: "g4-note" }, hint));
  }

  #keys() {
    const swatch = h("i", { class: "g4-swatch", style: { background: "var(--g4-accent)" } });
    return h(
      "div",
      { class: "g4-keys" },
      ...this.#used.map((part) => this.#key(part)),
      h("span", { class: "g4-key" }, swatch, "full attention below the block"),
    );
  }

  #key(part) {
    const swatch = h("i", { class: "g4-swatch", style: { background: PART_COLORS[part] } });
    return h("span", { class: "g4-key" }, swatch, this.meta.names[part]);
  }

  #drawPlan() {
    this.plan.draw(this.#unit, totalOf(this.meta, this.#unit));
  }

  #drawTotals() {
    const whole = totalOf(this.meta, this.#unit);
    const byPart = new Map(this.#used.map((part) => [part, 0]));
    for (const part of this.meta.blocks.flatMap((block) => block.parts))
      byPart.set(part.part, byPart.get(part.part) + part[this.#unit]);
    const rows = [...byPart]
      .sort((a, b) => b[1] - a[1])
      .map(([part, size]) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, this.#key(part)),
          h("td", { class: "g4-number" }, this.#amount(size)),
          h("td", { class: "g4-number" }, formatPercent(size / whole)),
        ),
      );
    const unit = this.#unit === "params" ? "Parameters" : "Bytes";
    const caption = `Whole model by part, in ${unit.toLowerCase()}`;
    this.#totals.replaceChildren(table(caption, ["Part", `#${unit}`, "#Share"], rows));
  }
}

export default { render };
