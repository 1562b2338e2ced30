/* All heads on one canvas: a row for each layer, a cell for each head, coloured by one number.
 *
 * Where the layers do not fit, runs of sliding layers between full ones are folded: every head stays
 * visible, in rows of a few pixels, and a click on the run's name unfolds it. Dragging a rectangle
 * marks the heads in it.
 */

import { h, sizeCanvas } from "./shared.js";

const ROOM = 412,
  WIDE = 384; // css pixels that the rows and the columns may take
const LEFT = 58,
  TOP = 22;

/**
 * @param {object} o
 * @param {any} o.table  every head: headTable of headscale.js
 * @param {() => any} o.ink
 * @param {(index: number) => string | null} o.colour  css colour of a head, null without a value
 * @param {(index: number) => [string, string] | null} o.number  text and css colour for a large cell
 * @param {() => Float32Array | null} o.order  values to sort each layer's heads by, null for their numbers
 * @param {() => Set<number> | null} o.marked   heads that are not faded, null for all
 * @param {(index: number | null, x: number, y: number) => void} o.onHover  client coordinates
 * @param {(index: number) => void} o.onPick
 * @param {(heads: Set<number>) => void} o.onMark
 * @param {(index: number) => string} o.describe
 * @param {(text: string) => void} o.announce
 */
