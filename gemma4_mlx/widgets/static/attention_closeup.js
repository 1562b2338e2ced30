/* One head, large: its map of queries and keys, or of a sliding head's queries and offsets, and
 * what stands around it. */

import { MapLegend } from "./attention_legend.js";
import { HeadTiles } from "./attention_tiles.js";
import { cellLength, cellSentence, offsetSentence, quotedToken } from "./attention_words.js";
import { shorten } from "./axes.js";
import { h } from "./dom.js";
import { OffsetMap } from "./offsetmap.js";
import { floats, partColor, picker, segmented } from "./pieces.js";
import { TileMap } from "./tilemap.js";

const HINT = "Point at the map, or focus it and use the arrow keys.";
const LABEL =
  "Attention map of one head. Arrow keys move the cell, plus and minus zoom, 0 shows everything, " +
  "Enter picks the query token.";
const STAT_TITLE =
  "mean: over the cell's queries, of the mass on its keys; max: the largest single weight in the " +
  "cell, in which a needle stays visible";

export class HeadCloseup {
  #pointed = null; // [query, key] whose tile is on its way
  #stateShown = "";
  #hold = h("div", { class: "g4-maphold" });
  #coarse = h("p", { class: "g4-note" });
  #readout = h("output", { class: "g4-readout", "aria-live": "off" }, HINT);
  #state = h("span", { class: "g4-chip" });

  /**
   * @param {AttentionScene} scene
   * @param {object} o
   * @param {any} o.text the tokens' view, for their names
   * @param {(token: number) => void} o.onToken the reader chose a query
   * @param {() => number | null} o.strongest the other token of the chosen one's largest weight
   * @param {() => void} o.onStat another value of a pooled cell
   * @param {() => void} o.onScale
   * @param {() => void} o.onSink the first token is left out, or is not
   * @param {() => void} o.onSmall the page has no more than this head's small picture
   */
  constructor(scene, o) {
    Object.assign(this, { scene, ...o });
    this.legend = new MapLegend(scene);
    this.tiles = new HeadTiles(scene, o.onSmall);
    this.map = this.#makeMap();
    this.offsets = this.#makeOffsets();
    this.axis = segmented(
      "Columns of the map",
      [
        ["keys", "queries × keys", "Where in the text it looks"],
        ["offsets", "queries × offset", "How far back it looks"],
      ],
      "keys",
      (value) => this.setAxis(value),
    );
    this.#makeTools();
  }

