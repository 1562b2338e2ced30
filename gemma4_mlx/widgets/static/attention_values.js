/* Weights as the parts of the Attention view take them, from an answer or from what a page without
 * a kernel has in its place: a head's small picture. */

import { bytesOf, floats } from "./pieces.js";

/** Values of an answer: float32, or 8 bits on a scale of logarithms, 0 for nothing. */
export function decoded(content, buffer) {
  if (content?.bits !== 8) return floats(buffer);
  const { low, high } = content;
  const step = Math.log(high / low) / 254;
  const weightOf = (_, code) => (code ? low * Math.exp((code - 1) * step) : 0);
  const weights = Float32Array.from({ length: 256 }, weightOf);
  return Float32Array.from(bytesOf(buffer), (code) => weights[code]);
}

/** The tiles of one answer, whose values follow one another. */
export function splitTiles(tiles, values) {
  let at = 0;
  return tiles.map((tile) => {
    const from = at;
    at += tile.rows * tile.columns;
    return { ...tile, values: values.subarray(from, at) };
  });
}

/** A head's small picture (queries x keys, or x how far back) as one tile of queries x keys. */
export function pictureTile(picture, n) {
  const { rows, columns, axis, reach } = picture;
  const cell = n / rows;
  const place = { query: 0, key: 0, rowCell: cell };
  if (axis === "keys") return { ...picture, ...place, columnCell: n / columns };
  const values = new Float32Array(rows * rows);
  const step = reach / columns;
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < columns; c++) {
      const key = Math.floor(((r + 0.5) * cell - (c + 0.5) * step) / cell);
      if (key >= 0) values[r * rows + Math.min(r, key)] += picture.values[r * columns + c];
    }
  return { values, rows, columns: rows, ...place, columnCell: cell };
}

/**
 * One token's weights as its head's small picture has them, spread over the tokens of its cells.
 * @param {"row" | "column"} mode what the token looks at, or who looks at it
 * @returns {{ weights: Float32Array, width: number }} tokens of a cell; 0 where it is one
 */
export function pictureWeights({ values, rows, rowCell }, n, token, mode) {
  const width = Math.ceil(rowCell);
  const weights = new Float32Array(n);
  const cellOf = (at) => Math.min(rows - 1, Math.floor(at / rowCell));
  const mine = cellOf(token);
  for (let start = 0; start < n; start += width) {
    const other = cellOf(start + width / 2);
    const mass = mode === "row" ? values[mine * rows + other] : values[other * rows + mine];
    weights.fill(mass / width, start, Math.min(n, start + width));
  }
  return { weights, width: width > 1 ? width : 0 };
}
