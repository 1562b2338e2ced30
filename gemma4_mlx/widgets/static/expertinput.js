/* Pointer and keys of a canvas whose cells are experts: point, choose, move. */

import { onResize } from "./canvas.js";

const LEAST = 100; // css pixels: a narrower canvas is not drawn

/**
 * @param {object} view  with canvas, node, table, onHover, onPick, name, say and signal
 * @param {object} o
 * @param {(event: PointerEvent) => number | null} o.at  the expert under the pointer
 * @param {() => number} o.from  the expert that keys start from; asked once there is a table
 * @param {(key: string, from: number) => number | null} o.to  where a key leads, null: nowhere
 * @param {(width: number) => void} o.resized  css pixels, when they have changed
 */
export function listenForExperts(view, { at, from, to, resized }) {
  const { canvas, signal } = view;
  canvas.addEventListener("pointermove", (event) => view.onHover(at(event)));
  canvas.addEventListener("pointerleave", () => view.onHover(null));
  canvas.addEventListener("blur", () => view.onHover(null));
  canvas.addEventListener("click", (event) => {
    const i = at(event);
    if (i !== null) view.onPick(i);
  });
  canvas.addEventListener("keydown", (event) => {
    if (view.table()) pressKey(view, event, from(), to);
  });
  let known = 0;
  onResize(
    view.node,
    (width) => {
      const now = Math.floor(width);
      if (now <= LEAST || now === known) return;
      known = now;
      resized(now);
    },
    signal,
  );
}

function pressKey(view, event, from, to) {
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    view.onPick(from);
    return;
  }
  if (event.key === "Escape") {
    view.onHover(null);
    return;
  }
  const next = to(event.key, from);
  if (next === null) return;
  event.preventDefault();
  event.stopPropagation();
  view.onHover(next);
  view.say(view.name(next));
}
