/* The layers x experts map. Its cells are drawn once and copied; what follows the pointer lies
 * above. */

import { sizeCanvas } from "./canvas.js";
import { cssOf } from "./colours.js";
import { h, perFrame } from "./dom.js";
import { hatch, inkFor } from "./expertcolours.js";
import { listenForExperts } from "./expertinput.js";

export class ExpertMap {
  canvas = h("canvas", {
    class: "g4-loadmap",
    tabindex: 0,
    role: "application",
    "aria-roledescription": "heat map",
    "aria-label": "Every expert of every layer. Arrow keys move, Enter chooses.",
  });
  #cells = document.createElement("canvas");
  #left = 34;
  top = 1;
  #rows;
  #width = 0;
  #stale = true;
  #places = []; // places[row][expert] = its column
  draw = perFrame(() => {
    const t = this.table();
    if (!t || !this.#width) return;
    if (this.#stale) this.#drawCells(t);
    const ink = this.ink();
    const chosen = this.chosen();
    const context = sizeCanvas(
      this.canvas,
      this.#width,
      this.top + this.#rows * this.rowHeight + 1,
    );
    context.clearRect(0, 0, this.#width, this.#rows * this.rowHeight + 2);
    context.drawImage(this.#cells, 0, 0, this.#width, this.top + this.#rows * this.rowHeight + 1);
    context.textAlign = "right";
    context.textBaseline = "middle";
    this.layers.forEach((layer, row) => {
      const mine = row === chosen.row;
      context.font = `${mine ? "700 " : ""}12px ${ink.font}`;
      context.fillStyle = mine ? ink.accent : ink.faint;
      context.fillText(`L${layer}`, this.#left - 6, this.top + (row + 0.5) * this.rowHeight);
      for (const [e, share] of this.route(row) ?? [])
        this.#tick(context, this.#box(row * t.E + e, t), share, ink);
    });
    context.strokeStyle = ink.accent;
    context.lineWidth = 1.5;
    context.strokeRect(
      this.#left - 1.5,
      this.top + chosen.row * this.rowHeight - 1,
      this.#width - this.#left + 1,
      this.rowHeight + 1,
    );
    for (const i of [
      chosen.expert === null ? null : chosen.row * t.E + chosen.expert,
      chosen.hover,
    ])
      if (i !== null) this.#outline(context, this.#box(i, t), ink);
  });

  /**
   * @param {object} o
   * @param {() => any} o.table  experts.js table, or null while it is on its way
   * @param {() => any} o.scheme
   * @param {(row: number) => number[]} o.order experts of a row from left to right
   * @param {(i: number) => boolean} o.shown false: dimmed by the filter
   * @param {() => {row: number, expert: number|null, hover: number|null}} o.chosen
   *   hover: row * E + expert
   * @param {(row: number) => Array<[number, number]>|null} o.route the selected token's experts
   *   and shares
   * @param {(i: number|null) => void} o.onHover @param {(i: number) => void} o.onPick
   * @param {() => any} o.ink
   * @param {(i: number) => string} o.name
   * @param {(text: string) => void} o.say
   * @param {{layers: number[], signal: AbortSignal}} o
   */
  constructor(o) {
    Object.assign(this, o);
    this.node = h("div", { class: "g4-maphold" }, this.canvas);
    this.#rows = this.layers.length;
    this.rowHeight = Math.max(13, Math.min(24, Math.floor(364 / this.#rows)));
    listenForExperts(this, {
      at: (event) => this.#cellAt(event),
      from: () => this.#from(),
      to: (key, from) => this.#to(key, from),
      resized: (width) => {
        this.#width = width;
        this.redraw();
      },
    });
  }

  #from() {
    const { row, expert, hover } = this.chosen();
    return hover ?? row * this.table().E + (expert ?? this.order(row)[0]);
  }

  #to(key, from) {
    const step = {
      ArrowLeft: [0, -1],
      ArrowRight: [0, 1],
      ArrowUp: [-1, 0],
      ArrowDown: [1, 0],
      Home: [0, -1e6],
      End: [0, 1e6],
    }[key];
    if (!step) return null;
    const { E } = this.table();
    const row = Math.floor(from / E);
    const at = Math.max(0, Math.min(this.#rows - 1, row + step[0]));
    const column = Math.max(0, Math.min(E - 1, this.#places[row][from % E] + step[1]));
    return at * E + this.#places[at].indexOf(column);
  }

  redraw() {
    this.#stale = true;
    this.draw();
  }

  #x(column, E) {
    return Math.round(this.#left + (column * (this.#width - this.#left - 1)) / E);
  }

  #box(i, t) {
    const row = Math.floor(i / t.E);
    const c = this.#places[row][i % t.E];
    return [
      this.#x(c, t.E),
      this.top + row * this.rowHeight,
      this.#x(c + 1, t.E) - this.#x(c, t.E),
      this.rowHeight,
    ];
  }

  #drawCells(t) {
    const ink = this.ink();
    const scheme = this.scheme();
    const context = sizeCanvas(
      this.#cells,
      this.#width,
      this.top + this.#rows * this.rowHeight + 1,
    );
    const E = t.E;
    context.clearRect(0, 0, this.#width, this.#rows * this.rowHeight + 2);
    const lines = hatch(context, ink);
    const gap = (this.#width - this.#left) / E > 6 ? 1 : 0;
    const numbers = (this.#width - this.#left) / E >= 24;
    context.font = `12px ${ink.font}`;
    context.textBaseline = "middle";
    context.textAlign = "center";
    this.#places = [];
    for (let row = 0; row < this.#rows; row++) {
      const order = this.order(row);
      this.#places[row] = new Array(E);
      order.forEach((e, column) => {
        this.#places[row][e] = column;
        const i = row * E + e;
        const rgb = scheme.rgb(i);
        const at = this.#x(column, E);
        const w = this.#x(column + 1, E) - at - gap;
        context.globalAlpha = this.shown(i) ? 1 : 0.14;
        context.fillStyle = rgb ? cssOf(rgb) : lines;
        context.fillRect(at, this.top + row * this.rowHeight, w, this.rowHeight - 1);
        if (numbers && rgb) {
          context.fillStyle = inkFor(rgb);
          context.fillText(String(e), at + w / 2, this.top + (row + 0.5) * this.rowHeight);
        }
      });
    }
    context.globalAlpha = 1;
    this.#stale = false;
  }

  /** Where the selected token went: a bar from the bottom of the cell, as high as its share. */
  #tick(context, [cx, cy, w, hh], share, ink) {
    if (w >= 24) {
      context.fillStyle = ink.text;
      context.fillRect(cx, cy + hh - 4, Math.max(3, (w - 1) * share), 3); // under the number
      return;
    }
    const high = Math.max(3, Math.round((hh - 2) * (0.25 + 0.75 * share)));
    const wide = Math.max(2, Math.min(4, w - 2));
    const at = Math.round(cx + (w - wide) / 2);
    context.fillStyle = ink.halo;
    context.fillRect(at - 1, cy + hh - 2 - high, wide + 2, high + 2);
    context.fillStyle = ink.text;
    context.fillRect(at, cy + hh - 1 - high, wide, high);
  }

  #outline(context, [cx, cy, w, hh], ink) {
    context.lineWidth = 4;
    context.strokeStyle = ink.halo;
    context.strokeRect(cx, cy, Math.max(4, w), hh - 1);
    context.lineWidth = 2;
    context.strokeStyle = ink.text;
    context.strokeRect(cx, cy, Math.max(4, w), hh - 1);
  }

  #cellAt(event) {
    const t = this.table();
    const row = Math.floor((event.offsetY - this.top) / this.rowHeight);
    if (!t || !this.#places.length || row < 0 || row >= this.#rows || event.offsetX < this.#left)
      return null;
    const column = Math.min(
      t.E - 1,
      Math.floor(((event.offsetX - this.#left) * t.E) / (this.#width - this.#left - 1)),
    );
    const e = this.#places[row].indexOf(column);
    return e < 0 ? null : row * t.E + e;
  }
}
