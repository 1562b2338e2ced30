/* Which part of a map of tokens a canvas shows: its scale, its margins, its way from a token to a
 * pixel and back. x counts keys, y queries; the canvas itself is elsewhere.
 */

/** Room for numbers; for words and the small picture of the whole. Css pixels. */
const FITTED = { left: 72, top: 42 };
const ZOOMED = { left: 92, top: 76 };
const FREE = 8; // css pixels free on the right and at the bottom
export const WORDS = 11; // css pixels per token from which tokens are named
const MAX_SCALE = 40; // css pixels per token, closest zoom

export class MapView {
  n = 1; // tokens of the context
  size = { width: 0, height: 0 }; // of the canvas, css pixels; nothing until it is in the page
  x = 0; // first key and query that show, in tokens
  y = 0;
  scale = 1; // css pixels per token
  margin = FITTED;

  /** The part of the canvas that shows cells, css pixels. */
  get plot() {
    return {
      width: Math.max(50, this.size.width - this.margin.left - FREE),
      height: Math.max(50, this.size.height - this.margin.top - FREE),
    };
  }

  /** The tokens that show. */
  get area() {
    const { width, height } = this.plot;
    return { x: this.x, y: this.y, width: width / this.scale, height: height / this.scale };
  }

  /** What of the plot the map fills, css pixels. */
  get shown() {
    const { width, height } = this.plot;
    return {
      width: Math.min(width, this.n * this.scale),
      height: Math.min(height, this.n * this.scale),
    };
  }

  /** The scale at which the whole context shows. */
  get fitScale() {
    const within = ({ left, top }) =>
      Math.max(50, Math.min(this.size.width - left, this.size.height - top) - FREE) / this.n;
    return within(FITTED) >= WORDS ? within(ZOOMED) : within(FITTED);
  }

  get fitted() {
    return this.scale <= this.fitScale * 1.01;
  }

  /** Whether so little shows that a small picture of the whole helps. */
  get enlarged() {
    return this.scale > this.fitScale * 1.3;
  }

  fit() {
    Object.assign(this, { x: 0, y: 0, scale: this.fitScale });
  }

  /** Keep scale and place within the context, and the margins fit for them. */
  clamp() {
    this.scale = Math.max(this.fitScale, Math.min(MAX_SCALE, this.scale));
    this.margin = this.scale >= WORDS || this.enlarged ? ZOOMED : FITTED;
    const { width, height } = this.area;
    const within = (at, room) => (room <= 0 ? 0 : Math.max(0, Math.min(room, at)));
    this.x = within(this.x, this.n - width);
    this.y = within(this.y, this.n - height);
  }

  /** The token pair at a point of the canvas, in fractions; outside the map too. */
  at(px, py) {
    return {
      query: this.y + (py - this.margin.top) / this.scale,
      key: this.x + (px - this.margin.left) / this.scale,
    };
  }

  /** The token pair under a point of the canvas; null where there is none. */
  pairAt(px, py) {
    const { query, key } = this.at(px, py);
    if (px < this.margin.left || py < this.margin.top) return null;
    if (key < 0 || query < 0 || key >= this.n || query >= this.n) return null;
    return { query: Math.floor(query), key: Math.floor(key) };
  }

  /** Zoom by `factor` so that what is at a point of the canvas stays there. */
  zoomAbout(factor, px, py) {
    const { query, key } = this.at(px, py);
    this.scale = Math.max(this.fitScale, Math.min(MAX_SCALE, this.scale * factor));
    this.x = key - (px - this.margin.left) / this.scale;
    this.y = query - (py - this.margin.top) / this.scale;
  }

  /** The point to zoom about without a pointer: the marked token, or the middle of the map. */
  pivot({ query, key }) {
    const { width, height } = this.shown;
    const x = ((key ?? query ?? this.n) - this.x) * this.scale;
    const y = ((query ?? key ?? this.n) - this.y) * this.scale;
    const inside = x >= 0 && x <= width && y >= 0 && y <= height;
    return {
      px: this.margin.left + (inside ? x : width / 2),
      py: this.margin.top + (inside ? y : height / 2),
    };
  }

  /** Put (query, key) in the middle, at least `scale` pixels per token. */
  centre(query, key, scale) {
    this.scale = Math.max(this.scale, Math.min(scale, MAX_SCALE));
    const { width, height } = this.area;
    this.x = key - width / 2;
    this.y = query - height / 2;
    this.clamp();
  }

  /** Move as little as shows a cell, with `spare` tokens beyond it. */
  reveal(cell, spare) {
    const { width, height } = this.area;
    if (cell.key < this.x) this.x = cell.key;
    if (cell.keyStop > this.x + width) this.x = cell.keyStop - width + spare;
    if (cell.query < this.y) this.y = cell.query;
    if (cell.queryStop > this.y + height) this.y = cell.queryStop - height + spare;
  }
}
