// What an explanation is in the Why view, and how it is said.

import assert from "node:assert/strict";
import { test } from "node:test";
import { diverging } from "../../../gemma4_mlx/widgets/static/colours.js";
import {
  chartRange,
  decodeExplanation,
  effectsOf,
  partsOfKind,
  questionKey,
  sums,
} from "../../../gemma4_mlx/widgets/static/why_values.js";
import {
  checkWords,
  explained,
  methodWords,
  partName,
  signed,
  sumWords,
} from "../../../gemma4_mlx/widgets/static/why_words.js";

/** An answer of two layers: three heads, an MLP, and of four experts the two that were chosen. */
function answer({ positions = null, perLayer = false } = {}) {
  const arrays = [
    ["positions", positions && [positions.length], positions],
    ["heads", [2, 3], [1, -2, 3, -4, 5, -6]],
    ["mlp", [2], [0.5, -0.25]],
    ["per_layer", perLayer && [2], [7, -8]],
    ["experts", [2, 2], [0.1, -0.2, 0.3, -0.4]],
    ["expert_weights", [2, 2], [0.7, 0.3, 0.6, 0.4]],
  ].filter(([, shape]) => shape);
  const values = arrays.flatMap(([, , list]) => list);
  const buffer = new ArrayBuffer(4 + 4 * values.length + 16);
  new Float32Array(buffer, 4, values.length).set(values);
  new Int32Array(buffer, 4 + 4 * values.length, 4).set([3, 0, 2, 1]);
  const content = {
    position: 4,
    target: [7, "2"],
    against: null,
    method: "direct",
    total: 12.5,
    base: null,
    remainder: 0,
    embedding: -9,
    arrays: Object.fromEntries(arrays.map(([name, shape]) => [name, shape])),
  };
  // As a kernel's message: the bytes begin somewhere in a larger buffer.
  return { content, buffer: new DataView(buffer, 4) };
}

test("every share finds its part, the largest first", () => {
  const { parts, partHigh, layers, positions } = decodeExplanation(answer());
  assert.equal(parts.length, 1 + 6 + 2 + 4);
  assert.deepEqual(parts[0], {
    kind: "embedding",
    layer: null,
    index: null,
    share: -9,
    column: -1,
  });
  assert.equal(partHigh, 9);
  assert.equal(layers, 2);
  assert.equal(positions, null);
  const [head] = parts.filter(({ kind }) => kind === "head");
  assert.deepEqual([head.layer, head.index, head.share], [1, 2, -6]);
  const experts = parts.filter(({ kind }) => kind === "expert");
  assert.deepEqual(
    experts.map(({ layer, index }) => [layer, index]),
    [
      [1, 1],
      [1, 2],
      [0, 0],
      [0, 3],
    ],
  );
  const sizes = parts.map(({ share }) => Math.abs(share));
  assert.deepEqual(
    sizes,
    [...sizes].sort((a, b) => b - a),
  );
});

test("cells of the map of parts follow one another without gaps", () => {
  for (const perLayer of [false, true]) {
    const { parts, columns } = decodeExplanation(answer({ perLayer }));
    assert.deepEqual(
      columns.map(({ name, count }) => [name, count]),
      [["heads", 3], ["MLP", 1], ...(perLayer ? [["per-layer", 1]] : []), ["experts", 2]],
    );
    const across = columns.reduce((sum, { count }) => sum + count, 0);
    for (const layer of [0, 1]) {
      const mine = parts.filter((part) => part.layer === layer).map(({ column }) => column);
      const wanted = Array.from({ length: across }, (_, i) => i);
      assert.deepEqual(
        mine.sort((a, b) => a - b),
        wanted,
      );
    }
  }
});

test("shares of positions come first, and their largest makes the scale", () => {
  const { positions, high } = decodeExplanation(answer({ positions: [0.5, -2, 0, 1] }));
  assert.deepEqual([...positions], [0.5, -2, 0, 1]);
  assert.equal(high, 2);
});

test("an explanation of positions alone has no parts", () => {
  const given = answer({ positions: [1, -1] });
  given.content.arrays = { positions: [2] };
  given.content.embedding = null;
  const shown = decodeExplanation(given);
  assert.deepEqual(shown.parts, []);
  assert.equal(shown.layers, 0);
  assert.equal(shown.partHigh, 0);
  assert.deepEqual(shown.columns, []);
});

