// Canvases at the resolution of the screen.

/**
 * Size a canvas to its CSS box at the screen's resolution, scaled so that one unit is one CSS
 * pixel.
 * @param {HTMLCanvasElement} canvas @param {number} width @param {number} height
 * @returns {CanvasRenderingContext2D}
 */
export function sizeCanvas(canvas, width, height) {
  const ratio = devicePixelRatio || 1;
  const w = Math.max(1, Math.round(width * ratio));
  const hh = Math.max(1, Math.round(height * ratio));
  if (canvas.width !== w || canvas.height !== hh) Object.assign(canvas, { width: w, height: hh });
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

/**
 * @param {Element} node
 * @param {(width: number, height: number) => void} callback
 * @param {AbortSignal} signal
 */
export function onResize(node, callback, signal) {
  const observer = new ResizeObserver(([entry]) =>
    callback(entry.contentRect.width, entry.contentRect.height),
  );
  observer.observe(node);
  signal.addEventListener("abort", () => observer.disconnect());
}
