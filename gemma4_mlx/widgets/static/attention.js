/* Attention over the whole context: every head small, one head as a map, one token over the text. */

import { barCell, bytesOf, chip, exportPicker, floats, headline, largest, partColor, picker, pixelTable, problemNote, segmented, table, tokensHolding } from "./pieces.js";
import { colorMaps, colorAt, formatCount, formatPercent, h, linkSelection, mount, perFrame, request, sizeCanvas } from "./shared.js";
import { TILE, tileMap } from "./tilemap.js";
import { tokenView } from "./tokenview.js";

const SCALES = [["log", "log", "Logarithmic: small weights stay visible"], ["linear", "linear", "Proportional to the weight"], ["rank", "rank", "By rank among the weights in view"]];

function render({ model, el }) {
  const view = mount(model, el, "attention");
  const { root, signal } = view;
  root.classList.add("g4-view");
  const meta = () => model.get("meta");
  const ask = (type, args = {}, options = {}) => request(model, type, args, { signal, ...options });
  const { problem, show } = problemNote();

  if (!meta().layers?.length) {
    root.append(headline("Attention", [], []), h("p", { class: "g4-empty" }, meta().empty || "This trace kept no attention."));
    return view.cleanup;
  }

  // ---- what is shown ------------------------------------------------------------------------
  const first = meta().start;
  const now = { layer: first.layer, head: first.head, token: null, mode: "row", stat: "mean", scale: "log", sink: false, map: "viridis" };
  let weights = null, derived = null, heads = null, peak = 0, order = "layer", spans = { from: null, to: null };
  let ink = view.ink(), pixels = pixelTable(now.map), slot = 0;
  const layerOf = (index) => meta().layers.find((l) => l.index === index);

  const link = linkSelection(model, (selection) => {
    const { layer, head, token } = selection;
    const headMoved = (layer !== undefined && layer !== null && layer !== now.layer && layerOf(layer)) || (Number.isInteger(head) && head !== now.head && layerOf(layer ?? now.layer)?.heads.includes(head));
    if (headMoved) { now.layer = layer ?? now.layer; const there = layerOf(now.layer).heads; now.head = there.includes(head ?? now.head) ? head ?? now.head : there[0]; headChanged(); }
    if (Number.isInteger(token) && token !== now.token) tokenChanged(token);
  }, signal);

  // ---- every head, small ----------------------------------------------------------------------
  const grid = h("div", { class: "g4-heads", role: "group", "aria-label": "All heads" });
  const sorter = picker("Sort heads by", [["layer", "layer"]], "layer", (value) => { order = value; buildGrid(); });
  const gridNote = h("span", { class: "g4-note" });

  async function loadHeads() {
    try {
      const answer = await ask("heads", { stat: now.stat });
      if (!answer) return;
      heads = { ...answer.content, pictures: bytesOf(answer.buffer) };
      sorter.select.replaceChildren(h("option", { value: "layer" }, "layer"), ...heads.names.map(([key, text]) => h("option", { value: key }, text)));
      sorter.select.value = order;
      buildGrid();
      buildSummary();
    } catch (error) { show(error); }
  }

  function buildGrid() {
    if (!heads) return;
    const list = heads.heads.map((head, index) => ({ ...head, index }));
    const sorted = order !== "layer";
    if (sorted) list.sort((a, b) => (b.summary[order] ?? -1) - (a.summary[order] ?? -1));
    const columns = meta().layers.length, wide = Math.floor((root.clientWidth || 960) * (columns > 12 ? 0.94 : 0.62) / columns);
    const side = sorted ? 64 : Math.max(30, Math.min(72, wide - 12));
    grid.className = sorted ? "g4-heads g4-sorted" : "g4-heads";
    grid.style.gridTemplateColumns = sorted ? "" : `repeat(${columns}, ${side + 6}px)`;
    const nodes = [];
    const narrow = side < 62;
    if (!sorted) for (const layer of meta().layers) nodes.push(layerHead(layer, narrow));
    const byHead = sorted ? list : [...list].sort((a, b) => a.head - b.head || a.layer - b.layer);
    let column = 0, row = -1;
    for (const item of byHead) {
      const node = thumbnail(item, side, sorted);
      if (!sorted) {
        column = meta().layers.findIndex((l) => l.index === item.layer) + 1;
        row = layerOf(item.layer).heads.indexOf(item.head) + 2;
        node.style.gridColumn = column; node.style.gridRow = row;
      }
      nodes.push(node);
    }
    grid.replaceChildren(...nodes);
    const donor = meta().layers.find((l) => l.donor !== null)?.donor;
    const key = narrow && donor !== undefined ? ` ↩L${donor}: with the keys and values of layer ${donor}.` : "";
    gridNote.textContent = sorted ? "Largest first." : `Columns are layers, rows are heads. Each picture: keys to the right, queries down; the whole context.${key}`;
    markHead();
  }

  function layerHead(layer, narrow) {
    const kind = layer.kind === "full" ? "full" : String(layer.window);
    const text = [h("strong", {}, `L${layer.index}`), h("span", { class: `g4-kind g4-kind-${layer.kind}${narrow ? " g4-narrow" : ""}` }, kind)];
    if (layer.donor !== null) text.push(h("span", { class: "g4-shared" }, narrow ? `↩L${layer.donor}` : `↩ KV of L${layer.donor}`));
    return h("div", { class: "g4-layerhead", title: layerTitle(layer) }, ...text);
  }

  const layerTitle = (layer) => (layer.kind === "full" ? `Layer ${layer.index}: full attention, every earlier token` : `Layer ${layer.index}: sliding attention, the last ${formatCount(layer.window)} tokens`) + (layer.donor !== null ? `; reads the keys and values of layer ${layer.donor}` : "");

  function thumbnail(item, side, sorted) {
    const canvas = h("canvas", { "aria-hidden": "true" });
    const layer = layerOf(item.layer), value = sorted ? item.summary[order] : null;
    const button = h("button", {
      type: "button", class: `g4-thumb g4-thumb-${layer.kind}${layer.donor !== null ? " g4-thumb-shared" : ""}`,
      "aria-label": `Layer ${item.layer}, head ${item.head}, ${layer.kind} attention${layer.donor !== null ? `, keys of layer ${layer.donor}` : ""}`,
      "aria-pressed": "false", tabindex: -1, dataset: { layer: item.layer, head: item.head },
    }, canvas, sorted ? h("span", { class: "g4-thumb-label" }, `L${item.layer}·H${item.head}`, h("em", {}, value === null || value === undefined ? "n/a" : summaryText(order, value))) : null);
    paintThumb(canvas, item.index, side);
    return button;
  }

  function paintThumb(canvas, index, side) {
    const s = heads.side, image = new ImageData(s, s), data = new Uint32Array(image.data.buffer), from = index * s * s;
    const layer = layerOf(heads.heads[index].layer), cell = meta().n / s;
    const blank = hexPixel(ink.masked);
    for (let r = 0; r < s; r++) for (let c = 0; c < s; c++) {
      const v = heads.pictures[from + r * s + c];
      const hidden = v === 0 && ((c > r && !together(r * cell, (r + 1) * cell, c * cell, layer)) || (layer.window && (r - c - 1) * cell > layer.window));
      data[r * s + c] = hidden ? blank : pixels.lut[v];
    }
    canvas.width = canvas.height = s;
    canvas.style.width = canvas.style.height = `${side}px`;
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  /** Whether a query of [q0, q1) shares a bidirectional block with key k, in a sliding layer. */
  const together = (q0, q1, k, layer) => layer.window && meta().blocks.some(([a, b]) => q1 > a && q0 < b && k < b && k >= a);

  function markHead() {
    for (const node of grid.querySelectorAll(".g4-thumb")) {
      const on = Number(node.dataset.layer) === now.layer && Number(node.dataset.head) === now.head;
      node.setAttribute("aria-pressed", String(on));
      node.tabIndex = on ? 0 : -1;
    }
    if (!grid.querySelector('[tabindex="0"]')) grid.querySelector(".g4-thumb")?.setAttribute("tabindex", "0");
  }

  grid.addEventListener("click", (event) => {
    const node = event.target.closest?.(".g4-thumb");
    if (node) link.set({ layer: Number(node.dataset.layer), head: Number(node.dataset.head) });
  }, { signal });
  grid.addEventListener("keydown", (event) => {
    const nodes = [...grid.querySelectorAll(".g4-thumb")], at = nodes.indexOf(document.activeElement);
    if (at < 0) return;
    const columns = order === "layer" ? meta().layers.length : Math.max(1, Math.floor(grid.clientWidth / 84));
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (!step) return;
    event.preventDefault();
    const node = nodes[at + step];
    if (node) { node.tabIndex = 0; node.focus(); }
  }, { signal });

  // ---- one head, large ------------------------------------------------------------------------
  const readout = h("output", { class: "g4-readout", "aria-live": "off" }, "Point at the map, or focus it and use the arrow keys.");
  const state = h("span", { class: "g4-chip" });
  const map = tileMap({
    label: "Attention map of one head. Arrow keys move the cell, plus and minus zoom, 0 shows everything, Enter picks the query token.",
    palette: () => pixels, ink: () => ink, onError: show,
    fetchTiles: async (tiles, abort) => {
      if (view.isStatic) return Promise.all(tiles.map(recordedTile));
      const answer = await request(model, "tiles", { layer: now.layer, head: now.head, stat: now.stat, tiles }, { signal: abort, slot: "tiles" });
      if (!answer) return []; // a newer request came before this one was begun
      const values = floats(answer.buffer);
      let at = 0;
      return answer.content.map((tile) => ({ ...tile, values: values.subarray(at, (at += tile.rows * tile.columns)) }));
    },
    onCell: (cell) => { readout.textContent = cell ? describe(cell) : "Point at the map, or focus it and use the arrow keys."; if (document.activeElement === map.canvas) view.announce(readout.textContent); },
    onPick: (cell) => { link.set({ token: cell.query }); map.setMark({ query: cell.query, key: cell.key }); },
    onView: drawState,
    words: (start, stop) => text.words(start, stop, () => map.draw()),
  });
  /** In a snapshot: a tile it holds, or the finest one above it. */
  async function recordedTile([level, row, column]) {
    const wanted = { layer: now.layer, head: now.head, stat: now.stat, level, row, column };
    for (;;) {
      try {
        const { content, buffer } = await request(model, "tile", wanted, { signal });
        return { ...content, values: floats(buffer), level, row, column };
      } catch (error) { // it holds some heads only as their small picture
        if (!heads) throw error;
        if (TILE * 2 ** wanted.level >= meta().n) return { ...smallPicture(), level, row, column };
        Object.assign(wanted, { level: wanted.level + 1, row: wanted.row >> 1, column: wanted.column >> 1 });
      }
    }
  }
  /** In a snapshot, a head whose tiles it does not hold: its small picture, as a tile. */
  function smallPicture() {
    const index = heads.heads.findIndex((x) => x.layer === now.layer && x.head === now.head), side = heads.side;
    const values = Float32Array.from(heads.pictures.subarray(index * side * side, (index + 1) * side * side), (v) => (v / 255) ** 2 * heads.heads[index].peak);
    return { values, rows: side, columns: side, query: 0, key: 0, rowCell: meta().n / side, columnCell: meta().n / side };
  }
  const legend = h("canvas", { class: "g4-legend", role: "img" });
  const mapTitle = h("h4", { class: "g4-subtitle" });

  function describe(cell) {
    const single = cell.queryStop - cell.query === 1;
    // The isolates keep a right-to-left token from turning the sentence around.
    const name = (i) => { const w = text.nameOf(i, () => {}); return w ? `“\u2068${w}\u2069” (${formatCount(i)})` : formatCount(i); };
    const rows = single ? name(cell.query) : `tokens ${formatCount(cell.query)} to ${formatCount(cell.queryStop - 1)}`;
    const columns = single ? name(cell.key) : `tokens ${formatCount(cell.key)} to ${formatCount(cell.keyStop - 1)}`;
    const what = cell.masked ? "not visible from there" : cell.value === null ? "on its way" : single ? `weight ${weightText(cell.value)}` : `${now.stat === "mean" ? "mean mass" : "largest weight"} ${weightText(cell.value)}`;
    return `${rows} → ${columns}: ${what}`;
  }

  let stateShown = "", legendShown = "";
  function drawState(s) { // 60 times a second while the map moves: touch the page where something changed
    const cell = s.cell, text_ = s.missing ? `loading ${s.missing} of ${s.visible} tiles` : cell === 1 ? "exact: one cell is one token pair" : `pooled: one cell is ${whole(cell)} × ${whole(cell)} tokens, ${now.stat === "mean" ? "mean" : "maximum"}`;
    if (text_ !== stateShown) {
      state.textContent = stateShown = text_;
      state.className = `g4-chip ${s.missing ? "g4-is-warn" : cell === 1 ? "g4-is-good" : ""}`;
      root.dataset.missing = String(s.missing);
    }
    const low = now.scale === "linear" ? "0" : now.scale === "log" ? shortNumber(s.low) : "lowest", high = now.scale === "rank" ? "highest" : shortNumber(s.high);
    const legend_ = `${low} ${high} ${pixels.name} ${ink.text}`;
    if (legend_ !== legendShown) { legendShown = legend_; drawLegend(s, low, high); }
  }

  function drawLegend(s, low, high) {
    const context = sizeCanvas(legend, 210, 30);
    context.clearRect(0, 0, 210, 30);
    for (let x = 0; x < 150; x++) { context.fillStyle = colorAt(pixels.table, x / 149); context.fillRect(x, 0, 150 - x, 10); } // the rest is drawn over: no seams
    context.fillStyle = ink.text; context.font = "10.5px " + ink.font; context.textBaseline = "top";
    context.textAlign = "left"; context.fillText(low, 0, 14);
    context.textAlign = "right"; context.fillText(high, 150, 14);
    context.fillStyle = ink.masked; context.fillRect(162, 0, 12, 10); context.strokeStyle = ink.line; context.strokeRect(162.5, 0.5, 11, 9);
    context.fillStyle = ink.text; context.textAlign = "left"; context.fillText("masked", 160, 14);
    legend.setAttribute("aria-label", `Colour scale, ${now.scale}, from ${shortNumber(s.low)} to ${shortNumber(s.high)}`);
  }

  // ---- one token: what it looks at, who looks at it --------------------------------------------
  const tokenTitle = h("h4", { class: "g4-subtitle" }, "Selected token");
  const facts = h("div", { class: "g4-facts" });
  const partBox = h("div", {}), topBox = h("div", {}), summaryBox = h("div", {});

  async function loadWeights() {
    if (now.token === null) { weights = null; paintAll(); return; }
    const want = `${now.mode} ${now.layer} ${now.head} ${now.token}`;
    try {
      const answer = await ask("weights", { layer: now.layer, head: now.head, token: now.token, mode: now.mode }, { slot: "weights" });
      if (!answer || want !== `${now.mode} ${now.layer} ${now.head} ${now.token}`) return;
      weights = floats(answer.buffer);
      problem.hidden = true;
    } catch (error) { weights = null; show(error); }
    paintAll();
  }

  function paintAll() {
    peak = 0;
    if (weights) for (let i = 0; i < weights.length; i++) if (!(now.sink && i === 0) && weights[i] > peak) peak = weights[i];
    derived = weights && derive();
    text.repaint();
    buildFacts();
  }

  /** What is read off a row or column once, not each time a token's text arrives. */
  function derive() {
    let total = 0;
    for (const v of weights) total += v;
    const sums = meta().parts.map((part) => { let s = 0; for (let i = part.start; i < part.stop; i++) s += weights[i]; return { ...part, s }; });
    return { total, sums, holding: tokensHolding(weights, 0.9), top: largest(weights, 10, (i) => now.sink && i === 0) };
  }

  const factsLater = perFrame(() => buildFacts()); // several pages of text may arrive at once

  function buildFacts() {
    const name = h("bdi", {}, `“${(now.token === null ? null : text.nameOf(now.token, () => {})) ?? ""}”`), place = `(${formatCount(now.token ?? 0)})`;
    tokenTitle.replaceChildren(h("span", {}, ...(now.token === null ? ["Select a token"] : now.mode === "row" ? ["What ", name, ` ${place} looks at`] : ["Who looks at ", name, ` ${place}`])));
    if (!weights) {
      facts.replaceChildren(h("p", { class: "g4-note" }, "Click a token in the text or a cell of the map. Its exact weights are then drawn over the whole text."));
      partBox.replaceChildren(); topBox.replaceChildren();
      return;
    }
    const { total, sums, holding, top } = derived, row = now.mode === "row";
    facts.replaceChildren(...[
      row ? fact("Sink (first token)", formatPercent(weights[0]), now.sink ? "taken out of the colours" : "included in the colours") : fact("Mass received", total.toFixed(2), "sum over all queries; 1.00 is one query's whole attention"),
      fact("90 % of it on", counted(holding), `of ${formatCount(row ? now.token + 1 : meta().n - now.token)} ${row ? "visible" : "that could look"}`),
      row ? fact("Sum of weights", total.toFixed(4), "exact, not pooled") : fact("Largest weight", weightText(peak), "exact, not pooled"),
    ]);
    const byName = new Map();
    for (const part of sums) { const e = byName.get(part.name) ?? { role: part.role, s: 0, tokens: 0 }; e.s += part.s; e.tokens += part.stop - part.start; byName.set(part.name, e); }
    partBox.replaceChildren(table("Mass by part of the conversation", ["Part", "#Tokens", "#Mass"], [...byName].map(([part, e]) =>
      h("tr", {}, h("th", { scope: "row" }, h("i", { class: "g4-swatch", style: { background: partColor(e.role) } }), part), h("td", { class: "g4-number" }, formatCount(e.tokens)), barCell(e.s / total, formatPercent(e.s / total), partColor(e.role))))));
    topBox.replaceChildren(table(row ? "Strongest keys" : "Strongest queries", [row ? "Looks at" : "Looked at by", "#Position", "#Weight"], top.map(([i, v]) => {
        const button = h("button", { type: "button", class: "g4-quiet g4-wordlink", title: "Show this pair on the map" }, h("bdi", {}, text.nameOf(i, factsLater) ?? "…"));
        button.addEventListener("click", () => { const q = row ? now.token : i, k = row ? i : now.token; map.show(q, k); map.setMark({ query: q, key: k }); });
        return h("tr", {}, h("th", { scope: "row" }, button), h("td", { class: "g4-number" }, formatCount(i)), barCell(v / (peak || 1), row ? formatPercent(v) : weightText(v)));
      })));
  }

  const fact = (name, value, note) => h("div", { class: "g4-fact" }, h("span", { class: "g4-note" }, name), h("strong", {}, value), h("span", { class: "g4-note" }, note));

  function buildSummary() {
    const mine = heads?.heads.find((x) => x.layer === now.layer && x.head === now.head);
    const layer = layerOf(now.layer);
    mapTitle.replaceChildren(`Layer ${now.layer}, head ${now.head}`, h("span", { class: `g4-kind g4-kind-${layer.kind}` }, layer.kind === "full" ? "full" : `sliding, window ${formatCount(layer.window)}`), layer.donor !== null ? h("span", { class: "g4-shared" }, `keys and values of layer ${layer.donor}`) : "");
    if (!mine) return;
    summaryBox.replaceChildren(table("This head over the whole trace", ["This head, mean over queries", "#Value"], heads.names.map(([key, text_]) =>
      h("tr", {}, h("th", { scope: "row" }, text_), h("td", { class: "g4-number" }, mine.summary[key] === null || mine.summary[key] === undefined ? "n/a" : summaryText(key, mine.summary[key]))))));
  }

  const summaryText = (key, value) => (key === "entropy" ? `${value.toFixed(2)} nats` : key === "distance" ? `${formatCount(value)} tokens` : formatPercent(value));

  // ---- the text -----------------------------------------------------------------------------------
  const accent = () => (ink.dark ? [255, 176, 80] : [230, 120, 0]);
  const shade = (v) => (now.scale === "linear" ? v / peak : now.scale === "log" ? Math.max(0, 1 + Math.log10(v / peak) / 3) : Math.sqrt(v / peak));
  const text = tokenView({
    label: "Text of the trace. Arrow keys move the selected token, Shift extends a span.", ask, n: () => meta().n, media: () => meta().media, parts: () => meta().parts.map((p) => ({ ...p, colour: partColor(p.role) })),
    ink: () => ink, onError: show,
    onSelect: (i) => link.set({ token: i }),
    onSpan: () => buildSpans(),
    paint: () => ({
      background(i, onPicture) {
        if (!weights || !(weights[i] > 0) || (now.sink && i === 0) || !peak) return null;
        const t = Math.min(1, shade(weights[i]));
        if (t <= 0.01) return null;
        if (onPicture) return colorAt(colorMaps.viridis, t);
        const [r, g, b] = accent();
        return `rgba(${r},${g},${b},${(0.08 + 0.72 * t).toFixed(3)})`;
      },
      title: (i) => `${formatCount(i)}${weights ? `: weight ${weightText(weights[i] ?? 0)}` : ""}`,
    }),
    strip(from, to) {
      if (!weights || !peak) return null;
      let v = 0;
      for (let i = from; i < Math.min(to, weights.length); i++) if (!(now.sink && i === 0) && weights[i] > v) v = weights[i];
      const t = v > 0 ? Math.min(1, shade(v)) : 0, [r, g, b] = accent();
      return t > 0.01 ? `rgba(${r},${g},${b},${(0.1 + 0.9 * t).toFixed(3)})` : null;
    },
  });

  // ---- spans: which head carries it? ----------------------------------------------------------------
  const spanBox = h("div", { class: "g4-spans" });
  const ranking = h("div", {});
  function buildSpans() {
    const current = text.span ?? (now.token === null ? null : [now.token, now.token]);
    const name = (s) => (s ? `${formatCount(s[0])}${s[1] > s[0] ? ` to ${formatCount(s[1])}` : ""}` : "not set");
    const setter = (key, label, verb) => h("div", { class: "g4-spanset" }, h("span", { class: "g4-note" }, label), h("strong", {}, name(spans[key])),
      h("button", { type: "button", disabled: !current, onclick: () => { spans = { ...spans, [key]: [...current] }; buildSpans(); } }, verb));
    spanBox.replaceChildren(
      h("span", { class: "g4-note" }, current ? `Marked in the text: ${name(current)} (Shift extends it).` : "Mark a token in the text; Shift extends it to a span."),
      setter("from", "These tokens look:", "Use the mark"), setter("to", "at these:", "Use the mark"),
      h("button", { type: "button", class: "g4-primary", disabled: !spans.from || !spans.to, onclick: rank }, "Rank the heads"));
  }

  async function rank() {
    ranking.replaceChildren(h("p", { class: "g4-note", role: "status" }, "Computing exact rows for every head…"));
    try {
      const answer = await ask("find", { source: [spans.from[0], spans.from[1] + 1], target: [spans.to[0], spans.to[1] + 1] });
      const list = answer.content.heads, high = list[0]?.mass || 1;
      ranking.replaceChildren(table("Heads by the mass from the first span to the second", ["Head", "Kind", "#Mass per query"], list.slice(0, 12).map((item) => {
        const button = h("button", { type: "button", class: "g4-quiet" }, `Layer ${item.layer}, head ${item.head}`);
        button.addEventListener("click", () => { link.set({ layer: item.layer, head: item.head, token: spans.from[0] }); map.show(spans.from[0], spans.to[0]); map.setMark({ query: spans.from[0], key: spans.to[0] }); });
        return h("tr", {}, h("th", { scope: "row" }, button), h("td", {}, layerOf(item.layer)?.kind ?? ""), barCell(item.mass / high, formatPercent(item.mass)));
      })), h("p", { class: "g4-note" }, answer.content.note));
      view.announce(`Strongest: layer ${list[0]?.layer}, head ${list[0]?.head}, ${formatPercent(list[0]?.mass ?? 0)}`);
    } catch (error) { ranking.replaceChildren(h("p", { class: "g4-note", role: "status" }, error.message)); }
  }

  // ---- changes ------------------------------------------------------------------------------------
  function headChanged() {
    const layer = layerOf(now.layer);
    map.setHead({ n: meta().n, window: layer.window, blocks: layer.window ? meta().blocks : [], exact: layer.exact, bin: meta().bin });
    markHead(); buildSummary(); loadWeights();
    view.announce(`Layer ${now.layer}, head ${now.head}, ${layer.kind} attention`);
  }

  function tokenChanged(token) {
    now.token = token;
    map.setMark(now.mode === "row" ? { query: token, key: null } : { query: null, key: token });
    text.select(token).then(() => { buildFacts(); buildSpans(); });
    loadWeights();
  }

  // ---- assembly -------------------------------------------------------------------------------------
  const mode = segmented("Direction", [["row", "Looks at"], ["column", "Is looked at by"]], "row", (value) => { now.mode = value; map.setMark(value === "row" ? { query: now.token, key: null } : { query: null, key: now.token }); loadWeights(); });
  const stat = segmented("Value of a pooled cell", [["mean", "mean", "Mean over the cell's queries of the mass on its keys"], ["max", "max", "Largest single weight in the cell: a needle stays visible"]], "mean", (value) => { now.stat = value; headChanged(); loadHeads(); });
  const scale = segmented("Colour scale", SCALES, "log", (value) => { now.scale = value; map.setScale(value); paintAll(); });
  const colours = picker("Colours", [["viridis", "viridis"], ["cividis", "cividis"]], "viridis", (value) => { now.map = value; pixels = pixelTable(value); buildGrid(); map.draw(); });
  const sink = h("input", { type: "checkbox" });
  sink.addEventListener("change", () => { now.sink = sink.checked; map.setHideFirst(sink.checked); paintAll(); }, { signal });
  const zoomers = h("div", { class: "g4-segmented", role: "group", "aria-label": "Zoom" },
    h("button", { type: "button", "aria-label": "Zoom in", onclick: () => map.zoom(2) }, "+"), h("button", { type: "button", "aria-label": "Zoom out", onclick: () => map.zoom(0.5) }, "−"), h("button", { type: "button", onclick: () => map.fit() }, "Whole context"));
  const showPair = h("button", { type: "button", onclick: () => { if (now.token !== null) map.show(now.mode === "row" ? now.token : now.token, weights ? largest(weights, 1, (i) => now.sink && i === 0)[0]?.[0] ?? now.token : now.token); } }, "Zoom to token");
  const m = meta();
  root.append(
    headline("Attention", [chip(`${formatCount(m.n)} tokens`), chip(`${m.layers.length} layers × ${m.layers[0].heads.length} heads`), chip(m.source)], [exportPicker(model, "attention", show)]),
    problem,
    h("section", { class: "g4-panel g4-section", "aria-label": "Every head" }, h("div", { class: "g4-toolbar" }, sorter.node, stat.node, h("span", { class: "g4-grow" }), colours.node), h("div", { class: "g4-overview" }, h("div", { class: "g4-scroll" }, grid, gridNote), summaryBox)),
    h("div", { class: "g4-columns" },
      h("section", { class: "g4-panel g4-section g4-mapbox", "aria-label": "One head" }, mapTitle,
        h("div", { class: "g4-toolbar" }, scale.node, zoomers, showPair, h("label", {}, sink, "Take the sink out")),
        h("div", { class: "g4-maphold" }, map.canvas), h("div", { class: "g4-toolbar g4-mapfoot" }, legend, state), readout),
      h("section", { class: "g4-panel g4-section g4-side", "aria-label": "One token" }, tokenTitle, mode.node, facts, partBox, topBox)),
    h("section", { class: "g4-panel g4-section", "aria-label": "Text" }, text.root, legendOfParts(m.parts), h("h4", { class: "g4-subtitle" }, "Which head carries it?"), spanBox, ranking),
  );
  view.onInk((colours) => { ink = colours; buildGrid(); map.draw(); text.repaint(); });
  map.setParts(m.parts.map((p) => ({ ...p, colour: partColor(p.role) })));
  map.start();
  const selected = link.get();
  if (layerOf(selected.layer)) {
    now.layer = selected.layer;
    const there = layerOf(now.layer).heads;
    now.head = there.includes(selected.head) ? selected.head : there.includes(now.head) ? now.head : there[0];
  }
  headChanged(); loadHeads(); buildSpans(); buildFacts();
  text.show(0).then(() => { if (Number.isInteger(selected.token)) tokenChanged(selected.token); else if (Number.isInteger(m.start.token)) tokenChanged(m.start.token); });
  signal.addEventListener("abort", () => { map.destroy(); text.destroy(); });
  return view.cleanup;
}

/** The colours of the parts, once each. */
function legendOfParts(parts) {
  const seen = new Map(parts.map((p) => [p.name, p.role]));
  return h("div", { class: "g4-keys", "aria-label": "Parts" }, ...[...seen].map(([name, role]) => h("span", { class: "g4-key" }, h("i", { class: "g4-swatch", style: { background: partColor(role) } }), name)));
}

const counted = (n) => `${formatCount(n)} ${n === 1 ? "token" : "tokens"}`;
const whole = (cell) => (Number.isInteger(cell) ? formatCount(cell) : cell.toFixed(1));

function weightText(v) { return v === 0 ? "0" : v >= 0.001 ? v.toFixed(4) : v.toExponential(1); }
function shortNumber(v) { return v >= 0.01 ? v.toFixed(2) : v.toExponential(0); }

/** A css colour "#rrggbb" or "rgb(r, g, b)" as one canvas pixel. */
function hexPixel(css) {
  const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  probe.fillStyle = css; probe.fillRect(0, 0, 1, 1);
  const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
  return (255 << 24) | (b << 16) | (g << 8) | r;
}

export default { render };
