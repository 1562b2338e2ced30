/* What the parts of the Routing view share: the trace, what is chosen, the colours. */

import { expertScheme } from "./expertcolours.js";
import { ExpertScene } from "./expertscene.js";
import { partColor } from "./pieces.js";
import { AtlasNames } from "./routing_atlas.js";

export class RoutingScene extends ExpertScene {
  /** @type {AtlasNames | null} what an atlas calls the experts; null without one */
  atlas = null;
  /** @type {Float32Array | null} load in B minus load in A */
  difference = null;
  #pickedLayer = null; // the layer of the expert that the reader picked last

  /**
   * @param {Model} model
   * @param {View} view
   * @param {(error: Error) => void} onError
   */
  constructor(model, view, onError) {
    super(model, view, onError);
    const { atlas } = this.meta;
    const start = atlas ? { ...this.meta.start, by: "label", view: "purpose" } : this.meta.start;
    if (atlas) this.atlas = new AtlasNames(this);
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
}