  /** The map's title's place is the caller's. @param {Node} title @param {...Node} below */
  build(title, ...below) {
    const bar = (name, ...children) => h("div", { class: `g4-toolbar ${name}` }, ...children);
    const { scale, stat, zoomers, zoomToken, sink } = this.tools;
    return h(
      "section",
      { class: "g4-panel g4-section g4-mapbox", "aria-label": "One head" },
      bar("g4-maptitle", title, h("span", { class: "g4-grow" }), this.axis.node),
      bar("g4-maptools", scale.node, stat.node, zoomers, zoomToken, sink),
      this.#hold,
      bar("g4-mapfoot", this.legend.node, this.#state),
      this.#readout,
      ...below,
    );
  }

  /** Once it is in the page. */
  start() {
    const colour = (part) => ({ ...part, colour: partColor(part.role) });
    this.map.setParts(this.scene.meta.parts.map(colour));
    this.map.start(this.#hold);
  }

  destroy() {
    this.map.destroy();
    this.offsets.destroy();
  }

  repaint() {
    this.legend.forget(); // a theme's colours may come one by one
    this.map.draw();
    this.offsets.repaint();
  }

  /** After another head, or another value of a pooled cell. */
  showHead() {
    const { scene, tools } = this;
    const { meta, layer, now } = scene;
    tools.stat.node.hidden = !this.tiles.holdsMaxima;
    if (tools.stat.node.hidden) tools.stat.select.value = now.stat = "mean";
    this.map.setHead({
      n: meta.n,
      window: layer.window,
      blocks: layer.window ? meta.blocks : [],
      exact: layer.kept.includes(now.head) ? layer.exact : -1,
      bin: meta.bin,
    });
    this.setAxis(now.axis);
  }

  /** Mark the chosen token, as a query or as a key. */
  markToken() {
    const { mode, token } = this.scene.now;
    this.map.setMark(mode === "row" ? { query: token, key: null } : { query: null, key: token });
  }

  showToken(token) {
    this.markToken();
    this.offsets.setQuery(token);
  }

  /** Put a pair of tokens in the middle of the map of queries and keys. */
  showPair(query, key) {
    this.axis.set("keys");
    this.setAxis("keys");
    this.map.show(query, key);
    this.map.setMark({ query, key });
  }

  /** @param {"keys" | "offsets"} value  a full head has keys only, and keeps the choice */
  setAxis(value) {
    const { now, layer } = this.scene;
    const sliding = layer.kind === "sliding";
    now.axis = value;
    this.axis.node.hidden = !sliding;
    const byOffset = sliding && value === "offsets";
    const shown = byOffset ? this.offsets.canvas : this.map.canvas;
    if (shown.parentElement !== this.#hold)
      this.#hold.replaceChildren(...(byOffset ? [shown, this.#coarse] : [shown]));
    this.tools.zoomers.hidden = this.tools.zoomToken.hidden = byOffset;
    this.legend.forget();
    this.#stateShown = "";
    if (byOffset) this.#loadOffsets();
    else this.map.draw();
  }

  // ---- controls --------------------------------------------------------------------------------

  #makeTools() {
    const { scene, map } = this;
    const { now } = scene;
    const same = (...values) => values.map((value) => [value, value]);
    const stat = picker("Value of a pooled cell", same("mean", "max"), "mean", (value) => {
      now.stat = value;
      this.onStat();
    });
    stat.node.title = STAT_TITLE;
    const scale = picker("Colour scale", same("log", "linear", "rank"), "log", (value) => {
      now.scale = value;
      map.setScale(value);
      this.offsets.setScale(value);
      this.onScale();
    });
    for (const { node } of [scale, stat]) node.classList.add("g4-bare"); // values say it
    const button = (text, onclick, label) =>
      h("button", { type: "button", "aria-label": label, onclick }, text);
    const zoomers = h(
      "div",
      { class: "g4-segmented", role: "group", "aria-label": "Zoom" },
      button("+", () => map.zoom(2), "Zoom in"),
      button("−", () => map.zoom(0.5), "Zoom out"),
      button("Whole context", () => map.fit()),
    );
    const zoomToken = button("Zoom to token", () => this.#zoomToToken());
    this.tools = { stat, scale, zoomers, zoomToken, sink: this.#makeSink() };
  }

  #makeSink() {
    const { scene, map } = this;
    const box = h("input", { type: "checkbox" });
    const changed = () => {
      scene.now.sink = box.checked;
      map.setHideSink(box.checked);
      this.onSink();
    };
    box.addEventListener("change", changed, { signal: scene.view.signal });
    return h("label", {}, box, "Without sink");
  }

  #zoomToToken() {
    const { token, mode } = this.scene.now;
    if (token === null) return;
    this.map.show(token, mode === "row" ? (this.strongest() ?? token) : token);
  }

  // ---- queries x keys --------------------------------------------------------------------------

  #makeMap() {
    const { scene } = this;
    return new TileMap({
      label: LABEL,
      palette: () => scene.pixels,
      ink: () => scene.ink,
      onError: scene.onError,
      loadTiles: (tiles, signal) => this.tiles.load(tiles, signal),
      onCell: (cell) => this.#pointAt(cell),
      onPick: ({ query, key }) => {
        this.onToken(query);
        this.map.setMark({ query, key });
      },
      onView: (state) => this.#drawn(state),
      words: (start, stop) => this.#axisWords(start, stop),
      onSize: (size) => this.offsets.resize(size),
    });
  }

  #pointAt(cell) {
    const coming = cell && !cell.masked && cell.value === null;
    this.#pointed = coming ? [cell.query, cell.key] : null;
    this.#readout.textContent = cell ? this.#describe(cell) : HINT;
    const { view } = this.scene;
    if (document.activeElement === this.map.canvas) view.announce(this.#readout.textContent);
  }

  #describe(cell) {
    const nameOf = (token) =>
      quotedToken(
        this.text.nameOf(token, () => {}),
        token,
      );
    return cellSentence(cell, this.scene.now.stat, nameOf);
  }

