/* The chosen expert's card, asked for whenever another is chosen. */

import { atlasCard, picturesOf } from "./atlascard.js";
import { h } from "./dom.js";
import { expertCard } from "./expertcard.js";
import { floats } from "./pieces.js";

export class ChosenExpert {
  node = h("div", {});
  #scales = null; // what the model multiplies every expert's share with; [] where it has none

  /**
   * @param {RoutingScene} scene
   * @param {{ onToken: (token: number) => void, onPick: (cell: number) => void }} o
   */
  constructor(scene, { onToken, onPick }) {
    Object.assign(this, { scene, onToken, onPick });
    this.pictures = picturesOf((type, args) => scene.ask(type, args));
  }

  /** Ask for the learned scales, once. */
  async loadScales(which) {
    if (this.#scales) return;
    const { buffer } = await this.scene.ask("scale", { which });
    this.#scales = buffer?.byteLength ? floats(buffer) : [];
  }

  async load() {
    const { scene } = this;
    const { layer, expert } = scene.now;
    if (!scene.table || expert === null) {
      const where = "choose one of its experts in the map, or in the row below it.";
      this.#say(scene.table ? `Layer ${layer}: ${where}` : "");
      return;
    }
    try {
      const answer = await this.#ask("expert", { layer, expert, which: scene.side });
      const inAtlas = scene.atlas?.table ? await this.#ask("card", { layer, expert }) : null;
      if (!answer || layer !== scene.now.layer || expert !== scene.now.expert) return;
      const cards = [this.#card(answer.content, layer)];
      if (inAtlas) cards.push(this.#atlasCard(inAtlas.content, layer));
      this.node.replaceChildren(...cards);
    } catch (error) {
      this.#say(error.message.replace(/^\w+Error: /, ""), "status");
    }
  }

  /** What Python says of it; null as content where a page without a kernel lacks it. */
  #ask(type, args) {
    const { scene } = this;
    if (!scene.holds({ type, ...args })) return { content: null };
    return scene.ask(type, args, { slot: type });
  }

  /** What the atlas knows of it. */
  #atlasCard(about, layer) {
    const { cell, layers, ink, atlas } = this.scene;
    return atlasCard(about, {
      table: atlas.table,
      cell,
      layer,
      layers,
      ink,
      picture: this.pictures,
      title: `In the atlas: ${atlas.words(cell) || "for no label"}`,
      onExpert: (there, expert) => this.onPick(this.scene.cellOf(this.scene.rowOf(there), expert)),
    });
  }

  #card(about, layer) {
    const { scene } = this;
    const { cell, table, ink, length } = scene;
    return expertCard(table, cell, about, {
      layer,
      ink,
      scale: this.#scales?.length ? this.#scales[cell] : null,
      count: length,
      onToken: this.onToken,
      onExpert: (other) => this.onPick(scene.cellOf(scene.rowOf(layer), other)),
    });
  }

  #say(words, role) {
    this.node.replaceChildren(h("p", { class: "g4-note", role }, words));
  }
}
