/* From a weight to a colour: the scale of a map of attention, and the pixels of its tiles. */

import { edge } from "./axes.js";

const SAMPLES = 512; // values of a tile that the scale is made from
const DARKEST = 0.02; // place of the smallest weight that is not zero

/** Some of a tile's values that are not zero, apart from its first column and from that alone. */
function samplesOf(tile) {
  if (tile.samples) return tile.samples;
  const rest = [];
  const first = [];
  const step = Math.floor(tile.values.length / SAMPLES) | 1; // odd: every column has its turn
  for (let at = 0; at < tile.values.length; at += step)
    if (tile.values[at] > 0) (at % tile.columns ? rest : first).push(tile.values[at]);
  tile.samples = { rest, first };
  return tile.samples;
}

/** Numbers of a list that is in order, and at most `value`. */
function countUpTo(list, value) {
  let a = 0;
  let b = list.length;
  while (a < b) {
    const middle = (a + b) >> 1;
    if (list[middle] <= value) a = middle + 1;
    else b = middle;
  }
  return a;
}

const near = (a, b, factor) => a < b * factor && b < a * factor;

export class ColourScale {
  /** @type {"log" | "linear" | "rank"} */
  name = "log";
  low = 0; // the weights at the ends of the scale
  high = 1;
  #thresholds = null; // 64 quantiles, for "rank"
  #follows = ""; // the tiles that the range was made from; "": the next range is taken as it is
  #byBits = { stamp: "", table: new Uint32Array(0), zero: 0 };

  reset(name = this.name) {
    this.name = name;
    this.#follows = "";
  }

  /**
   * Take the range from tiles, unless it was made from the same: up to the 99.8th percentile of
   * what is not zero. It stays where it is nearly the same, for steady colours.
   * @param {string} stamp names the tiles
   * @param {() => Array<{ tile: object, sink: boolean }>} tiles `sink`: without its
   *   first column
   */
  follow(stamp, tiles) {
    if (stamp === this.#follows) return;
    const steady = this.#follows !== "";
    this.#follows = stamp;
    const found = tiles().flatMap(({ tile, sink }) => {
      const { rest, first } = samplesOf(tile);
      return sink ? rest : [...rest, ...first];
    });
    const sample = Float32Array.from(found).sort();
    if (sample.length < 2) return;
    const at = (share) => sample[Math.min(sample.length - 1, Math.floor(sample.length * share))];
    const high = Math.min(1, at(0.998));
    let low = Math.max(at(0.05), high * 1e-5);
    if (low >= high) low = high / 10;
    if (steady && near(high, this.high, 1.3) && near(low, this.low, 3)) return;
    Object.assign(this, { low, high });
    this.#thresholds = Array.from({ length: 64 }, (_, k) => at(k / 64));
  }

  /** Place of a weight on the scale, 0 to 1. */
  place(weight) {
    if (!(weight > 0)) return 0;
    if (this.name === "linear") return Math.min(1, weight / this.high);
    if (this.name === "log") {
      const t = Math.log(weight / this.low) / Math.log(this.high / this.low);
      return Math.max(DARKEST, Math.min(1, t));
    }
    return Math.max(DARKEST, countUpTo(this.#thresholds ?? [], weight) / 64);
  }

  /** Pixels of every float32 by its upper 16 bits (under 1 % apart), so that colouring a tile is
   * one look-up per cell. `stamp` is another for other pixels. */
  pixels({ name, lut, zero }) {
    const stamp = `${this.name} ${this.low} ${this.high} ${name}`;
    if (this.#byBits.stamp === stamp) return this.#byBits;
    const table = new Uint32Array(0x7f80);
    const bits = new Uint32Array(1);
    const value = new Float32Array(bits.buffer);
    for (let i = 0; i < table.length; i++) {
      bits[0] = (i << 16) | 0x8000;
      table[i] = lut[Math.round(this.place(value[0]) * 255)];
    }
    table[0] = zero;
    this.#byBits = { stamp, table, zero };
    return this.#byBits;
  }
}

/** True when every query of a tile sees every key of it. */
function seesAll(tile, window) {
  const right = edge(tile.key, tile.columns, tile.columnCell);
  const bottom = edge(tile.query, tile.rows, tile.rowCell);
  return right - 1 <= tile.query && (!window || tile.key > bottom - 1 - window);
}

/** A tile's pixels, row by row; 0 (nothing) where no query may see. `sink`: the first column, which
 * holds the sink, is drawn as if it were zero. */
export function tilePixels(tile, pyramid, { table, zero }, sink) {
  const { values, rows, columns } = tile;
  const pixels = new Uint32Array(rows * columns);
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const whole = seesAll(tile, pyramid.window);
  const stop = (start, index, cell) => Math.min(pyramid.n, edge(start, index + 1, cell));
  for (let r = 0; r < rows; r++) {
    const q0 = edge(tile.query, r, tile.rowCell);
    const q1 = stop(tile.query, r, tile.rowCell);
    for (let c = 0, at = r * columns; c < columns; c++, at++) {
      const k0 = whole ? 0 : edge(tile.key, c, tile.columnCell);
      if (!whole && pyramid.masked(q0, q1, k0, stop(tile.key, c, tile.columnCell))) continue;
      pixels[at] = table[bits[at] >>> 16];
    }
  }
  if (sink) for (let at = 0; at < pixels.length; at += columns) if (pixels[at]) pixels[at] = zero;
  return pixels;
}

/** A tile as a picture of one pixel a cell; made again when its colours have changed. */
export function tilePicture(tile, pyramid, colours, sink) {
  const stamp = `${colours.stamp} ${sink}`;
  if (tile.colours === stamp) return tile.picture;
  const { rows: height, columns: width } = tile;
  tile.picture ??= Object.assign(document.createElement("canvas"), { width, height });
  const pixels = new Uint8ClampedArray(tilePixels(tile, pyramid, colours, sink).buffer);
  tile.picture.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
  tile.colours = stamp;
  return tile.picture;
}
