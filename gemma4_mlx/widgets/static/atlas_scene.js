/* What the parts of the Atlas view share: the atlas, what is chosen, the table and its colours. */

import {
  labelsCompared,
  logRatio,
  logScale,
  measureWords,
  withSignificance,
} from "./atlas_table.js";
import { expertScheme, LIMIT, valueScheme } from "./expertcolours.js";
import { expertTable, times } from "./experts.js";
import { ExpertScene } from "./expertscene.js";

const RATIO_ENDS = ["⅛×", "1×", "8×"];

export class AtlasScene extends ExpertScene {
  /** @type {{word: string, value: (i: number) => number, text: (v: number) => string}|null} what
   * the map is coloured by where that is neither purpose, load nor lift */
  shown = null;
  /** @type {Float32Array | null} corrected chances of the labels' lifts */
  q = null;
  #plain = null; // the table without them

  /**
   * @param {Model} model
   * @param {View} view
   * @param {(error: Error) => void} onError
   */
  constructor(model, view, onError) {
    super(model, view, onError);
    /** What is chosen: `by` the grouping; `view` and `order` those of the map: "purpose", "load",
     * "lift" of one `group`, "compare" with an `other`, or "shown": `measure`, or a `found` answer.
     * `sure`: lifts that may be chance are not shown. */
    this.now = {
      ...this.meta.start,
      hover: null,
      by: "label",
      view: "load",
      group: 0,
      other: 1,
      measure: null,
      order: "load",
      sure: true,
      filter: { on: false, above: 2, group: 0 },
    };
  }

  /** Whether the selection has an expert of this atlas that is not chosen yet; it is then. */
  follow({ layer, expert }) {
    const { now } = this;
    if (!this.layers.includes(layer) || !Number.isInteger(expert)) return false;
    if (expert < 0 || expert >= this.experts) return false;
    if (layer === now.layer && expert === now.expert) return false;
    Object.assign(now, { layer, expert });
    return true;
  }

  /** @param {any} answer to "groups" */
  setTable(answer) {
    this.#plain = expertTable(this.meta, answer);
    this.#decide();
  }

  /** @param {Float32Array} q */
  setSignificance(q) {
    this.q = q;
    this.#decide();
  }

  setSure(sure) {
    this.now.sure = sure;
    this.#decide();
  }

  #decide() {
    const tested = this.q && this.#plain?.by === "label";
    this.table = tested ? withSignificance(this.#plain, this.q, this.now.sure) : this.#plain;
    this.reorder();
  }

  /** Two labels, in numbers. */
  compared() {
    return labelsCompared(this.table, this.now.group, this.now.other, this.k);
  }

  /** After another table, view or theme. */
  recolour() {
    const { now, table, ink } = this;
    this.shown = null;
    if (now.view === "compare") this.#colourRatio();
    else if (now.view === "shown") this.#colourShown();
    else {
      this.scheme = expertScheme(table, now, ink);
      if (now.view === "lift") this.shown = this.#liftShown();
    }
  }

  #liftShown() {
    const { now, table } = this;
    const value = (i) => (table.enough(now.group, i) ? table.lift(now.group, i) : NaN);
    return { word: `lift for ${table.groups[now.group].name}`, value, text: times };
  }

  #colourRatio() {
    const { now, table, ink } = this;
    const ratio = logRatio(table, now.group, now.other);
    const names = [now.group, now.other].map((g) => table.groups[g].name);
    this.shown = { word: names.join(" ÷ "), value: ratio, text: (v) => times(2 ** v) };
    this.scheme = valueScheme(table, (i) => ratio(i) / LIMIT, ink, {
      view: "compare",
      ends: RATIO_ENDS,
      plain: table.unsure,
    });
  }

  #colourShown() {
    const { table, ink } = this;
    const { word, values, kind } = this.now.measure;
    const o = { view: "shown" };
    if (kind === "lift") {
      this.shown = { word, value: (i) => values[i], text: times };
      const colour = (i) => (values[i] > 0 ? Math.log2(values[i]) / LIMIT : -1);
      this.scheme = valueScheme(table, colour, ink, { ...o, ends: RATIO_ENDS });
    } else if (kind === "share") {
      this.shown = { word, value: (i) => values[i], text: (v) => v.toFixed(2) };
      const ends = ["0", "0.5", "1"];
      this.scheme = valueScheme(table, (i) => values[i], ink, { ...o, ends, from0: true });
    } else {
      const { value, ends } = logScale(values);
      this.shown = { word, value: (i) => values[i], text: measureWords };
      this.scheme = valueScheme(table, (i) => value(values[i]), ink, { ...o, ends, from0: true });
    }
  }

  ordered(row) {
    return this.now.order === "shown" ? this.#byShown(row) : super.ordered(row);
  }

  #byShown(row) {
    const of = (e) => {
      const v = this.shown?.value(this.cellOf(row, e));
      return Number.isNaN(v) || v === undefined ? Number.NEGATIVE_INFINITY : v;
    };
    const keys = Array.from({ length: this.experts }, (_, e) => of(e));
    return keys.map((_, e) => e).sort((a, b) => (keys[b] > keys[a]) - (keys[b] < keys[a]) || a - b);
  }
}
