/* A zoomable map of one attention head over the whole context, drawn from tiles like a street map.
 * Coordinates are tokens: x is the key, y the query. A tile at level z covers 128 x 128 cells of
 * 2^z tokens each; the view asks for the tiles it shows, nearest to the middle first, keeps the
 * last 512 it got, and draws the nearest coarser picture until one arrives. Between the finest
 * overview and the coarsest level that can be recomputed there is nothing new to ask for, so those
 * zooms enlarge the overview's tiles. What no query may see (the future, and beyond a sliding
 * window) is drawn in its own tone, apart from a small mass.
 */

import { cellIndex, edge, shorten, ticks } from "./axes.js";
import { formatCount, h } from "./shared.js";

export const TILE = 128; // cells along each side; widgets/attention.py has the same
const FITTED = { left: 72, top: 42 },
  ZOOMED = { left: 92, top: 76 }; // room for numbers, for words and the inset
const WORDS = 11; // css pixels per token from which tokens are named
const TILES_KEPT = 512;
const MAX_SCALE = 40; // css pixels per token, closest zoom
const ASK_EVERY = 60,
  PATIENCE = 5000; // ms between requests while the view moves; ms before asking again
const SAMPLES = 512; // values of a tile that the colour scale is made from

/**
 * @param {object} o
 * @param {(tiles: Array<[level: number, row: number, column: number]>, signal: AbortSignal) =>
 *         Promise<Array<{level: number, row: number, column: number, values: Float32Array,
 *         rows: number, columns: number, query: number, key: number, rowCell: number,
 *         columnCell: number}>>} o.fetchTiles
 *         some of the tiles, in order, at least one (or none where a newer request came before);
 *         first query and key, and tokens per cell: 2^level, or coarser from the overview
 * @param {(cell: object|null) => void} o.onCell   the cell under the pointer or the cursor
 * @param {(cell: object) => void} o.onPick        a click, or Enter
 * @param {() => void} o.onView                    after each drawing: view, range, tiles missing
 * @param {(size: {width: number, height: number}) => void} [o.onSize]
 * @param {(start:number, stop:number) => (string[]|null)} o.words  token texts, null while loading
 */