test("parts by kind, and their sums", () => {
  const { parts } = decodeExplanation(answer({ perLayer: true }));
  assert.equal(partsOfKind(parts, "all"), parts);
  assert.equal(partsOfKind(parts, "heads").length, 6);
  assert.equal(partsOfKind(parts, "experts").length, 4);
  assert.equal(partsOfKind(parts, "embeddings").length, 3);
  const { pro, contra } = sums(partsOfKind(parts, "heads"));
  assert.deepEqual([pro, contra], [9, -12]);
  assert.deepEqual(sums([]), { pro: 0, contra: 0 });
});

test("questions are told apart by all that is asked", () => {
  const one = { position: 3, target: 7, against: null, method: "direct", stop: null };
  const keys = [one, { ...one, position: 4 }, { ...one, target: null }, { ...one, against: 7 }];
  assert.equal(
    new Set([...keys, { ...one, method: "gradient" }, { ...one, stop: 6 }].map(questionKey)).size,
    6,
  );
});

test("shares, parts and targets in words", () => {
  assert.equal(signed(3.214), "+3.21");
  assert.equal(signed(-0.5), "−0.50");
  assert.equal(signed(0), "0");
  assert.equal(signed(-0.00123), "−0.001");
  assert.equal(partName({ kind: "head", layer: 5, index: 0 }), "Layer 5 head 0");
  assert.equal(partName({ kind: "position", layer: null, index: 7, text: " a" }), "Token 7 “·a”");
  assert.equal(partName({ kind: "mlp", layer: 0, index: null }), "Layer 0 MLP");
  assert.equal(partName({ kind: "embedding", layer: null, index: null }), "Token embedding");
  const of = { target: [1, "שלום"], against: [2, "9"], total: -1 };
  assert.deepEqual(explained(of), ["Logit of ", "שלום", " less that of ", "9", ": −1.00"]);
  assert.deepEqual(explained({ ...of, against: null }), ["Logit of ", "שלום", ": −1.00"]);
  const span = { target: [null, "a span"], against: null, total: 2 };
  assert.deepEqual(explained(span), ["", "a span", ": +2.00"]);
});

test("what shares leave unexplained is said", () => {
  const exact = { remainder: 1e-5, base: null, positions: null, method: "direct" };
  assert.equal(sumWords(exact), "Shares of the parts sum to it.");
  const not = { remainder: -1.5, base: null, positions: [1], method: "gradient" };
  assert.match(sumWords(not), /text leave −1.50 of it unexplained \(the model is not linear\)/);
  const from = { remainder: 0, base: 4, positions: [1], method: "integrated" };
  assert.equal(sumWords(from), "Shares of the text sum to it, from +4.00 at the other end.");
});

test("every method says what it cannot tell; an unknown one has its name", () => {
  for (const method of ["direct", "gradient", "integrated", "patching"]) {
    assert.match(methodWords(method).cannot, /cannot tell/);
    assert.notEqual(methodWords(method).name, method);
  }
  assert.deepEqual(methodWords("other"), { name: "other", says: "", cannot: "" });
});

test("a check compares with the random ones and counts directions", () => {
  const effects = effectsOf([
    ["head", 1, 2, 3, 2, false],
    ["expert", 0, 5, -1, 1, false],
    ["head", 0, 0, 0.1, -0.5, true],
  ]);
  const words = checkWords(effects);
  assert.match(words, /one of the 2 largest changes it by 1.50 on average/);
  assert.match(words, /one of 1 others drawn at random by 0.50/);
  assert.match(words, /as predicted for 1 of 2/);
  assert.doesNotMatch(checkWords(effects.slice(0, 2)), /random/);
  assert.match(checkWords([]), /nothing here to remove/);
  const { low, high } = chartRange(effects);
  assert.ok(low < -1 && high > 3);
  assert.ok(chartRange(effectsOf([["head", 0, 0, 0, 0, false]])).high > 0);
});

test("for and against are told apart in both themes, also without colour vision", () => {
  for (const dark of [false, true]) {
    const [against, , pro] = [-1, 0, 1].map((v) => diverging(v, dark));
    // Blue and orange differ in blue and in red, the axes that red-green blindness keeps.
    assert.ok(against[2] - against[0] > 90 && pro[0] - pro[2] > 90);
  }
});
