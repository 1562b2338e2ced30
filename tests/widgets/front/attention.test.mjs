// The Attention view's numbers and sentences.
import assert from "node:assert/strict";
import { test } from "node:test";

import { AttentionScene } from "../../../gemma4_mlx/widgets/static/attention_scene.js";
import {
  decoded,
  pictureTile,
  pictureWeights,
  splitTiles,
} from "../../../gemma4_mlx/widgets/static/attention_values.js";
import {
  cellLength,
  cellSentence,
  offsetSentence,
  quotedToken,
  scaleEnds,
  shadeOf,
  spanWords,
} from "../../../gemma4_mlx/widgets/static/attention_words.js";

const viewOf = (bytes) => new DataView(Uint8Array.from(bytes).buffer);

test("eight bits are a scale of logarithms, and 0 is nothing", () => {
  const values = decoded({ bits: 8, low: 1e-4, high: 1 }, viewOf([0, 1, 128, 255]));
  assert.equal(values[0], 0);
  assert.ok(Math.abs(values[1] - 1e-4) < 1e-9);
  assert.ok(Math.abs(values[2] - 1e-2) < 1e-6, "half-way between the logarithms");
  assert.ok(Math.abs(values[3] - 1) < 1e-6);
  const plain = new DataView(Float32Array.from([0.25, 3]).buffer);
  assert.deepEqual([...decoded({ bits: 32 }, plain)], [0.25, 3]);
});

test("the values of several tiles follow one another", () => {
  const tiles = [
    { rows: 1, columns: 2 },
    { rows: 2, columns: 1 },
  ];
  const found = splitTiles(tiles, Float32Array.from([1, 2, 3, 4]));
  assert.deepEqual(
    found.map(({ values }) => [...values]),
    [
      [1, 2],
      [3, 4],
    ],
  );
});

test("a picture by offset becomes one by key with the same mass", () => {
  const picture = { rows: 4, columns: 2, axis: "offsets", reach: 50, values: new Float32Array(8) };
  picture.values.set([0.5, 0.25], 4); // the third row looks back 0 to 25, and 25 to 50
  const tile = pictureTile(picture, 100);
  const row = [...tile.values.slice(8, 12)];
  assert.equal(row[0] + row[1] + row[2], 0.75);
  assert.equal(row[2], 0.5, "tokens 50 to 75 less 12.5 are in the same cell");
  assert.equal(row[3], 0, "no query sees what comes later");
  picture.values.fill(0).set([0.5, 0.25], 0); // the first row cannot look back so far
  assert.deepEqual([...pictureTile(picture, 100).values.slice(0, 4)], [0.5, 0, 0, 0]);
  const byKey = { rows: 2, columns: 2, axis: "keys", reach: 0, values: new Float32Array(4) };
  assert.deepEqual(pictureTile(byKey, 10).columnCell, 5);
});

test("a token's weights from a small picture add up to its row", () => {
  const values = Float32Array.from([1, 0, 0.25, 0.75]);
  const tile = { values, rows: 2, rowCell: 4 };
  const { weights, width } = pictureWeights(tile, 8, 6, "row");
  assert.equal(width, 4);
  assert.deepEqual([...weights], [...Array(4).fill(0.0625), ...Array(4).fill(0.1875)]);
  const column = pictureWeights(tile, 8, 1, "column");
  assert.deepEqual([...column.weights], [...Array(4).fill(0.25), ...Array(4).fill(0.0625)]);
  assert.equal(pictureWeights({ ...tile, rowCell: 1 }, 2, 0, "row").width, 0);
});

test("a shade is 0 three decades below the peak", () => {
  assert.equal(shadeOf("log", 0.5, 0.5), 1);
  assert.ok(Math.abs(shadeOf("log", 0.05, 0.5) - 2 / 3) < 1e-9);
  assert.equal(shadeOf("log", 1e-7, 0.5), 0);
  assert.equal(shadeOf("linear", 0.125, 0.5), 0.25);
  assert.equal(shadeOf("rank", 0.125, 0.5), 0.5);
  assert.equal(shadeOf("linear", 0.9, 0.5), 1, "the sink may be above the peak");
});

