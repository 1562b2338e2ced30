/* One token's experts: a row for each layer beside the map, strongest first, in the map's
 * colours. */

import { sizeCanvas } from "./canvas.js";
import { cssOf } from "./colours.js";
import { h, perFrame } from "./dom.js";
import { inkFor } from "./expertcolours.js";

/**
 * @param {object} o as expertMap's: table, scheme, route, ink, chosen, onHover, onPick
 * @param {{layers: number[], k: number, rowHeight: number, top: number}} o
 */
export function expertStrip(o) {
  const canvas = h("canvas", {
    class: "g4-pathstrip",
    role: "img",
    "aria-label": "Experts of the selected token in every layer, strongest first",
  });
  const rows = o.layers.length;
  const cell = o.k > 4 ? 26 : 44;
  const width = o.k * cell;

  const draw = perFrame(() => {
    const t = o.table();
    const ink = o.ink();
    const context = sizeCanvas(canvas, width, o.top + rows * o.rowHeight + 1);
    context.clearRect(0, 0, width, rows * o.rowHeight + 2);
    if (!t) return;
    const scheme = o.scheme();
    const chosen = o.chosen();
    context.textBaseline = "middle";
    context.textAlign = "center";
    for (let row = 0; row < rows; row++) {
      const route = o.route(row);
      const y = o.top + row * o.rowHeight;
      if (!route) {
        context.fillStyle = ink.masked;
        context.fillRect(0, y, width - 1, o.rowHeight - 1);
        continue;
      }
      route.forEach(([e, share], j) => {
        const i = row * t.E + e;
        const rgb = scheme.rgb(i) ?? [128, 128, 128];
        const wide = cell - 1;
        context.fillStyle = ink.masked;
        context.fillRect(j * cell, y, wide, o.rowHeight - 1);
        // the number on its colour, and under it a bar as long as its share of the gate
        context.fillStyle = cssOf(rgb);
        context.fillRect(j * cell, y, wide, o.rowHeight - 1);
        const mine = i === chosen.hover || (row === chosen.row && e === chosen.expert);
        context.font = `${mine ? "700 " : ""}12px ${ink.font}`;
        context.fillStyle = inkFor(rgb);
        context.fillText(String(e), j * cell + wide / 2, y + (o.rowHeight - 2) / 2);
        context.fillRect(j * cell, y + o.rowHeight - 3, Math.max(1, wide * share), 2);
        if (mine) {
          context.strokeStyle = ink.text;
          context.lineWidth = 2;
          context.strokeRect(j * cell + 1, y + 1, wide - 2, o.rowHeight - 3);
        }
      });
    }
  });

  function cellAt(event) {
    const t = o.table();
    const row = Math.floor((event.offsetY - o.top) / o.rowHeight);
    const j = Math.floor(event.offsetX / cell);
    const route = t && row >= 0 && row < rows ? o.route(row) : null;
    return route?.[j] ? row * t.E + route[j][0] : null;
  }
  canvas.addEventListener("pointermove", (event) => o.onHover(cellAt(event)));
  canvas.addEventListener("pointerleave", () => o.onHover(null));
  canvas.addEventListener("click", (event) => {
    const i = cellAt(event);
    if (i !== null) o.onPick(i);
  });
  return { canvas, draw };
}
