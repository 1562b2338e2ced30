/* Where tokens went: routes of single tokens, a page at a time, and of stretches of the text. */

import { readRoutes } from "./experts.js";
import { bytesOf } from "./pieces.js";

export const ROUTES_PAGE = 512; // tokens of one request
const PAGES_KEPT = 24;

/**
 * The experts of one column of a strip with their mean shares of the gate, largest first, and the
 * tokens that the column stands for.
 * @param {{ columns: number, high: number, bytes: Uint8Array }} strip
 * @param {number} experts of a layer @param {number} n tokens of the text
 */
export function stretchAt(strip, column, experts, n) {
  const list = [];
  for (let expert = 0; expert < experts; expert++) {
    const value = strip.bytes[column * experts + expert];
    if (value) list.push([expert, (value * strip.high) / 255]);
  }
  return {
    list: list.sort((a, b) => b[1] - a[1]),
    start: Math.ceil((column * n) / strip.columns),
    stop: Math.ceil(((column + 1) * n) / strip.columns),
  };
}

export class TokenRoutes {
  #pages = new Map(); // number -> readRoutes
  #waiting = new Map(); // side and number -> promise
  #strips = new Map(); // side and layer -> strip, null while it is on its way

  /**
   * @param {RoutingScene} scene
   * @param {{ onPage: () => void, onStrip: () => void }} o something came
   */
  constructor(scene, { onPage, onStrip }) {
    Object.assign(this, { scene, onPage, onStrip });
  }

  /** Experts and shares of a token in a row; null while its page is on its way. A page without a
   * kernel may have the means over a stretch instead. */
  of(token, row) {
    const { scene } = this;
    if (token === null || token >= scene.length) return null;
    const number = Math.floor(token / ROUTES_PAGE);
    const page = this.#pages.get(number);
    if (page) return token >= page.start && token < page.stop ? page.at(row, token) : null;
    if (this.lacks(token)) return this.stretch(token, row)?.list.slice(0, scene.k) ?? null;
    this.load(number);
    return null;
  }

  /** Whether this page without a kernel lacks a token's route. */
  lacks(token) {
    return !this.scene.holds(this.#requestOf(Math.floor(token / ROUTES_PAGE)));
  }

  /** The stretch that a token is in: {list, start, stop}; null while it is on its way. */
  stretch(token, row) {
    const { scene } = this;
    const layer = scene.layers[row];
    const strip = this.#strips.get(`${scene.side} ${layer}`);
    if (strip === undefined) this.loadStrip(layer);
    if (!strip) return null;
    const at = Math.floor((token * strip.columns) / scene.length);
    const column = Math.min(strip.columns - 1, at);
    strip.stretches ??= [];
    strip.stretches[column] ??= stretchAt(strip, column, scene.experts, scene.length);
    return strip.stretches[column];
  }

  load(number) {
    const { side } = this.scene;
    const key = `${side} ${number}`;
    if (!this.#waiting.has(key)) this.#waiting.set(key, this.#ask(number, side, key));
    return this.#waiting.get(key);
  }

  async #ask(number, side, key) {
    const { scene } = this;
    const { type, ...args } = this.#requestOf(number);
    try {
      const answer = await scene.ask(type, args);
      if (side !== scene.side) return;
      this.#pages.set(number, readRoutes(scene.meta, answer));
      if (this.#pages.size > PAGES_KEPT) this.#pages.delete(this.#pages.keys().next().value);
      this.#waiting.delete(key);
      this.onPage();
    } catch (error) {
      scene.onError(error); // what failed once is not asked again until the trace changes
    }
  }

  async loadStrip(layer = this.scene.now.layer) {
    const { scene } = this;
    const which = scene.side;
    const key = `${which} ${layer}`;
    const strips = this.#strips;
    if (strips.has(key)) return;
    strips.set(key, null);
    try {
      const { content, buffer } = await scene.ask("strip", { layer, which });
      this.#strips.set(key, { ...content, bytes: bytesOf(buffer).slice() });
      this.onStrip();
    } catch (error) {
      if (!scene.model.isStatic) scene.onError(error);
    }
  }

  /** The other trace is shown. */
  forgetPages() {
    this.#pages.clear();
    this.#waiting.clear();
  }

  /** The trace has grown, or is another: what was made from all of it is to be asked for again. */
  forgetStrips() {
    this.#waiting.clear();
    this.#strips = new Map();
  }

  /** Drop what a grown trace has made wrong: pages that are not full, or all. */
  dropPages(last, all) {
    for (const [number, page] of this.#pages) {
      const cut = number !== last && page.stop - page.start < ROUTES_PAGE;
      if (all || cut) this.#pages.delete(number);
    }
  }

  #requestOf(number) {
    const start = number * ROUTES_PAGE;
    const stop = Math.min(this.scene.length, start + ROUTES_PAGE);
    return { type: "routes", start, stop, which: this.scene.side };
  }
}
