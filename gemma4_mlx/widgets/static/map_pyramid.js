/* The tiles of one attention head's map: levels of cells, and what no query may see.
 *
 * A tile at level z covers 128 x 128 cells of 2^z tokens each. Between the finest overview and the
 * coarsest level that can be recomputed there is nothing new to ask for, so those zooms enlarge the
 * overview's tiles.
 */

export const TILE = 128; // cells along each side; widgets/attention_kept.py has the same

/** The name under which a tile is kept. */
export const tileKey = (level, row, column) => `${level}/${row}/${column}`;

export class TilePyramid {
  /**
   * @param {object} head
   * @param {number} head.n tokens of the context
   * @param {number | null} [head.window] keys a query of a sliding layer sees, itself included
   * @param {Array<[start: number, stop: number]>} [head.blocks] tokens that see one another both
   *        ways, as a picture's do
   * @param {number} [head.exact] the coarsest level that can be recomputed; -1: none
   * @param {number} [head.bin] tokens per cell of the overview
   */
  constructor({ n, window = null, blocks = [], exact = 0, bin = 1 }) {
    Object.assign(this, { n, window, blocks, exact, bin });
  }

  /** The level of which one tile holds the whole context. */
  get top() {
    return Math.max(0, Math.ceil(Math.log2(this.n / TILE)));
  }

  /** The level to draw from at `scale` css pixels per token: cells of about a pixel, or of the
   * overview where nothing finer is. */
  level(scale) {
    const z = Math.max(0, Math.min(this.top, Math.ceil(-Math.log2(scale * 1.001))));
    if (z <= this.exact) return z;
    return Math.max(z, Math.min(this.top, Math.floor(Math.log2(2 * this.bin - 1))));
  }

  /** True when no query of q0 to q1 may see any key of k0 to k1 (stops excluded). */
  masked(q0, q1, k0, k1) {
    const future = k0 > q1 - 1;
    const beyond = this.window && k1 - 1 <= q0 - this.window;
    if (!future && !beyond) return false;
    const shares = ([a, b]) => q1 > a && q0 < b && k1 > a && k0 < b;
    return !(future && this.blocks.some(shares));
  }

  /** The tiles of a level that show something in `area` ({x, y, width, height} in tokens). */
  tilesIn(area, level) {
    const span = TILE * 2 ** level;
    const stopOf = (end) => Math.min(Math.ceil(this.n / span), Math.ceil(end / span));
    const rows = stopOf(area.y + area.height);
    const columns = stopOf(area.x + area.width);
    const tiles = [];
    for (let i = Math.floor(area.y / span); i < rows; i++)
      for (let j = Math.floor(area.x / span); j < columns; j++) {
        const q1 = Math.min(this.n, (i + 1) * span);
        const k1 = Math.min(this.n, (j + 1) * span);
        if (!this.masked(i * span, q1, j * span, k1)) tiles.push([level, i, j]);
      }
    return tiles;
  }

  /**
   * What of the tiles in `area` is not there, nearest to the middle first. Where the whole
   * context's tile is missing too, it comes before them: something to see meanwhile.
   * @param {(key: string) => boolean} has
   */
  missingIn(area, level, has) {
    const missing = this.tilesIn(area, level).filter((tile) => !has(tileKey(...tile)));
    if (!missing.length) return missing;
    const span = TILE * 2 ** level;
    const row = (area.y + area.height / 2) / span - 0.5;
    const column = (area.x + area.width / 2) / span - 0.5;
    const far = ([, i, j]) => Math.hypot(i - row, j - column);
    missing.sort((a, b) => far(a) - far(b));
    if (level < this.top && !has(tileKey(this.top, 0, 0))) missing.unshift([this.top, 0, 0]);
    return missing;
  }
}
