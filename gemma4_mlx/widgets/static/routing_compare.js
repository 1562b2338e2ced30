/* Two traces, layer by layer: how far apart their routing is, and whether chance explains it. */

import { h } from "./dom.js";
import { patient } from "./kernel.js";
import { barCell, table } from "./pieces.js";

const TITLE = "A against B, layer by layer";

export class TraceComparison {
  node = h("section", {
    class: "g4-panel g4-section",
    "aria-label": "Comparison",
    hidden: true,
  });
  #done = false;

  /** @param {RoutingScene} scene */
  constructor(scene) {
    this.scene = scene;
  }

  async load() {
    if (this.#done) return;
    const bar = h("progress", { max: 1, value: 0, "aria-label": "Comparing" });
    this.#show("Relabelling blocks of tokens 499 times… ", bar);
    const ask = patient((type, args) => this.scene.ask(type, args));
    const tell = (share) => {
      bar.value = share;
    };
    try {
      const { content } = await ask("compare", {}, tell);
      this.#done = true;
      this.#show(content.note);
      this.node.append(h("div", { class: "g4-tall" }, layerTable(content.layers)));
    } catch (error) {
      this.scene.onError(error);
    }
  }

  #show(...words) {
    const title = h("h4", { class: "g4-subtitle" }, TITLE);
    this.node.replaceChildren(title, h("p", { class: "g4-note" }, ...words));
  }
}

function layerTable(layers) {
  const points = (share) => `${share > 0 ? "+" : ""}${(100 * share).toFixed(1)}`;
  const rows = layers.map(({ layer, distance, p, experts }) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, `L${layer}`),
      barCell(distance, distance.toFixed(3)),
      h("td", { class: "g4-number" }, p.toFixed(3)),
      h("td", {}, experts.map(([expert, share]) => `${expert} (${points(share)})`).join(", ")),
    ),
  );
  const heads = ["Layer", "#Difference (0 to 1)", "#p", "Experts that differ most"];
  return table("Difference of routing", heads, rows);
}
