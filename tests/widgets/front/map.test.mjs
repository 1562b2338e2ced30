// The map of one head: tiles, view, store, colours.
import assert from "node:assert/strict";
import { test } from "node:test";

import { ColourScale, tilePixels } from "../../../gemma4_mlx/widgets/static/map_colours.js";
import { TILE, TilePyramid, tileKey } from "../../../gemma4_mlx/widgets/static/map_pyramid.js";
import { TileStore } from "../../../gemma4_mlx/widgets/static/map_store.js";
import { MapView } from "../../../gemma4_mlx/widgets/static/map_view.js";

const everything = (n) => ({ x: 0, y: 0, width: n, height: n });

test("the future is masked, and what lies before the window", () => {
  const full = new TilePyramid({ n: 1000 });
  assert.equal(full.masked(5, 6, 6, 7), true);
  assert.equal(full.masked(5, 6, 5, 6), false);
  assert.equal(full.masked(0, 10, 9, 20), false, "the last query sees the first key");
  const sliding = new TilePyramid({ n: 1000, window: 4 });
  assert.equal(sliding.masked(10, 11, 7, 8), false, "the window holds the query itself");
  assert.equal(sliding.masked(10, 11, 6, 7), true);
});

test("tokens of a picture see one another both ways", () => {
  const pyramid = new TilePyramid({ n: 100, window: 8, blocks: [[20, 30]] });
  assert.equal(pyramid.masked(20, 21, 29, 30), false);
  assert.equal(pyramid.masked(20, 21, 30, 31), true);
  assert.equal(pyramid.masked(19, 20, 25, 26), true);
});

test("a level has cells of about a pixel, and none between overview and recomputed", () => {
  const exact = new TilePyramid({ n: 131_072, exact: 10 });
  assert.equal(exact.top, 10);
  assert.equal(exact.level(1), 0);
  assert.equal(exact.level(0.5), 1);
  assert.equal(exact.level(1 / 1024), 10);
  const kept = new TilePyramid({ n: 131_072, exact: 4, bin: 512 });
  assert.equal(kept.level(1 / 16), 4);
  assert.equal(kept.level(1 / 32), 9, "the overview's bins, enlarged");
  const none = new TilePyramid({ n: 700, exact: -1, bin: 1 });
  assert.equal(none.level(20), 0);
});

test("tiles that no query sees are not asked for", () => {
  const pyramid = new TilePyramid({ n: 3 * TILE });
  const places = pyramid.tilesIn(everything(3 * TILE), 0).map(([, i, j]) => `${i}${j}`);
  assert.deepEqual(places, ["00", "10", "11", "20", "21", "22"]);
  const corner = { x: 2 * TILE, y: 2 * TILE, width: TILE, height: TILE };
  assert.deepEqual(pyramid.tilesIn(corner, 0), [[0, 2, 2]]);
});

test("the nearest to the middle comes first, after the whole where it is missing", () => {
  const pyramid = new TilePyramid({ n: 3 * TILE });
  const missing = pyramid.missingIn(everything(3 * TILE), 0, () => false);
  assert.deepEqual(missing[0], [pyramid.top, 0, 0]);
  assert.deepEqual(missing[1], [0, 1, 1]);
  assert.equal(missing.length, 7);
  const has = (key) => key !== tileKey(0, 2, 0);
  assert.deepEqual(pyramid.missingIn(everything(3 * TILE), 0, has), [[0, 2, 0]]);
  assert.deepEqual(
    pyramid.missingIn(everything(3 * TILE), 0, () => true),
    [],
  );
});

function viewOf(n, width = 600, height = 500) {
  const view = new MapView();
  Object.assign(view, { n, size: { width, height } });
  view.fit();
  view.clamp();
  return view;
}

test("the whole context fits, however long it is", () => {
  for (const n of [5, 100, 10_000, 262_144]) {
    const view = viewOf(n);
    assert.ok(view.fitted && !view.enlarged);
    assert.ok(view.area.height >= n - 1e-6 && view.area.width >= n - 1e-6, String(n));
    assert.deepEqual(view.pairAt(view.margin.left, view.margin.top), { query: 0, key: 0 });
    assert.equal(view.pairAt(view.margin.left - 1, view.margin.top), null);
    assert.equal(view.pairAt(view.margin.left + view.shown.width + 1, 200), null);
  }
});

test("what is under the pointer stays there while the map zooms", () => {
  const view = viewOf(10_000);
  view.zoomAbout(16, 300, 200);
  const before = view.at(300, 200);
  view.zoomAbout(3, 300, 200);
  const after = view.at(300, 200);
  assert.ok(Math.abs(before.query - after.query) < 1e-6);
  assert.ok(Math.abs(before.key - after.key) < 1e-6);
  view.zoomAbout(1e9, 300, 200);
  assert.equal(view.scale, 40);
});

test("the map does not leave the context", () => {
  const view = viewOf(1000);
  view.zoomAbout(8, 300, 200);
  Object.assign(view, { x: -50, y: 5000 });
  view.clamp();
  assert.equal(view.x, 0);
  assert.ok(Math.abs(view.y + view.area.height - 1000) < 1e-9);
});

