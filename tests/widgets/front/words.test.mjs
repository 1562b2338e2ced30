// Numbers, tokens, axes and scales as people read them.
import assert from "node:assert/strict";
import { test } from "node:test";

import {
  activeParameters,
  shortCount,
  totalOf,
} from "../../../gemma4_mlx/widgets/static/anatomy_words.js";
import { cellIndex, edge, shorten, ticks } from "../../../gemma4_mlx/widgets/static/axes.js";
import { gib } from "../../../gemma4_mlx/widgets/static/fit_bar.js";
import { headsByRole, letterOf, sayRoles } from "../../../gemma4_mlx/widgets/static/headroles.js";
import { HeadTable, sayValue } from "../../../gemma4_mlx/widgets/static/headscale.js";
import { largest, tokensHolding } from "../../../gemma4_mlx/widgets/static/pieces.js";
import {
  formatBytes,
  formatCount,
  formatPercent,
  formatSeconds,
  visibleToken,
} from "../../../gemma4_mlx/widgets/static/words.js";

test("spaces and controls of a token are seen", () => {
  assert.equal(visibleToken(""), "∅");
  assert.equal(visibleToken(" a\n\tb\u0000\u007f"), "·a⏎⇥b␦␦");
});

test("numbers for people", () => {
  assert.equal(formatCount(131_072), "131,072");
  assert.deepEqual([0, 0.0004, 0.003, 0.42, 1].map(formatPercent), [
    "0 %",
    "< 0.1 %",
    "0.3 %",
    "42 %",
    "100 %",
  ]);
  assert.deepEqual([999, 1500, 15_300, 153_000, 2e12].map(formatBytes), [
    "999 B",
    "1.5 kB",
    "15.3 kB",
    "153 kB",
    "2.0 TB",
  ]);
  assert.deepEqual([0.25, 2.5, 25].map(formatSeconds), ["250 ms", "2.5 s", "25 s"]);
  assert.deepEqual([950, 12_000, 4.52e9].map(shortCount), ["950", "12.0 K", "4.52 B"]);
  assert.deepEqual([50 * 2 ** 20, 2 ** 30, 24 * 2 ** 30].map(gib), [
    "50 MiB",
    "1.00 GiB",
    "24.0 GiB",
  ]);
});

test("a token passes through k of the experts, and one row of each table", () => {
  const parts = [
    { part: "experts", params: 800 },
    { part: "attention", params: 100 },
    { part: "vision", params: 50 },
    { part: "per_layer_table", params: 25 },
  ];
  const meta = {
    k: 2,
    experts: 8,
    blocks: [{ parts: parts.slice(0, 2) }, { parts: parts.slice(2) }],
  };
  assert.equal(activeParameters(meta), 300);
  assert.equal(totalOf(meta, "params"), 975);
});

test("ticks are round, and as many as have room", () => {
  assert.deepEqual(ticks(0, 1000, 5), [0, 200, 400, 600, 800]);
  assert.deepEqual(ticks(37, 52, 4), [40, 45, 50]);
  assert.deepEqual(ticks(3, 5, 100), [3, 4], "never between two tokens");
});

test("a token on an axis is one short line", () => {
  assert.equal(shorten(" a b ", 12), "·a b·");
  assert.equal(shorten("abcdef", 4), "abc…");
  assert.equal(shorten("𝒜𝒜𝒜", 3), "𝒜𝒜𝒜", "letters, not code units");
});

test("cells of uneven length hold every token once", () => {
  for (const cell of [1, 2.5, 4, 7 / 3]) {
    for (let token = 10; token < 60; token++) {
      const index = cellIndex(token, 10, cell);
      assert.ok(edge(10, index, cell) <= token && token < edge(10, index + 1, cell));
    }
  }
});

