/* A zoomable map of one attention head over the whole context, drawn from tiles like a street map.
 *
 * Coordinates are tokens: x is the key, y the query. The map asks for the tiles it shows and draws
 * the nearest coarser picture until one arrives. What no query may see (the future, and beyond a
 * sliding window) is drawn in its own tone, apart from a small mass.
 */

import { cellIndex, edge } from "./axes.js";
import { h, perFrame } from "./dom.js";
import { drawAxes, drawInset, drawMarks } from "./map_axes.js";
import { ColourScale, tilePicture } from "./map_colours.js";
import { listenToMap } from "./map_input.js";
import { TILE, TilePyramid, tileKey } from "./map_pyramid.js";
import { TileStore } from "./map_store.js";
import { MapView } from "./map_view.js";

/** @typedef {{ query: number, queryStop: number, key: number, keyStop: number,
 *   value: number | null, masked: boolean }} Cell  `value`: null while its tile is on its way */

export class TileMap {
  view = new MapView();
  colours = new ColourScale();
  /** @type {Cell | null} */
  cursor = null;
  #pyramid = new TilePyramid({ n: 1 });
  #mark = { query: null, key: null };
  #parts = [];
  #hideSink = false;
  #painted = { visible: 0, missing: 0, cell: 1 };
  #abort = new AbortController();

