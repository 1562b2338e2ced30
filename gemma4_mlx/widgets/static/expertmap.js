/* The layers x experts map. Its cells are drawn once and copied; what follows the pointer lies above. */

import { cssOf, hatch, inkFor } from "./expertcolours.js";
import { h, onResize, perFrame, sizeCanvas } from "./shared.js";

/**
 * @param {object} o
 * @param {() => any} o.table  experts.js table, or null while it is on its way
 * @param {() => any} o.scheme
 * @param {(row: number) => number[]} o.order experts of a row from left to right
 * @param {(i: number) => boolean} o.shown false: dimmed by the filter
 * @param {() => {row: number, expert: number|null, hover: number|null}} o.chosen hover: row * E + expert
 * @param {(row: number) => Array<[number, number]>|null} o.route the selected token's experts and shares
 * @param {(i: number|null) => void} o.onHover @param {(i: number) => void} o.onPick
 * @param {() => any} o.ink @param {(i: number) => string} o.name @param {(text: string) => void} o.say
 * @param {{layers: number[], signal: AbortSignal}} o
 */
export function expertMap(o) {
  const canvas = h("canvas", {
    class: "g4-loadmap",
    tabindex: 0,
    role: "application",
    "aria-roledescription": "heat map",
    "aria-label": "Every expert of every layer. Arrow keys move, Enter chooses.",
  });
  const holder = h("div", { class: "g4-maphold" }, canvas),
    cells = document.createElement("canvas");
  const left = 34,
    top = 1,
    rows = o.layers.length;
  const rowHeight = Math.max(13, Math.min(24, Math.floor(364 / rows)));
  let width = 0,
    stale = true,
    places = []; // places[row][expert] = its column

  const x = (column, E) => Math.round(left + (column * (width - left - 1)) / E);
  const box = (i, t) => {
    const row = Math.floor(i / t.E),
      c = places[row][i % t.E];
    return [x(c, t.E), top + row * rowHeight, x(c + 1, t.E) - x(c, t.E), rowHeight];
  };

  function drawCells(t) {
    const ink = o.ink(),
      scheme = o.scheme(),
      context = sizeCanvas(cells, width, top + rows * rowHeight + 1),
      E = t.E;
    context.clearRect(0, 0, width, rows * rowHeight + 2);
    const lines = hatch(context, ink),
      gap = (width - left) / E > 6 ? 1 : 0,
      numbers = (width - left) / E >= 24;
    context.font = `12px ${ink.font}`;
    context.textBaseline = "middle";
    context.textAlign = "center";
    places = [];
    for (let row = 0; row < rows; row++) {
      const order = o.order(row);
      places[row] = new Array(E);
      order.forEach((e, column) => {
        places[row][e] = column;
        const i = row * E + e,
          rgb = scheme.rgb(i),
          at = x(column, E),
          w = x(column + 1, E) - at - gap;
        context.globalAlpha = o.shown(i) ? 1 : 0.14;
        context.fillStyle = rgb ? cssOf(rgb) : lines;
        context.fillRect(at, top + row * rowHeight, w, rowHeight - 1);
        if (numbers && rgb) {
          context.fillStyle = inkFor(rgb);
          context.fillText(String(e), at + w / 2, top + (row + 0.5) * rowHeight);
        }
      });
    }
    context.globalAlpha = 1;
    stale = false;
  }

  const draw = perFrame(() => {
    const t = o.table();
    if (!t || !width) return;
    if (stale) drawCells(t);
    const ink = o.ink(),
      chosen = o.chosen(),
      context = sizeCanvas(canvas, width, top + rows * rowHeight + 1);
    context.clearRect(0, 0, width, rows * rowHeight + 2);
    context.drawImage(cells, 0, 0, width, top + rows * rowHeight + 1);
    context.textAlign = "right";
    context.textBaseline = "middle";
    o.layers.forEach((layer, row) => {
      const mine = row === chosen.row;
      context.font = `${mine ? "700 " : ""}12px ${ink.font}`;
      context.fillStyle = mine ? ink.accent : ink.faint;
      context.fillText(`L${layer}`, left - 6, top + (row + 0.5) * rowHeight);
      for (const [e, share] of o.route(row) ?? []) tick(context, box(row * t.E + e, t), share, ink);
    });
    context.strokeStyle = ink.accent;
    context.lineWidth = 1.5;
    context.strokeRect(
      left - 1.5,
      top + chosen.row * rowHeight - 1,
      width - left + 1,
      rowHeight + 1,
    );
    for (const i of [
      chosen.expert === null ? null : chosen.row * t.E + chosen.expert,
      chosen.hover,
    ])
      if (i !== null) outline(context, box(i, t), ink);
  });

  /** Where the selected token went: a bar from the bottom of the cell, as high as its share. */
  function tick(context, [cx, cy, w, hh], share, ink) {
    if (w >= 24) {
      context.fillStyle = ink.text;
      context.fillRect(cx, cy + hh - 4, Math.max(3, (w - 1) * share), 3);
      return;
    } // under the number
    const high = Math.max(3, Math.round((hh - 2) * (0.25 + 0.75 * share))),
      wide = Math.max(2, Math.min(4, w - 2)),
      at = Math.round(cx + (w - wide) / 2);
    context.fillStyle = ink.halo;
    context.fillRect(at - 1, cy + hh - 2 - high, wide + 2, high + 2);
    context.fillStyle = ink.text;
    context.fillRect(at, cy + hh - 1 - high, wide, high);
  }

  function outline(context, [cx, cy, w, hh], ink) {
    context.lineWidth = 4;
    context.strokeStyle = ink.halo;
    context.strokeRect(cx, cy, Math.max(4, w), hh - 1);
    context.lineWidth = 2;
    context.strokeStyle = ink.text;
    context.strokeRect(cx, cy, Math.max(4, w), hh - 1);
  }

  function cellAt(event) {
    const t = o.table(),
      row = Math.floor((event.offsetY - top) / rowHeight);
    if (!t || !places.length || row < 0 || row >= rows || event.offsetX < left) return null;
    const column = Math.min(
        t.E - 1,
        Math.floor(((event.offsetX - left) * t.E) / (width - left - 1)),
      ),
      e = places[row].indexOf(column);
    return e < 0 ? null : row * t.E + e;
  }

  canvas.addEventListener("pointermove", (event) => o.onHover(cellAt(event)));
  canvas.addEventListener("pointerleave", () => o.onHover(null));
  canvas.addEventListener("click", (event) => {
    const i = cellAt(event);
    if (i !== null) o.onPick(i);
  });
  canvas.addEventListener("blur", () => o.onHover(null));
  canvas.addEventListener("keydown", (event) => {
    const t = o.table(),
      step = {
        ArrowLeft: [0, -1],
        ArrowRight: [0, 1],
        ArrowUp: [-1, 0],
        ArrowDown: [1, 0],
        Home: [0, -1e6],
        End: [0, 1e6],
      }[event.key];
    if (!t) return;
    const { row, expert, hover } = o.chosen(),
      from = hover ?? row * t.E + (expert ?? o.order(row)[0]);
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      o.onPick(from);
      return;
    }
    if (event.key === "Escape") {
      o.onHover(null);
      return;
    }
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const at = Math.max(0, Math.min(rows - 1, Math.floor(from / t.E) + step[0])),
      column = Math.max(0, Math.min(t.E - 1, places[Math.floor(from / t.E)][from % t.E] + step[1]));
    const next = at * t.E + places[at].indexOf(column);
    o.onHover(next);
    o.say(o.name(next));
  });
  onResize(
    holder,
    (w) => {
      w = Math.floor(w);
      if (w > 100 && w !== width) {
        width = w;
        stale = true;
        draw();
      }
    },
    o.signal,
  );
  return {
    node: holder,
    canvas,
    rowHeight,
    top,
    draw,
    redraw() {
      stale = true;
      draw();
    },
  };
}