test("keys zoom about the marked token while it shows, else about the middle", () => {
  const view = viewOf(1000);
  const { left, top } = view.margin;
  const marked = view.pivot({ query: 500, key: null });
  assert.ok(Math.abs(marked.px - left - 500 * view.scale) < 1e-9);
  view.centre(100, 100, 14);
  const away = view.pivot({ query: 900, key: 900 });
  assert.deepEqual(away, {
    px: view.margin.left + view.shown.width / 2,
    py: view.margin.top + view.shown.height / 2,
  });
  assert.ok(top < view.margin.top, "words need more room than numbers");
});

test("a cell is brought into view by the least move", () => {
  const view = viewOf(1000);
  view.centre(500, 500, 20);
  const { x, y } = view;
  view.reveal({ query: 500, queryStop: 501, key: 500, keyStop: 501 }, 1);
  assert.deepEqual([view.x, view.y], [x, y]);
  view.reveal({ query: 10, queryStop: 11, key: 900, keyStop: 901 }, 1);
  assert.equal(view.y, 10);
  assert.ok(Math.abs(view.x + view.area.width - 902) < 1e-9);
});

const tileAt = (level, row, column, values = new Float32Array(1)) => ({
  level,
  row,
  column,
  values,
  rows: 1,
  columns: values.length,
  query: row * TILE,
  key: column * TILE,
  rowCell: 1,
  columnCell: 1,
});

/** A store that wants `names` (of "level/row/column"), and what it asked for. */
function storeOf(names, answer) {
  const asked = [];
  const told = { tiles: 0, errors: [] };
  const store = new TileStore({
    missing: () =>
      names.filter((name) => !store.has(name)).map((name) => name.split("/").map(Number)),
    load: (tiles, signal) => {
      asked.push({ tiles, signal });
      return answer(tiles, asked.length);
    },
    onTiles: () => told.tiles++,
    onError: (error) => told.errors.push(error.message),
  });
  return { store, asked, told };
}
const turns = async (count = 6) => {
  for (let i = 0; i < count; i++) await null;
};

test("an answer may hold a part, and the rest is asked for", async () => {
  const first = ([tile]) => Promise.resolve([tileAt(...tile)]);
  const { store, asked, told } = storeOf(["0/0/0", "0/1/0", "0/1/1"], first);
  store.request();
  store.request(); // the same, which is on its way
  assert.equal(asked.length, 1);
  await turns(20);
  assert.deepEqual(
    asked.map(({ tiles }) => tiles.length),
    [3, 2, 1],
  );
  assert.equal(told.tiles, 3);
  assert.ok(store.has("0/1/1") && !store.has("0/2/2"));
  store.close();
});

test("tiles of another head do not arrive", async () => {
  let give = null;
  const later = (tiles) =>
    new Promise((resolve) => {
      give = () => resolve(tiles.map((tile) => tileAt(...tile)));
    });
  const { store, asked, told } = storeOf(["0/0/0"], later);
  store.request();
  store.clear();
  assert.ok(asked[0].signal.aborted);
  give();
  await turns();
  assert.equal(told.tiles, 0);
  store.close();
});

test("an error is told, unless the head has changed", async () => {
  const { store, told } = storeOf(["0/0/0"], () => Promise.reject(new Error("no such head")));
  store.request();
  await turns();
  assert.deepEqual(told.errors, ["no such head"]);
  store.clear();
  store.request();
  store.clear();
  await turns();
  assert.equal(told.errors.length, 1);
  store.close();
});

test("the tiles that were longest unused are thrown away", async () => {
  const names = Array.from({ length: 513 }, (_, i) => `0/${i}/0`);
  const wanted = names.slice(0, 512);
  const all = (tiles) => Promise.resolve(tiles.map((tile) => tileAt(...tile)));
  const { store } = storeOf(wanted, all);
  store.request();
  await turns();
  store.use("0/0/0"); // drawn: the longest unused is another now
  wanted.push(names[512]);
  store.request();
  wanted.length = 0; // nothing more
  await turns();
  assert.ok(store.has("0/0/0") && store.has("0/512/0"));
  assert.ok(!store.has("0/1/0"));
  store.close();
});

const spread = () => ({
  tile: tileAt(
    0,
    0,
    0,
    Float32Array.from({ length: 1000 }, (_, i) => i / 1000),
  ),
  sink: false,
});

test("the scale goes from the smallest weights to the largest in view", () => {
  const scale = new ColourScale();
  scale.follow("a", () => [spread()]);
  assert.ok(Math.abs(scale.high - 0.997) < 0.01 && Math.abs(scale.low - 0.05) < 0.01);
  assert.equal(scale.place(0), 0);
  assert.equal(scale.place(scale.high), 1);
  assert.equal(scale.place(1e-9), 0.02, "what is not zero is not drawn as zero");
  const middle = Math.sqrt(scale.low * scale.high);
  assert.ok(Math.abs(scale.place(middle) - 0.5) < 1e-9, "log");
  scale.reset("linear");
  assert.ok(Math.abs(scale.place(scale.high / 4) - 0.25) < 1e-9);
  scale.reset("rank");
  assert.ok(Math.abs(scale.place(0.5) - 0.5) < 0.03);
});