  /** Tokens' names for the map's axes; a picture or a sound has one, mid-way in what shows. */
  #axisWords(start, stop) {
    const words = this.text.words(start, stop, () => this.map.draw());
    if (!words) return null;
    const from = Math.max(0, start);
    for (const media of this.scene.meta.media) {
      const a = Math.max(media.start, from);
      const b = Math.min(media.stop, from + words.length);
      const name = `${shorten(media.label, 6)} ${a - media.start}–${b - 1 - media.start}`;
      for (let i = a; i < b; i++) words[i - from] = i === (a + b) >> 1 ? name : "";
    }
    return words;
  }

  /** Up to 60 times a second while the map moves: touch the page where something changed. */
  #drawn(state) {
    if (this.#pointed) {
      const cell = this.map.cellOf(...this.#pointed);
      if (cell.value !== null) {
        this.#pointed = null;
        this.#readout.textContent = this.#describe(cell);
      }
    }
    if (this.map.canvas.parentElement !== this.#hold) return;
    const { cell, missing, visible } = state;
    const kind = this.scene.now.stat === "mean" ? "mean" : "maximum";
    const length = cellLength(cell);
    if (missing) this.#sayState(`loading ${missing} of ${visible} tiles`);
    else if (cell === 1) this.#sayState("exact: one cell is one token pair", "g4-is-good");
    else this.#sayState(`pooled: one cell is ${length} × ${length} tokens, ${kind}`);
    this.scene.view.root.dataset.missing = String(missing);
    this.legend.draw(state);
  }

  #sayState(words, kind = "") {
    if (words === this.#stateShown) return;
    this.#stateShown = words;
    this.#state.textContent = words;
    this.#state.className = `g4-chip ${kind}`;
  }

  // ---- queries x offset ------------------------------------------------------------------------

  #makeOffsets() {
    const { scene } = this;
    return new OffsetMap({
      ink: () => scene.ink,
      palette: () => scene.pixels,
      onCell: (cell) => {
        this.#readout.textContent = cell ? offsetSentence(cell, scene.now.stat) : HINT;
      },
      onPick: (cell) => {
        this.onToken(cell.at);
        this.showPair(cell.at, Math.max(0, cell.at - cell.offset));
      },
      onRange: ({ low, high }) => this.legend.draw({ low, high }),
    });
  }

  async #loadOffsets() {
    const { scene, offsets } = this;
    const still = scene.still("layer", "head", "stat");
    const { n } = scene.meta;
    offsets.resize(this.map.state().size);
    offsets.set(null);
    scene.view.root.dataset.missing = "1";
    try {
      const found = await this.#offsetsOf(scene.now);
      if (!found || !still()) return;
      this.#coarse.textContent = found.note ?? "";
      offsets.set({ ...found, n, reach: Math.min(scene.layer.window, n) });
      const cell = `${cellLength(found.rowCell)} queries × ${cellLength(found.columnCell)} offsets`;
      this.#sayState(`pooled: one cell is ${cell}`);
      scene.view.root.dataset.missing = "0";
    } catch (error) {
      scene.onError(error);
    }
  }

  /** The overview by offset, or the head's small picture; null where a newer request came. */
  async #offsetsOf({ layer, head, stat }) {
    const { scene } = this;
    try {
      const answer = await scene.ask("offsets", { layer, head, stat }, { slot: "offsets" });
      return answer && { ...answer.content, values: floats(answer.buffer) };
    } catch (error) {
      if (!scene.isStatic) throw error;
    }
    this.onSmall();
    const picture = await scene.pictures.values({ layer, head });
    const { rows, columns, reach } = picture;
    return { ...picture, rowCell: scene.meta.n / rows, columnCell: reach / columns };
  }
}