export function tileMap(o) {
  const canvas = h("canvas", {
    class: "g4-map",
    tabindex: 0,
    role: "application",
    "aria-label": o.label,
    "aria-roledescription": "zoomable map",
  });
  const context = canvas.getContext("2d");
  let margin = FITTED,
    holder = null;
  let n = 1,
    size = { width: 0, height: 0 }; // until it is in the page
  let view = { x: 0, y: 0, scale: 1 };
  let geometry = { window: null, blocks: [], exact: 0, bin: 1 };
  let colour = { scale: "log", low: 0, high: 1, thresholds: null };
  let cursor = null,
    mark = { query: null, key: null };
  let tiles = new Map(),
    asking = null,
    asked = 0;
  let timer = 0,
    watchdog = 0,
    frame = 0,
    rangeFor = "",
    parts = [],
    hideFirst = false;
  let byBits = { stamp: "", table: new Uint32Array(0), zero: 0 };
  const painted = { visible: 0, missing: 0, level: 0, cell: 1 };

  const plot = () => ({
    width: Math.max(50, size.width - margin.left - 8),
    height: Math.max(50, size.height - margin.top - 8),
  });
  const fitIn = (around) =>
    Math.max(50, Math.min(size.width - around.left, size.height - around.top) - 8) / n;
  const fitScale = () => (fitIn(FITTED) >= WORDS ? fitIn(ZOOMED) : fitIn(FITTED));
  const topLevel = () => Math.max(0, Math.ceil(Math.log2(n / TILE)));

  /** The level to draw from: cells of about a pixel, or of the overview where nothing finer is. */
  function level() {
    const z = Math.max(0, Math.min(topLevel(), Math.ceil(-Math.log2(view.scale * 1.001))));
    return z <= geometry.exact
      ? z
      : Math.max(z, Math.min(topLevel(), Math.floor(Math.log2(2 * geometry.bin - 1))));
  }

  function clamp() {
    view.scale = Math.max(fitScale(), Math.min(MAX_SCALE, view.scale));
    margin = view.scale >= WORDS || view.scale > fitScale() * 1.3 ? ZOOMED : FITTED;
    const p = plot();
    const slackX = n - p.width / view.scale,
      slackY = n - p.height / view.scale;
    view.x = slackX <= 0 ? 0 : Math.max(0, Math.min(slackX, view.x));
    view.y = slackY <= 0 ? 0 : Math.max(0, Math.min(slackY, view.y));
  }

  /** True when no query of the rows may see any key of the columns. */
  function masked(q0, q1, k0, k1) {
    const causal = k0 > q1 - 1;
    const beyond = geometry.window && k1 - 1 <= q0 - geometry.window;
    if (!causal && !beyond) return false;
    if (causal && geometry.blocks.some(([a, b]) => q1 > a && q0 < b && k1 > a && k0 < b))
      return false;
    return true;
  }

  // ---- tiles -------------------------------------------------------------------------------
  const keyOf = (z, i, j) => `${z}/${i}/${j}`;

  function visibleTiles(z) {
    const p = plot(),
      span = TILE * 2 ** z,
      list = [];
    const i1 = Math.min(Math.ceil(n / span), Math.ceil((view.y + p.height / view.scale) / span));
    const j1 = Math.min(Math.ceil(n / span), Math.ceil((view.x + p.width / view.scale) / span));
    for (let i = Math.floor(view.y / span); i < i1; i++)
      for (let j = Math.floor(view.x / span); j < j1; j++) {
        const q1 = Math.min(n, (i + 1) * span),
          k1 = Math.min(n, (j + 1) * span);
        if (!masked(i * span, q1, j * span, k1)) list.push([z, i, j]);
      }
    return list;
  }

  /** Ask for what is missing, in one message; an answer may hold a part of it, and asks on. */
  function request() {
    if (!size.width) return;
    const z = level(),
      want = visibleTiles(z).filter(([a, i, j]) => !tiles.has(keyOf(a, i, j)));
    if (!want.length) return;
    const span = TILE * 2 ** z,
      p = plot(),
      top = topLevel();
    const cx = (view.x + p.width / view.scale / 2) / span - 0.5;
    const cy = (view.y + p.height / view.scale / 2) / span - 0.5;
    want.sort((a, b) => Math.hypot(a[1] - cy, a[2] - cx) - Math.hypot(b[1] - cy, b[2] - cx));
    if (!tiles.has(keyOf(top, 0, 0)) && z < top) want.unshift([top, 0, 0]); // something to see meanwhile
    const keys = want.map((t) => keyOf(...t)).join();
    if (asking?.keys === keys && performance.now() - asked < PATIENCE) return; // on its way
    asking = { keys, controller: asking?.controller ?? new AbortController() };
    asked = performance.now();
    const mine = asking;
    clearTimeout(watchdog);
    watchdog = setTimeout(request, PATIENCE + 100); // a message can get lost
    o.fetchTiles(want, mine.controller.signal)
      .then((found) => {
        if (mine.controller.signal.aborted) return;
        for (const tile of found) keep(keyOf(tile.level, tile.row, tile.column), tile);
        draw();
        if (mine === asking) {
          asking = { keys: "", controller: mine.controller };
          request();
        }
      })
      .catch((error) => {
        if (!mine.controller.signal.aborted) {
          clearTimeout(watchdog);
          o.onError(error);
        }
      });
  }

  function keep(key, tile) {
    tiles.delete(key);
    tiles.set(key, { ...tile, picture: null, colours: "" });
    while (tiles.size > TILES_KEPT) tiles.delete(tiles.keys().next().value);
  }

  /** Ask at once, but not more often than every 60 ms while the view moves. */
  function schedule() {
    clearTimeout(timer);
    timer = setTimeout(request, Math.max(0, asked + ASK_EVERY - performance.now()));
  }

  // ---- colours -----------------------------------------------------------------------------
  /** Some of a tile's values that are not zero, apart from its first column and from that alone. */
  function samplesOf(tile) {
    if (tile.samples) return tile.samples;
    const rest = [],
      first = [],
      step = Math.floor(tile.values.length / SAMPLES) | 1; // odd: every column has its turn
    for (let at = 0; at < tile.values.length; at += step)
      if (tile.values[at] > 0) (at % tile.columns ? rest : first).push(tile.values[at]);
    return (tile.samples = { rest, first });
  }

  /** Range of the scale, from the tiles in view: the 99.8th percentile of what is not zero. */
  function setRange(list) {
    const found = [];
    for (const [z, i, j] of list) {
      const tile = tiles.get(keyOf(z, i, j));
      if (!tile) continue;
      const { rest, first } = samplesOf(tile);
      found.push(rest);
      if (!(hideFirst && j === 0)) found.push(first);
    }
    const sample = Float32Array.from(found.flat()).sort();
    if (sample.length < 2) return;
    const high = Math.min(
      1,
      sample[Math.min(sample.length - 1, Math.floor(sample.length * 0.998))],
    );
    let low = Math.max(sample[Math.floor(sample.length * 0.05)], high * 1e-5);
    if (low >= high) low = high / 10;
    const near = (a, b, by) => a < b * by && b < a * by;
    if (rangeFor && near(high, colour.high, 1.3) && near(low, colour.low, 3)) return; // steady colours
    colour.high = high;
    colour.low = low;
    colour.thresholds = Array.from(
      { length: 64 },
      (_, k) => sample[Math.floor((k / 64) * sample.length)],
    );
  }

  /** Place of a value on the colour scale, 0 to 1. */
  function place(value) {
    if (!(value > 0)) return 0;
    if (colour.scale === "linear") return Math.min(1, value / colour.high);
    if (colour.scale === "log") {
      const t = Math.log(value / colour.low) / Math.log(colour.high / colour.low);
      return Math.max(0.02, Math.min(1, t));
    }
    let a = 0,
      b = colour.thresholds ? colour.thresholds.length : 0;
    while (a < b) {
      const m = (a + b) >> 1;
      if (colour.thresholds[m] <= value) a = m + 1;
      else b = m;
    }
    return Math.max(0.02, a / 64);
  }

  /** Draw a tile's picture where its tokens are; the caller clips. */
  function put(tile, source) {
    context.drawImage(
      source,
      (tile.key - view.x) * view.scale,
      (tile.query - view.y) * view.scale,
      tile.columns * tile.columnCell * view.scale,
      tile.rows * tile.rowCell * view.scale,
    );
  }

  /** Pixels of every float32 by its upper 16 bits (under 1 % apart), so that colouring a tile is
   * one look-up per cell. */
  function pixelsByBits() {
    const stamp = `${colour.scale} ${colour.low} ${colour.high} ${o.palette().name}`;
    if (byBits.stamp === stamp) return byBits;
    const { lut, zero } = o.palette(),
      table = new Uint32Array(0x7f80),
      bits = new Uint32Array(1);
    const value = new Float32Array(bits.buffer);
    for (let i = 0; i < table.length; i++) {
      bits[0] = (i << 16) | 0x8000;
      table[i] = lut[Math.round(place(value[0]) * 255)];
    }
    table[0] = zero;
    byBits = { stamp, table, zero };
    return byBits;
  }

  /** @param {number} j the tile's column: the first one holds the sink */
  function picture(tile, j) {
    const { stamp, table, zero } = pixelsByBits(),
      whole = `${stamp} ${hideFirst}`;
    if (tile.colours === whole) return tile.picture;
    const image = new ImageData(tile.columns, tile.rows),
      data = new Uint32Array(image.data.buffer);
    const bits = new Uint32Array(tile.values.buffer, tile.values.byteOffset, tile.values.length);
    const right = edge(tile.key, tile.columns, tile.columnCell),
      bottom = edge(tile.query, tile.rows, tile.rowCell);
    const allSeen =
      right - 1 <= tile.query && (!geometry.window || tile.key > bottom - 1 - geometry.window);
    for (let r = 0; r < tile.rows; r++) {
      const q0 = edge(tile.query, r, tile.rowCell),
        q1 = Math.min(n, edge(tile.query, r + 1, tile.rowCell));
      for (let c = 0, at = r * tile.columns; c < tile.columns; c++, at++) {
        if (!allSeen) {
          const k0 = edge(tile.key, c, tile.columnCell),
            k1 = Math.min(n, edge(tile.key, c + 1, tile.columnCell));
          if (masked(q0, q1, k0, k1)) {
            data[at] = 0;
            continue;
          }
        }
        data[at] = table[bits[at] >>> 16];
      }
    }
    if (hideFirst && j === 0)
      for (let at = 0; at < data.length; at += tile.columns) if (data[at]) data[at] = zero;
    const off =
      tile.picture ??
      Object.assign(document.createElement("canvas"), { width: tile.columns, height: tile.rows });
    off.getContext("2d").putImageData(image, 0, 0);
    tile.picture = off;
    tile.colours = whole;
    return off;
  }

  // ---- drawing -----------------------------------------------------------------------------
  function draw() {
    if (!frame)
      frame = requestAnimationFrame(() => {
        frame = 0;
        paint();
      });
  }

  function paint() {
    const ratio = window.devicePixelRatio || 1,
      p = plot(),
      ink = o.ink();
    const wide = Math.round(size.width * ratio),
      high = Math.round(size.height * ratio);
    if (canvas.width !== wide || canvas.height !== high)
      Object.assign(canvas, { width: wide, height: high });
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, size.width, size.height);
    context.save();
    context.translate(margin.left, margin.top);
    context.beginPath();
    context.rect(0, 0, Math.min(p.width, n * view.scale), Math.min(p.height, n * view.scale));
    context.clip();
    context.fillStyle = ink.masked;
    context.fillRect(0, 0, p.width, p.height);
    context.imageSmoothingEnabled = false;
    const z = level(),
      list = visibleTiles(z),
      stamp = rangeStamp(z, list);
    if (stamp !== rangeFor) {
      setRange(list);
      rangeFor = stamp;
    }
    painted.visible = list.length;
    painted.missing = 0;
    painted.level = z;
    painted.cell = 0;
    for (const [a, i, j] of list) {
      let tile = tiles.get(keyOf(a, i, j));
      const span = TILE * 2 ** z;
      const x = (j * span - view.x) * view.scale,
        y = (i * span - view.y) * view.scale;
      if (tile) {
        const key = keyOf(a, i, j);
        tiles.delete(key);
        tiles.set(key, tile); // used now: the last to be thrown away
        context.save();
        context.beginPath();
        context.rect(x, y, span * view.scale, span * view.scale);
        context.clip();
        put(tile, picture(tile, j));
        context.restore();
        painted.cell = Math.max(painted.cell, tile.columnCell);
        continue;
      }
      painted.missing++;
      for (let up = 1; z + up <= topLevel(); up++) {
        const zi = i >> up,
          zj = j >> up;
        tile = tiles.get(keyOf(z + up, zi, zj));
        if (!tile) continue;
        context.save();
        context.beginPath();
        context.rect(x, y, span * view.scale, span * view.scale);
        context.clip();
        put(tile, picture(tile, zj));
        context.restore();
        break;
      }
    }
    painted.cell ||= 2 ** z;
    drawMarks(p, ink);
    context.restore();
    drawAxes(p, ink);
    drawInset(p, ink);
    o.onView(state());
  }

  const rangeStamp = (z, list) =>
    `${z}:${list.map(([, i, j]) => `${i},${j},${tiles.has(keyOf(z, i, j))}`)}:${hideFirst}`;

  function drawMarks(p, ink) {
    const s = view.scale,
      box = Math.max(1, s);
    const line = (value, vertical, style, dash) => {
      if (value === null || value === undefined) return;
      const at = (value - (vertical ? view.x : view.y)) * s;
      context.strokeStyle = style;
      context.lineWidth = 1.5;
      context.setLineDash(dash);
      if (s >= 4) {
        if (vertical) context.strokeRect(at, -2, box, p.height + 4);
        else context.strokeRect(-2, at, p.width + 4, box);
      } else {
        context.beginPath();
        if (vertical) {
          context.moveTo(at + s / 2, 0);
          context.lineTo(at + s / 2, p.height);
        } else {
          context.moveTo(0, at + s / 2);
          context.lineTo(p.width, at + s / 2);
        }
        context.stroke();
      }
      context.setLineDash([]);
    };
    line(mark.query, false, ink.accent, []);
    line(mark.key, true, ink.accent, [5, 3]);
    if (cursor) {
      const x = (cursor.key - view.x) * s,
        y = (cursor.query - view.y) * s;
      const w = (cursor.keyStop - cursor.key) * s,
        hh = (cursor.queryStop - cursor.query) * s;
      context.lineWidth = 3;
      context.strokeStyle = ink.halo;
      context.strokeRect(x - 1, y - 1, w + 2, hh + 2);
      context.lineWidth = 1.5;
      context.strokeStyle = ink.text;
      context.strokeRect(x - 1, y - 1, w + 2, hh + 2);
    }
  }

  function drawAxes(p, ink) {
    const s = view.scale,
      x1 = Math.min(n, view.x + p.width / s),
      y1 = Math.min(n, view.y + p.height / s);
    const width = Math.min(p.width, n * s),
      height = Math.min(p.height, n * s);
    context.strokeStyle = ink.line;
    context.lineWidth = 1;
    context.strokeRect(margin.left - 0.5, margin.top - 0.5, width + 1, height + 1);
    for (const part of parts) {
      // who speaks, as a coloured rule along both axes
      context.fillStyle = part.colour;
      const a = Math.max(0, (part.start - view.x) * s),
        b = Math.min(width, (part.stop - view.x) * s);
      if (b > a) context.fillRect(margin.left + a, margin.top - 6, Math.max(1, b - a - 0.5), 4);
      const c = Math.max(0, (part.start - view.y) * s),
        d = Math.min(height, (part.stop - view.y) * s);
      if (d > c) context.fillRect(margin.left - 6, margin.top + c, 4, Math.max(1, d - c - 0.5));
    }
    context.fillStyle = ink.text;
    context.font = "12px " + ink.font;
    const words =
      s >= WORDS
        ? [o.words(Math.floor(view.x), Math.ceil(x1)), o.words(Math.floor(view.y), Math.ceil(y1))]
        : [null, null];
    if (words[0] && words[1]) {
      context.textBaseline = "middle";
      words[1].forEach((text, k) => {
        const at = margin.top + (Math.floor(view.y) + k + 0.5 - view.y) * s;
        if (at < margin.top || at > margin.top + height) return;
        context.textAlign = "right";
        context.fillText(shorten(text, 12), margin.left - 10, at);
      });
      words[0].forEach((text, k) => {
        const at = margin.left + (Math.floor(view.x) + k + 0.5 - view.x) * s;
        if (at < margin.left || at > margin.left + width) return;
        context.save();
        context.translate(at, margin.top - 10);
        context.rotate(-Math.PI / 3);
        context.textAlign = "left";
        context.fillText(shorten(text, 10), 0, 0);
        context.restore();
      });
    } else {
      for (const at of ticks(view.x, x1, width / 70)) {
        const px = margin.left + (at - view.x) * s;
        context.textAlign = px > margin.left + width - 18 ? "right" : "center";
        context.textBaseline = "bottom";
        context.fillText(formatCount(at), px, margin.top - 10);
        context.fillRect(px, margin.top - 9, 1, 3);
      }
      for (const at of ticks(view.y, y1, height / 50)) {
        const py = margin.top + (at - view.y) * s;
        context.textAlign = "right";
        context.textBaseline = py > margin.top + height - 8 ? "bottom" : "middle";
        context.fillText(formatCount(at), margin.left - 11, py);
        context.fillRect(margin.left - 9, py, 3, 1);
      }
    }
    context.fillStyle = ink.faint;
    context.font = "600 12px " + ink.font;
    context.textBaseline = "top";
    context.textAlign = "left";
    context.fillText("key: what is looked at →", margin.left, 2);
    context.save();
    context.translate(2, margin.top + Math.min(height, 150));
    context.rotate(-Math.PI / 2);
    context.fillText("query: who looks →", 0, 0);
    context.restore();
  }

  /** Where we are: the whole context, small, in the corner between the axes. */
  function drawInset(p, ink) {
    if (view.scale <= fitScale() * 1.3) return;
    const side = 58,
      x = 22,
      y = 4,
      k = side / n;
    context.fillStyle = ink.masked;
    context.fillRect(x, y, side, side);
    context.strokeStyle = ink.line;
    context.strokeRect(x - 0.5, y - 0.5, side + 1, side + 1);
    context.fillStyle = ink.faint;
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(x + side, y + side);
    if (geometry.window) {
      const w = Math.max(1.5, geometry.window * k);
      context.lineTo(x + Math.max(0, side - w), y + side);
      context.lineTo(x, y + Math.min(side, w));
    } else context.lineTo(x, y + side);
    context.closePath();
    context.fill();
    context.strokeStyle = ink.accent;
    context.lineWidth = 2;
    const w = Math.max(4, (p.width / view.scale) * k),
      hh = Math.max(4, (p.height / view.scale) * k);
    context.strokeRect(
      x + view.x * k - (w <= 4 ? 2 : 0),
      y + view.y * k - (hh <= 4 ? 2 : 0),
      w,
      hh,
    );
    context.lineWidth = 1;
  }

  // ---- pointer and keys
  function cellAt(px, py) {
    const x = view.x + (px - margin.left) / view.scale,
      y = view.y + (py - margin.top) / view.scale;
    if (px < margin.left || py < margin.top || x < 0 || y < 0 || x >= n || y >= n) return null;
    return cellOf(Math.floor(y), Math.floor(x));
  }

  /** The cell that holds (query, key): its token range, its value, whether that is exact. */
  function cellOf(query, key) {
    const z = level(),
      span = TILE * 2 ** z,
      i = Math.floor(query / span),
      j = Math.floor(key / span);
    const tile = tiles.get(keyOf(z, i, j)),
      rowCell = tile?.rowCell ?? 2 ** z,
      columnCell = tile?.columnCell ?? 2 ** z;
    const top = tile?.query ?? i * span,
      left = tile?.key ?? j * span;
    const row = cellIndex(query, top, rowCell),
      column = cellIndex(key, left, columnCell);
    const out = {
      query: edge(top, row, rowCell),
      queryStop: Math.min(n, edge(top, row + 1, rowCell)),
      key: edge(left, column, columnCell),
      keyStop: Math.min(n, edge(left, column + 1, columnCell)),
      value: null,
    };
    out.masked = masked(out.query, out.queryStop, out.key, out.keyStop);
    if (tile) {
      out.value = tile.values[row * tile.columns + column] ?? null;
    }
    return out;
  }

  /** About a point of the canvas; without one about the marked token, or the middle of the map. */
  function zoom(factor, px, py) {
    const p = plot(),
      shown = [Math.min(p.width, n * view.scale), Math.min(p.height, n * view.scale)];
    const marked = [
      (mark.key ?? mark.query ?? n) - view.x,
      (mark.query ?? mark.key ?? n) - view.y,
    ].map((t) => t * view.scale);
    const inside = marked.every((at, axis) => at >= 0 && at <= shown[axis]);
    px ??= margin.left + (inside ? marked[0] : shown[0] / 2);
    py ??= margin.top + (inside ? marked[1] : shown[1] / 2);
    const x = view.x + (px - margin.left) / view.scale,
      y = view.y + (py - margin.top) / view.scale;
    view.scale = Math.max(fitScale(), Math.min(MAX_SCALE, view.scale * factor));
    view.x = x - (px - margin.left) / view.scale;
    view.y = y - (py - margin.top) / view.scale;
    moved();
  }

  function moved() {
    clamp();
    draw();
    schedule();
  }

  function setCursor(query, key, follow = true) {
    const cell = 2 ** level();
    query = Math.max(0, Math.min(n - 1, query));
    key = Math.max(0, Math.min(n - 1, key));
    cursor = cellOf(query, key);
    const p = plot(),
      w = p.width / view.scale,
      hh = p.height / view.scale;
    if (follow) {
      if (cursor.key < view.x) view.x = cursor.key;
      if (cursor.keyStop > view.x + w) view.x = cursor.keyStop - w + cell;
      if (cursor.query < view.y) view.y = cursor.query;
      if (cursor.queryStop > view.y + hh) view.y = cursor.queryStop - hh + cell;
      moved();
    }
    draw();
    o.onCell(cursor);
  }

  const abort = new AbortController(),
    on = { signal: abort.signal };
  let drag = null;
  canvas.addEventListener(
    "pointerdown",
    (event) => {
      drag = { x: event.offsetX, y: event.offsetY, view: { ...view }, far: 0 };
      canvas.setPointerCapture(event.pointerId);
    },
    on,
  );
  canvas.addEventListener(
    "pointermove",
    (event) => {
      if (drag) {
        const dx = event.offsetX - drag.x,
          dy = event.offsetY - drag.y;
        drag.far = Math.max(drag.far, Math.hypot(dx, dy));
        if (drag.far > 3) {
          view.x = drag.view.x - dx / view.scale;
          view.y = drag.view.y - dy / view.scale;
          moved();
        }
      } else o.onCell(cellAt(event.offsetX, event.offsetY));
    },
    on,
  );
  canvas.addEventListener(
    "pointerup",
    (event) => {
      const cell = drag && drag.far <= 3 ? cellAt(event.offsetX, event.offsetY) : null;
      drag = null;
      if (cell) {
        cursor = cell;
        o.onPick(cell);
        draw();
      }
    },
    on,
  );
  canvas.addEventListener(
    "pointerleave",
    () => {
      if (!drag) o.onCell(cursor);
    },
    on,
  );
  canvas.addEventListener("dblclick", (event) => zoom(4, event.offsetX, event.offsetY), on);
  canvas.addEventListener(
    "wheel",
    (event) => {
      if (document.activeElement !== canvas && !canvas.matches(":focus-within") && !event.ctrlKey)
        return; // let the page scroll
      event.preventDefault();
      if (event.shiftKey) {
        view.x += (event.deltaY + event.deltaX) / view.scale;
        moved();
        return;
      }
      zoom(2 ** (-event.deltaY / 240), event.offsetX, event.offsetY);
    },
    { ...on, passive: false },
  );
  canvas.addEventListener(
    "keydown",
    (event) => {
      const at =
        cursor ?? cellOf(Math.floor(view.y + plot().height / view.scale / 2), Math.floor(view.x));
      const cell = Math.max(1, at.keyStop - at.key, at.queryStop - at.query),
        far = event.shiftKey ? 16 * cell : cell;
      const act = {
        ArrowLeft: () => setCursor(at.query, at.key - far),
        ArrowRight: () => setCursor(at.query, at.key + far),
        ArrowUp: () => setCursor(at.query - far, at.key),
        ArrowDown: () => setCursor(at.query + far, at.key),
        Home: () => setCursor(at.query, 0),
        End: () => setCursor(at.query, at.query),
        PageUp: () => setCursor(at.query - 128 * cell, at.key),
        PageDown: () => setCursor(at.query + 128 * cell, at.key),
        "+": () => zoomCursor(2),
        "=": () => zoomCursor(2),
        "-": () => zoomCursor(0.5),
        _: () => zoomCursor(0.5),
        0: () => fit(),
        Enter: () => o.onPick(at),
        Escape: () => {
          cursor = null;
          o.onCell(null);
          canvas.blur();
          draw();
        },
      }[event.key];
      if (act && !event.ctrlKey && !event.metaKey && !event.altKey) {
        event.preventDefault();
        event.stopPropagation();
        act();
      }
    },
    on,
  );

  function zoomCursor(factor) {
    if (!cursor) return zoom(factor);
    const x = margin.left + ((cursor.key + cursor.keyStop) / 2 - view.x) * view.scale;
    const y = margin.top + ((cursor.query + cursor.queryStop) / 2 - view.y) * view.scale;
    const { query, key } = cursor;
    zoom(factor, x, y);
    setCursor(query, key, false);
  }

  function fit() {
    view = { x: 0, y: 0, scale: fitScale() };
    moved();
  }

  const observer = new ResizeObserver(() => {
    const width = Math.max(260, Math.min(holder.clientWidth, 720));
    if (Math.abs(width - size.width) < 1) return;
    const fitted = view.scale <= fitScale() * 1.01;
    size = { width, height: Math.min(width, 560, Math.max(360, innerHeight - 310)) };
    canvas.style.width = `${size.width}px`;
    canvas.style.height = `${size.height}px`;
    if (fitted) view.scale = fitScale();
    moved();
    o.onSize?.(size);
  });

  const state = () => ({
    ...view,
    size,
    level: level(),
    n,
    ...colour,
    ...painted,
    fit: view.scale <= fitScale() * 1.01,
  });

  return {
    canvas,
    zoom,
    fit,
    draw,
    state,
    cellOf,
    start(element) {
      holder = element;
      observer.observe(holder);
    },
    /** Another head: forget its tiles, keep the place. */
    setHead(next) {
      const first = next.n !== n;
      n = next.n;
      geometry = { blocks: [], ...next };
      tiles.clear();
      asking?.controller.abort();
      asking = null;
      rangeFor = "";
      if (first) view = { x: 0, y: 0, scale: fitScale() };
      clamp();
      draw();
      request(); // before whatever else is asked about the head
    },
    setScale(scale) {
      colour.scale = scale;
      rangeFor = "";
      draw();
    },
    setParts(list) {
      parts = list;
      draw();
    },
    setHideFirst(on_) {
      hideFirst = on_;
      rangeFor = "";
      draw();
    },
    setMark(next) {
      mark = next;
      draw();
    },
    place,
    /** Put (query, key) in the middle, at least `scale` pixels per token. */
    show(query, key, scale = 14) {
      const p = plot();
      view.scale = Math.max(view.scale, Math.min(scale, MAX_SCALE));
      view.x = key - p.width / view.scale / 2;
      view.y = query - p.height / view.scale / 2;
      clamp();
      cursor = cellOf(query, key);
      moved();
    },
    destroy() {
      abort.abort();
      observer.disconnect();
      clearTimeout(timer);
      clearTimeout(watchdog);
      cancelAnimationFrame(frame);
      asking?.controller.abort();
    },
  };
}
