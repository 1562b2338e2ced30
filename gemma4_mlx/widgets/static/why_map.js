/* Every part of the model in one map: a row for each layer, its heads, MLP, per-layer embedding
 * and experts from left to right, in the colours of their shares. */

import { onResize, sizeCanvas } from "./canvas.js";
import { cssOf, diverging, mixed, rgbOf } from "./colours.js";
import { h, perFrame } from "./dom.js";
import { strengthOf } from "./why_colours.js";
import { partName, signed } from "./why_words.js";

const LEFT = 30; // css pixels of the layers' numbers
const TOP = 16; // of the columns' names
const GAP = 8; // between heads, MLP and experts
const ROWS = { least: 5, most: 14 }; // height of a row
const WIDEST = 26;
const LETTER = 6.5; // css pixels of a letter of a column's name
const NAMED = 60; // kept free for names that are wider than their columns

export class PartMap {
  canvas = h("canvas", {
    class: "g4-partmap",
    tabindex: 0,
    role: "application",
    "aria-roledescription": "heat map",
    "aria-label":
      "Shares of every part of the model, a row for each layer. Arrow keys move, Enter selects.",
  });
  #readout = h("p", { class: "g4-note g4-whyreadout" });
  node = h("div", { class: "g4-partmaphold" }, this.canvas, this.#readout);
  #width = 0;
  #cells = new Map(); // "row column" -> part
  #at = null; // [row, column] of the cursor
  draw = perFrame(() => this.#draw());

  /**
   * @param {WhyScene} scene
   * @param {object} o
   * @param {(part: any) => void} o.onPick
   */
  constructor(scene, { onPick }) {
    Object.assign(this, { scene, onPick });
    this.canvas.addEventListener("pointermove", (event) => this.#point(this.#cellAt(event)));
    this.canvas.addEventListener("pointerleave", () => this.#point(null));
    this.canvas.addEventListener("blur", () => this.#point(null));
    this.canvas.addEventListener("click", (event) => this.#pick(this.#cellAt(event)));
    this.canvas.addEventListener("keydown", (event) => this.#pressKey(event));
    const resized = (width) => {
      this.#width = Math.floor(width);
      this.draw();
    };
    onResize(this.node, resized, scene.view.signal);
  }

  /** Left edge and width of a column, and the height of a row. */
  #grid() {
    const { columns, layers } = this.scene.shown;
    const count = columns.reduce((sum, each) => sum + each.count, 0);
    const room = this.#width - LEFT - GAP * (columns.length - 1) - NAMED;
    const cell = Math.max(2, Math.min(WIDEST, room / Math.max(1, count)));
    const high = Math.max(ROWS.least, Math.min(ROWS.most, 260 / layers));
    const edges = [LEFT]; // of the groups of columns, whose names need room as well
    for (const { name, count: wide } of columns)
      edges.push(edges.at(-1) + Math.max(wide * cell, LETTER * name.length) + GAP);
    const left = (column) => {
      const group = columns.findIndex((c) => column < c.first + c.count);
      return edges[group] + (column - columns[group].first) * cell;
    };
    return { count, cell, high, left, bottom: TOP + high * layers };
  }

  #draw() {
    const { shown, ink } = this.scene;
    this.node.hidden = !shown?.layers;
    if (this.node.hidden || this.#width < 100) return;
    const { cell, high, left, bottom } = this.#grid();
    const context = sizeCanvas(this.canvas, this.#width, bottom + 2);
    context.clearRect(0, 0, this.#width, bottom + 2);
    this.#drawAxes(context, { high, left }, shown, ink);
    this.#cells.clear();
    const zero = rgbOf(ink.zero);
    for (const part of shown.parts) {
      if (part.layer === null) continue;
      this.#cells.set(`${part.layer} ${part.column}`, part);
      const v = part.share / (shown.partHigh || 1);
      const rgb = mixed(zero, diverging(Math.sign(v), ink.dark), strengthOf(v));
      context.fillStyle = cssOf(rgb);
      const x = left(part.column);
      context.fillRect(x, TOP + part.layer * high, Math.max(1, cell - 1), high - 1);
    }
    if (!this.#at) return;
    const [row, column] = this.#at;
    context.strokeStyle = ink.text;
    context.lineWidth = 2;
    context.strokeRect(left(column) - 1, TOP + row * high - 1, cell + 1, high + 1);
  }

  #drawAxes(context, { high, left }, { columns, layers }, ink) {
    context.font = `12px ${ink.font}`;
    context.fillStyle = ink.faint;
    context.textBaseline = "top";
    context.textAlign = "left";
    for (const { name, first } of columns) context.fillText(name, left(first), 0);
    context.textAlign = "right";
    context.textBaseline = "middle";
    const every = Math.ceil(13 / high);
    for (let layer = 0; layer < layers; layer += every)
      context.fillText(String(layer), LEFT - 6, TOP + (layer + 0.5) * high);
  }

  #cellAt({ offsetX, offsetY }) {
    if (!this.scene.shown?.layers) return null;
    const { count, cell, high, left } = this.#grid();
    const row = Math.floor((offsetY - TOP) / high);
    const inside = (column) => offsetX >= left(column) && offsetX < left(column) + cell;
    const column = Array.from({ length: count }, (_, i) => i).find(inside);
    return this.#cells.has(`${row} ${column}`) ? [row, column] : null;
  }

  #point(at, speak = false) {
    this.#at = at;
    const part = at && this.#cells.get(at.join(" "));
    const text = part ? `${partName(part)}: ${signed(part.share)}` : "";
    this.#readout.textContent = text;
    if (speak) this.scene.view.announce(text);
    this.draw();
  }

  #pick(at) {
    const part = at && this.#cells.get(at.join(" "));
    if (part) this.onPick(part);
  }

  #pressKey(event) {
    const { shown } = this.scene;
    if (!shown?.layers) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.#pick(this.#at);
      return;
    }
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const [down, across] = step[event.key] ?? [];
    if (down === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    const { count } = this.#grid();
    const [row, column] = this.#at ?? [0, -across];
    const clamp = (v, high) => Math.max(0, Math.min(high, v));
    this.#point([clamp(row + down, shown.layers - 1), clamp(column + across, count - 1)], true);
  }
}