  /**
   * @param {object} o
   * @param {string} o.label
   * @param {() => { name: string, lut: Uint32Array, zero: number }} o.palette
   * @param {() => Ink} o.ink
   * @param {(tiles: Array<[level: number, row: number, column: number]>, signal: AbortSignal) =>
   *   Promise<Tile[]>} o.loadTiles as TileStore's `load`
   * @param {(cell: Cell | null) => void} o.onCell the cell under the pointer or the cursor
   * @param {(cell: Cell) => void} o.onPick a click, or Enter
   * @param {(state: ReturnType<TileMap["state"]>) => void} o.onView after each drawing
   * @param {(size: { width: number, height: number }) => void} o.onSize
   * @param {(error: Error) => void} o.onError
   * @param {(start: number, stop: number) => (string[] | null)} o.words null while they are loading
   */
  constructor({ label, palette, ink, loadTiles, onCell, onPick, onView, onSize, onError, words }) {
    Object.assign(this, { palette, ink, onCell, onPick, onView, onSize, words });
    this.canvas = h("canvas", {
      class: "g4-map",
      tabindex: 0,
      role: "application",
      "aria-label": label,
      "aria-roledescription": "zoomable map",
    });
    this.context = this.canvas.getContext("2d");
    this.tiles = new TileStore({
      load: loadTiles,
      missing: () => this.#missing(),
      onTiles: () => this.draw(),
      onError,
    });
    this.draw = perFrame(() => {
      if (!this.#abort.signal.aborted) this.#paint();
    });
    listenToMap(this, this.#abort.signal);
  }

  // ---- what is shown ---------------------------------------------------------------------------

  /** Fill the width of `holder` from now on, whichever of its children shows. */
  start(holder) {
    const observer = new ResizeObserver(() => this.#resize(holder.clientWidth));
    observer.observe(holder);
    this.#abort.signal.addEventListener("abort", () => observer.disconnect());
  }

  /** Another head (see TilePyramid): forget its tiles, keep the place. */
  setHead(head) {
    const first = head.n !== this.view.n;
    this.view.n = head.n;
    this.#pyramid = new TilePyramid(head);
    this.tiles.clear();
    this.colours.reset();
    if (first) this.view.fit();
    this.view.clamp();
    this.draw();
    this.tiles.request(); // before whatever else is asked about the head
  }

  setScale(name) {
    this.colours.reset(name);
    this.draw();
  }

  setParts(parts) {
    this.#parts = parts;
    this.draw();
  }

  setHideSink(hidden) {
    this.#hideSink = hidden;
    this.colours.reset();
    this.draw();
  }

  setMark(mark) {
    this.#mark = mark;
    this.draw();
  }

  /** Put (query, key) in the middle, and the cursor there. */
  show(query, key) {
    this.view.centre(query, key, 14);
    this.cursor = this.cellOf(query, key);
    this.#moved();
  }

  state() {
    const { low, high } = this.colours;
    return { size: this.view.size, low, high, ...this.#painted };
  }

  destroy() {
    this.#abort.abort();
    this.tiles.close();
  }

  // ---- moving ----------------------------------------------------------------------------------

  fit() {
    this.view.fit();
    this.#moved();
  }

  moveTo(x, y) {
    Object.assign(this.view, { x, y });
    this.#moved();
  }

  /** About a point of the canvas; without one about the marked token, or the middle of the map. */
  zoom(factor, px, py) {
    const pivot = this.view.pivot(this.#mark);
    this.view.zoomAbout(factor, px ?? pivot.px, py ?? pivot.py);
    this.#moved();
  }

  /** About the cursor, which then is on the cell of its first token. */
  zoomCursor(factor) {
    if (!this.cursor) {
      this.zoom(factor);
      return;
    }
    const { x, y, scale, margin } = this.view;
    const { query, queryStop, key, keyStop } = this.cursor;
    this.zoom(
      factor,
      margin.left + ((key + keyStop) / 2 - x) * scale,
      margin.top + ((query + queryStop) / 2 - y) * scale,
    );
    this.#setCursor(query, key);
  }

  /**
   * Put the cursor on the cell of (query, key), or the nearest there is, and bring it into view.
   */
  moveCursor(query, key) {
    const spare = 2 ** this.#level();
    this.#setCursor(query, key);
    this.view.reveal(this.cursor, spare);
    this.#moved();
  }

  /** The cursor goes where the reader clicked. */
  pick(cell) {
    this.cursor = cell;
    this.onPick(cell);
    this.draw();
  }

  leave() {
    this.cursor = null;
    this.onCell(null);
    this.canvas.blur();
    this.draw();
  }

  #setCursor(query, key) {
    const within = (token) => Math.max(0, Math.min(this.view.n - 1, token));
    this.cursor = this.cellOf(within(query), within(key));
    this.draw();
    this.onCell(this.cursor);
  }

  #moved() {
    this.view.clamp();
    this.draw();
    this.tiles.schedule();
  }

  #resize(room) {
    const { view } = this;
    const width = Math.max(260, Math.min(room, 720));
    if (Math.abs(width - view.size.width) < 1) return;
    const { fitted } = view;
    view.size = { width, height: Math.min(width, 560, Math.max(360, innerHeight - 310)) };
    this.canvas.style.width = `${view.size.width}px`;
    this.canvas.style.height = `${view.size.height}px`;
    if (fitted) view.scale = view.fitScale;
    this.#moved();
    this.onSize(view.size);
  }

  // ---- cells -----------------------------------------------------------------------------------

  cellAt(px, py) {
    const pair = this.view.pairAt(px, py);
    return pair && this.cellOf(pair.query, pair.key);
  }

  /** Where the keys start without a cursor: the left edge, half-way down. */
  firstCell() {
    const { x, y, height } = this.view.area;
    return this.cellOf(Math.floor(y + height / 2), Math.floor(x));
  }

  /** The cell that holds (query, key): its tokens, its value. @returns {Cell} */
  cellOf(query, key) {
    const level = this.#level();
    const span = TILE * 2 ** level;
    const i = Math.floor(query / span);
    const j = Math.floor(key / span);
    const tile = this.tiles.get(tileKey(level, i, j));
    const cell = 2 ** level;
    const fallback = { query: i * span, key: j * span, rowCell: cell, columnCell: cell };
    const { query: top, key: left, rowCell, columnCell } = tile ?? fallback;
    const row = cellIndex(query, top, rowCell);
    const column = cellIndex(key, left, columnCell);
    const { n } = this.view;
    const found = {
      query: edge(top, row, rowCell),
      queryStop: Math.min(n, edge(top, row + 1, rowCell)),
      key: edge(left, column, columnCell),
      keyStop: Math.min(n, edge(left, column + 1, columnCell)),
      value: tile?.values[row * tile.columns + column] ?? null,
    };
    const masked = this.#pyramid.masked(found.query, found.queryStop, found.key, found.keyStop);
    return { ...found, masked };
  }

  // ---- drawing ---------------------------------------------------------------------------------

  #level() {
    return this.#pyramid.level(this.view.scale);
  }

  #missing() {
    if (!this.view.size.width) return [];
    return this.#pyramid.missingIn(this.view.area, this.#level(), (key) => this.tiles.has(key));
  }