test("the largest weights, and how many hold most of the mass", () => {
  const weights = Float32Array.from([0.5, 0, 0.125, 0.25, 0.125]);
  assert.deepEqual(largest(weights, 2), [
    [0, 0.5],
    [3, 0.25],
  ]);
  assert.deepEqual(largest(weights, 2, (i) => i === 0)[0], [3, 0.25]);
  assert.equal(largest(weights, 9).length, 4, "zero is left out");
  assert.equal(tokensHolding(weights, 0.75), 2);
  assert.equal(tokensHolding(weights, 0.76), 3);
});

test("heads by their roles over many prompts", () => {
  const table = new HeadTable([{ index: 0, kind: "full", heads: [0, 1, 2] }]);
  const values = Float32Array.from([1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.9, NaN, 0.04]);
  const content = {
    names: [["entropy", "entropy"]],
    roles: [["role.retrieval", "role: retrieval"]],
    labels: [["retrieval", "sink"], [], ["sink"]],
    groups: [],
    method: "",
    by: "unlike",
  };
  table.fill({ content, buffer: new DataView(values.buffer) });
  assert.deepEqual([table.names, table.roles], [["entropy"], ["role.retrieval"]]);
  assert.deepEqual(table.ranked("role.retrieval"), [0, 2, 1]);
  assert.equal(table.say("role.retrieval", 0), "90 %");
  assert.equal(table.say("role.retrieval", 1), "not kept");
  assert.deepEqual(table.labels.map(letterOf), ["R", "", "S"]);
  assert.deepEqual(table.labels.map(sayRoles), ["retrieval and sink head", "", "sink head"]);
  const found = [...headsByRole(table.labels)].map(([role, heads]) => [role, [...heads]]);
  assert.deepEqual(found, [
    ["retrieval", [0]],
    ["sink", [0, 2]],
  ]);
  table.fill({
    content: { ...content, roles: undefined, labels: undefined },
    buffer: new DataView(values.buffer),
  });
  assert.deepEqual([table.roles, table.labels, letterOf(table.labels[0])], [[], [], ""]);
});

test("heads by their numbers", () => {
  const table = new HeadTable([
    { index: 0, kind: "sliding", heads: [0, 1] },
    { index: 5, kind: "full", heads: [2] },
  ]);
  assert.equal(table.indexOf(5, 2), 2);
  assert.deepEqual(table.first, [0, 2]);
  const columns = [1, 4, NaN, 0.5, 0.25, 1, 3, 2, 1, 0, 1, 0, 0, 1, 0]; // 3 heads, 5 columns
  const values = Float32Array.from(columns);
  const names = [
    ["distance", "mean distance"],
    ["first", "on the first token"],
  ];
  const content = { names, groups: [], method: "", by: "unlike" };
  table.fill({ content, buffer: new DataView(values.buffer) });
  assert.deepEqual(table.ranked("distance"), [1, 0, 2]);
  assert.equal(table.say("distance", 1), "4 tokens");
  assert.equal(table.say("distance", 2), "not kept");
  const scale = table.scale("distance");
  assert.deepEqual([scale.place(1), scale.place(4)], [0, 1]);
  assert.ok(Math.abs(scale.at(scale.place(2)) - 2) < 1e-6);
  assert.deepEqual(table.ranked("first"), [2, 0, 1]);
  assert.deepEqual(
    [0, 1, 2].map((i) => table.value("unlike", i)),
    [3, 2, 1],
  );
  assert.equal(table.scale("unlike").place(1.5), 0.5, "as it is, from 0");
  assert.equal(table.scale("first").place(0.5625), 0.5, "square roots");
  table.setSpan(Float32Array.from([0.5, 0, 0]));
  assert.equal(table.say("span", 0), "50 %");
  assert.equal(sayValue("group", 1), "group 2");
});

test("ends of the ways to say a number", () => {
  assert.deepEqual([1000, 9999].map(formatBytes), ["1.0 kB", "10 kB"]);
  assert.equal(formatPercent(0.001), "0.1 %");
  assert.deepEqual([10_000, 100_000].map(shortCount), ["10.0 K", "100 K"]);
  assert.deepEqual(ticks(0, 3, 0), [0]);
});
