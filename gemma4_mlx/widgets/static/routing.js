/* Expert routing: the text in the colours of its experts, load, paths, comparison, what-if. */

import { loadMap } from "./loadmap.js";
import { barCell, bytesOf, chip, exportPicker, floats, headline, partColor, picker, problemNote, segmented, table } from "./pieces.js";
import { categoryColors, formatCount, formatPercent, h, linkSelection, mount, perFrame, request, visibleToken, watch } from "./shared.js";
import { tokenView } from "./tokenview.js";
import { whatIf } from "./whatif.js";

function render({ model, el }) {
  const view = mount(model, el, "routing");
  const { root, signal } = view;
  root.classList.add("g4-view");
  const meta = () => model.get("meta");
  const count = () => model.get("n");
  const ask = (type, args = {}, options = {}) => request(model, type, args, { signal, ...options });
  const { problem, show } = problemNote();
  if (!meta().layers?.length) {
    root.append(headline("Expert routing", [], []), h("p", { class: "g4-empty" }, meta().empty || "This trace has no routing."));
    return view.cleanup;
  }

  const layers = meta().layers, perToken = meta().k;
  const now = { layer: meta().start.layer, expert: null, token: null, colour: "expert", numbers: false, which: "a" };
  let ink = view.ink(), routed = null, load = null, loadOfA = null, path = null, pins = new Map(), pinnedBy = null, comparison = null, upTo = 0;

  const link = linkSelection(model, (selection) => {
    const { layer, token, expert } = selection;
    let moved = false;
    if (Number.isInteger(layer) && layer !== now.layer && layers.includes(layer)) { now.layer = layer; moved = true; }
    if (Number.isInteger(expert) && expert !== now.expert) {
      now.expert = expert;
      if (!moved) loadExpert();
      if (now.colour === "weight") text.repaint();
    }
    if (moved) layerChanged();
    if (Number.isInteger(token) && token !== now.token) tokenChanged(token);
    map.draw();
  }, signal);

  // ---- data ------------------------------------------------------------------------------------
  async function loadLayer() {
    const want = now.layer, which = now.which;
    try {
      const answer = await ask("layer", { layer: want, which }, { slot: "layer" });
      if (!answer || want !== now.layer || which !== now.which) return;
      routed = readLayer(answer);
      if (pinnedBy === null) autoPin();
      text.repaint(); drawPins();
    } catch (error) { show(error); }
  }

  /** experts (n, k) uint16, strongest first, then weights (n, k) float32. */
  function readLayer({ content, buffer }) {
    const bytes = bytesOf(buffer).slice(), cells = content.n * perToken;
    return { experts: new Uint16Array(bytes.buffer, 0, cells), weights: new Float32Array(bytes.buffer.slice(2 * cells)), n: content.n };
  }

  async function loadLoad() {
    try {
      const answer = await ask("load", { which: now.which }, { slot: "load" });
      if (!answer) return;
      load = { layers, experts: meta().experts, values: floats(answer.buffer), signed: now.which === "b-a", ...answer.content };
      if (now.which === "a") loadOfA = load;
      map.draw(); drawNumbers(); what?.draw();
    } catch (error) { show(error); }
  }

  async function loadPath() {
    if (now.token === null) { path = null; map.draw(); what?.draw(); return; }
    try {
      const answer = await ask("path", { token: now.token, which: side() }, { slot: "path" });
      if (!answer) return;
      path = answer.content.layers;
      map.draw(); drawPath(); what?.draw();
    } catch (error) { show(error); }
  }

  async function loadExpert() {
    if (now.expert === null) { expertBox.replaceChildren(h("p", { class: "g4-note" }, "Choose a cell of the load map, or an expert in a path.")); expertTitle.textContent = "No expert chosen"; what?.draw(); return; }
    expertTitle.replaceChildren(`Expert ${now.expert} of layer ${now.layer}`);
    what?.draw();
    try {
      const answer = await ask("expert", { layer: now.layer, expert: now.expert, which: side() }, { slot: "expert" });
      if (answer) drawExpert(answer.content);
    } catch (error) { expertBox.replaceChildren(h("p", { class: "g4-note", role: "status" }, error.message)); }
  }

  const side = () => (now.which === "b" ? "b" : "a");

  // ---- colours -----------------------------------------------------------------------------------
  function autoPin() {
    if (!load) { pinnedBy = null; return; }
    const row = layers.indexOf(now.layer), list = [];
    for (let e = 0; e < meta().experts; e++) list.push([load.values[row * meta().experts + e], e]);
    list.sort((a, b) => b[0] - a[0] || a[1] - b[1]);
    pins = new Map(list.slice(0, 8).map(([, e], i) => [e, categoryColors[i]]));
  }

  function togglePin(e) {
    pinnedBy = "reader";
    if (pins.has(e)) pins.delete(e);
    else {
      const free = categoryColors.find((c) => ![...pins.values()].includes(c));
      if (!free) { view.announce("Eight experts have colours already; take one away first."); return; }
      pins.set(e, free);
    }
    drawPins(); text.repaint(); map.draw();
  }

  const tint = (hex, alpha) => `${hex}${Math.round(alpha * 255).toString(16).padStart(2, "0")}`;
  const topOf = (i) => (routed && i < routed.n ? routed.experts[i * perToken] : null);
  function weightOf(i, expert) {
    if (!routed || i >= routed.n) return 0;
    for (let k = 0; k < perToken; k++) if (routed.experts[i * perToken + k] === expert) return routed.weights[i * perToken + k];
    return 0;
  }

  const text = tokenView({
    label: "Text of the trace. Arrow keys move the selected token.", ask: (type, args) => ask(type, { ...args, ...(type === "tokens" || type === "search" || type === "media" ? { which: side() } : {}) }),
    n: () => (now.which === "b" ? meta().other.n : count()), media: () => (now.which === "b" ? meta().other.media : meta().media),
    parts: () => (now.which === "b" ? meta().other.parts : meta().parts).map((p) => ({ ...p, colour: partColor(p.role) })),
    ink: () => ink, onError: show,
    onSelect: (i) => link.set({ token: i }),
    paint: () => ({
      background(i, onPicture) {
        const top = topOf(i);
        if (top === null) return null;
        if (now.colour === "weight") {
          const w = now.expert === null ? 0 : weightOf(i, now.expert);
          return w > 0 ? tint(ink.dark ? "#ffb050" : "#e67800", 0.15 + 0.75 * Math.min(1, w)) : null;
        }
        const colour = pins.get(top);
        return colour ? tint(colour, onPicture ? 1 : ink.dark ? 0.5 : 0.34) : null;
      },
      alpha: () => (now.colour === "weight" ? 0.8 : 0.5),
      label: (i) => (now.numbers && topOf(i) !== null ? String(topOf(i)) : null),
      title(i) {
        if (topOf(i) === null) return formatCount(i);
        const list = Array.from({ length: perToken }, (_, k) => `${routed.experts[i * perToken + k]} (${formatPercent(routed.weights[i * perToken + k])})`);
        return `token ${formatCount(i)} · layer ${now.layer} · expert ${list.join(", ")}`;
      },
    }),
    strip(from, to) {
      if (!routed) return null;
      if (now.colour === "weight") {
        let w = 0;
        if (now.expert !== null) for (let i = from; i < to; i++) w = Math.max(w, weightOf(i, now.expert));
        return w > 0 ? tint(ink.dark ? "#ffb050" : "#e67800", 0.15 + 0.8 * Math.min(1, w)) : null;
      }
      const votes = new Map(); // the commonest expert of the stretch
      for (let i = from; i < Math.min(to, routed.n); i++) votes.set(topOf(i), (votes.get(topOf(i)) ?? 0) + 1);
      let best = null;
      for (const [e, v] of votes) if (best === null || v > votes.get(best)) best = e;
      return best === null ? null : pins.get(best) ?? null;
    },
  });

  const pinBox = h("div", { class: "g4-pins", role: "group", "aria-label": "Experts with a colour" });
  function drawPins() {
    const rest = h("select", { "aria-label": "Give another expert a colour" }, h("option", { value: "" }, "Add…"), ...Array.from({ length: meta().experts }, (_, e) => e).filter((e) => !pins.has(e)).map((e) => h("option", { value: e }, `expert ${e}`)));
    rest.addEventListener("change", () => { if (rest.value) togglePin(Number(rest.value)); });
    pinBox.replaceChildren(...[...[...pins].map(([e, colour]) => h("button", { type: "button", class: "g4-pin", title: `Expert ${e} of layer ${now.layer}: choose it. Shift-click takes its colour away.`, "aria-pressed": String(e === now.expert), onclick: (event) => (event.shiftKey ? togglePin(e) : link.set({ layer: now.layer, expert: e })) }, h("i", { class: "g4-swatch", style: { background: colour } }), String(e))), pins.size < meta().experts ? h("span", { class: "g4-note" }, "others without colour") : null, pins.size < 8 ? rest : null].filter(Boolean));
    for (const b of pinBox.querySelectorAll("button")) b.addEventListener("keydown", (event) => { if (event.key === "Delete") togglePin(Number(b.textContent)); });
  }

  // ---- load map, path, expert ------------------------------------------------------------------------
  const map = loadMap({ data: () => load, path: () => (now.which === "b-a" ? null : path), ink: () => ink, chosen: () => ({ layer: now.layer, expert: now.expert, pins }), say: view.announce, onPick: (layer, expert) => link.set({ layer, expert }) });
  const mapHold = h("div", { class: "g4-maphold" }, map.canvas);
  const numbers = h("div", { class: "g4-note" });
  function drawNumbers() {
    const row = layers.indexOf(now.layer);
    if (!load.dead || now.which === "b-a") { numbers.textContent = load.note ?? ""; return; }
    numbers.textContent = `Layer ${now.layer}: ${load.dead[row]} of ${meta().experts} experts never used; load evenness ${formatPercent(load.evenness[row])} (entropy of the load over its maximum).`;
  }
  const pathTitle = h("h4", { class: "g4-subtitle" }), pathBox = h("div", { class: "g4-tall" });
  function drawPath() {
    const name = now.token === null ? "" : text.nameOf(now.token, () => {}) ?? "";
    pathTitle.replaceChildren(h("span", {}, ...(now.token === null ? ["Path of a token"] : ["Path of ", h("bdi", {}, `“${name}”`), ` (${formatCount(now.token)})`])));
    if (!path || now.token === null) { pathBox.replaceChildren(h("p", { class: "g4-note" }, "Click a token in the text: its experts and weights in every layer appear here, and as a line on the load map.")); return; }
    pathBox.replaceChildren(table("Experts of the selected token in every layer", ["Layer", "Experts, by weight"], path.map((step) => h("tr", { class: step.layer === now.layer ? "g4-chosen" : null }, h("th", { scope: "row" }, `L${step.layer}`), h("td", {}, h("span", { class: "g4-steps" }, ...step.experts.map((e, k) => {
      const button = h("button", { type: "button", class: "g4-step", title: `Choose expert ${e} of layer ${step.layer}`, style: { "--share": `${(100 * Math.min(1, step.weights[k])).toFixed(1)}%` } }, h("b", {}, String(e)), formatPercent(step.weights[k]));
      button.addEventListener("click", () => link.set({ layer: step.layer, expert: e }));
      return button;
    })))))));
  }

  const expertTitle = h("h4", { class: "g4-subtitle" }, "No expert chosen"), expertBox = h("div", { class: "g4-tall" });
  function drawExpert(e) {
    expertTitle.replaceChildren(`Expert ${now.expert} of layer ${now.layer}`, pins.has(now.expert) ? h("i", { class: "g4-swatch", style: { background: pins.get(now.expert) } }) : "", chip(`${formatPercent(e.load)} of the load`), chip(`rank ${e.rank} of ${meta().experts}`));
    const rows = e.top.map(([i, w, word]) => {
      const button = h("button", { type: "button", class: "g4-quiet g4-wordlink" }, h("bdi", {}, i < count() ? text.nameOf(i, () => {}) ?? visibleToken(word) : visibleToken(word)));
      button.addEventListener("click", () => link.set({ token: i }));
      return h("tr", {}, h("th", { scope: "row" }, button), h("td", { class: "g4-number" }, formatCount(i)), barCell(w, formatPercent(w)));
    });
    expertBox.replaceChildren(
      e.top.length ? table("Its top tokens", ["Top tokens", "#Position", "#Weight"], rows) : h("p", { class: "g4-note" }, "No token of this trace was routed here."),
      h("div", { class: "g4-more" },
        table("Share of the part's tokens routed here", ["Part", "#Share of the part's tokens"], e.parts.map(([name, role, share]) => h("tr", {}, h("th", { scope: "row" }, h("i", { class: "g4-swatch", style: { background: partColor(role) } }), name), barCell(share, formatPercent(share), partColor(role))))),
        e.partners.length ? table("Experts chosen together with it", ["Together with", "#Of its tokens"], e.partners.map(([other, share]) => h("tr", {}, h("th", { scope: "row" }, `expert ${other}`), barCell(share, formatPercent(share))))) : ""));
    what?.draw();
    drawPins();
  }

  /** Experts of the chosen layer in the first trace: those of the selected token first, then by load. */
  function expertsOfLayer() {
    const row = layers.indexOf(now.layer), step = side() === "a" ? path?.find((s) => s.layer === now.layer) : null;
    const share = (e) => (loadOfA ? loadOfA.values[row * meta().experts + e] : 0);
    const list = Array.from({ length: meta().experts }, (_, e) => {
      const k = step ? step.experts.indexOf(e) : -1;
      return { expert: e, load: share(e), weight: k < 0 ? null : step.weights[k] };
    });
    return list.sort((a, b) => (b.weight ?? -1) - (a.weight ?? -1) || b.load - a.load || a.expert - b.expert);
  }

  // ---- changes ----------------------------------------------------------------------------------------
  function layerChanged() {
    layerPicker.select.value = String(now.layer);
    if (pinnedBy === null) autoPin();
    loadLayer(); loadExpert(); drawPath(); if (load) drawNumbers(); map.draw(); what?.draw();
    view.announce(`Layer ${now.layer}`);
  }
  function tokenChanged(token) {
    now.token = token;
    text.select(token).then(drawPath);
    loadPath();
  }

  const layerPicker = picker("Layer", layers.map((l) => [String(l), `${l}`]), String(now.layer), (value) => link.set({ layer: Number(value) }));
  const colour = segmented("Colour of a token", [["expert", "top expert", "The expert with the largest weight"], ["weight", "chosen expert's weight", "How strongly the chosen expert takes part"]], "expert", (value) => { now.colour = value; text.repaint(); });
  const numbersBox = h("input", { type: "checkbox" });
  numbersBox.addEventListener("change", () => { now.numbers = numbersBox.checked; text.repaint(); }, { signal });
  const m = meta(), tools = [exportPicker(model, "routing", show)];
  const compareBox = h("div", {});
  if (m.other) {
    const which = segmented("Which trace", [["a", "A"], ["b", "B"], ["b-a", "B − A"]], "a", async (value) => {
      now.which = value; text.reset(); path = null; routed = null;
      await loadLoad(); loadLayer(); loadExpert();
      if (value !== "b-a") { await text.show(0); loadPath(); }
      if (value === "b-a" && !comparison) loadComparison();
      compareBox.hidden = value !== "b-a";
    });
    tools.unshift(which.node);
  }
  async function loadComparison() {
    try { comparison = (await ask("compare"))?.content; } catch (error) { show(error); return; }
    compareBox.replaceChildren(h("h4", { class: "g4-subtitle" }, "A against B, layer by layer"),
      h("p", { class: "g4-note" }, comparison.note),
      table("Difference of routing", ["Layer", "#Difference (0 to 1)", "#p", "Experts that differ most"], comparison.layers.map((row) => h("tr", {}, h("th", { scope: "row" }, `L${row.layer}`), barCell(row.distance, row.distance.toFixed(3)), h("td", { class: "g4-number" }, row.p === null ? "n/a" : row.p.toFixed(3)), h("td", {}, row.experts.map(([e, d]) => `${e} (${d > 0 ? "+" : ""}${(100 * d).toFixed(1)})`).join(", "))))));
  }

  const what = m.model ? whatIf({ ask, meta, view, chosen: () => now, experts: expertsOfLayer, tokenName: () => (path && side() === "a" ? text.nameOf(now.token, () => what?.draw()) : null) }) : null;
  const status = h("span", { class: "g4-chip" });
  const caption = perFrame(() => { status.textContent = `${formatCount(count())} tokens`; });
  root.append(
    headline("Expert routing", [status, chip(`${layers.length} layers × ${m.experts} experts, ${perToken} per token`), chip(m.source), m.live ? chip("live", "g4-is-good") : ""].filter(Boolean), tools),
    problem,
    h("section", { class: "g4-panel g4-section", "aria-label": "Text" }, h("div", { class: "g4-toolbar" }, layerPicker.node, colour.node, h("label", {}, numbersBox, "expert numbers")), pinBox, text.root),
    h("div", { class: "g4-columns" },
      h("div", {},
        h("section", { class: "g4-panel g4-section", "aria-label": "Load" }, h("h4", { class: "g4-subtitle" }, "Load by layer and expert"), mapHold, map.legend, numbers, compareBox),
        h("section", { class: "g4-panel g4-section", "aria-label": "Path of the selected token" }, pathTitle, pathBox)),
      h("section", { class: "g4-panel g4-section", "aria-label": "Chosen expert" }, expertTitle, expertBox)),
    what ? what.node : "",
  );
  view.onInk((colours) => { ink = colours; text.repaint(); map.draw(); drawPins(); });
  map.start(mapHold);
  drawPath();
  const grow = async () => { // a live trace grew: read what is new
    caption();
    if (count() === 0 || count() === upTo) return;
    upTo = count();
    await loadLoad();
    await loadLayer();
    text.reset();
    await text.show(Math.floor((count() - 1) / 512));
    if (m.live) text.toEnd();
  };
  const growing = perFrame(() => { if (!growing.busy) { growing.busy = true; grow().finally(() => { growing.busy = false; if (count() !== upTo && count() > 0) growing(); }); } });
  const start = link.get();
  if (m.live) watch(model, ["n"], growing, signal);
  else {
    caption();
    loadLoad().then(loadLayer);
    text.show(0).then(() => { if (Number.isInteger(start.token)) tokenChanged(start.token); else if (Number.isInteger(m.start.token)) tokenChanged(m.start.token); });
  }
  if (Number.isInteger(start.layer) && layers.includes(start.layer)) now.layer = start.layer;
  if (Number.isInteger(start.expert)) now.expert = start.expert; else if (Number.isInteger(m.start.expert)) now.expert = m.start.expert;
  layerPicker.select.value = String(now.layer);
  if (!m.live || count()) loadExpert();
  signal.addEventListener("abort", () => { map.destroy(); text.destroy(); });
  return view.cleanup;
}

export default { render };
