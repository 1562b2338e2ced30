/* A sliding head over the whole text: queries down, how far back they look to the right. */

import { ticks } from "./axes.js";
import { formatCount, h, sizeCanvas } from "./shared.js";

const EDGE = { left: 92, top: 52, right: 8, bottom: 8 };

/**
 * @param {object} o
 * @param {() => any} o.ink @param {() => {lut: Uint32Array, table: Uint8Array}} o.palette
 * @param {(cell: object | null) => void} o.onCell  {query, queryStop, offset, offsetStop, value, masked}
 * @param {(cell: object) => void} o.onPick
 * @param {(range: {low: number, high: number}) => void} o.onRange
 */
export function offsetMap(o) {
  const canvas = h("canvas", {
    class: "g4-map g4-offsetmap",
    role: "img",
    "aria-label": "Attention of a sliding head by query and offset",
  });
  let data = null,
    size = { width: 560, height: 460 },
    scale = "log",
    range = { low: 0.001, high: 1 },
    picture = null,
    ranks = [],
    query = null;
  const plot = () => ({
    w: size.width - EDGE.left - EDGE.right,
    h: size.height - EDGE.top - EDGE.bottom,
  });

  function place(value) {
    if (scale === "linear") return value / range.high;
    if (scale === "rank") {
      let k = 0;
      while (k < ranks.length && ranks[k] <= value) k++;
      return k / ranks.length;
    }
    return Math.max(0.02, Math.log(value / range.low) / Math.log(range.high / range.low));
  }

  function paint() {
    const positive = data.values.filter((v) => v > 0).sort();
    if (positive.length) {
      range.high = positive[Math.min(positive.length - 1, Math.floor(positive.length * 0.998))];
      range.low = Math.min(
        Math.max(positive[Math.floor(positive.length * 0.05)], range.high * 1e-5),
        range.high / 10,
      );
      ranks = Array.from(
        { length: 64 },
        (_, k) => positive[Math.floor((k / 64) * positive.length)],
      );
    }
    const image = new ImageData(data.columns, data.rows),
      pixels = new Uint32Array(image.data.buffer),
      { lut } = o.palette();
    for (let r = 0; r < data.rows; r++)
      for (let c = 0; c < data.columns; c++) {
        const at = r * data.columns + c,
          v = data.values[at];
        pixels[at] =
          masked(r, c) && !(v > 0)
            ? 0
            : lut[v > 0 ? Math.round(255 * Math.max(0, Math.min(1, place(v)))) : 0];
      }
    picture = Object.assign(document.createElement("canvas"), {
      width: data.columns,
      height: data.rows,
    });
    picture.getContext("2d").putImageData(image, 0, 0);
    o.onRange(range);
  }
  const from = (c) => (data.start ?? 0) + c * data.columnCell; // may lie before 0 by half a bin
  const masked = (r, c) => from(c) > (r + 1) * data.rowCell; // before the text

  function draw() {
    const context = sizeCanvas(canvas, size.width, size.height),
      ink = o.ink(),
      { w, h: hh } = plot();
    context.clearRect(0, 0, size.width, size.height);
    context.fillStyle = ink.masked;
    context.fillRect(EDGE.left, EDGE.top, w, hh);
    if (!data) return;
    context.imageSmoothingEnabled = false;
    const rows = (data.rows * data.rowCell) / data.n,
      x = (offset) => EDGE.left + (offset / data.reach) * w,
      y = (token) => EDGE.top + (token / data.n) * hh;
    context.save();
    context.beginPath();
    context.rect(EDGE.left, EDGE.top, w, hh);
    context.clip();
    context.drawImage(
      picture,
      x(from(0)),
      EDGE.top,
      ((data.columns * data.columnCell) / data.reach) * w,
      rows * hh,
    );
    if (query !== null) {
      context.fillStyle = ink.accent;
      context.fillRect(EDGE.left, y(query) - 0.75, w, 1.5);
    }
    context.restore();
    context.strokeStyle = ink.line;
    context.strokeRect(EDGE.left - 0.5, EDGE.top - 0.5, w + 1, hh + 1);
    context.font = `12px ${ink.font}`;
    context.fillStyle = ink.text;
    context.textBaseline = "bottom";
    for (const at of ticks(0, data.reach + 1, w / 80)) {
      context.textAlign = at === 0 ? "left" : x(at) > EDGE.left + w - 16 ? "right" : "center";
      context.fillText(formatCount(at), x(at), EDGE.top - 4);
    }
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const at of ticks(0, data.n, hh / 50))
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

  function cellAt(px, py) {
    const { w, h: hh } = plot(),
      u = (px - EDGE.left) / w,
      v = (py - EDGE.top) / hh;
    if (!data || u < 0 || v < 0 || u >= 1 || v >= 1) return null;
    const r = Math.min(data.rows - 1, Math.floor((v * data.n) / data.rowCell)),
      c = Math.min(data.columns - 1, Math.floor((u * data.reach - from(0)) / data.columnCell));
    const value = data.values[r * data.columns + c];
    return {
      query: Math.floor(r * data.rowCell),
      queryStop: Math.min(data.n, Math.floor((r + 1) * data.rowCell)),
      at: Math.floor(v * data.n),
      offset: Math.max(0, Math.floor(from(c))),
      offsetStop: Math.min(data.reach, Math.floor(from(c + 1))),
      value,
      masked: masked(r, c) && !(value > 0),
    };
  }

  const abort = new AbortController(),
    on = { signal: abort.signal };
  canvas.addEventListener(
    "pointermove",
    (event) => o.onCell(cellAt(event.offsetX, event.offsetY)),
    on,
  );
  canvas.addEventListener("pointerleave", () => o.onCell(null), on);
  canvas.addEventListener(
    "click",
    (event) => {
      const cell = cellAt(event.offsetX, event.offsetY);
      if (cell && !cell.masked) o.onPick(cell);
    },
    on,
  );

  return {
    canvas,
    cellAt,
    /** {values, rows, columns, rowCell, columnCell, start, n, reach}; null while it is on its way. */
    set(next) {
      data = next;
      if (data) paint();
      draw();
    },
    repaint() {
      if (data) paint();
      draw();
    },
    setScale(next) {
      scale = next;
      if (data) paint();
      draw();
    },
    setQuery(next) {
      query = next;
      draw();
    },
    resize(next) {
      size = next;
      draw();
    },
    destroy() {
      abort.abort();
    },
  };
}
