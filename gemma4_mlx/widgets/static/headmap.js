/* All heads on one canvas: a row for each layer, a cell for each head, coloured by one number.
 *
 * Where the layers do not fit, runs of sliding layers between full ones are folded: every head
 * stays visible, in rows of a few pixels, and a click on the run's name unfolds it. Dragging a
 * rectangle marks the heads in it.
 */

import { sizeCanvas } from "./canvas.js";
import { h } from "./dom.js";
import { HeadPointer } from "./headinput.js";

const ROOM = 412; // css pixels that the rows may take
const WIDE = 384; // css pixels that the columns may take
const LEFT = 58; // room for names of layers
const TOP = 22; // room for numbers of heads

export class HeadMap {
  #layers;
  #first;
  #list;
  #most;
  canvas = h("canvas", {
    class: "g4-headmap",
    tabindex: 0,
    role: "application",
    "aria-roledescription": "map of heads",
    "aria-label":
      "All heads, a row for each layer. Arrow keys move between heads, Enter shows one large, " +
      "F folds or unfolds the sliding layers here, Escape marks all.",
  });
  #runs;
  #open;
  #rows = [];
  #height = 0;
  #cell = 12;
  #chosen = -1;
  #pointer;
  #orders = [];
  #abort = new AbortController();

  /**
   * @param {object} o
   * @param {any} o.table  every head: HeadTable of headscale.js
   * @param {() => any} o.ink
   * @param {(index: number) => string | null} o.colour  css colour of a head, null without a value
   * @param {(index: number) => [string, string] | null} o.number text and css colour for a large
   *   cell
   * @param {(index: number) => [string, string]} o.letter of a head's role, or "", and its colour
   * @param {() => Float32Array | null} o.order values to sort each layer's heads by, null for
   *   their numbers
   * @param {() => Set<number> | null} o.marked   heads that are not faded, null for all
   * @param {(index: number | null, x: number, y: number) => void} o.onHover  client coordinates
   * @param {(index: number) => void} o.onPick
   * @param {(heads: Set<number>) => void} o.onMark
   * @param {(index: number) => string} o.describe
   * @param {(text: string) => void} o.announce
   */
  constructor(o) {
    Object.assign(this, o);
    this.#layers = this.table.layers;
    this.#first = this.table.first;
    this.#list = this.table.list;
    this.#most = Math.max(...this.#layers.map((layer) => layer.heads.length));
    this.#runs = slidingRuns(this.#layers);
    this.foldable = this.#runs.length > 0 && this.#layers.length * 11 > ROOM;
    this.#open = new Set(this.foldable ? [] : this.#runs);
    const { signal } = this.#abort;
    this.#pointer = new HeadPointer(this, {
      at: (x, y) => this.#at(x, y),
      within: (box) => this.#within(box),
      over: (x, y) => {
        const folds = this.foldable && this.#runAt(x, y);
        this.canvas.style.cursor = folds ? "pointer" : "crosshair";
      },
      clicked: (x, y) => {
        const run = this.#runAt(x, y);
        if (run) this.#fold(run);
        return Boolean(run);
      },
      signal,
    });
    this.canvas.addEventListener("keydown", (event) => this.#pressKey(event), { signal });
    this.canvas.addEventListener("blur", () => this.#pointer.point(-1), { signal });
  }

  /** The heads in a rectangle, null without any. */
  #within([x, y, w, hh]) {
    const inside = this.#list
      .map((_, i) => i)
      .filter((i) => {
        const b = this.#boxOf(i);
        return b.x < x + w && b.x + b.w > x && b.y < y + hh && b.y + b.h > y;
      });
    const heads = new Set(inside);
    return heads.size ? heads : null;
  }

  #pressKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const from = [this.#pointer.cursor, this.#chosen, 0].find((index) => index >= 0);
    const { row } = this.#list[from];
    const column = this.#orders[row].indexOf(from);
    const to = (r, c) => {
      const order = this.#orders[Math.max(0, Math.min(this.#rows.length - 1, r))];
      return order[Math.max(0, Math.min(order.length - 1, c))];
    };
    const next = {
      ArrowLeft: () => to(row, column - 1),
      ArrowRight: () => to(row, column + 1),
      ArrowUp: () => to(row - 1, column),
      ArrowDown: () => to(row + 1, column),
      Home: () => to(row, 0),
      End: () => to(row, 1e9),
      PageUp: () => to(row - 6, column),
      PageDown: () => to(row + 6, column),
    }[event.key];
    const run = this.#runs.find((each) => row >= each.start && row < each.stop);
    if (next) {
      const index = next();
      const box = this.canvas.getBoundingClientRect();
      const there = this.#boxOf(index);
      this.#pointer.point(index, box.x + there.x + there.w, box.y + there.y + there.h);
      this.announce(this.describe(index));
    } else if (event.key === "Enter" || event.key === " ") this.onPick(from);
    else if (event.key.toLowerCase() === "f" && run) this.#fold(run);
    else if (event.key === "Escape") {
      this.#pointer.point(-1);
      this.onMark(new Set());
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  choose(index) {
    this.#chosen = index;
    this.draw();
  }

  get unfolded() {
    return this.#open.size === this.#runs.length;
  }

  foldAll(folded) {
    this.#open = new Set(folded ? [] : this.#runs);
    this.draw();
  }

  destroy() {
    this.#abort.abort();
  }

  #place() {
    const folded = this.#runs.filter((run) => !this.#open.has(run));
    const thin = folded.reduce((sum, run) => sum + run.stop - run.start, 0);
    const tall = this.#layers.length - thin;
    const tallRow = folded.length
      ? 14
      : Math.max(11, Math.min(40, Math.floor(ROOM / this.#layers.length)));
    const thinRow = Math.max(
      3,
      Math.min(8, Math.floor((ROOM - tall * 14 - 4 * folded.length) / Math.max(1, thin))),
    );
    this.#cell = Math.max(8, Math.min(84, Math.floor(WIDE / this.#most)));
    this.#rows = [];
    this.#height = TOP;
    this.#layers.forEach((_, k) => {
      const run = folded.find((each) => k >= each.start && k < each.stop);
      if (run && k === run.start) this.#height += 2;
      const size = run ? thinRow : tallRow;
      this.#rows.push({ y: this.#height, size, run });
      this.#height += size;
      if (run && k === run.stop - 1) this.#height += 2;
    });
    this.#orders = this.#layers.map((layer, k) => {
      const values = this.order();
      const numbers = layer.heads.map((_, c) => this.#first[k] + c);
      return values
        ? numbers.sort((a, b) => (values[b] || 0) - (values[a] || 0) || a - b)
        : numbers;
    });
  }

  #boxOf(index) {
    const { row } = this.#list[index];
    const column = this.#orders[row].indexOf(index);
    return {
      x: LEFT + column * this.#cell,
      y: this.#rows[row].y,
      w: this.#cell,
      h: this.#rows[row].size,
    };
  }

  draw() {
    const ink = this.ink();
    this.#place();
    const context = sizeCanvas(this.canvas, LEFT + this.#most * this.#cell + 6, this.#height + 2);
    context.clearRect(0, 0, LEFT + this.#most * this.#cell + 6, this.#height + 2);
    const marked = this.marked();
    for (const [row, order] of this.#orders.entries())
      for (const [column, index] of order.entries()) {
        context.globalAlpha = marked && !marked.has(index) ? 0.16 : 1;
        this.#drawCell(context, index, this.#rows[row], column, ink);
      }
    context.globalAlpha = 1;
    this.#labels(context, ink);
    const { cursor } = this.#pointer;
    if (cursor >= 0 && cursor !== this.#chosen) this.#frame(context, cursor, ink.text, ink.halo);
    if (this.#chosen >= 0) this.#frame(context, this.#chosen, ink.accent, ink.halo);
    this.#pointer.drawBox(context, ink);
  }

  #drawCell(context, index, { y, size }, column, ink) {
    const cell = this.#cell;
    context.fillStyle = this.colour(index) ?? ink.masked;
    context.fillRect(LEFT + column * cell, y, cell - 1, size - (size > 8 ? 1 : 0.5));
    context.textAlign = "center";
    context.textBaseline = "middle";
    const write = ([text, colour], x, weight = "") => {
      context.font = `${weight}12px ${ink.font}`;
      context.fillStyle = colour;
      context.fillText(text, x, y + size / 2 + 0.5);
    };
    const number = cell >= 44 && size >= 18 && this.number(index);
    if (number) write(number, LEFT + (column + 0.5) * cell);
    const letter = this.letter(index);
    if (letter[0] && cell >= 14 && size >= 11)
      write(letter, LEFT + column * cell + (number ? 9 : cell / 2), "600 ");
  }

  #labels(context, ink) {
    context.textBaseline = "middle";
    context.textAlign = "right";
    this.#layers.forEach((layer, k) => {
      const { y, size, run } = this.#rows[k];
      if (run && k !== run.start) return;
      const middle = run ? y + (size * (run.stop - run.start)) / 2 : y + size / 2;
      const full = layer.kind === "full";
      if (full && !run) {
        context.fillStyle = ink.accent;
        context.fillRect(LEFT - 5, y, 3, size - 1);
      }
      if (!full && !run && size < 14) return; // the full layers' names need the room
      const between =
        run && run.stop - run.start > 1
          ? `${layer.index}–${this.#layers[run.stop - 1].index}`
          : layer.index;
      context.font = `${full ? "600 " : ""}12px ${ink.font}`;
      context.fillStyle = full ? ink.text : ink.faint;
      context.fillText(run ? `▸ ${between}` : `L${between}`, LEFT - 9, middle + 0.5);
    });
    context.fillStyle = ink.faint;
    context.font = `12px ${ink.font}`;
    context.textBaseline = "alphabetic";
    context.textAlign = "left";
    if (this.order()) {
      context.fillText(
        this.#most * this.#cell > 150 ? "highest → lowest" : "high → low",
        LEFT,
        TOP - 7,
      );
      return;
    }
    context.textAlign = "right";
    context.fillText("head", LEFT - 9, TOP - 7);
    context.textAlign = "center";
    const step = [1, 2, 4, 8].find((each) => each * this.#cell >= 22) ?? 8;
    for (let column = 0; column < this.#most; column += step)
      context.fillText(
        String(this.#layers[0].heads[column] ?? column),
        LEFT + (column + 0.5) * this.#cell,
        TOP - 7,
      );
  }

  #frame(context, index, colour, halo) {
    const { x, y, w, h: hh } = this.#boxOf(index);
    context.lineWidth = 4;
    context.strokeStyle = halo;
    context.strokeRect(x - 1.5, y - 1.5, w + 2, hh + 2);
    context.lineWidth = 2;
    context.strokeStyle = colour;
    context.strokeRect(x - 1.5, y - 1.5, w + 2, hh + 2);
  }

  /** The head at a point of the canvas, or -1. */
  #at(x, y) {
    const row = this.#rows.findIndex((each) => y >= each.y && y < each.y + each.size);
    const column = Math.floor((x - LEFT) / this.#cell);
    return row < 0 || column < 0 || column >= this.#orders[row].length
      ? -1
      : this.#orders[row][column];
  }

  #runAt(x, y) {
    return x < LEFT - 2
      ? this.#runs.find(
          (run) =>
            y >= this.#rows[run.start].y &&
            y < this.#rows[run.stop - 1].y + this.#rows[run.stop - 1].size,
        )
      : undefined;
  }

  #fold(run) {
    if (!this.foldable) return;
    if (this.#open.has(run)) this.#open.delete(run);
    else this.#open.add(run);
    this.draw();
    const [first, last] = [run.start, run.stop - 1].map((at) => this.#layers[at].index);
    const state = this.#open.has(run) ? "unfolded" : "folded";
    this.announce(`Layers ${first} to ${last} ${state}`);
  }
}

/** Runs [start, stop) of sliding layers, by position. */
function slidingRuns(layers) {
  const runs = [];
  layers.forEach((layer, k) => {
    if (layer.kind === "full") return;
    const last = runs[runs.length - 1];
    if (last?.stop === k) last.stop = k + 1;
    else runs.push({ start: k, stop: k + 1 });
  });
  return runs;
}
