/* Two numbers of every head against each other: what lies apart is unusual. */

import { h, sizeCanvas } from "./shared.js";
import { sayValue } from "./headscale.js";

const MARGIN = { left: 66, right: 12, top: 10, bottom: 40 },
  RADIUS = 3.5;

/**
 * @param {object} o  as for headMap: table, ink, colour, marked, onHover, onPick, onMark
 * @param {() => [string, string]} o.axes  the summaries across and up
 */
export function scatter(o) {
  const canvas = h("canvas", {
    class: "g4-scatter",
    role: "img",
    "aria-label": "Every head as a point",
  });
  let size = { width: 440, height: 400 },
    points = [],
    chosen = -1,
    cursor = -1,
    drag = null;
  const plot = () => ({
    w: size.width - MARGIN.left - MARGIN.right,
    h: size.height - MARGIN.top - MARGIN.bottom,
  });

  function draw() {
    const ink = o.ink(),
      context = sizeCanvas(canvas, size.width, size.height),
      { w, h: hh } = plot(),
      [across, up] = o.axes();
    if (!o.table.columns.has(across) || !o.table.columns.has(up)) return;
    const sx = o.table.scale(across),
      sy = o.table.scale(up),
      marked = o.marked();
    context.clearRect(0, 0, size.width, size.height);
    context.strokeStyle = ink.line;
    context.lineWidth = 1;
    context.strokeRect(MARGIN.left - 0.5, MARGIN.top - 0.5, w + 1, hh + 1);
    context.font = `12px ${ink.font}`;
    context.fillStyle = ink.faint;
    context.textBaseline = "top";
    for (let k = 0; k <= 4; k++) {
      context.textAlign = k === 0 ? "left" : k === 4 ? "right" : "center";
      context.fillText(short(across, sx.at(k / 4)), MARGIN.left + (k / 4) * w, MARGIN.top + hh + 5);
      context.textAlign = "right";
      context.textBaseline = k === 4 ? "top" : k === 0 ? "bottom" : "middle";
      context.fillText(short(up, sy.at(k / 4)), MARGIN.left - 6, MARGIN.top + hh - (k / 4) * hh);
      context.textBaseline = "top";
    }
    context.fillStyle = ink.text;
    context.textAlign = "center";
    context.fillText(`${o.table.words.get(across)} →`, MARGIN.left + w / 2, MARGIN.top + hh + 22);
    context.save();
    context.translate(4, MARGIN.top + hh / 2);
    context.rotate(-Math.PI / 2);
    context.fillText(`${o.table.words.get(up)} →`, 0, 0);
    context.restore();
    points = o.table.list.map((_, index) => ({
      x: MARGIN.left + sx.place(o.table.value(across, index)) * w,
      y: MARGIN.top + hh - sy.place(o.table.value(up, index)) * hh,
    }));
    context.lineWidth = 1;
    points.forEach(({ x, y }, index) => {
      context.globalAlpha = marked && !marked.has(index) ? 0.12 : 0.85;
      context.fillStyle = o.colour(index) ?? ink.masked;
      context.strokeStyle = ink.line;
      context.beginPath();
      if (o.table.list[index].kind === "full")
        context.rect(x - RADIUS, y - RADIUS, 2 * RADIUS, 2 * RADIUS);
      else context.arc(x, y, RADIUS, 0, 7);
      context.fill();
      context.stroke();
    });
    context.globalAlpha = 1;
    for (const [index, colour] of [
      [cursor, ink.text],
      [chosen, ink.accent],
    ]) {
      if (index < 0) continue;
      const { x, y } = points[index];
      context.strokeStyle = ink.halo;
      context.lineWidth = 4;
      context.beginPath();
      context.arc(x, y, RADIUS + 3, 0, 7);
      context.stroke();
      context.strokeStyle = colour;
      context.lineWidth = 2;
      context.beginPath();
      context.arc(x, y, RADIUS + 3, 0, 7);
      context.stroke();
    }
    if (drag?.box) {
      context.strokeStyle = ink.accent;
      context.lineWidth = 1;
      context.setLineDash([4, 3]);
      context.strokeRect(...drag.box);
      context.setLineDash([]);
    }
  }

  const short = (name, value) =>
    sayValue(name, value)
      .replace(/ (nats|tokens|spreads)$/, "")
      .replace(" %", "%");

  /** The nearest head within 9 pixels, or -1. */
  function at(x, y) {
    let best = -1,
      near = 81;
    points.forEach((p, index) => {
      const d = (p.x - x) ** 2 + (p.y - y) ** 2;
      if (d < near) {
        near = d;
        best = index;
      }
    });
    return best;
  }

  const abort = new AbortController(),
    on = { signal: abort.signal };
  canvas.addEventListener(
    "pointerdown",
    (event) => {
      drag = { x: event.offsetX, y: event.offsetY, box: null };
    },
    on,
  );
  canvas.addEventListener(
    "pointermove",
    (event) => {
      if (drag && event.buttons) {
        const box = [
          Math.min(drag.x, event.offsetX),
          Math.min(drag.y, event.offsetY),
          Math.abs(drag.x - event.offsetX),
          Math.abs(drag.y - event.offsetY),
        ];
        if (drag.box || Math.hypot(box[2], box[3]) > 6) {
          drag.box = box;
          draw();
          o.onHover(null, 0, 0);
        }
        return;
      }
      const index = at(event.offsetX, event.offsetY);
      if (index !== cursor) {
        cursor = index;
        draw();
      }
      o.onHover(index < 0 ? null : index, event.clientX, event.clientY);
    },
    on,
  );
  canvas.addEventListener(
    "pointerup",
    (event) => {
      const box = drag?.box,
        index = at(event.offsetX, event.offsetY);
      drag = null;
      if (box) {
        o.onMark(
          new Set(
            points
              .map((_, i) => i)
              .filter(
                (i) =>
                  points[i].x >= box[0] &&
                  points[i].x <= box[0] + box[2] &&
                  points[i].y >= box[1] &&
                  points[i].y <= box[1] + box[3],
              ),
          ),
        );
        draw();
      } else if (index >= 0) o.onPick(index);
    },
    on,
  );
  canvas.addEventListener(
    "pointerleave",
    () => {
      if (!drag) {
        cursor = -1;
        draw();
        o.onHover(null, 0, 0);
      }
    },
    on,
  );

  return {
    canvas,
    draw,
    resize(width) {
      size = { width, height: Math.min(420, width) };
      draw();
    },
    choose(index) {
      chosen = index;
      draw();
    },
    pointOf: (index) => points[index],
    destroy() {
      abort.abort();
    },
  };
}
