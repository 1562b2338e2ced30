/* The layer x expert map: colour is load, the line is the path of one token through the experts. */

import { colorAt, colorMaps, formatPercent, h, inkOn, sizeCanvas } from "./shared.js";

/**
 * @param {object} o
 * @param {() => {layers: number[], experts: number, values: Float32Array, signed: boolean}|null} o.data
 *        values (layers, experts): share of the routed tokens, or a difference of two shares
 * @param {() => Array<{layer:number, experts:number[], weights:number[]}>|null} o.path
 * @param {() => {layer:number|null, expert:number|null, pins: Map<number,string>}} o.chosen
 * @param {(layer:number, expert:number) => void} o.onPick
 * @param {(text:string) => void} o.say
 */
export function loadMap(o) {
  const canvas = h("canvas", { class: "g4-loadmap", tabindex: 0, role: "application", "aria-roledescription": "heat map", "aria-label": "Load of every expert in every layer. Arrow keys move, Enter chooses." });
  const legend = h("canvas", { class: "g4-legend", role: "img", "aria-label": "Colour scale of the load map" });
  const left = 42, top = 24;
  let cursor = null, width = 560;

  const cellSize = (data) => ({ w: (width - left - 4) / data.experts, hh: Math.max(10, Math.min(26, 240 / data.layers.length)) });

  function draw() {
    const data = o.data();
    if (!data) return;
    const { w, hh } = cellSize(data), rows = data.layers.length, ink = o.ink(), chosen = o.chosen();
    const context = sizeCanvas(canvas, width, top + rows * hh + 4);
    context.clearRect(0, 0, width, canvas.height);
    const limit = limitOf(data), map = data.signed ? colorMaps.diverging : colorMaps.viridis;
    const gap = w > 6 ? 1 : 0, dots = new Set((o.path() ?? []).flatMap((step) => step.experts.map((e) => `${step.layer} ${e}`)));
    context.font = "11px " + ink.font; context.textBaseline = "middle";
    data.layers.forEach((layer, r) => {
      context.fillStyle = layer === chosen.layer ? ink.accent : ink.faint;
      context.textAlign = "right"; context.font = `${layer === chosen.layer ? "700 " : ""}11px ` + ink.font;
      if (hh >= 11 || r % 2 === 0) context.fillText(`L${layer}`, left - 8, top + (r + 0.5) * hh);
      for (let e = 0; e < data.experts; e++) {
        const v = data.values[r * data.experts + e];
        context.fillStyle = !data.signed && v === 0 ? ink.masked : colorAt(map, data.signed ? 0.5 + v / limit / 2 : v / limit);
        context.fillRect(left + e * w, top + r * hh, w - gap, hh - 1);
        if (w >= 26 && hh >= 18 && !dots.has(`${layer} ${e}`)) {
          const t = data.signed ? 0.5 + v / limit / 2 : v / limit;
          context.fillStyle = !data.signed && v === 0 ? ink.faint : inkOn(map, t);
          context.textAlign = "center"; context.font = "10.5px " + ink.font;
          context.fillText((data.signed && v > 0 ? "+" : "") + Math.round(100 * v), left + (e + 0.5) * w - 0.5, top + (r + 0.5) * hh);
        }
      }
    });
    context.font = "10.5px " + ink.font; context.textAlign = "center"; context.fillStyle = ink.faint;
    const step = [1, 2, 4, 8, 16, 32].find((s) => s * w >= 18) ?? 64;
    for (let e = 0; e < data.experts; e++) {
      const pin = chosen.pins.get(e);
      if (pin) { context.fillStyle = pin; context.fillRect(left + e * w, top - 5, Math.max(2, w - gap), 3); }
      context.fillStyle = e === chosen.expert ? ink.accent : ink.faint;
      if (e % step === 0) context.fillText(String(e), left + (e + 0.5) * w, 9);
    }
    if (chosen.layer !== null) {
      const r = data.layers.indexOf(chosen.layer);
      if (r >= 0) {
        context.strokeStyle = ink.accent; context.lineWidth = 1.5;
        context.strokeRect(left - 1.5, top + r * hh - 1, data.experts * w + 1, hh + 1);
        if (chosen.expert !== null) outline(context, left + chosen.expert * w, top + r * hh, w - gap, hh - 1, ink, 2.5);
      }
    }
    drawPath(context, data, w, hh, ink);
    if (cursor) outline(context, left + cursor.expert * w, top + cursor.row * hh, w - gap, hh - 1, ink, 1.5);
    drawLegend(data, limit, map, ink);
  }

  function limitOf(data) {
    let high = 0;
    for (const v of data.values) high = Math.max(high, Math.abs(v));
    return high || 1;
  }

  function outline(context, x, y, w, hh, ink, line) {
    context.lineWidth = line + 2; context.strokeStyle = ink.halo; context.strokeRect(x, y, w, hh);
    context.lineWidth = line; context.strokeStyle = ink.text; context.strokeRect(x, y, w, hh);
  }

  /** The chosen experts of one token, one circle each; the strongest of every layer are joined. */
  function drawPath(context, data, w, hh, ink) {
    const path = o.path();
    if (!path) return;
    const at = (step, e) => [left + (e + 0.5) * w, top + (data.layers.indexOf(step.layer) + 0.5) * hh];
    for (const pass of [0, 1]) {
      context.strokeStyle = pass ? ink.text : ink.halo; context.lineWidth = (pass ? 1.5 : 4) * (w < 8 ? 0.7 : 1);
      context.beginPath();
      path.forEach((step, k) => { const [x, y] = at(step, step.experts[0]); if (k) context.lineTo(x, y); else context.moveTo(x, y); });
      context.stroke();
    }
    for (const step of path) step.experts.forEach((e, k) => {
      const [x, y] = at(step, e), most = Math.min(hh / 2 - 0.5, Math.max(2.5, 1.2 * w));
      context.beginPath(); context.arc(x, y, most * (0.35 + 0.65 * Math.sqrt(Math.min(1, step.weights[k]))), 0, 2 * Math.PI);
      context.fillStyle = k === 0 ? ink.text : ink.panel; context.fill();
      context.lineWidth = w < 8 ? 1 : 2; context.strokeStyle = k === 0 ? ink.halo : ink.text; context.stroke();
    });
  }

  function drawLegend(data, limit, map, ink) {
    const context = sizeCanvas(legend, 400, 28);
    context.clearRect(0, 0, 400, 28);
    for (let x = 0; x < 130; x++) { context.fillStyle = colorAt(map, x / 129); context.fillRect(x, 0, 130 - x, 10); } // the rest is drawn over: no seams
    context.fillStyle = ink.text; context.font = "10.5px " + ink.font; context.textBaseline = "top";
    context.textAlign = "left"; context.fillText(data.signed ? `A more, −${formatPercent(limit)}` : "0 %", 0, 14);
    context.textAlign = "right"; context.fillText(data.signed ? `B more` : formatPercent(limit), 130, 14);
    context.textAlign = "left";
    if (data.signed) { context.fillText("difference of load, percentage points", 146, 0); return; }
    const even = (130 / data.experts) / limit;
    if (even < 130) { context.fillRect(even, 0, 1.5, 13); }
    context.fillStyle = ink.faint;
    context.fillText(`share of a layer's routed tokens, in %`, 146, 0);
    context.fillText(`even load ${(100 / data.experts).toFixed(1)} %; grey: never used`, 146, 14);
  }

  function cellAt(x, y) {
    const data = o.data();
    if (!data) return null;
    const { w, hh } = cellSize(data), expert = Math.floor((x - left) / w), row = Math.floor((y - top) / hh);
    return expert < 0 || row < 0 || expert >= data.experts || row >= data.layers.length ? null : { expert, row };
  }

  function name(cell) {
    const data = o.data(), v = data.values[cell.row * data.experts + cell.expert];
    return `Layer ${data.layers[cell.row]}, expert ${cell.expert}: ${data.signed ? `${(100 * v).toFixed(1)} points` : `${formatPercent(v)} of its routed tokens`}`;
  }

  canvas.addEventListener("pointermove", (event) => { const cell = cellAt(event.offsetX, event.offsetY); canvas.title = cell ? name(cell) : ""; });
  canvas.addEventListener("click", (event) => { const cell = cellAt(event.offsetX, event.offsetY); if (cell) { cursor = null; o.onPick(o.data().layers[cell.row], cell.expert); } });
  canvas.addEventListener("blur", () => { cursor = null; draw(); });
  canvas.addEventListener("keydown", (event) => {
    const data = o.data(), move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -1e6], End: [0, 1e6] }[event.key];
    if (!data) return;
    const chosen = o.chosen();
    cursor ??= { row: Math.max(0, data.layers.indexOf(chosen.layer)), expert: chosen.expert ?? 0 };
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); o.onPick(data.layers[cursor.row], cursor.expert); return; }
    if (event.key === "Escape") { cursor = null; canvas.blur(); return; }
    if (!move) return;
    event.preventDefault(); event.stopPropagation();
    cursor = { row: Math.max(0, Math.min(data.layers.length - 1, cursor.row + move[0])), expert: Math.max(0, Math.min(data.experts - 1, cursor.expert + move[1])) };
    draw(); o.say(name(cursor));
  });
  const observer = new ResizeObserver(([entry]) => { const w = Math.floor(entry.contentRect.width); if (w > 100 && w !== width) { width = w; draw(); } });
  return { canvas, legend, draw, start(holder) { observer.observe(holder); }, destroy() { observer.disconnect(); } };
}
