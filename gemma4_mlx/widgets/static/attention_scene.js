/* What the parts of the Attention view share: the trace, what is chosen, the colours. */

import { pictureStore } from "./headpictures.js";
import { HeadTable } from "./headscale.js";
import { request } from "./kernel.js";
import { pixelTable } from "./pieces.js";

/** Whether `value` was given and is another. */
const isNew = (value, old) => value !== undefined && value !== null && value !== old;

export class AttentionScene {
  /**
   * @param {Model} model
   * @param {View} view
   * @param {(error: Error) => void} onError
   */
  constructor(model, view, onError) {
    Object.assign(this, { model, view, onError });
    const { layer, head } = this.meta.start;
    /** What is chosen: `mode` is "row" or "column", `stat` "mean" or "max", `scale` "log",
     * "linear" or "rank", `sink`: whether the first token is left out, `axis` "keys" or
     * "offsets". */
    this.now = {
      layer,
      head,
      token: null,
      mode: "row",
      stat: "mean",
      scale: "log",
      sink: false,
      axis: "keys",
    };
    this.ink = view.ink();
    this.pixels = pixelTable("viridis");
    this.heads = new HeadTable(this.meta.layers);
    this.pictures = pictureStore({
      n: this.meta.n,
      ink: () => this.ink,
      palette: () => this.pixels,
      load: (layer) => this.ask("pictures", { layer, side: this.#pictureSide, stat: "mean" }),
    });
  }

  get meta() {
    return this.model.get("meta");
  }

  get isStatic() {
    return this.view.isStatic;
  }

  /** The chosen layer. */
  get layer() {
    return this.layerOf(this.now.layer);
  }

  layerOf(index) {
    return this.meta.layers.find((layer) => layer.index === index);
  }

  ask(type, args = {}, options = {}) {
    return request(this.model, type, args, { signal: this.view.signal, ...options });
  }

  /** Take over another layer or head; false where that changes nothing.
   * @param {{ layer?: number | null, head?: number | null }} selection */
  follow({ layer, head }) {
    const { now } = this;
    const there = this.layerOf(layer ?? now.layer)?.heads;
    if (!there) return false;
    const otherHead = Number.isInteger(head) && head !== now.head && there.includes(head);
    if (!isNew(layer, now.layer) && !otherHead) return false;
    now.layer = layer ?? now.layer;
    const wanted = head ?? now.head;
    now.head = there.includes(wanted) ? wanted : there[0];
    return true;
  }

  /** Whether what a request was made for is still chosen. @returns {() => boolean} */
  still(...names) {
    const then = names.map((name) => this.now[name]);
    return () => names.every((name, i) => this.now[name] === then[i]);
  }

  get #pictureSide() {
    return this.isStatic ? this.meta.pictures.kept : this.meta.pictures.side;
  }
}
