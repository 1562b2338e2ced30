/* The map of all experts with what stands around it: the path of the selected token, the chosen
 * layer close up, the line that says what is pointed at, and what the colours mean. */

import { h } from "./dom.js";
import { drawScale, groupKeys } from "./expertcolours.js";
import { ExpertMap } from "./expertmap.js";
import { ExpertRow } from "./expertrow.js";
import { expertStrip } from "./expertstrip.js";
import { expertFacts } from "./routing_facts.js";
import { formatCount, formatPercent } from "./words.js";

/** What the colours of a view mean; "purpose" says it with its keys. */
const MEANING = {
  purpose: () => "",
  load: () => "load (share of the tokens) over the even load",
  difference: () => "load in B minus load in A, percentage points of the tokens",
  lift: (group) => `lift: load among “${group}” over load among all`,
};

export class ExpertMaps {
  keys = h("div", { class: "g4-groupkeys", role: "group", "aria-label": "What the colours mean" });
  readout = h("p", { class: "g4-readout", "aria-hidden": "true" });
  rowTitle = h("h4", { class: "g4-subtitle" });
  stripTitle = h("div", { class: "g4-striptitle" });
  stretchNote = h("p", { class: "g4-note", role: "status", hidden: true });
  #legend = h("canvas", {
    class: "g4-legend",
    role: "img",
    "aria-label": "Colour scale of the map",
  });
  #more = { shown: false }; // the keys of small groups

  /**
   * @param {RoutingScene} scene
   * @param {TokenRoutes} routes
   * @param {object} o
   * @param {(token: number, whenThere: () => void) => string | null} o.nameOf
   * @param {(cell: number) => void} o.onPick an expert
   * @param {(group: number) => void} o.onGroup a key of the colours
   */
  constructor(scene, routes, { nameOf, onPick, onGroup }) {
    Object.assign(this, { scene, routes, nameOf, onGroup });
    const shared = this.#sharedWith(onPick);
    this.map = new ExpertMap(shared);
    this.row = new ExpertRow(shared);
    const { rowHeight, top } = this.map;
    this.strip = expertStrip({ ...shared, rowHeight, top });
    this.drawOver = () => this.#drawOver();
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
    drawScale(this.#legend, scene.scheme, ink, MEANING[now.view](table.groups[now.group].name));
    this.map.redraw();
  }

  /** After another order or filter. */
  redraw() {
    this.map.redraw();
    this.row.draw();
  }

  drawTitle() {
    const { now, table, row, k, experts } = this.scene;
    const unused = table ? table.unusedIn(row) : 0;
    const even = formatPercent(k / experts);
    const parts = [`bars: load over even load (${even} of the tokens), from ⅛ to 8 times`];
    if (now.token !== null)
      parts.push("underlined: experts of the selected token, as far as their share of the gate");
    if (unused) parts.push(`${unused} of ${experts} never used`);
    this.rowTitle.replaceChildren(
      `Layer ${now.layer}`,
      h("span", { class: "g4-note" }, parts.join("; ")),
    );
  }

  /** What follows the pointer and the selected token. */
  #drawOver() {
    const { scene } = this;
    const { now, table } = scene;
    this.map.draw();
    this.strip.draw();
    this.row.draw();
    this.#sayStretch();
    const at = now.hover ?? scene.cell;
    const hint = table ? `Layer ${now.layer}: point at an expert` : "";
    this.readout.textContent = table && at !== null ? this.#describe(at) : hint;
    this.stripTitle.replaceChildren(...this.#tokenTitle());
  }

  #tokenTitle() {
    const { token } = this.scene.now;
    if (token === null) return ["Click a token: its experts"];
    const name = this.nameOf(token, this.drawOver) ?? "";
    return [h("bdi", {}, name), ` ${formatCount(token)}`];
  }

  /** What a page without a kernel says where it has stretches of the text instead of tokens. */
  #sayStretch() {
    const { now, row } = this.scene;
    const lacks = now.token !== null && this.routes.lacks(now.token);
    const found = lacks ? this.routes.stretch(now.token, row) : null;
    this.stretchNote.hidden = !found;
    if (!found) return;
    const tokens = `tokens ${formatCount(found.start)} to ${formatCount(found.stop - 1)}`;
    this.stretchNote.textContent =
      `Of this part of the text the page holds stretches: what ${tokens} have on average. ` +
      "The notebook has every token.";
  }

  #describe(cell) {
    const { scene } = this;
    const { table, now, difference } = scene;
    const { row, layer, expert } = scene.placeOf(cell);
    const route = this.routes.of(now.token, row);
    const share = route?.find(([other]) => other === expert)?.[1];
    const points = now.view === "difference" ? difference[cell] : null;
    return `Layer ${layer}, expert ${expert}: ${expertFacts(table, cell, points, share)}`;
  }

  /** What the map, the row and the strip are made with. */
  #sharedWith(onPick) {
    const { scene, routes } = this;
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
      name: (cell) => this.#describe(cell),
      chosen: () => ({ row: scene.row, expert: scene.now.expert, hover: scene.now.hover }),
      route: (row) => (scene.now.which === "b-a" ? null : routes.of(scene.now.token, row)),
      onHover: (cell) => {
        if (cell === scene.now.hover) return;
        scene.now.hover = cell;
        this.drawOver();
      },
    };
  }
}
