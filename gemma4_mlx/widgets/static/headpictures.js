/* Small pictures of heads, sent a layer at a time and kept: for previews and for two dozen
 * heads. */

import { bytesOf } from "./pieces.js";

/** @param {object} o
 * @param {(layer: number) => Promise<{content: any, buffer: DataView} | null>} o.load
 * @param {() => any} o.ink @param {() => {lut: Uint32Array}} o.palette @param {number} o.n */
export function pictureStore(o) {
  const held = new Map();

  /** A layer's pictures. */
  function of(layer) {
    if (!held.has(layer))
      held.set(
        layer,
        o
          .load(layer)
          .then((answer) => (answer ? { ...answer.content, pixels: bytesOf(answer.buffer) } : null))
          .catch((error) => {
            held.delete(layer);
            throw error;
          }),
      );
    return held.get(layer);
  }

  /** Draw a head's picture once it is there. @param {HTMLCanvasElement} canvas */
  async function paint(canvas, { layer, head }) {
    const found = await of(layer);
    if (!found) return;
    const { rows, columns, axis, reach, heads, pixels } = found;
    const from = heads.indexOf(head) * rows * columns;
    const image = new ImageData(columns, rows);
    const data = new Uint32Array(image.data.buffer);
    const { lut } = o.palette();
    const blank = pixelOf(o.ink().masked);
    const row = o.n / rows;
    const column = (axis === "keys" ? o.n : reach) / columns;
    for (let r = 0; r < rows; r++)
      for (let c = 0; c < columns; c++) {
        const v = pixels[from + r * columns + c];
        const stop = (r + 1) * row; // later than the query, or before the text
        const hidden = v === 0 && (axis === "keys" ? c * column >= stop : c * column > stop);
        data[r * columns + c] = hidden ? blank : lut[v];
      }
    canvas.width = columns;
    canvas.height = rows;
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  /** A head's picture as numbers: {values, rows, columns, axis, reach}. */
  async function values({ layer, head }) {
    const found = await of(layer);
    if (!found) return null;
    const { rows, columns, axis, reach, heads, peak, pixels } = found;
    const k = heads.indexOf(head);
    const size = rows * columns;
    return {
      values: Float32Array.from(
        pixels.subarray(k * size, (k + 1) * size),
        (v) => (v / 255) ** 2 * peak[k],
      ),
      rows,
      columns,
      axis,
      reach,
    };
  }

  return { paint, values };
}

/** A css colour as one canvas pixel. @param {string} css */
export function pixelOf(css) {
  const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  probe.fillStyle = css;
  probe.fillRect(0, 0, 1, 1);
  const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
  return (255 << 24) | (b << 16) | (g << 8) | r;
}