const pair = { query: 7, queryStop: 8, key: 3, keyStop: 4, masked: false, value: 0.25 };

test("a cell is said by its tokens", () => {
  const name = (token) => `t${token}`;
  assert.equal(cellSentence(pair, "mean", name), "t7 → t3: weight 0.2500");
  assert.equal(cellSentence({ ...pair, value: null }, "mean", name), "t7 → t3: on its way");
  const hidden = { ...pair, masked: true };
  assert.equal(cellSentence(hidden, "mean", name), "t7 → t3: not visible from there");
  const pooled = { ...pair, query: 1024, queryStop: 1032, key: 0, keyStop: 8, value: 0.5 };
  const tokens = "tokens 1,024 to 1,031 → tokens 0 to 7";
  assert.equal(cellSentence(pooled, "mean", name), `${tokens}: mean mass 0.5000`);
  assert.equal(cellSentence(pooled, "max", name), `${tokens}: largest weight 0.5000`);
});

test("a cell by offset is said by how far back it is", () => {
  const cell = { query: 0, queryStop: 16, offset: 2, offsetStop: 3, value: 0.1, masked: false };
  assert.equal(offsetSentence(cell, "mean"), "tokens 0 to 15 → 2 back: mean mass 0.1000");
  const wide = { ...cell, offsetStop: 6, masked: true };
  assert.equal(offsetSentence(wide, "mean"), "tokens 0 to 15 → 2 to 5 back: before the text");
});

test("words for spans, lengths and ends of the scale", () => {
  assert.equal(spanWords(null), "not set");
  assert.equal(spanWords([3, 3]), "3");
  assert.equal(spanWords([3, 1200]), "3 to 1,200");
  assert.equal(cellLength(2.5), "2.5");
  assert.equal(cellLength(10.4), "10");
  assert.equal(cellLength(1024), "1,024");
  assert.equal(quotedToken(null, 1234), "1,234");
  assert.ok(quotedToken("שלום", 5).includes("\u2068שלום\u2069"), "isolated");
  assert.deepEqual(scaleEnds("log", { low: 1e-5, high: 0.5 }), ["1e-5", "0.50"]);
  assert.deepEqual(scaleEnds("linear", { low: 1e-5, high: 0.5 }), ["0", "0.50"]);
  assert.deepEqual(scaleEnds("rank", { low: 1e-5, high: 0.5 }), ["lowest", "highest"]);
});

function sceneOf() {
  const meta = {
    n: 10,
    start: { layer: 1, head: 0 },
    pictures: { kept: 8, side: 8 },
    layers: [
      { index: 1, kind: "full", heads: [0, 1] },
      { index: 4, kind: "sliding", heads: [2, 3] },
    ],
  };
  const model = { get: () => meta };
  return new AttentionScene(model, { ink: () => ({}), isStatic: false }, () => {});
}

test("a selection moves to a head that is there", () => {
  const scene = sceneOf();
  assert.equal(scene.follow({}), false);
  assert.equal(scene.follow({ layer: 1, head: 0 }), false, "nothing new");
  assert.equal(scene.follow({ layer: 9 }), false, "not kept");
  assert.equal(scene.follow({ head: 7 }), false);
  assert.equal(scene.follow({ head: 1 }), true);
  assert.equal(scene.follow({ layer: 4 }), true);
  assert.equal(scene.now.head, 2, "the first of a layer without head 1");
  assert.equal(scene.follow({ layer: 4, head: 3 }), true);
  assert.equal(scene.layer.index, 4);
});

test("an answer to what is no longer chosen is told apart", () => {
  const scene = sceneOf();
  const still = scene.still("layer", "head");
  scene.now.token = 5;
  assert.equal(still(), true);
  scene.follow({ head: 1 });
  assert.equal(still(), false);
});
