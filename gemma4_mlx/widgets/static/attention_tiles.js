/* The tiles of the chosen head: from the model, or from what a page without a kernel holds. */

import { decoded, pictureTile, splitTiles } from "./attention_values.js";
import { TILE } from "./map_pyramid.js";
import { floats } from "./pieces.js";

export class HeadTiles {
  /**
   * @param {AttentionScene} scene
   * @param {() => void} onSmall a small picture stands for a tile
   */
  constructor(scene, onSmall) {
    Object.assign(this, { scene, onSmall });
  }

  /** As TileStore's `load`. */
  async load(tiles, signal) {
    const { scene } = this;
    if (scene.isStatic) return Promise.all(tiles.map((tile) => this.#recorded(tile)));
    const { layer, head, stat } = scene.now;
    const args = { layer, head, stat, tiles };
    const answer = await scene.ask("tiles", args, { signal, slot: "tiles" });
    if (!answer) return []; // a newer request came before this one was begun
    return splitTiles(answer.content, floats(answer.buffer));
  }

  /** Whether maxima are to be had; a page without a kernel has them of one head at most. */
  get holdsMaxima() {
    const { isStatic, model, meta, now } = this.scene;
    if (!isStatic) return true;
    const { layer, head } = now;
    const level = Math.max(0, Math.ceil(Math.log2(meta.n / TILE)));
    const top = { layer, head, stat: "max", level, row: 0, column: 0, bits: 8 };
    return model.recorded({ type: "tile", ...top });
  }

  /** A tile that the page holds, or the finest one above it, or the head's small picture. */
  async #recorded([level, row, column]) {
    const { scene } = this;
    const { layer, head, stat } = scene.now;
    for (let up = 0; ; up++) {
      const place = { level: level + up, row: row >> up, column: column >> up };
      try {
        const args = { layer, head, stat, ...place, bits: 8 };
        const { content, buffer } = await scene.ask("tile", args);
        return { ...content, values: decoded(content, buffer), level, row, column };
      } catch {
        if (TILE * 2 ** place.level >= scene.meta.n) break;
      }
    }
    this.onSmall();
    const picture = await scene.pictures.values(scene.now);
    return { ...pictureTile(picture, scene.meta.n), level, row, column };
  }
}
