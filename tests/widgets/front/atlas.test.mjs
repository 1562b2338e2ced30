// The Atlas view's table, comparison, scales and search in recorded cards.
import assert from "node:assert/strict";
import { test } from "node:test";

import { foundInCards } from "../../../gemma4_mlx/widgets/static/atlas_find.js";
import { AtlasScene } from "../../../gemma4_mlx/widgets/static/atlas_scene.js";
import {
  chanceWords,
  labelsCompared,
  labelsOf,
  logRatio,
  logScale,
  withSignificance,
} from "../../../gemma4_mlx/widgets/static/atlas_table.js";
import { expertTable } from "../../../gemma4_mlx/widgets/static/experts.js";

const META = { layers: [0, 3], experts: 3, k: 1, start: { layer: 0, expert: 1 } };
const GROUPS = [
  { name: "code", tokens: 60 },
  { name: "law", tokens: 40 },
];
// [row][label][expert]
const COUNTS = [30, 30, 0, 40, 0, 0, 40, 20, 0, 4, 16, 20];
const Q = [0.3, 0.001, NaN, 0.2, 0.01, NaN, 0.01, 0.5, 0.02, 0.02, 0.4, 0.03];

/** The answer to "groups", counts of so many bytes. */
function answerOf(size = 2) {
  const Whole = { 2: Uint16Array, 8: Float64Array }[size];
  const bytes = new Uint8Array(size * COUNTS.length + 6).fill(255);
  new Whole(bytes.buffer, 0, COUNTS.length).set(COUNTS);
  const content = { groups: GROUPS, n: 100, by: "label", bytes: size };
  return { content, buffer: new DataView(bytes.buffer) };
}
const tested = (sure = true) =>
  withSignificance(expertTable(META, answerOf()), Float32Array.from(Q), sure);

test("counts of any width are read", () => {
  const table = expertTable(META, answerOf(8));
  assert.ok(Math.abs(table.load[0] - 0.7) < 1e-6 && table.unused(2));
});

test("an expert is for the label with the highest lift that is more than chance", () => {
  const table = tested();
  assert.equal(table.purpose(0), -1, "its lifts are chance");
  assert.equal(table.purpose(1), 0, "0.5 of 0.3: 1.67 times");
  assert.equal(table.purpose(2), -1, "never used");
  assert.equal(table.purpose(3), 0);
  assert.equal(table.purpose(5), 1, "2.5 times");
  assert.deepEqual(
    labelsOf(table, 5).map(([name, lift]) => [name, lift.toFixed(1)]),
    [["law", "2.5"]],
  );
});

test("of many labels those with most experts have colours", () => {
  const many = 15;
  const bytes = new Uint8Array(2 * many * 16 + 16).fill(255);
  const counts = new Uint16Array(bytes.buffer, 0, many * 16).fill(1);
  for (const e of [0, 1, 2]) counts[14 * 16 + e] = 20; // the last label has three experts
  counts[3 * 16 + 5] = 20;
  const groups = Array.from({ length: many }, (_, g) => ({ name: `l${g}`, tokens: 60 }));
  const content = { groups, n: 900, by: "label", bytes: 2 };
  const meta = { layers: [0], experts: 16, k: 1 };
  const plain = expertTable(meta, { content, buffer: new DataView(bytes.buffer) });
  const table = withSignificance(plain, new Float32Array(many * 16).fill(0.001), true);
  assert.deepEqual([14, 3, 0, 13].map(table.rank), [0, 1, 2, 14]);
  assert.equal(plain.rank(14), 14);
});

test("what is chance is told apart, or shown all the same", () => {
  assert.ok(!tested().enough(0, 0) && tested(false).enough(0, 0));
  assert.match(tested().unsure, /chance/);
  assert.match(tested(false).unsure, /too few/);
  assert.deepEqual([0.0004, 0.03, 0.5, NaN].map(chanceWords), ["< 0.001", "0.03", "0.50", "–"]);
});

test("two labels are compared", () => {
  const table = tested();
  assert.ok(Math.abs(logRatio(table, 0, 1)(3) - Math.log2(40 / 60 / (4 / 40))) < 1e-5);
  assert.ok(Number.isNaN(logRatio(table, 0, 1)(0)), "chance on both sides");
  assert.equal(logRatio(table, 0, 1)(1), Number.POSITIVE_INFINITY, "no token of the other");
  const { distance, counts } = labelsCompared(table, 0, 1, 1);
  assert.ok(Math.abs(distance[0] - 0.5) < 1e-6, "half of code goes elsewhere");
  assert.deepEqual(counts, { a: 2, b: 1, both: 0 });
});

test("a measure has a logarithmic scale", () => {
  const { value, ends } = logScale(Float32Array.from([NaN, 0, 1, 10, 100]));
  assert.deepEqual(ends, ["1", "10", "100"]);
  assert.deepEqual([1, 10, 100].map(value), [0, 0.5, 1]);
  assert.ok(Number.isNaN(value(NaN)) && value(0) === 0);
  assert.ok(Number.isNaN(logScale(Float32Array.from([NaN])).value(3)));
});

test("a page without a kernel finds tokens in its cards", () => {
  const card = (...input) => ({ input });
  const cards = [
    [{ layer: 0, expert: 1 }, card(["return", 9, 0.9, 4], [" Returns", 2, 0.1, 2])],
    [{ layer: 3, expert: 0 }, card(["x", 5, 1, 3])],
    [{ layer: 3, expert: 2 }, card(["return", 20, 0.2, 2])],
  ];
  const { rows, occurrences, tokens } = foundInCards(cards, "RETURN", "input");
  assert.deepEqual(rows, [
    [0, 1, 0.9, 4],
    [3, 2, 0.2, 2],
  ]);
  assert.equal(occurrences, 31);
  assert.deepEqual(tokens, ["return", " Returns"]);
  assert.throws(() => foundInCards(cards, "zebra", "input"), /No card/);
});

/** A scene over the table above. */
function sceneOf() {
  const model = { get: () => ({ ...META, labels: GROUPS }) };
  const ink = { dark: false, zero: "#e3e6ec" };
  const scene = new AtlasScene(model, { ink: () => ink }, () => {});
  scene.setTable(answerOf());
  scene.setSignificance(Float32Array.from(Q));
  return scene;
}

test("only an expert of this atlas is followed", () => {
  const scene = sceneOf();
  assert.equal(scene.follow({ layer: 3, expert: 2 }), true);
  assert.deepEqual(scene.placeOf(scene.cell), { row: 1, layer: 3, expert: 2 });
  for (const wrong of [{ layer: 9, expert: 0 }, { layer: 0, expert: 3 }, { layer: 0 }])
    assert.equal(scene.follow(wrong), false);
  assert.equal(scene.now.layer, 3);
});

test("the map is coloured and sorted by what is found", () => {
  const scene = sceneOf();
  const values = Float32Array.from([0.5, 4, 0, 8, NaN, 1]);
  scene.now.measure = { word: "reads “x”", values, kind: "lift" };
  scene.now.view = scene.now.order = "shown";
  scene.recolour();
  assert.deepEqual(scene.order(0), [1, 0, 2]);
  assert.deepEqual(scene.order(1), [0, 2, 1]);
  assert.equal(scene.shown.text(4), "4.0×");
  assert.equal(scene.scheme.rgb(2), null, "never used");
  assert.notDeepEqual(scene.scheme.rgb(0), scene.scheme.rgb(1));
  scene.now.view = "compare";
  scene.recolour();
  assert.equal(scene.shown.word, "code ÷ law");
  assert.equal(scene.shown.text(scene.shown.value(1)), "∞×");
});
