/* Pointer, wheel and keys of a map of attention. */

/** @param {TileMap} map @param {AbortSignal} signal */
export function listenToMap(map, signal) {
  listenToPointer(map, signal);
  const { canvas } = map;
  canvas.addEventListener("dblclick", (event) => map.zoom(4, event.offsetX, event.offsetY), {
    signal,
  });
  canvas.addEventListener("wheel", (event) => turnWheel(map, event), { signal, passive: false });
  canvas.addEventListener("keydown", (event) => pressKey(map, event), { signal });
}

/** A drag moves the map; a click, which moves less than 3 pixels, picks a cell. */
function listenToPointer(map, signal) {
  const { canvas, view } = map;
  let drag = null;
  const listen = (type, listener) => canvas.addEventListener(type, listener, { signal });
  listen("pointerdown", (event) => {
    drag = { px: event.offsetX, py: event.offsetY, x: view.x, y: view.y, far: 0 };
    canvas.setPointerCapture(event.pointerId);
  });
  listen("pointermove", (event) => {
    if (!drag) {
      map.onCell(map.cellAt(event.offsetX, event.offsetY));
      return;
    }
    const dx = event.offsetX - drag.px;
    const dy = event.offsetY - drag.py;
    drag.far = Math.max(drag.far, Math.hypot(dx, dy));
    if (drag.far > 3) map.moveTo(drag.x - dx / view.scale, drag.y - dy / view.scale);
  });
  listen("pointerup", (event) => {
    const cell = drag && drag.far <= 3 ? map.cellAt(event.offsetX, event.offsetY) : null;
    drag = null;
    if (cell) map.pick(cell);
  });
  listen("pointerleave", () => {
    if (!drag) map.onCell(map.cursor);
  });
}

/** The wheel zooms, with Shift it moves sideways; without the focus it scrolls the page. */
function turnWheel(map, event) {
  const { canvas, view } = map;
  const focused = document.activeElement === canvas || canvas.matches(":focus-within");
  if (!focused && !event.ctrlKey) return;
  event.preventDefault();
  if (event.shiftKey) map.moveTo(view.x + (event.deltaY + event.deltaX) / view.scale, view.y);
  else map.zoom(2 ** (-event.deltaY / 240), event.offsetX, event.offsetY);
}

function pressKey(map, event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const at = map.cursor ?? map.firstCell();
  const cell = Math.max(1, at.keyStop - at.key, at.queryStop - at.query);
  const step = event.shiftKey ? 16 * cell : cell;
  const act = {
    ArrowLeft: () => map.moveCursor(at.query, at.key - step),
    ArrowRight: () => map.moveCursor(at.query, at.key + step),
    ArrowUp: () => map.moveCursor(at.query - step, at.key),
    ArrowDown: () => map.moveCursor(at.query + step, at.key),
    Home: () => map.moveCursor(at.query, 0),
    End: () => map.moveCursor(at.query, at.query),
    PageUp: () => map.moveCursor(at.query - 128 * cell, at.key),
    PageDown: () => map.moveCursor(at.query + 128 * cell, at.key),
    "+": () => map.zoomCursor(2),
    "=": () => map.zoomCursor(2),
    "-": () => map.zoomCursor(0.5),
    _: () => map.zoomCursor(0.5),
    0: () => map.fit(),
    Enter: () => map.onPick(at),
    Escape: () => map.leave(),
  }[event.key];
  if (!act) return;
  event.preventDefault();
  event.stopPropagation();
  act();
}
