/* The map of all experts with what stands around it: the chosen layer close up, the line that says
 * what is pointed at, and what the colours mean. */

import { h } from "./dom.js";
import { drawScale, groupKeys } from "./expertcolours.js";
import { ExpertMap } from "./expertmap.js";
import { ExpertRow } from "./expertrow.js";
import { expertFacts } from "./routing_facts.js";
import { formatPercent } from "./words.js";

export class ExpertMaps {
  keys = h("div", { class: "g4-groupkeys", role: "group", "aria-label": "What the colours mean" });
  readout = h("p", { class: "g4-readout", "aria-hidden": "true" });
  rowTitle = h("h4", { class: "g4-subtitle" });
  #legend = h("canvas", {
    class: "g4-legend",
    role: "img",
    "aria-label": "Colour scale of the map",
  });
  #more = { shown: false }; // the keys of small groups

  /**
   * @param {any} scene  layers, experts, k, table, scheme, now, ink, row, cell, order, passes,
   *   recolour
   * @param {object} o
   * @param {(cell: number) => void} o.onPick an expert
   * @param {(group: number) => void} o.onGroup a key of the colours
   */
  constructor(scene, { onPick, onGroup }) {
    Object.assign(this, { scene, onGroup });
    this.drawOver = () => this.drawAll();
    this.shared = this.#sharedWith(onPick);
    this.map = new ExpertMap(this.shared);
    this.row = new ExpertRow(this.shared);
  }

  /** What the colours mean, in words; "purpose" says it with its keys. */
  meaning() {
    return "";
  }

  /** The selected token's experts in a row of the map with their shares, or null. */
  route(_row) {
    return null;
  }

  /** What is said of an expert. */
  facts(cell) {
    return expertFacts(this.scene.table, cell, null, undefined);
  }

  /** Notes beside the title of the chosen layer. */
  rowNotes() {
    const { table, row, k, experts } = this.scene;
    const unused = table ? table.unusedIn(row) : 0;
    const even = formatPercent(k / experts);
    const parts = [`bars: load over even load (${even} of the tokens), from ⅛ to 8 times`];
    if (unused) parts.push(`${unused} of ${experts} never used`);
    return parts;
  }

  /** Css pixels of the map. */
  get height() {
    return this.map.top + this.scene.layers.length * this.map.rowHeight + 1;
  }

  /** After other numbers, another view or another theme. */
  recolour() {
    const { scene } = this;
    const { now, table, ink } = scene;
    scene.recolour();
    const keys = now.view === "purpose" ? groupKeys(table, ink, this.onGroup, this.#more) : [];
    this.keys.replaceChildren(...keys, this.#legend);
    drawScale(this.#legend, scene.scheme, ink, this.meaning());
    this.map.redraw();
  }

  /** After another order or filter. */
  redraw() {
    this.map.redraw();
    this.row.draw();
  }

  drawTitle() {
    this.rowTitle.replaceChildren(
      `Layer ${this.scene.now.layer}`,
      h("span", { class: "g4-note" }, this.rowNotes().join("; ")),
    );
  }

  /** What follows the pointer and what is chosen. */
  drawAll() {
    const { now, table, cell } = this.scene;
    this.map.draw();
    this.row.draw();
    const at = now.hover ?? cell;
    const hint = table ? `Layer ${now.layer}: point at an expert` : "";
    this.readout.textContent = table && at !== null ? this.describe(at) : hint;
  }

  describe(cell) {
    const { layer, expert } = this.scene.placeOf(cell);
    return `Layer ${layer}, expert ${expert}: ${this.facts(cell)}`;
  }

  /** What the map and the row are made with. */
  #sharedWith(onPick) {
    const { scene } = this;
    const { view, layers, k } = scene;
    return {
      layers,
      k,
      onPick,
      signal: view.signal,
      say: view.announce,
      table: () => scene.table,
      scheme: () => scene.scheme,
      ink: () => scene.ink,
      order: (row) => scene.order(row),
      shown: (cell) => scene.passes(cell),
      name: (cell) => this.describe(cell),
      chosen: () => ({ row: scene.row, expert: scene.now.expert, hover: scene.now.hover }),
      route: (row) => this.route(row),
      onHover: (cell) => {
        if (cell === scene.now.hover) return;
        scene.now.hover = cell;
        this.drawOver();
      },
    };
  }
}