test("colours stay steady while the range is nearly the same", () => {
  const scale = new ColourScale();
  const scaled = (by) => {
    const each = spread();
    each.tile.values = each.tile.values.map((v) => v * by);
    return [each];
  };
  scale.follow("a", () => scaled(0.5));
  const { high } = scale;
  scale.follow("b", () => scaled(0.55));
  assert.equal(scale.high, high);
  scale.follow("c", () => scaled(1));
  assert.ok(scale.high > 1.5 * high);
  scale.follow("c", () => assert.fail("the same tiles are not looked at again"));
  scale.reset();
  scale.follow("d", () => scaled(0.95));
  assert.ok(scale.high < 0.96, "after a reset the next range is taken as it is");
  scale.reset();
  scale.follow("e", () => scaled(5));
  assert.equal(scale.high, 1, "no weight is above 1");
});

test("pixels: nothing where no query sees, and the sink as if it were zero", () => {
  const values = Float32Array.from([0.5, 0, 0, 0.5, 0.5, 0, 0.5, 0.5, 0.5]);
  const tile = { ...tileAt(0, 0, 0, values), rows: 3, columns: 3 };
  const pyramid = new TilePyramid({ n: 3 });
  const table = new Uint32Array(0x7f80).fill(7);
  table[0] = 1;
  const colours = { table, zero: 1 };
  assert.deepEqual([...tilePixels(tile, pyramid, colours, false)], [7, 0, 0, 7, 7, 0, 7, 7, 7]);
  assert.deepEqual([...tilePixels(tile, pyramid, colours, true)], [1, 0, 0, 1, 7, 0, 1, 7, 7]);
  const sliding = new TilePyramid({ n: 3, window: 1 });
  assert.deepEqual([...tilePixels(tile, sliding, colours, false)], [7, 0, 0, 0, 7, 0, 0, 0, 7]);
});

test("a weight's pixel is that of its place on the scale", () => {
  const scale = new ColourScale();
  Object.assign(scale, { low: 1e-4, high: 1 });
  const lut = Uint32Array.from({ length: 256 }, (_, i) => i);
  const { table, zero } = scale.pixels({ name: "steps", lut, zero: 999 });
  const bits = new Uint32Array(1);
  const weight = new Float32Array(bits.buffer);
  for (const value of [1e-6, 1e-3, 0.02, 0.5, 1]) {
    weight[0] = value;
    const place = Math.round(255 * scale.place(value));
    assert.ok(Math.abs(table[bits[0] >>> 16] - place) <= 1, String(value));
  }
  assert.equal(table[0], zero);
  assert.equal(scale.pixels({ name: "steps", lut, zero: 999 }).table, table, "made once");
});

test("a tile inside the window is looked up cell by cell only where it has an edge", () => {
  const values = new Float32Array(4).fill(0.5);
  const place = { rows: 2, columns: 2, query: 10, key: 6 };
  const tile = { ...tileAt(0, 0, 0, values), ...place };
  const colours = { table: new Uint32Array(0x7f80).fill(7), zero: 1 };
  const pixels = (window) => [
    ...tilePixels(tile, new TilePyramid({ n: 20, window }), colours, false),
  ];
  assert.deepEqual(pixels(null), [7, 7, 7, 7]);
  assert.deepEqual(pixels(6), [7, 7, 7, 7], "query 11 sees keys 6 to 11");
  assert.deepEqual(pixels(5), [7, 7, 0, 7]);
  assert.deepEqual(pixels(4), [0, 7, 0, 0]);
});

test("a mark that is out of view on one axis is no pivot", () => {
  const view = new MapView();
  Object.assign(view, { n: 1000, size: { width: 600, height: 500 } });
  view.centre(100, 800, 14);
  const { px, py } = view.pivot({ query: 100, key: 100 });
  assert.equal(px, view.margin.left + view.shown.width / 2);
  assert.equal(py, view.margin.top + view.shown.height / 2);
});

test("the last tile of a row is as wide as the context", () => {
  const pyramid = new TilePyramid({ n: 300, window: 16 });
  const right = { x: 256, y: 0, width: 44, height: 300 };
  assert.deepEqual(pyramid.tilesIn(right, 0), [[0, 2, 2]]);
  assert.equal(pyramid.masked(0, 128, 256, 300), true);
});

test("a range has the weights of every column, and the sink's alone where it is left out", () => {
  const values = new Float32Array(4096).fill(0.001);
  for (let at = 0; at < values.length; at += 64) values[at] = 0.9; // the first column
  const tile = { ...tileAt(0, 0, 0, values), rows: 64, columns: 64 };
  const scale = new ColourScale();
  scale.follow("a", () => [{ tile, sink: false }]);
  assert.ok(Math.abs(scale.high - 0.9) < 1e-6);
  scale.follow("b", () => [{ tile, sink: true }]);
  assert.ok(Math.abs(scale.high - 0.001) < 1e-6);
});
