/* One part of one block: its sizes, formula, taps, code and tensors. */

import { attentionWords } from "./anatomy_words.js";
import { h } from "./dom.js";
import { request } from "./kernel.js";
import { chip, fold, table } from "./pieces.js";
import { formatBytes, formatCount, formatPercent } from "./words.js";

export class PartDetail {
  title = h("h4", { class: "g4-subtitle" });
  node = h("div", {});
  #shown = ""; // the part that was asked for last

  /** @param {Model} model @param {any} meta @param {number} whole parameters of the model
   * @param {AbortSignal} signal */
  constructor(model, meta, whole, signal) {
    Object.assign(this, { model, meta, whole, signal });
  }

  async load(chosen) {
    const block = this.meta.blocks.find(({ id }) => id === chosen.block);
    if (!block) return;
    const part = block.parts.find((each) => each.part === chosen.part) ?? block.parts[0];
    const wanted = `${block.id} ${part.part}`;
    this.#shown = wanted;
    const layer = block.layer === null ? "" : ` of layer ${block.layer}`;
    this.title.replaceChildren(`${this.meta.names[part.part]}${layer}`);
    try {
      const asked = { block: block.id, part: part.part };
      const options = { signal: this.signal, slot: "part" };
      const answer = await request(this.model, "part", asked, options);
      if (answer && this.#shown === wanted) this.#show(block, part, answer.content);
    } catch (error) {
      const note = h("p", { class: "g4-note" }, error.message);
      if (this.#shown === wanted) this.node.replaceChildren(note);
    }
  }

  #show(block, part, { formula, taps, code, tensors, more }) {
    this.node.replaceChildren(
      h("div", { class: "g4-facts2" }, ...this.#chips(block, part)),
      h(
        "pre",
        { class: "g4-formula", tabindex: 0, "aria-label": "Formula" },
        ...formula.split(/(\s+)/).map((word) => (word.trim() ? h("span", {}, word) : word)),
      ),
      taps.length
        ? tapTable(taps)
        : h("p", { class: "g4-note" }, "Nothing is tapped inside this part."),
      h("h5", { class: "g4-subtitle" }, "Code"),
      ...code.flatMap(({ file, line, name, source }) => [
        h("div", { class: "g4-file" }, `${file}:${line}  ${name}`),
        h("pre", { class: "g4-code", tabindex: 0, "aria-label": `Source of ${name}` }, source),
      ]),
      fold(
        `${tensors.length + more} tensors`,
        h(
          "div",
          { class: "g4-tensors", tabindex: 0, role: "region", "aria-label": "Tensors" },
          tensorTable(tensors),
          more ? h("p", { class: "g4-note" }, `and ${more} more`) : "",
        ),
      ),
    );
  }

  #chips(block, part) {
    const share = formatPercent(part.params / this.whole);
    const own = block.layer === null ? [] : this.#layerChips(block.layer, part.part);
    return [
      chip(`${formatCount(part.params)} parameters`),
      chip(`${formatBytes(part.bytes)} as ${part.types.join(", ")}`),
      chip(`${share} of the model`),
      ...own,
    ];
  }

  #layerChips(layer, part) {
    const { k, experts, layers } = this.meta;
    const fact = layers[layer];
    if (part === "attention") return attentionChips(fact);
    if (part === "mlp") return [chip(`width ${formatCount(fact.mlp_width)}`)];
    if (part !== "experts" && part !== "router") return [];
    const chosen = chip(`${k} of ${experts} experts per token`);
    if (part === "router") return [chosen];
    return [chosen, chip(`${formatPercent(k / experts)} active per token`)];
  }
}

function attentionChips(fact) {
  const { kind, heads, kv_heads: kvHeads, head_dim: size, donor } = fact;
  const chips = [
    chip(attentionWords(fact), kind === "full" ? "g4-is-good" : ""),
    chip(`${heads} heads, ${kvHeads} KV, size ${size}`),
  ];
  if (donor !== null) chips.push(chip(`keys and values of layer ${donor}`, "g4-is-warn"));
  if (fact.k_eq_v) chips.push(chip("values = keys before norm and rope"));
  return chips;
}

function tapTable(taps) {
  const rows = taps.map(([name, text]) =>
    h("tr", {}, h("th", { scope: "row" }, h("code", {}, name)), h("td", {}, text)),
  );
  return table("Taps: what model.observe shows here", ["Tap", "Shape and meaning"], rows);
}

function tensorTable(tensors) {
  const short = (name) => name.replace(/^language_model\.model\./, "…");
  const rows = tensors.map(([name, shape, type, , bytes]) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, h("code", {}, short(name))),
      h("td", {}, shape),
      h("td", {}, type),
      h("td", { class: "g4-number" }, formatBytes(bytes)),
    ),
  );
  return table("Tensors of this part", ["Name", "Shape", "Type", "#Bytes"], rows);
}
