/* What the parts of the Routing view share: the trace, what is chosen, the table and its colours.
 *
 * Experts are addressed by one number, row * experts + expert, where row is the layer's place in
 * the map (experts.js).
 */

import { expertScheme } from "./expertcolours.js";
import { orderOf, passes } from "./experts.js";
import { request } from "./kernel.js";
import { partColor } from "./pieces.js";
import { AtlasNames } from "./routing_atlas.js";

export class RoutingScene {
  /** @type {any} experts.js table; null until it is there */
  table = null;
  /** @type {any} expertcolours.js scheme */
  scheme = null;
  /** @type {AtlasNames | null} what an atlas calls the experts; null without one */
  atlas = null;
  /** @type {Float32Array | null} load in B minus load in A */
  difference = null;
  #orders = []; // experts of each row from left to right
  #pickedLayer = null; // the layer of the expert that the reader picked last

  /**
   * @param {Model} model
   * @param {View} view
   * @param {(error: Error) => void} onError
   */
  constructor(model, view, onError) {
    Object.assign(this, { model, view, onError });
    const { layers, experts, k, atlas } = this.meta;
    const start = atlas ? { ...this.meta.start, by: "label", view: "purpose" } : this.meta.start;
    Object.assign(this, { layers, experts, k });
    if (atlas) this.atlas = new AtlasNames(this);
    this.ink = view.ink();
    /** What is chosen: `which` is "a", "b" or "b-a"; `by` the grouping of the tokens; `view` and
     * `order` those of the map, for "lift" of one `group`; `text` colours the text by "map" or
     * "expert". */
    this.now = {
      layer: start.layer,
      expert: start.expert,
      token: null,
      hover: null,
      which: "a",
      by: start.by,
      view: start.view,
      group: 0,
      order: start.view,
      text: "map",
      filter: { on: false, above: 2, group: 0 },
    };
  }

  get meta() {
    return this.model.get("meta");
  }

  /** Tokens of the first trace; it grows while a model runs. */
  get count() {
    return this.model.get("n");
  }

  /** The trace whose tokens are shown. */
  get side() {
    return this.now.which === "b" ? "b" : "a";
  }

  get #shown() {
    return this.side === "b" ? this.meta.other : this.meta;
  }

  /** Tokens of the trace shown. */
  get length() {
    return this.side === "b" ? this.meta.other.n : this.count;
  }

  get media() {
    return this.#shown.media;
  }

  get parts() {
    return this.#shown.parts.map((part) => ({ ...part, colour: partColor(part.role) }));
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

  /** Take over another layer or expert: whether the layer `moved`, the expert `changed`. An
   * expert's number means nothing in another layer: only one that came with its layer is taken. */
  follow({ layer, expert }) {
    const { now } = this;
    const moved = Number.isInteger(layer) && layer !== now.layer && this.layers.includes(layer);
    const stayed = moved && expert === now.expert && this.#pickedLayer !== layer;
    const given = Number.isInteger(expert) && expert < this.experts && !stayed;
    const kept = moved ? null : now.expert;
    const next = given ? expert : kept;
    const changed = moved || next !== now.expert;
    if (moved) now.layer = layer;
    now.expert = next;
    return { moved, changed };
  }

  /** The selection that picks an expert. */
  pick(cell) {
    const { layer, expert } = this.placeOf(cell);
    this.#pickedLayer = layer;
    return { layer, expert };
  }

  /** Where the view starts, before anything is drawn. */
  start({ layer, expert }) {
    if (!Number.isInteger(layer) || !this.layers.includes(layer)) return;
    const { start } = this.meta;
    this.now.layer = layer;
    if (Number.isInteger(expert) && expert < this.experts) this.now.expert = expert;
    else this.now.expert = layer === start.layer ? start.expert : null;
  }

  /** After another table, view or theme. */
  recolour() {
    this.scheme = expertScheme(this.table, this.now, this.ink, this.difference);
  }

  order(row) {
    const { order, view, group, filter } = this.now;
    const how = { order, group: view === "lift" ? group : filter.group };
    this.#orders[row] ??= orderOf(this.table, row, how);
    return this.#orders[row];
  }

  reorder() {
    this.#orders = [];
  }

  passes(cell) {
    const { filter } = this.now;
    return !filter.on || passes(this.table, cell, filter);
  }
}
