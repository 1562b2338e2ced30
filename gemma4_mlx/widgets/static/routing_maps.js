/* The Routing view's maps: the experts', and beside them the path of the selected token. */

import { h } from "./dom.js";
import { ExpertMaps } from "./expertmaps.js";
import { expertStrip } from "./expertstrip.js";
import { expertFacts } from "./routing_facts.js";
import { formatCount } from "./words.js";

const MEANING = {
  purpose: () => "",
  load: () => "load (share of the tokens) over the even load",
  difference: () => "load in B minus load in A, percentage points of the tokens",
  lift: (group) => `lift: load among “${group}” over load among all`,
};

export class RoutingMaps extends ExpertMaps {
  stripTitle = h("div", { class: "g4-striptitle" });
  stretchNote = h("p", { class: "g4-note", role: "status", hidden: true });

  /**
   * @param {RoutingScene} scene
   * @param {TokenRoutes} routes
   * @param {object} o
   * @param {(token: number, whenThere: () => void) => string | null} o.nameOf
   * @param {(cell: number) => void} o.onPick an expert
   * @param {(group: number) => void} o.onGroup a key of the colours
   */
  constructor(scene, routes, { nameOf, ...o }) {
    super(scene, o);
    Object.assign(this, { routes, nameOf });
    const { rowHeight, top } = this.map;
    this.strip = expertStrip({ ...this.shared, rowHeight, top });
  }

  meaning() {
    const { now, table } = this.scene;
    const words = MEANING[now.view](table.groups[now.group].name);
    return table.where && words ? `${words}, in ${table.where}` : words;
  }

  route(row) {
    const { now } = this.scene;
    return now.which === "b-a" ? null : this.routes.of(now.token, row);
  }

  facts(cell) {
    const { scene } = this;
    const { table, now, difference } = scene;
    const { row, expert } = scene.placeOf(cell);
    const share = this.routes.of(now.token, row)?.find(([other]) => other === expert)?.[1];
    const points = now.view === "difference" ? difference[cell] : null;
    const named = now.by === "label" ? "" : scene.atlas?.words(cell);
    const said = expertFacts(table, cell, points, share);
    return named ? `${said} · atlas: ${named}` : said;
  }

  rowNotes() {
    const parts = super.rowNotes();
    if (this.scene.table?.where) parts[0] += `, in ${this.scene.table.where}`;
    if (this.scene.now.token !== null)
      parts.splice(
        1,
        0,
        "underlined: experts of the selected token, as far as their share of the gate",
      );
    return parts;
  }

  drawAll() {
    super.drawAll();
    this.strip.draw();
    this.#sayStretch();
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
}
