/* A sliding head over the whole text: queries down, how far back they look to the right. */

import { ticks } from "./axes.js";
import { sizeCanvas } from "./canvas.js";
import { h } from "./dom.js";
import { formatCount } from "./words.js";

const EDGE = { left: 92, top: 52, right: 8, bottom: 8 };

export class OffsetMap {
  canvas = h("canvas", {
    class: "g4-map g4-offsetmap",
    role: "img",
    "aria-label": "Attention of a sliding head by query and offset",
  });
  #data = null;
  #size = { width: 560, height: 460 };
  #scale = "log";
  #range = { low: 0.001, high: 1 };
  #picture = null;
  #ranks = [];
  #query = null;
  #abort = new AbortController();
  #on;

  /**
   * @param {object} o
   * @param {() => any} o.ink @param {() => {lut: Uint32Array, table: Uint8Array}} o.palette
   * @param {(cell: object | null) => void} o.onCell {query, queryStop, offset, offsetStop,
   *   value, masked}
   * @param {(cell: object) => void} o.onPick
   * @param {(range: {low: number, high: number}) => void} o.onRange
   */
  constructor({ palette, onRange, ink, onCell, onPick }) {
    Object.assign(this, { palette, onRange, ink, onCell, onPick });
    this.#on = { signal: this.#abort.signal };
    this.canvas.addEventListener(
      "pointermove",
      (event) => this.onCell(this.#cellAt(event.offsetX, event.offsetY)),
      this.#on,
    );
    this.canvas.addEventListener("pointerleave", () => this.onCell(null), this.#on);
    this.canvas.addEventListener("click", (event) => this.#click(event), this.#on);
  }

  #click(event) {
    const cell = this.#cellAt(event.offsetX, event.offsetY);
    if (cell && !cell.masked) this.onPick(cell);
  }

  /** {values, rows, columns, rowCell, columnCell, start, n, reach}; null while it is on its way. */
  set(next) {
    this.#data = next;
    if (this.#data) this.#paint();
    this.#draw();
  }

  repaint() {
    if (this.#data) this.#paint();
    this.#draw();
  }

  setScale(next) {
    this.#scale = next;
    if (this.#data) this.#paint();
    this.#draw();
  }

  setQuery(next) {
    this.#query = next;
    this.#draw();
  }

  resize(next) {
    this.#size = next;
    this.#draw();
  }

  destroy() {
    this.#abort.abort();
  }

  #plot() {
    return {
      w: this.#size.width - EDGE.left - EDGE.right,
      h: this.#size.height - EDGE.top - EDGE.bottom,
    };
  }

  #place(value) {
    if (this.#scale === "linear") return value / this.#range.high;
    if (this.#scale === "rank") {
      let k = 0;
      while (k < this.#ranks.length && this.#ranks[k] <= value) k++;
      return k / this.#ranks.length;
    }
    return Math.max(
      0.02,
      Math.log(value / this.#range.low) / Math.log(this.#range.high / this.#range.low),
    );
  }

  #paint() {
    const positive = this.#data.values.filter((v) => v > 0).sort();
    if (positive.length) {
      this.#range.high =
        positive[Math.min(positive.length - 1, Math.floor(positive.length * 0.998))];
      this.#range.low = Math.min(
        Math.max(positive[Math.floor(positive.length * 0.05)], this.#range.high * 1e-5),
        this.#range.high / 10,
      );
      this.#ranks = Array.from(
        { length: 64 },
        (_, k) => positive[Math.floor((k / 64) * positive.length)],
      );
    }
    const image = new ImageData(this.#data.columns, this.#data.rows);
    const pixels = new Uint32Array(image.data.buffer);
    const { lut } = this.palette();
    for (let r = 0; r < this.#data.rows; r++)
      for (let c = 0; c < this.#data.columns; c++) {
        const at = r * this.#data.columns + c;
        const v = this.#data.values[at];
        pixels[at] =
          this.#masked(r, c) && !(v > 0)
            ? 0
            : lut[v > 0 ? Math.round(255 * Math.max(0, Math.min(1, this.#place(v)))) : 0];
      }
    this.#picture = Object.assign(document.createElement("canvas"), {
      width: this.#data.columns,
      height: this.#data.rows,
    });
    this.#picture.getContext("2d").putImageData(image, 0, 0);
    this.onRange(this.#range);
  }

  #from(c) {
    return (this.#data.start ?? 0) + c * this.#data.columnCell;
  }

  #masked(r, c) {
    return this.#from(c) > (r + 1) * this.#data.rowCell;
  }

  #draw() {
    const context = sizeCanvas(this.canvas, this.#size.width, this.#size.height);
    const ink = this.ink();
    const { w, h: hh } = this.#plot();
    context.clearRect(0, 0, this.#size.width, this.#size.height);
    context.fillStyle = ink.masked;
    context.fillRect(EDGE.left, EDGE.top, w, hh);
    if (!this.#data) return;
    context.imageSmoothingEnabled = false;
    const rows = (this.#data.rows * this.#data.rowCell) / this.#data.n;
    const x = (offset) => EDGE.left + (offset / this.#data.reach) * w;
    const y = (token) => EDGE.top + (token / this.#data.n) * hh;
    context.save();
    context.beginPath();
    context.rect(EDGE.left, EDGE.top, w, hh);
    context.clip();
    context.drawImage(
      this.#picture,
      x(this.#from(0)),
      EDGE.top,
      ((this.#data.columns * this.#data.columnCell) / this.#data.reach) * w,
      rows * hh,
    );
    if (this.#query !== null) {
      context.fillStyle = ink.accent;
      context.fillRect(EDGE.left, y(this.#query) - 0.75, w, 1.5);
    }
    context.restore();
    context.strokeStyle = ink.line;
    context.strokeRect(EDGE.left - 0.5, EDGE.top - 0.5, w + 1, hh + 1);
    context.font = `12px ${ink.font}`;
    context.fillStyle = ink.text;
    context.textBaseline = "bottom";
    for (const at of ticks(0, this.#data.reach + 1, w / 80)) {
      context.textAlign = at === 0 ? "left" : x(at) > EDGE.left + w - 16 ? "right" : "center";
      context.fillText(formatCount(at), x(at), EDGE.top - 4);
    }
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const at of ticks(0, this.#data.n, hh / 50))
      context.fillText(formatCount(at), EDGE.left - 6, Math.max(EDGE.top + 6, y(at)));
    context.fillStyle = ink.faint;
    context.font = `600 12px ${ink.font}`;
    context.textBaseline = "top";
    context.textAlign = "left";
    context.fillText("offset: how many tokens back →", EDGE.left, 6);
    context.save();
    context.translate(2, EDGE.top + Math.min(hh, 150));
    context.rotate(-Math.PI / 2);
    context.fillText("query: who looks →", 0, 0);
    context.restore();
  }

  #cellAt(px, py) {
    const { w, h: hh } = this.#plot();
    const u = (px - EDGE.left) / w;
    const v = (py - EDGE.top) / hh;
    if (!this.#data || u < 0 || v < 0 || u >= 1 || v >= 1) return null;
    const r = Math.min(this.#data.rows - 1, Math.floor((v * this.#data.n) / this.#data.rowCell));
    const c = Math.min(
      this.#data.columns - 1,
      Math.floor((u * this.#data.reach - this.#from(0)) / this.#data.columnCell),
    );
    const value = this.#data.values[r * this.#data.columns + c];
    return {
      query: Math.floor(r * this.#data.rowCell),
      queryStop: Math.min(this.#data.n, Math.floor((r + 1) * this.#data.rowCell)),
      at: Math.floor(v * this.#data.n),
      offset: Math.max(0, Math.floor(this.#from(c))),
      offsetStop: Math.min(this.#data.reach, Math.floor(this.#from(c + 1))),
      value,
      masked: this.#masked(r, c) && !(value > 0),
    };
  }
}
