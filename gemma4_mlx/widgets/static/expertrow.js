/* The chosen layer close up: its experts with their numbers, in as many lines as they need. */

import { sizeCanvas } from "./canvas.js";
import { cssOf } from "./colours.js";
import { h, perFrame } from "./dom.js";
import { hatch, LIMIT } from "./expertcolours.js";
import { listenForExperts } from "./expertinput.js";

const CELL = 23; // css pixels: least width of a cell
const BAR = 22; // height of the bars
const LINE = BAR + 18; // height of a line: its bars and numbers

export class ExpertRow {
  canvas = h("canvas", {
    class: "g4-focusrow",
    tabindex: 0,
    role: "application",
    "aria-roledescription": "bar chart",
    "aria-label":
      "Load of the chosen layer's experts over the even load. Arrow keys move, Enter chooses.",
  });
  #width = 0;
  draw = perFrame(() => {
    const t = this.table();
    if (!t || !this.#width) return;
    const { lines, across, cell } = this.#grid(t);
    const ink = this.ink();
    const scheme = this.scheme();
    const chosen = this.chosen();
    const order = this.order(chosen.row);
    const context = sizeCanvas(this.canvas, this.#width, lines * LINE);
    const pattern = hatch(context, ink);
    const route = new Map(this.route(chosen.row) ?? []);
    context.clearRect(0, 0, this.#width, lines * LINE);
    context.textAlign = "center";
    context.textBaseline = "alphabetic";
    order.forEach((e, place) => {
      const i = chosen.row * t.E + e;
      const left = Math.round((place % across) * cell);
      const wide = Math.round(((place % across) + 1) * cell) - left - 2;
      const top = Math.floor(place / across) * LINE;
      const rgb = scheme.rgb(i);
      const mine = e === chosen.expert || i === chosen.hover;
      context.globalAlpha = this.shown(i) ? 1 : 0.2;
      context.fillStyle = ink.masked;
      context.fillRect(left, top, wide, BAR);
      if (rgb) {
        // from the even load up or down, in powers of two
        const v = Math.max(-1, Math.min(1, Math.log2(t.ratio(i)) / LIMIT));
        const high = Math.max(1.5, (Math.abs(v) * BAR) / 2);
        context.fillStyle = cssOf(rgb);
        context.fillRect(left, v >= 0 ? top + BAR / 2 - high : top + BAR / 2, wide, high);
      } else {
        context.fillStyle = pattern;
        context.fillRect(left, top, wide, BAR);
      }
      context.fillStyle = ink.line;
      context.fillRect(left, top + BAR / 2, wide, 1);
      context.globalAlpha = this.shown(i) ? 1 : 0.45;
      context.font = `${mine || route.has(e) ? "700 " : ""}12px ${ink.font}`;
      context.fillStyle = mine ? ink.accent : route.has(e) ? ink.text : ink.faint;
      context.fillText(String(e), left + wide / 2, top + BAR + 13);
      context.globalAlpha = 1;
      if (route.has(e)) {
        context.fillStyle = ink.text;
        context.fillRect(left, top + BAR - 3, Math.max(3, wide * route.get(e)), 3);
      }
      if (mine) {
        context.strokeStyle = ink.text;
        context.lineWidth = 2;
        context.strokeRect(left + 0.5, top + 1, wide - 1, BAR - 2);
      }
    });
  });

  /** @param {any} o as expertMap's, for the chosen layer */
  constructor(o) {
    Object.assign(this, o);
    this.node = h("div", { class: "g4-maphold" }, this.canvas);
    listenForExperts(this, {
      at: (event) => this.#cellAt(event),
      from: () => this.#from(),
      to: (key, from) => this.#to(key, from),
      resized: (width) => {
        this.#width = width;
        this.draw();
      },
    });
  }

  #from() {
    const { row, expert, hover } = this.chosen();
    const first = row * this.table().E;
    const here = hover !== null && hover >= first && hover < first + this.table().E;
    return here ? hover : first + (expert ?? this.order(row)[0]);
  }

  #to(key, from) {
    const { E } = this.table();
    const { across } = this.#grid(this.table());
    const step = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -across,
      ArrowDown: across,
      Home: -1e6,
      End: 1e6,
    }[key];
    if (!step) return null;
    const row = Math.floor(from / E);
    const order = this.order(row);
    const place = Math.max(0, Math.min(E - 1, order.indexOf(from % E) + step));
    return row * E + order[place];
  }

  #grid(t) {
    const most = Math.max(1, Math.floor(this.#width / CELL));
    const lines = Math.ceil(t.E / most);
    const across = Math.ceil(t.E / lines);
    return { lines, across, cell: Math.min(60, this.#width / across) };
  }

  #cellAt(event) {
    const t = this.table();
    if (!t || !this.#width) return null;
    const { lines, across, cell } = this.#grid(t);
    const column = Math.floor(event.offsetX / cell);
    const line = Math.floor(event.offsetY / LINE);
    const place = line * across + column;
    return column >= across || line >= lines || place >= t.E
      ? null
      : this.chosen().row * t.E + this.order(this.chosen().row)[place];
  }
}
