/* What an atlas calls the experts of a trace: its labels, and the strongest of an expert. */

import { labelsOf, withSignificance } from "./atlas_table.js";
import { expertTable, times } from "./experts.js";
import { patient } from "./kernel.js";
import { floats } from "./pieces.js";

const NAMED = 3; // labels of an expert

export class AtlasNames {
  /** @type {any} experts.js table of the labels; null until it is there */
  table = null;
  #asked = null;

  /** @param {RoutingScene} scene */
  constructor(scene) {
    this.scene = scene;
  }

  /** Asks once; the table is there when it is done. */
  load() {
    this.#asked ??= this.#load();
    return this.#asked;
  }

  async #load() {
    const { scene } = this;
    const ask = (type, args) => scene.ask(type, args);
    const groups = expertTable(scene.meta, await ask("groups", { by: "label" }));
    const { buffer } = await patient(ask)("significance", {}, () => {});
    this.table = { ...withSignificance(groups, floats(buffer), true), where: "the atlas" };
  }

  /** An expert's strongest labels: "code 3.1×, law 1.4×"; "" where it has none. */
  words(cell) {
    if (!this.table) return "";
    return labelsOf(this.table, cell)
      .slice(0, NAMED)
      .map(([name, lift]) => `${name} ${times(lift)}`)
      .join(", ");
  }
}
