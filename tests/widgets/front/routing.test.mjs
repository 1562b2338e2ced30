// The Routing view's table, routes and sentences.
import assert from "node:assert/strict";
import { test } from "node:test";

import {
  expertTable,
  orderOf,
  passes,
  readRoutes,
} from "../../../gemma4_mlx/widgets/static/experts.js";
import { expertFacts } from "../../../gemma4_mlx/widgets/static/routing_facts.js";
import { stretchAt, TokenRoutes } from "../../../gemma4_mlx/widgets/static/routing_routes.js";
import { RoutingScene } from "../../../gemma4_mlx/widgets/static/routing_scene.js";

const META = {
  layers: [0, 3],
  experts: 3,
  k: 1,
  start: { layer: 0, expert: 1, by: "role", view: "purpose" },
  parts: [],
  other: { n: 5, parts: [], media: [] },
};
const NONE = 255;

/** Two layers of three experts, two groups of 60 and 40 tokens. */
function tableOf() {
  const counts = [30, 30, 0, 40, 0, 0, 20, 20, 20, 10, 10, 20]; // [row][group][expert]
  const bytes = new Uint8Array(4 * counts.length + 6);
  new Uint32Array(bytes.buffer, 0, counts.length).set(counts);
  bytes.set([1, 0, NONE, NONE, NONE, 1], 4 * counts.length);
  const groups = [
    { name: "user", tokens: 60 },
    { name: "model", tokens: 40 },
  ];
  const content = { groups, n: 100, by: "role", bytes: 4 };
  return expertTable(META, { content, buffer: new DataView(bytes.buffer) });
}

test("loads and lifts follow from the counts", () => {
  const table = tableOf();
  assert.ok(Math.abs(table.load[0] - 0.7) < 1e-6 && Math.abs(table.load[1] - 0.3) < 1e-6);
  assert.ok(table.unused(2) && table.unusedIn(0) === 1 && table.unusedIn(1) === 0);
  assert.ok(Math.abs(table.lift(0, 1) - 0.5 / 0.3) < 1e-6);
  assert.ok(Math.abs(table.ratio(0) - 2.1) < 1e-6);
  assert.equal(table.purpose(0), 1);
  assert.equal(table.purpose(2), -1);
});

test("a row is put in order", () => {
  const table = tableOf();
  const order = (row, name, group = 0) => orderOf(table, row, { order: name, group });
  assert.deepEqual(order(0, "number"), [0, 1, 2]);
  assert.deepEqual(order(0, "load"), [0, 1, 2]);
  assert.deepEqual(order(0, "lift"), [1, 0, 2], "the unused last");
  assert.deepEqual(order(0, "purpose"), [1, 0, 2]);
  assert.deepEqual(order(1, "lift", 1), [2, 0, 1]);
});

test("one expert in words", () => {
  const table = tableOf();
  assert.equal(expertFacts(table, 2, null, undefined), "never used in this trace");
  const told = expertFacts(table, 0, null, 0.25);
  assert.match(
    told,
    /^load 70 % of the tokens, 2\.1× even load · lift model 1\.4×, user 0\.7× · 25 %/,
  );
  assert.match(expertFacts(table, 0, -0.1, undefined), /^-10\.0 points more of the tokens in B/);
});

test("a stretch has the mean shares of its column, largest first", () => {
  const strip = { columns: 2, high: 0.5, bytes: Uint8Array.from([0, 255, 51, 0, 0, 0]) };
  const { list, start, stop } = stretchAt(strip, 0, 3, 5);
  assert.deepEqual(list, [
    [1, 0.5],
    [2, 0.1],
  ]);
  assert.deepEqual([start, stop], [0, 3]);
  assert.deepEqual(stretchAt(strip, 1, 3, 5), { list: [], start: 3, stop: 5 });
});

/** A scene whose requests are kept, and answered with expert 2 for every token. */
function sceneOf({ isStatic = false } = {}) {
  const traits = { meta: META, n: 600 };
  const model = { get: (name) => traits[name], isStatic, recorded: () => false };
  const scene = new RoutingScene(model, { ink: () => ({}) }, (error) => assert.fail(error));
  const asked = [];
  scene.ask = async (type, args) => {
    asked.push({ type, ...args });
    if (type === "strip") {
      const bytes = Uint8Array.from([255, 0, 0]);
      return { content: { columns: 1, high: 1 }, buffer: new DataView(bytes.buffer) };
    }
    const cells = META.layers.length * (args.stop - args.start);
    const bytes = new Uint8Array(2 * cells).fill(2, 0, cells).fill(51, cells);
    const content = { start: args.start, stop: args.stop, bytes: 1 };
    return { content, buffer: new DataView(bytes.buffer) };
  };
  return { scene, asked, traits };
}
const settled = () => new Promise((resolve) => setTimeout(resolve));