export function headMap(o) {
  const { layers, first, list } = o.table;
  const most = Math.max(...layers.map((layer) => layer.heads.length));
  const canvas = h("canvas", {
    class: "g4-headmap",
    tabindex: 0,
    role: "application",
    "aria-roledescription": "map of heads",
    "aria-label":
      "All heads, a row for each layer. Arrow keys move between heads, Enter shows one large, F folds or unfolds the sliding layers here, Escape marks all.",
  });
  const runs = slidingRuns(layers),
    foldable = runs.length > 0 && layers.length * 11 > ROOM;
  let open = new Set(foldable ? [] : runs),
    rows = [],
    height = 0,
    cell = 12;
  let chosen = -1,
    cursor = -1,
    drag = null,
    orders = [];

  function place() {
    const folded = runs.filter((run) => !open.has(run));
    const thin = folded.reduce((sum, run) => sum + run.stop - run.start, 0),
      tall = layers.length - thin;
    const tallRow = folded.length
      ? 14
      : Math.max(11, Math.min(40, Math.floor(ROOM / layers.length)));
    const thinRow = Math.max(
      3,
      Math.min(8, Math.floor((ROOM - tall * 14 - 4 * folded.length) / Math.max(1, thin))),
    );
    cell = Math.max(8, Math.min(84, Math.floor(WIDE / most)));
    rows = [];
    height = TOP;
    layers.forEach((_, k) => {
      const run = folded.find((each) => k >= each.start && k < each.stop);
      if (run && k === run.start) height += 2;
      const size = run ? thinRow : tallRow;
      rows.push({ y: height, size, run });
      height += size;
      if (run && k === run.stop - 1) height += 2;
    });
    orders = layers.map((layer, k) => {
      const values = o.order(),
        numbers = layer.heads.map((_, c) => first[k] + c);
      return values
        ? numbers.sort((a, b) => (values[b] || 0) - (values[a] || 0) || a - b)
        : numbers;
    });
  }

  function boxOf(index) {
    const { row } = list[index],
      column = orders[row].indexOf(index);
    return { x: LEFT + column * cell, y: rows[row].y, w: cell, h: rows[row].size };
  }

  function draw() {
    const ink = o.ink();
    place();
    const context = sizeCanvas(canvas, LEFT + most * cell + 6, height + 2);
    context.clearRect(0, 0, LEFT + most * cell + 6, height + 2);
    const marked = o.marked();
    orders.forEach((order, k) =>
      order.forEach((index, column) => {
        const gap = rows[k].size > 8 ? 1 : 0.5,
          colour = o.colour(index);
        context.globalAlpha = marked && !marked.has(index) ? 0.16 : 1;
        context.fillStyle = colour ?? ink.masked;
        context.fillRect(LEFT + column * cell, rows[k].y, cell - 1, rows[k].size - gap);
        const number = cell >= 44 && rows[k].size >= 18 && o.number(index);
        if (!number) return;
        context.font = `12px ${ink.font}`;
        context.textAlign = "center";
        context.textBaseline = "middle";
        context.fillStyle = number[1];
        context.fillText(
          number[0],
          LEFT + (column + 0.5) * cell,
          rows[k].y + rows[k].size / 2 + 0.5,
        );
      }),
    );
    context.globalAlpha = 1;
    labels(context, ink);
    if (cursor >= 0 && cursor !== chosen) frame(context, cursor, ink.text, ink.halo);
    if (chosen >= 0) frame(context, chosen, ink.accent, ink.halo);
    if (drag?.box) {
      const { x, y, w, hh } = drag.box;
      context.strokeStyle = ink.accent;
      context.lineWidth = 1;
      context.setLineDash([4, 3]);
      context.strokeRect(x + 0.5, y + 0.5, w, hh);
      context.setLineDash([]);
    }
  }

  function labels(context, ink) {
    context.textBaseline = "middle";
    context.textAlign = "right";
    layers.forEach((layer, k) => {
      const { y, size, run } = rows[k];
      if (run && k !== run.start) return;
      const middle = run ? y + (size * (run.stop - run.start)) / 2 : y + size / 2;
      const full = layer.kind === "full";
      if (full && !run) {
        context.fillStyle = ink.accent;
        context.fillRect(LEFT - 5, y, 3, size - 1);
      }
      if (!full && !run && size < 14) return; // the full layers' names need the room
      const between =
        run && run.stop - run.start > 1
          ? `${layer.index}–${layers[run.stop - 1].index}`
          : layer.index;
      context.font = `${full ? "600 " : ""}12px ${ink.font}`;
      context.fillStyle = full ? ink.text : ink.faint;
      context.fillText(run ? `▸ ${between}` : `L${between}`, LEFT - 9, middle + 0.5);
    });
    context.fillStyle = ink.faint;
    context.font = `12px ${ink.font}`;
    context.textBaseline = "alphabetic";
    context.textAlign = "left";
    if (o.order()) {
      context.fillText(most * cell > 150 ? "highest → lowest" : "high → low", LEFT, TOP - 7);
      return;
    }
    context.textAlign = "right";
    context.fillText("head", LEFT - 9, TOP - 7);
    context.textAlign = "center";
    const step = [1, 2, 4, 8].find((each) => each * cell >= 22) ?? 8;
    for (let column = 0; column < most; column += step)
      context.fillText(
        String(layers[0].heads[column] ?? column),
        LEFT + (column + 0.5) * cell,
        TOP - 7,
      );
  }

  function frame(context, index, colour, halo) {
    const { x, y, w, h: hh } = boxOf(index);
    context.lineWidth = 4;
    context.strokeStyle = halo;
    context.strokeRect(x - 1.5, y - 1.5, w + 2, hh + 2);
    context.lineWidth = 2;
    context.strokeStyle = colour;
    context.strokeRect(x - 1.5, y - 1.5, w + 2, hh + 2);
  }

  /** The head at a point of the canvas, or -1. */
  function at(x, y) {
    const row = rows.findIndex((each) => y >= each.y && y < each.y + each.size),
      column = Math.floor((x - LEFT) / cell);
    return row < 0 || column < 0 || column >= orders[row].length ? -1 : orders[row][column];
  }
  const runAt = (x, y) =>
    x < LEFT - 2
      ? runs.find(
          (run) => y >= rows[run.start].y && y < rows[run.stop - 1].y + rows[run.stop - 1].size,
        )
      : undefined;

  function fold(run) {
    if (!foldable) return;
    if (open.has(run)) open.delete(run);
    else open.add(run);
    draw();
    o.announce(
      `Layers ${layers[run.start].index} to ${layers[run.stop - 1].index} ${open.has(run) ? "unfolded" : "folded"}`,
    );
  }

  function point(index, x, y) {
    if (index !== cursor) {
      cursor = index;
      draw();
    }
    o.onHover(index < 0 ? null : index, x, y);
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
        const x = Math.min(drag.x, event.offsetX),
          y = Math.min(drag.y, event.offsetY),
          w = Math.abs(drag.x - event.offsetX),
          hh = Math.abs(drag.y - event.offsetY);
        if (drag.box || Math.hypot(w, hh) > 6) {
          drag.box = { x, y, w, hh };
          draw();
          o.onHover(null, 0, 0);
        }
        return;
      }
      canvas.style.cursor =
        foldable && runAt(event.offsetX, event.offsetY) ? "pointer" : "crosshair";
      point(at(event.offsetX, event.offsetY), event.clientX, event.clientY);
    },
    on,
  );
  canvas.addEventListener(
    "pointerup",
    (event) => {
      const box = drag?.box,
        run = runAt(event.offsetX, event.offsetY),
        index = at(event.offsetX, event.offsetY);
      drag = null;
      if (box) {
        const inside = new Set(
          list
            .map((_, i) => i)
            .filter((i) => {
              const b = boxOf(i);
              return (
                b.x < box.x + box.w &&
                b.x + b.w > box.x &&
                b.y < box.y + box.hh &&
                b.y + b.h > box.y
              );
            }),
        );
        if (inside.size) o.onMark(inside);
        draw();
      } else if (run) fold(run);
      else if (index >= 0) o.onPick(index);
    },
    on,
  );
  canvas.addEventListener(
    "pointerleave",
    () => {
      if (!drag) point(-1, 0, 0);
    },
    on,
  );
  canvas.addEventListener(
    "keydown",
    (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const from = cursor >= 0 ? cursor : chosen >= 0 ? chosen : 0,
        { row } = list[from],
        column = orders[row].indexOf(from);
      const to = (r, c) => {
        const order = orders[Math.max(0, Math.min(rows.length - 1, r))];
        return order[Math.max(0, Math.min(order.length - 1, c))];
      };
      const next = {
        ArrowLeft: () => to(row, column - 1),
        ArrowRight: () => to(row, column + 1),
        ArrowUp: () => to(row - 1, column),
        ArrowDown: () => to(row + 1, column),
        Home: () => to(row, 0),
        End: () => to(row, 1e9),
        PageUp: () => to(row - 6, column),
        PageDown: () => to(row + 6, column),
      }[event.key];
      const run = runs.find((each) => row >= each.start && row < each.stop);
      if (next) {
        const index = next(),
          box = canvas.getBoundingClientRect();
        cursor = index;
        draw();
        const there = boxOf(index);
        o.onHover(index, box.x + there.x + there.w, box.y + there.y + there.h);
        o.announce(o.describe(index));
      } else if (event.key === "Enter" || event.key === " ") o.onPick(from);
      else if (event.key.toLowerCase() === "f" && run) fold(run);
      else if (event.key === "Escape") {
        cursor = -1;
        o.onHover(null, 0, 0);
        o.onMark(new Set());
      } else return;
      event.preventDefault();
      event.stopPropagation();
    },
    on,
  );
  canvas.addEventListener("blur", () => point(-1, 0, 0), on);

  return {
    canvas,
    draw,
    foldable,
    boxOf,
    choose(index) {
      chosen = index;
      draw();
    },
    get unfolded() {
      return open.size === runs.length;
    },
    foldAll(folded) {
      open = new Set(folded ? [] : runs);
      draw();
    },
    destroy() {
      abort.abort();
    },
  };
}

/** Runs [start, stop) of sliding layers, by position. */
function slidingRuns(layers) {
  const runs = [];
  layers.forEach((layer, k) => {
    if (layer.kind === "full") return;
    const last = runs[runs.length - 1];
    if (last?.stop === k) last.stop = k + 1;
    else runs.push({ start: k, stop: k + 1 });
  });
  return runs;
}
