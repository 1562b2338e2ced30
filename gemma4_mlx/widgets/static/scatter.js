/* Two numbers of every head against each other: what lies apart is unusual. */

import { sizeCanvas } from "./canvas.js";
import { h } from "./dom.js";
import { HeadPointer } from "./headinput.js";
import { sayValue } from "./headscale.js";

const MARGIN = { left: 66, right: 12, top: 10, bottom: 40 };
const RADIUS = 3.5;

export class HeadScatter {
  canvas = h("canvas", {
    class: "g4-scatter",
    role: "img",
    "aria-label": "Every head as a point",
  });
  #size = { width: 440, height: 400 };
  #points = [];
  #chosen = -1;
  #pointer;
  #abort = new AbortController();

  /**
   * @param {object} o  as for HeadMap: table, ink, colour, marked, onHover, onPick, onMark
   * @param {() => [string, string]} o.axes  the summaries across and up
   */
  constructor(o) {
    Object.assign(this, o);
    this.#pointer = new HeadPointer(this, {
      at: (x, y) => this.#at(x, y),
      within: ([x, y, w, high]) => {
        const inside = ([, p]) => p.x >= x && p.x <= x + w && p.y >= y && p.y <= y + high;
        return new Set([...this.#points.entries()].filter(inside).map(([index]) => index));
      },
      signal: this.#abort.signal,
    });
  }

  resize(width) {
    this.#size = { width, height: Math.min(420, width) };
    this.draw();
  }

  choose(index) {
    this.#chosen = index;
    this.draw();
  }

  destroy() {
    this.#abort.abort();
  }

  #plot() {
    return {
      w: this.#size.width - MARGIN.left - MARGIN.right,
      h: this.#size.height - MARGIN.top - MARGIN.bottom,
    };
  }

  draw() {
    const ink = this.ink();
    const context = sizeCanvas(this.canvas, this.#size.width, this.#size.height);
    const [across, up] = this.axes();
    if (!this.table.columns.has(across) || !this.table.columns.has(up)) return;
    context.clearRect(0, 0, this.#size.width, this.#size.height);
    this.#drawAxes(context, across, up, ink);
    this.#place(across, up);
    this.#drawPoints(context, ink);
    this.#drawRing(context, this.#pointer.cursor, ink.text, ink.halo);
    this.#drawRing(context, this.#chosen, ink.accent, ink.halo);
    this.#pointer.drawBox(context, ink);
  }

  #place(across, up) {
    const { w, h: high } = this.#plot();
    const { table } = this;
    const x = table.scale(across);
    const y = table.scale(up);
    this.#points = table.list.map((_, index) => ({
      x: MARGIN.left + x.place(table.value(across, index)) * w,
      y: MARGIN.top + high - y.place(table.value(up, index)) * high,
    }));
  }

  #drawAxes(context, across, up, ink) {
    const { w, h: high } = this.#plot();
    const { table } = this;
    const x = table.scale(across);
    const y = table.scale(up);
    const bottom = MARGIN.top + high;
    context.strokeStyle = ink.line;
    context.lineWidth = 1;
    context.strokeRect(MARGIN.left - 0.5, MARGIN.top - 0.5, w + 1, high + 1);
    context.font = `12px ${ink.font}`;
    context.fillStyle = ink.faint;
    for (let k = 0; k <= 4; k++) {
      const at = k / 4;
      context.textAlign = k === 0 ? "left" : k === 4 ? "right" : "center";
      context.textBaseline = "top";
      context.fillText(this.#short(across, x.at(at)), MARGIN.left + at * w, bottom + 5);
      context.textAlign = "right";
      context.textBaseline = k === 4 ? "top" : k === 0 ? "bottom" : "middle";
      context.fillText(this.#short(up, y.at(at)), MARGIN.left - 6, bottom - at * high);
    }
    context.fillStyle = ink.text;
    context.textAlign = "center";
    context.textBaseline = "top";
    context.fillText(`${table.words.get(across)} →`, MARGIN.left + w / 2, bottom + 22);
    context.save();
    context.translate(4, MARGIN.top + high / 2);
    context.rotate(-Math.PI / 2);
    context.fillText(`${table.words.get(up)} →`, 0, 0);
    context.restore();
  }

  /** Squares are full heads, circles sliding ones. */
  #drawPoints(context, ink) {
    const marked = this.marked();
    context.lineWidth = 1;
    this.#points.forEach(({ x, y }, index) => {
      context.globalAlpha = marked && !marked.has(index) ? 0.12 : 0.85;
      context.fillStyle = this.colour(index) ?? ink.masked;
      context.strokeStyle = ink.line;
      context.beginPath();
      if (this.table.list[index].kind === "full")
        context.rect(x - RADIUS, y - RADIUS, 2 * RADIUS, 2 * RADIUS);
      else context.arc(x, y, RADIUS, 0, 7);
      context.fill();
      context.stroke();
    });
    context.globalAlpha = 1;
  }

  #drawRing(context, index, colour, halo) {
    if (index < 0) return;
    const { x, y } = this.#points[index];
    for (const [style, width] of [
      [halo, 4],
      [colour, 2],
    ]) {
      context.strokeStyle = style;
      context.lineWidth = width;
      context.beginPath();
      context.arc(x, y, RADIUS + 3, 0, 7);
      context.stroke();
    }
  }

  #short(name, value) {
    return sayValue(name, value)
      .replace(/ (nats|tokens|spreads)$/, "")
      .replace(" %", "%");
  }

  /** The nearest head within 9 pixels, or -1. */
  #at(x, y) {
    let best = -1;
    let near = 81;
    this.#points.forEach((p, index) => {
      const d = (p.x - x) ** 2 + (p.y - y) ** 2;
      if (d < near) {
        near = d;
        best = index;
      }
    });
    return best;
  }
}
