/* The newest tiles of a map, and the asking for those that are missing. */

import { tileKey } from "./map_pyramid.js";

const TILES_KEPT = 512;
const ASK_EVERY = 60; // ms between requests while the view moves
const PATIENCE = 5000; // ms before asking again for what did not come

/**
 * @typedef {{ level: number, row: number, column: number, values: Float32Array, rows: number,
 *   columns: number, query: number, key: number, rowCell: number, columnCell: number }} Tile
 *   first query and key, and tokens per cell: 2^level, or coarser from the overview
 */

export class TileStore {
  #tiles = new Map(); // tileKey -> Tile, the longest unused first
  #asking = null; // {keys, controller}: what is on its way
  #asked = 0;
  #timer = 0;
  #watchdog = 0;

  /**
   * @param {object} o
   * @param {(tiles: Array<[level: number, row: number, column: number]>, signal: AbortSignal) =>
   *   Promise<Tile[]>} o.load some of the tiles, in order, at least one (or none where a newer
   *   request came before)
   * @param {() => Array<[level: number, row: number, column: number]>} o.missing in order of need
   * @param {() => void} o.onTiles
   * @param {(error: Error) => void} o.onError
   */
  constructor({ load, missing, onTiles, onError }) {
    Object.assign(this, { load, missing, onTiles, onError });
  }

  has(key) {
    return this.#tiles.has(key);
  }

  get(key) {
    return this.#tiles.get(key);
  }

  /** A tile that is drawn now, and so the last to be thrown away. */
  use(key) {
    const tile = this.#tiles.get(key);
    if (tile) {
      this.#tiles.delete(key);
      this.#tiles.set(key, tile);
    }
    return tile;
  }

  /** Ask for what is missing, in one message; an answer may hold a part of it, and asks on. */
  request() {
    const wanted = this.missing();
    if (!wanted.length) return;
    const keys = wanted.map((tile) => tileKey(...tile)).join();
    if (this.#asking?.keys === keys && performance.now() - this.#asked < PATIENCE) return;
    const mine = { keys, controller: this.#asking?.controller ?? new AbortController() };
    const { signal } = mine.controller;
    this.#asking = mine;
    this.#asked = performance.now();
    clearTimeout(this.#watchdog); // a message can get lost
    this.#watchdog = setTimeout(() => this.request(), PATIENCE + 100);
    this.load(wanted, signal)
      .then((found) => {
        if (!signal.aborted) this.#take(found, mine);
      })
      .catch((error) => {
        if (signal.aborted) return;
        clearTimeout(this.#watchdog);
        this.onError(error);
      });
  }

  /** Ask at once, but not more often than every 60 ms while the view moves. */
  schedule() {
    clearTimeout(this.#timer);
    const wait = Math.max(0, this.#asked + ASK_EVERY - performance.now());
    this.#timer = setTimeout(() => this.request(), wait);
  }

  /** Forget every tile, and what is on its way. */
  clear() {
    this.#tiles.clear();
    this.#asking?.controller.abort();
    this.#asking = null;
  }

  close() {
    this.clear();
    clearTimeout(this.#timer);
    clearTimeout(this.#watchdog);
  }

  #take(found, mine) {
    for (const tile of found) {
      const key = tileKey(tile.level, tile.row, tile.column);
      this.#tiles.delete(key);
      this.#tiles.set(key, { ...tile });
    }
    while (this.#tiles.size > TILES_KEPT) this.#tiles.delete(this.#tiles.keys().next().value);
    this.onTiles();
    if (mine !== this.#asking) return; // a newer request is on its way
    this.#asking = { keys: "", controller: mine.controller };
    this.request();
  }
}