  #paint() {
    const { context, view, canvas } = this;
    const ink = this.ink();
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(view.size.width * ratio);
    const height = Math.round(view.size.height * ratio);
    if (canvas.width !== width || canvas.height !== height)
      Object.assign(canvas, { width, height });
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, view.size.width, view.size.height);
    context.save();
    context.translate(view.margin.left, view.margin.top);
    context.beginPath();
    context.rect(0, 0, view.shown.width, view.shown.height);
    context.clip();
    context.fillStyle = ink.masked;
    context.fillRect(0, 0, view.plot.width, view.plot.height);
    this.#paintTiles();
    drawMarks(context, view, this.#mark, this.cursor, ink);
    context.restore();
    drawAxes(context, view, ink, this.words, this.#parts);
    drawInset(context, view, this.#pyramid.window, ink);
    this.onView(this.state());
  }

  #paintTiles() {
    const level = this.#level();
    const tiles = this.#pyramid.tilesIn(this.view.area, level);
    this.#followRange(level, tiles);
    this.context.imageSmoothingEnabled = false;
    this.#painted = { visible: tiles.length, missing: 0, cell: 0 };
    for (const [, row, column] of tiles) {
      const tile = this.tiles.use(tileKey(level, row, column));
      if (tile) {
        this.#paintTile(tile, level, row, column);
        this.#painted.cell = Math.max(this.#painted.cell, tile.columnCell);
      } else {
        this.#painted.missing++;
        const coarser = this.#coarser(level, row, column);
        if (coarser) this.#paintTile(coarser, level, row, column);
      }
    }
    this.#painted.cell ||= 2 ** level;
  }

  /** The colour scale goes with the tiles in view. */
  #followRange(level, tiles) {
    const names = tiles.map(([, i, j]) => `${i},${j},${this.tiles.has(tileKey(level, i, j))}`);
    this.colours.follow(`${level}:${names.join()}:${this.#hideSink}`, () =>
      tiles
        .map(([, i, j]) => ({
          tile: this.tiles.get(tileKey(level, i, j)),
          sink: this.#hideSink && j === 0,
        }))
        .filter(({ tile }) => tile),
    );
  }

  /** The nearest coarser tile that holds a tile's place. */
  #coarser(level, row, column) {
    for (let up = 1; level + up <= this.#pyramid.top; up++) {
      const tile = this.tiles.get(tileKey(level + up, row >> up, column >> up));
      if (tile) return tile;
    }
    return null;
  }

  /** Draw what of `tile` is at the place of the tile (level, row, column). */
  #paintTile(tile, level, row, column) {
    const { context, view } = this;
    const span = TILE * 2 ** level;
    const x = (token) => (token - view.x) * view.scale;
    const y = (token) => (token - view.y) * view.scale;
    context.save();
    context.beginPath();
    context.rect(x(column * span), y(row * span), span * view.scale, span * view.scale);
    context.clip();
    const sink = this.#hideSink && tile.key === 0;
    const colours = this.colours.pixels(this.palette());
    context.drawImage(
      tilePicture(tile, this.#pyramid, colours, sink),
      x(tile.key),
      y(tile.query),
      tile.columns * tile.columnCell * view.scale,
      tile.rows * tile.rowCell * view.scale,
    );
    context.restore();
  }
}
