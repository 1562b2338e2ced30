/* The chosen layer close up: its experts with their numbers, in as many lines as they need. */

import { cssOf, hatch, LIMIT } from "./expertcolours.js";
import { h, onResize, perFrame, sizeCanvas } from "./shared.js";

const CELL = 23,
  BAR = 22,
  LINE = BAR + 18; // css pixels: least width, height of the bars, of a line

/** @param {any} o as expertMap's, for the chosen layer */
export function expertRow(o) {
  const canvas = h("canvas", {
    class: "g4-focusrow",
    tabindex: 0,
    role: "application",
    "aria-roledescription": "bar chart",
    "aria-label":
      "Load of the chosen layer's experts over the even load. Arrow keys move, Enter chooses.",
  });
  const holder = h("div", { class: "g4-maphold" }, canvas);
  let width = 0;

  const grid = (t) => {
    const most = Math.max(1, Math.floor(width / CELL)),
      lines = Math.ceil(t.E / most),
      across = Math.ceil(t.E / lines);
    return { lines, across, cell: Math.min(60, width / across) };
  };

  const draw = perFrame(() => {
    const t = o.table();
    if (!t || !width) return;
    const { lines, across, cell } = grid(t),
      ink = o.ink(),
      scheme = o.scheme(),
      chosen = o.chosen(),
      order = o.order(chosen.row);
    const context = sizeCanvas(canvas, width, lines * LINE),
      pattern = hatch(context, ink),
      route = new Map(o.route(chosen.row) ?? []);
    context.clearRect(0, 0, width, lines * LINE);
    context.textAlign = "center";
    context.textBaseline = "alphabetic";
    order.forEach((e, place) => {
      const i = chosen.row * t.E + e,
        left = Math.round((place % across) * cell),
        wide = Math.round(((place % across) + 1) * cell) - left - 2,
        top = Math.floor(place / across) * LINE;
      const rgb = scheme.rgb(i),
        mine = e === chosen.expert || i === chosen.hover;
      context.globalAlpha = o.shown(i) ? 1 : 0.2;
      context.fillStyle = ink.masked;
      context.fillRect(left, top, wide, BAR);
      if (rgb) {
        // from the even load up or down, in powers of two
        const v = Math.max(-1, Math.min(1, Math.log2(t.ratio(i)) / LIMIT)),
          high = Math.max(1.5, (Math.abs(v) * BAR) / 2);
        context.fillStyle = cssOf(rgb);
        context.fillRect(left, v >= 0 ? top + BAR / 2 - high : top + BAR / 2, wide, high);
      } else {
        context.fillStyle = pattern;
        context.fillRect(left, top, wide, BAR);
      }
      context.fillStyle = ink.line;
      context.fillRect(left, top + BAR / 2, wide, 1);
      context.globalAlpha = o.shown(i) ? 1 : 0.45;
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

  function cellAt(event) {
    const t = o.table();
    if (!t || !width) return null;
    const { lines, across, cell } = grid(t),
      column = Math.floor(event.offsetX / cell),
      line = Math.floor(event.offsetY / LINE),
      place = line * across + column;
    return column >= across || line >= lines || place >= t.E
      ? null
      : o.chosen().row * t.E + o.order(o.chosen().row)[place];
  }
  canvas.addEventListener("pointermove", (event) => o.onHover(cellAt(event)));
  canvas.addEventListener("pointerleave", () => o.onHover(null));
  canvas.addEventListener("blur", () => o.onHover(null));
  canvas.addEventListener("click", (event) => {
    const i = cellAt(event);
    if (i !== null) o.onPick(i);
  });
  canvas.addEventListener("keydown", (event) => {
    const t = o.table();
    if (!t) return;
    const { row, expert, hover } = o.chosen(),
      order = o.order(row),
      { across } = grid(t),
      from = hover !== null && Math.floor(hover / t.E) === row ? hover % t.E : (expert ?? order[0]);
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      o.onPick(row * t.E + from);
      return;
    }
    if (event.key === "Escape") {
      o.onHover(null);
      return;
    }
    const step = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -across,
      ArrowDown: across,
      Home: -1e6,
      End: 1e6,
    }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const next = row * t.E + order[Math.max(0, Math.min(t.E - 1, order.indexOf(from) + step))];
    o.onHover(next);
    o.say(o.name(next));
  });
  onResize(
    holder,
    (w) => {
      w = Math.floor(w);
      if (w > 100 && w !== width) {
        width = w;
        draw();
      }
    },
    o.signal,
  );
  return { node: holder, canvas, draw };
}