test("routes come a page at a time, and are asked for once", async () => {
  const { scene, asked } = sceneOf();
  let came = 0;
  const routes = new TokenRoutes(scene, { onPage: () => came++, onStrip: () => {} });
  assert.equal(routes.of(null, 0), null);
  assert.equal(routes.of(600, 0), null, "beyond the text");
  assert.equal(routes.of(599, 0), null, "on its way");
  assert.equal(routes.of(520, 1), null);
  await settled();
  assert.deepEqual(asked, [{ type: "routes", start: 512, stop: 600, which: "a" }]);
  assert.equal(came, 1);
  assert.deepEqual(routes.of(599, 1), [[2, 0.2]]);
});

test("a grown trace drops the page that was not full", async () => {
  const { scene, asked, traits } = sceneOf();
  const routes = new TokenRoutes(scene, { onPage: () => {}, onStrip: () => {} });
  await routes.load(0);
  await routes.load(1);
  traits.n = 1100;
  routes.forgetStrips();
  routes.dropPages(2, false);
  assert.ok(routes.of(5, 0), "a full page stays");
  assert.equal(routes.of(599, 0), null);
  await settled();
  assert.deepEqual(asked.at(-1), { type: "routes", start: 512, stop: 1024, which: "a" });
  routes.dropPages(2, true);
  assert.equal(routes.of(5, 0), null, "another text");
});

test("a page without a kernel has stretches in place of tokens", async () => {
  const { scene, asked } = sceneOf({ isStatic: true });
  const routes = new TokenRoutes(scene, { onPage: () => {}, onStrip: () => {} });
  assert.equal(routes.of(5, 0), null);
  await settled();
  assert.deepEqual(asked, [{ type: "strip", layer: 0, which: "a" }]);
  assert.deepEqual(routes.of(5, 0), [[0, 1]]);
  assert.equal(routes.lacks(5), true);
});

test("an expert's number is not taken along into another layer", () => {
  const { scene } = sceneOf();
  assert.deepEqual(scene.follow({ layer: 0, expert: 1 }), { moved: false, changed: false });
  assert.deepEqual(scene.follow({ layer: 3, expert: 1 }), { moved: true, changed: true });
  assert.equal(scene.now.expert, null, "it was the other layer's");
  assert.deepEqual(scene.follow(scene.pick(scene.cellOf(0, 2))), { moved: true, changed: true });
  assert.equal(scene.cell, 2);
  assert.deepEqual(scene.follow({ layer: 3, expert: 0 }), { moved: true, changed: true });
  assert.equal(scene.now.expert, 0, "another number came with its layer");
  assert.deepEqual(scene.follow({ layer: 9, expert: 7 }), { moved: false, changed: false });
});

test("a page of routes is read by row and token", () => {
  const meta = { layers: [0, 1], k: 2 };
  const bytes = Uint8Array.from([1, 2, 3, 4, 5, 6, 7, 8, 255, 0, 51, 51, 0, 255, 102, 153]);
  const content = { start: 10, stop: 12, bytes: 1 };
  const page = readRoutes(meta, { content, buffer: new DataView(bytes.buffer) });
  assert.deepEqual(page.at(0, 11), [
    [3, 0.2],
    [4, 0.2],
  ]);
  assert.deepEqual(page.at(1, 10), [
    [5, 0],
    [6, 1],
  ]);
});

test("the filter asks for enough tokens and enough lift", () => {
  const table = tableOf();
  assert.equal(passes(table, 1, { group: 0, above: 1.6 }), true);
  assert.equal(passes(table, 1, { group: 0, above: 1.7 }), false);
  assert.equal(passes(table, 2, { group: 0, above: 0 }), false, "never used");
  assert.equal(passes(table, 1, { group: 1, above: 0 }), true);
});

test("experts are numbered through the rows", () => {
  const { scene } = sceneOf();
  assert.equal(scene.cellOf(1, 2), 5);
  assert.deepEqual(scene.placeOf(5), { row: 1, layer: 3, expert: 2 });
  assert.equal(scene.cell, 1);
  scene.now.expert = null;
  assert.equal(scene.cell, null);
});

test("every token has the stretch of its place in the text", async () => {
  const { scene } = sceneOf({ isStatic: true });
  const bytes = Uint8Array.from([255, 0, 0, 0, 255, 0, 0, 0, 255]);
  scene.ask = async () => ({
    content: { columns: 3, high: 1 },
    buffer: new DataView(bytes.buffer),
  });
  const routes = new TokenRoutes(scene, { onPage: () => {}, onStrip: () => {} });
  await routes.loadStrip(0);
  const expertAt = (token) => routes.stretch(token, 0).list[0][0];
  assert.deepEqual([0, 199, 200, 399, 400, 599].map(expertAt), [0, 0, 1, 1, 2, 2]);
  assert.deepEqual([routes.stretch(250, 0).start, routes.stretch(250, 0).stop], [200, 400]);
});

test("24 pages of routes are kept", async () => {
  const { scene, asked, traits } = sceneOf();
  traits.n = 26 * 512;
  const routes = new TokenRoutes(scene, { onPage: () => {}, onStrip: () => {} });
  for (let page = 0; page < 25; page++) await routes.load(page);
  assert.equal(asked.length, 25);
  assert.ok(routes.of(512, 0), "the second is there");
  assert.equal(routes.of(0, 0), null, "the first is not");
});
