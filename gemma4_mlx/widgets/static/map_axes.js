/* What stands around and over a map of tokens: the frame, words or numbers, marks, a small picture
 * of the whole. Functions of a canvas's context, the part that shows (map_view.js) and the ink.
 */

import { shorten, ticks } from "./axes.js";
import { WORDS } from "./map_view.js";
import { formatCount } from "./words.js";

const INSET = { side: 58, x: 22, y: 4 }; // css pixels

/** The chosen query and key as lines, and the cursor's cell; the context starts at the plot. */
export function drawMarks(context, view, mark, cursor, ink) {
  drawMark(context, view, mark.query, false, ink.accent, []);
  drawMark(context, view, mark.key, true, ink.accent, [5, 3]);
  if (!cursor) return;
  const { x, y, scale } = view;
  const box = [
    (cursor.key - x) * scale - 1,
    (cursor.query - y) * scale - 1,
    (cursor.keyStop - cursor.key) * scale + 2,
    (cursor.queryStop - cursor.query) * scale + 2,
  ];
  for (const [width, colour] of [
    [3, ink.halo],
    [1.5, ink.text],
  ]) {
    context.lineWidth = width;
    context.strokeStyle = colour;
    context.strokeRect(...box);
  }
}

/** One token as a line through the plot, a box where it is wide enough. */
function drawMark(context, view, token, vertical, colour, dash) {
  if (token === null || token === undefined) return;
  const { scale, plot } = view;
  const at = (token - (vertical ? view.x : view.y)) * scale;
  context.strokeStyle = colour;
  context.lineWidth = 1.5;
  context.setLineDash(dash);
  if (scale >= 4) {
    if (vertical) context.strokeRect(at, -2, scale, plot.height + 4);
    else context.strokeRect(-2, at, plot.width + 4, scale);
  } else {
    const middle = at + scale / 2;
    context.beginPath();
    if (vertical) {
      context.moveTo(middle, 0);
      context.lineTo(middle, plot.height);
    } else {
      context.moveTo(0, middle);
      context.lineTo(plot.width, middle);
    }
    context.stroke();
  }
  context.setLineDash([]);
}

/**
 * The frame, who speaks, and words, or numbers where words have no room.
 * @param {(start: number, stop: number) => (string[] | null)} words null while they are loading
 * @param {Array<{ start: number, stop: number, colour: string }>} parts
 */
export function drawAxes(context, view, ink, words, parts) {
  const { margin, shown, area } = view;
  context.strokeStyle = ink.line;
  context.lineWidth = 1;
  context.strokeRect(margin.left - 0.5, margin.top - 0.5, shown.width + 1, shown.height + 1);
  for (const part of parts) drawPart(context, view, part);
  context.fillStyle = ink.text;
  context.font = `12px ${ink.font}`;
  const x1 = Math.min(view.n, area.x + area.width);
  const y1 = Math.min(view.n, area.y + area.height);
  const named = view.scale >= WORDS;
  const keys = named ? words(Math.floor(view.x), Math.ceil(x1)) : null;
  const queries = named ? words(Math.floor(view.y), Math.ceil(y1)) : null;
  if (keys && queries) drawWords(context, view, keys, queries);
  else drawNumbers(context, view, x1, y1);
  drawTitles(context, view, ink);
}

/** A part's colour as a rule along both axes. */
function drawPart(context, view, part) {
  const { margin, shown, scale } = view;
  const span = (from, room) => [
    Math.max(0, (part.start - from) * scale),
    Math.min(room, (part.stop - from) * scale),
  ];
  context.fillStyle = part.colour;
  const [left, right] = span(view.x, shown.width);
  if (right > left)
    context.fillRect(margin.left + left, margin.top - 6, Math.max(1, right - left - 0.5), 4);
  const [top, bottom] = span(view.y, shown.height);
  if (bottom > top)
    context.fillRect(margin.left - 6, margin.top + top, 4, Math.max(1, bottom - top - 0.5));
}

function drawWords(context, view, keys, queries) {
  const { margin, shown, scale } = view;
  context.textBaseline = "middle";
  queries.forEach((text, i) => {
    const at = margin.top + (Math.floor(view.y) + i + 0.5 - view.y) * scale;
    if (at < margin.top || at > margin.top + shown.height) return;
    context.textAlign = "right";
    context.fillText(shorten(text, 12), margin.left - 10, at);
  });
  keys.forEach((text, i) => {
    const at = margin.left + (Math.floor(view.x) + i + 0.5 - view.x) * scale;
    if (at < margin.left || at > margin.left + shown.width) return;
    context.save();
    context.translate(at, margin.top - 10);
    context.rotate(-Math.PI / 3);
    context.textAlign = "left";
    context.fillText(shorten(text, 10), 0, 0);
    context.restore();
  });
}

function drawNumbers(context, view, x1, y1) {
  const { margin, shown, scale } = view;
  for (const at of ticks(view.x, x1, shown.width / 70)) {
    const px = margin.left + (at - view.x) * scale;
    context.textAlign = px > margin.left + shown.width - 18 ? "right" : "center";
    context.textBaseline = "bottom";
    context.fillText(formatCount(at), px, margin.top - 10);
    context.fillRect(px, margin.top - 9, 1, 3);
  }
  for (const at of ticks(view.y, y1, shown.height / 50)) {
    const py = margin.top + (at - view.y) * scale;
    context.textAlign = "right";
    context.textBaseline = py > margin.top + shown.height - 8 ? "bottom" : "middle";
    context.fillText(formatCount(at), margin.left - 11, py);
    context.fillRect(margin.left - 9, py, 3, 1);
  }
}

function drawTitles(context, { margin, shown }, ink) {
  context.fillStyle = ink.faint;
  context.font = `600 12px ${ink.font}`;
  context.textBaseline = "top";
  context.textAlign = "left";
  context.fillText("key: what is looked at →", margin.left, 2);
  context.save();
  context.translate(2, margin.top + Math.min(shown.height, 150));
  context.rotate(-Math.PI / 2);
  context.fillText("query: who looks →", 0, 0);
  context.restore();
}

/** Where we are: the whole context, small, in the corner between the axes. */
export function drawInset(context, view, window, ink) {
  if (!view.enlarged) return;
  const { side, x, y } = INSET;
  const shrink = side / view.n;
  context.fillStyle = ink.masked;
  context.fillRect(x, y, side, side);
  context.strokeStyle = ink.line;
  context.strokeRect(x - 0.5, y - 0.5, side + 1, side + 1);
  context.fillStyle = ink.faint;
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(x + side, y + side);
  if (window) {
    const band = Math.max(1.5, window * shrink);
    context.lineTo(x + Math.max(0, side - band), y + side);
    context.lineTo(x, y + Math.min(side, band));
  } else context.lineTo(x, y + side);
  context.closePath();
  context.fill();
  context.strokeStyle = ink.accent;
  context.lineWidth = 2;
  const { area } = view;
  const width = Math.max(4, area.width * shrink);
  const height = Math.max(4, area.height * shrink);
  const left = x + area.x * shrink - (width <= 4 ? 2 : 0);
  const top = y + area.y * shrink - (height <= 4 ? 2 : 0);
  context.strokeRect(left, top, width, height);
  context.lineWidth = 1;
}
