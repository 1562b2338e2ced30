/* What the parts of a view of experts share: what is chosen, the table, the order of each layer.
 *
 * Experts are addressed by one number, row * experts + expert, where row is the layer's place in
 * the map (experts.js).
 */

import { orderOf, passes } from "./experts.js";
import { request } from "./kernel.js";

export class ExpertScene {
  /** @type {any} experts.js table; null until it is there */
  table = null;
  /** @type {any} expertcolours.js scheme */
  scheme = null;
  /** @type {any} what is chosen: a subclass says */
  now = {};
  #orders = []; // experts of each row from left to right

  /**
   * @param {Model} model
   * @param {View} view
   * @param {(error: Error) => void} onError
   */
  constructor(model, view, onError) {
    Object.assign(this, { model, view, onError });
    const { layers, experts, k } = this.meta;
    Object.assign(this, { layers, experts, k });
    this.ink = view.ink();
  }

  get meta() {
    return this.model.get("meta");
  }

  get row() {
    return this.rowOf(this.now.layer);
  }

  rowOf(layer) {
    return this.layers.indexOf(layer);
  }

  /** The chosen expert, or null. */
  get cell() {
    const { expert } = this.now;
    return expert === null ? null : this.cellOf(this.row, expert);
  }

  cellOf(row, expert) {
    return row * this.experts + expert;
  }

  placeOf(cell) {
    const row = Math.floor(cell / this.experts);
    return { row, layer: this.layers[row], expert: cell % this.experts };
  }

  ask(type, args = {}, options = {}) {
    return request(this.model, type, args, { signal: this.view.signal, ...options });
  }

  /** Whether there is an answer to be had: a page without a kernel lacks some. */
  holds(wanted) {
    return !this.model.isStatic || this.model.recorded(wanted);
  }

  order(row) {
    this.#orders[row] ??= this.ordered(row);
    return this.#orders[row];
  }

  /** Experts of a row in the order that is chosen. */
  ordered(row) {
    const { order, view, group, filter } = this.now;
    return orderOf(this.table, row, { order, group: view === "lift" ? group : filter.group });
  }

  reorder() {
    this.#orders = [];
  }

  passes(cell) {
    const { filter } = this.now;
    return !filter.on || passes(this.table, cell, filter);
  }
}
