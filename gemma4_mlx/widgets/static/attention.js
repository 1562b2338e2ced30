/* Attention over the whole context: all heads in one map, one head large, one token over the text. */

import { shorten } from "./axes.js";
import { headPanel } from "./heads.js";
import { pictureStore } from "./headpictures.js";
import { headTable } from "./headscale.js";
import { linkList } from "./links.js";
import { offsetMap } from "./offsetmap.js";
import { counted, oneToken, weightText } from "./onetoken.js";
import {
  barCell,
  bytesOf,
  chip,
  exportPicker,
  floats,
  headline,
  partColor,
  picker,
  pixelTable,
  problemNote,
  segmented,
  table,
} from "./pieces.js";
import {
  colorMaps,
  colorAt,
  formatCount,
  formatPercent,
  h,
  linkSelection,
  mount,
  patient,
  request,
  sizeCanvas,
  watch,
} from "./shared.js";
import { keepInView } from "./sticky.js";
import { TILE } from "./map_pyramid.js";
import { TileMap } from "./tilemap.js";
import { tokenView } from "./tokenview.js";

const HINT = "Point at the map, or focus it and use the arrow keys.";

function render({ model, el }) {
  const view = mount(model, el, "attention");
  const { root, signal } = view;
  root.classList.add("g4-view");
  const meta = () => model.get("meta");
  const ask = (type, args = {}, options = {}) => request(model, type, args, { signal, ...options });
  const { problem, show } = problemNote();

  if (!meta().layers?.length) {
    root.append(
      headline("Attention", [], []),
      h("p", { class: "g4-empty" }, meta().empty || "This trace kept no attention."),
    );
    return view.cleanup;
  }

  // ---- what is shown ------------------------------------------------------------------------
  const first = meta().start;
  const now = {
    layer: first.layer,
    head: first.head,
    token: null,
    mode: "row",
    stat: "mean",
    scale: "log",
    sink: false,
    map: "viridis",
    axis: "keys",
  };
  let spans = { from: null, to: null },
    ink = view.ink(),
    pixels = pixelTable(now.map),
    pointed = null;
  const heads = headTable(meta().layers);
  const layerOf = (index) => meta().layers.find((l) => l.index === index);

  const link = linkSelection(
    model,
    (selection) => {
      const { layer, head, token } = selection;
      const headMoved =
        (layer !== undefined && layer !== null && layer !== now.layer && layerOf(layer)) ||
        (Number.isInteger(head) &&
          head !== now.head &&
          layerOf(layer ?? now.layer)?.heads.includes(head));
      if (headMoved) {
        now.layer = layer ?? now.layer;
        const there = layerOf(now.layer).heads;
        now.head = there.includes(head ?? now.head) ? (head ?? now.head) : there[0];
        headChanged();
      }
      if (Number.isInteger(token) && token !== now.token) tokenChanged(token);
    },
    signal,
  );

  // ---- all heads --------------------------------------------------------------------------------
  const store = pictureStore({
    n: meta().n,
    ink: () => ink,
    palette: () => pixels,
    load: (layer) =>
      ask("pictures", {
        layer,
        side: view.isStatic ? meta().pictures.kept : meta().pictures.side,
        stat: "mean",
      }),
  });
  const panel = headPanel({
    view,
    heads,
    store,
    ink: () => ink,
    palette: () => pixels,
    onError: show,
    onPick: ({ layer, head }) => link.set({ layer, head }),
  });

  // ---- one head, large ------------------------------------------------------------------------
  const readout = h("output", { class: "g4-readout", "aria-live": "off" }, HINT);
  const state = h("span", { class: "g4-chip" });
  const map = new TileMap({
    label:
      "Attention map of one head. Arrow keys move the cell, plus and minus zoom, 0 shows everything, Enter picks the query token.",
    palette: () => pixels,
    ink: () => ink,
    onError: show,
    fetchTiles: async (tiles, abort) => {
      if (view.isStatic) return Promise.all(tiles.map(recordedTile));
      const answer = await request(
        model,
        "tiles",
        { layer: now.layer, head: now.head, stat: now.stat, tiles },
        { signal: abort, slot: "tiles" },
      );
      if (!answer) return []; // a newer request came before this one was begun
      const values = floats(answer.buffer);
      let at = 0;
      return answer.content.map((tile) => ({
        ...tile,
        values: values.subarray(at, (at += tile.rows * tile.columns)),
      }));
    },
    onCell: (cell) => {
      pointed = cell && !cell.masked && cell.value === null ? [cell.query, cell.key] : null; // its tile is on its way
      readout.textContent = cell ? describe(cell) : HINT;
      if (document.activeElement === map.canvas) view.announce(readout.textContent);
    },
    onPick: (cell) => {
      link.set({ token: cell.query });
      map.setMark({ query: cell.query, key: cell.key });
    },
    onView: drawState,
    words: axisWords,
    onSize: (size) => offsets.resize(size),
  });
  const holdsMaxima = () =>
    !view.isStatic ||
    model.recorded({
      type: "tile",
      layer: now.layer,
      head: now.head,
      stat: "max",
      level: Math.max(0, Math.ceil(Math.log2(meta().n / TILE))),
      row: 0,
      column: 0,
      bits: 8,
    });
  /** In a snapshot: a tile it holds, or the finest one above it, or the head's small picture. */
  async function recordedTile([level, row, column]) {
    const wanted = {
      layer: now.layer,
      head: now.head,
      stat: now.stat,
      level,
      row,
      column,
      bits: 8,
    };
    for (;;) {
      try {
        const { content, buffer } = await request(model, "tile", wanted, { signal });
        return { ...content, values: decoded(content, buffer), level, row, column };
      } catch {
        if (TILE * 2 ** wanted.level < meta().n)
          Object.assign(wanted, {
            level: wanted.level + 1,
            row: wanted.row >> 1,
            column: wanted.column >> 1,
          });
        else {
          saySmall();
          return { ...keysOf(await store.values(now)), level, row, column };
        }
      }
    }
  }
  /** A small picture as a tile of queries x keys. */
  function keysOf(picture) {
    const { rows, columns, axis, reach } = picture,
      n = meta().n,
      cell = n / rows;
    if (axis === "keys")
      return { ...picture, query: 0, key: 0, rowCell: cell, columnCell: n / columns };
    const values = new Float32Array(rows * rows),
      step = reach / columns;
    for (let r = 0; r < rows; r++)
      for (let c = 0; c < columns; c++) {
        const key = Math.floor(((r + 0.5) * cell - (c + 0.5) * step) / cell);
        if (key >= 0) values[r * rows + Math.min(r, key)] += picture.values[r * columns + c];
      }
    return { values, rows, columns: rows, query: 0, key: 0, rowCell: cell, columnCell: cell };
  }

  /** Names of tokens for the map's axes; a picture or a sound has one, in the middle of what shows. */
  function axisWords(start, stop) {
    const found = text.words(start, stop, () => map.draw());
    if (!found) return null;
    const from = Math.max(0, start);
    for (const m of meta().media) {
      const a = Math.max(m.start, from),
        b = Math.min(m.stop, from + found.length);
      for (let i = a; i < b; i++)
        found[i - from] =
          i === (a + b) >> 1 ? `${shorten(m.label, 6)} ${a - m.start}–${b - 1 - m.start}` : "";
    }
    return found;
  }

  // ---- a sliding head by offset -------------------------------------------------------------------
  const offsets = offsetMap({
    ink: () => ink,
    palette: () => pixels,
    onCell: (cell) => {
      readout.textContent = cell ? describeOffset(cell) : HINT;
    },
    onPick: (cell) => {
      const key = Math.max(0, cell.at - cell.offset);
      link.set({ token: cell.at });
      axis.set("keys");
      setAxis("keys");
      map.show(cell.at, key);
      map.setMark({ query: cell.at, key });
    },
    onRange: ({ low, high }) => drawLegend({ low, high }),
  });
  const axis = segmented(
    "Columns of the map",
    [
      ["keys", "queries × keys", "Where in the text it looks"],
      ["offsets", "queries × offset", "How far back it looks"],
    ],
    "keys",
    (value) => setAxis(value),
  );
  const hold = h("div", { class: "g4-maphold" }),
    coarse = h("p", { class: "g4-note" });

  function setAxis(value) {
    const sliding = layerOf(now.layer).kind === "sliding";
    now.axis = value;
    axis.node.hidden = !sliding;
    const byOffset = sliding && value === "offsets",
      shown = byOffset ? offsets.canvas : map.canvas;
    if (shown.parentElement !== hold)
      hold.replaceChildren(...(byOffset ? [shown, coarse] : [shown]));
    zoomers.hidden = showPair.hidden = byOffset;
    legendShown = stateShown = "";
    if (byOffset) loadOffsets();
    else map.draw();
  }

  async function loadOffsets() {
    const { layer, head, stat } = now,
      n = meta().n;
    offsets.resize(map.state().size);
    offsets.set(null);
    root.dataset.missing = "1";
    try {
      let found;
      try {
        const answer = await ask("offsets", { layer, head, stat }, { slot: "offsets" });
        if (!answer) return;
        found = { ...answer.content, values: floats(answer.buffer) };
      } catch (error) {
        if (!view.isStatic) throw error;
        saySmall();
        const picture = await store.values({ layer, head });
        found = {
          ...picture,
          rowCell: n / picture.rows,
          columnCell: picture.reach / picture.columns,
        };
      }
      if (layer !== now.layer || head !== now.head || stat !== now.stat) return;
      coarse.textContent = found.note ?? "";
      offsets.set({ ...found, n, reach: Math.min(layerOf(layer).window, n) });
      setState(
        `pooled: one cell is ${whole(found.rowCell)} queries × ${whole(found.columnCell)} offsets`,
        "",
      );
      root.dataset.missing = "0";
    } catch (error) {
      show(error);
    }
  }

  function describeOffset(cell) {
    const back =
      cell.offsetStop - cell.offset === 1
        ? `${formatCount(cell.offset)} back`
        : `${formatCount(cell.offset)} to ${formatCount(cell.offsetStop - 1)} back`;
    return `tokens ${formatCount(cell.query)} to ${formatCount(cell.queryStop - 1)} → ${back}: ${cell.masked ? "before the text" : `${now.stat === "mean" ? "mean mass" : "largest weight"} ${weightText(cell.value)}`}`;
  }

  const legend = h("canvas", { class: "g4-legend", role: "img" });
  const mapTitle = h("h4", { class: "g4-subtitle" });

  function describe(cell) {
    const single = cell.queryStop - cell.query === 1;
    // The isolates keep a right-to-left token from turning the sentence around.
    const name = (i) => {
      const w = text.nameOf(i, () => {});
      return w ? `“\u2068${w}\u2069” (${formatCount(i)})` : formatCount(i);
    };
    const rows = single
      ? name(cell.query)
      : `tokens ${formatCount(cell.query)} to ${formatCount(cell.queryStop - 1)}`;
    const columns = single
      ? name(cell.key)
      : `tokens ${formatCount(cell.key)} to ${formatCount(cell.keyStop - 1)}`;
    const what = cell.masked
      ? "not visible from there"
      : cell.value === null
        ? "on its way"
        : single
          ? `weight ${weightText(cell.value)}`
          : `${now.stat === "mean" ? "mean mass" : "largest weight"} ${weightText(cell.value)}`;
    return `${rows} → ${columns}: ${what}`;
  }

  let stateShown = "",
    legendShown = "";
  function setState(words, kind) {
    if (words === stateShown) return;
    state.textContent = stateShown = words;
    state.className = `g4-chip ${kind}`;
  }
  function drawState(s) {
    // 60 times a second while the map moves: touch the page where something changed
    if (pointed) {
      const cell = map.cellOf(...pointed);
      if (cell.value !== null) {
        pointed = null;
        readout.textContent = describe(cell);
      }
    }
    if (map.canvas.parentElement !== hold) return;
    const cell = s.cell;
    if (s.missing) setState(`loading ${s.missing} of ${s.visible} tiles`, "");
    else if (cell === 1) setState("exact: one cell is one token pair", "g4-is-good");
    else
      setState(
        `pooled: one cell is ${whole(cell)} × ${whole(cell)} tokens, ${now.stat === "mean" ? "mean" : "maximum"}`,
        "",
      );
    root.dataset.missing = String(s.missing);
    drawLegend(s);
  }

  function drawLegend(s) {
    const low = now.scale === "linear" ? "0" : now.scale === "log" ? shortNumber(s.low) : "lowest",
      high = now.scale === "rank" ? "highest" : shortNumber(s.high);
    const wanted = `${low} ${high} ${pixels.name}`;
    if (wanted === legendShown) return;
    legendShown = wanted;
    const context = sizeCanvas(legend, 224, 30);
    context.clearRect(0, 0, 224, 30);
    for (let x = 0; x < 150; x++) {
      context.fillStyle = colorAt(pixels.table, x / 149);
      context.fillRect(x, 0, 150 - x, 10);
    } // the rest is drawn over: no seams
    context.fillStyle = ink.text;
    context.font = "12px " + ink.font;
    context.textBaseline = "top";
    context.textAlign = "left";
    context.fillText(low, 0, 14);
    context.textAlign = "right";
    context.fillText(high, 150, 14);
    context.fillStyle = ink.masked;
    context.fillRect(162, 0, 12, 10);
    context.strokeStyle = ink.line;
    context.strokeRect(162.5, 0.5, 11, 9);
    context.fillStyle = ink.text;
    context.textAlign = "left";
    context.fillText("masked", 160, 14);
    legend.setAttribute(
      "aria-label",
      `Colour scale, ${now.scale}, from ${shortNumber(s.low)} to ${shortNumber(s.high)}`,
    );
  }

  // ---- one token: what it looks at, who looks at it --------------------------------------------
  const token = oneToken({
    meta,
    now,
    nameOf: (i, whenThere) => text.nameOf(i, whenThere),
    onMode: (value) => {
      now.mode = value;
      map.setMark(
        value === "row" ? { query: now.token, key: null } : { query: null, key: now.token },
      );
      loadWeights();
    },
    onPair: (query, key) => {
      setAxis("keys");
      axis.set("keys");
      map.show(query, key);
      map.setMark({ query, key });
    },
  });

  async function loadWeights() {
    if (now.token === null) {
      token.set(null);
      text.repaint();
      return;
    }
    const { layer, head, token: of, mode } = now,
      stale = () =>
        layer !== now.layer || head !== now.head || of !== now.token || mode !== now.mode;
    try {
      const answer = await ask(
        "weights",
        { layer, head, token: of, mode, ...(view.isStatic ? { bits: 8 } : {}) },
        { slot: "weights" },
      );
      if (!answer || stale()) return;
      token.set(decoded(answer.content, answer.buffer), answer.content.pooled);
      problem.hidden = true;
    } catch (error) {
      const small = view.isStatic && (await store.values({ layer, head }));
      if (stale()) return;
      if (small) token.set(...spread(keysOf(small), of, mode));
      else {
        token.set(null);
        show(error);
      }
    }
    text.repaint();
  }

  /** One token's weights as its head's small picture has them, spread over its cells: values, width. */
  function spread({ values, rows, rowCell }, of, mode) {
    const n = meta().n,
      width = Math.ceil(rowCell),
      out = new Float32Array(n),
      mine = Math.min(rows - 1, Math.floor(of / rowCell));
    for (let i = 0; i < n; i += width) {
      const other = Math.min(rows - 1, Math.floor((i + width / 2) / rowCell));
      out.fill(
        (mode === "row" ? values[mine * rows + other] : values[other * rows + mine]) / width,
        i,
        Math.min(n, i + width),
      );
    }
    return [out, width > 1 ? width : 0];
  }

  const links = linkList({
    load: (layer) => ask("links", { layer }),
    nameOf: (i, whenThere) => text.nameOf(i, whenThere),
    onError: show,
    onPair: (query, key) => {
      link.set({ token: query });
      setAxis("keys");
      axis.set("keys");
      map.show(query, key);
      map.setMark({ query, key });
    },
  });
  const summaryBox = h("div", { class: "g4-summary g4-note" });
  const why = h("p", { class: "g4-note g4-why" });
  function buildSummary() {
    const layer = layerOf(now.layer),
      index = heads.indexOf(now.layer, now.head);
    mapTitle.replaceChildren(
      `Layer ${now.layer}, head ${now.head}`,
      h(
        "span",
        { class: `g4-kind g4-kind-${layer.kind}` },
        layer.kind === "full" ? "full" : `sliding, window ${formatCount(layer.window)}`,
      ),
      layer.donor !== null
        ? h("span", { class: "g4-shared" }, `keys and values of layer ${layer.donor}`)
        : "",
    );
    links.choose(
      now.layer,
      now.head,
      layer.links && (!view.isStatic || model.recorded({ type: "links", layer: now.layer })),
    );
    summaryBox.textContent = heads.names
      .map((name) => `${heads.words.get(name)} ${heads.say(name, index)}`)
      .join(" · ");
    sayWhy();
  }

  function saySmall() {
    store.values(now).then((picture) => {
      const cell = meta().n / picture.rows;
      if (cell === 1 && picture.axis === "keys") return; // nothing is missing
      why.textContent = `This page holds this head as a picture of ${picture.rows} × ${picture.columns} cells, each of about ${whole(cell)} queries. The notebook has all of it.`;
      why.hidden = false;
    });
  }

  // One sentence where single weights are not at hand, and a way to them where the model is.
  async function sayWhy() {
    const { layer, head } = now,
      running = model.get("computing") ?? {};
    if (running.total) {
      why.replaceChildren(
        `The model reads the prompt up to layer ${running.layer}: ${formatCount(running.done)} of ${counted(running.total)}.`,
        h("progress", { max: running.total, value: running.done }),
      );
      why.hidden = false;
      return;
    }
    why.hidden = true;
    if (view.isStatic || layerOf(layer).kept.includes(head)) return;
    try {
      const { content } = await ask("why", { layer, head });
      if (layer !== now.layer || head !== now.head || !content.why) return;
      why.replaceChildren(
        running.error && running.layer === layer ? running.error : content.why,
        content.state === "on demand"
          ? h(
              "button",
              { type: "button", onclick: () => ask("compute", { layer }).catch(show) },
              `Compute layer ${layer}`,
            )
          : "",
      );
      why.hidden = false;
    } catch (error) {
      show(error);
    }
  }

  // ---- the text -----------------------------------------------------------------------------------
  const accent = () => (ink.dark ? [255, 176, 80] : [230, 120, 0]);
  const shade = (v, peak) =>
    now.scale === "linear"
      ? v / peak
      : now.scale === "log"
        ? Math.max(0, 1 + Math.log10(v / peak) / 3)
        : Math.sqrt(v / peak);
  const chosenPage = Math.floor((link.get().token ?? meta().start.token ?? -1) / 512);
  const keeps = view.isStatic ? (page) => page < meta().pages || page === chosenPage : undefined;
  const text = tokenView({
    keeps,
    label: "Text of the trace. Arrow keys move the selected token, Shift extends a span.",
    ask,
    n: () => meta().n,
    media: () => meta().media,
    parts: () => meta().parts.map((p) => ({ ...p, colour: partColor(p.role) })),
    ink: () => ink,
    onError: show,
    onSelect: (i) => link.set({ token: i }),
    onSpan: () => buildSpans(),
    paint: () => ({
      background(i, onPicture) {
        const { weights, peak } = token;
        if (!weights || !(weights[i] > 0) || (now.sink && i === 0) || !peak) return null;
        const t = Math.min(1, shade(weights[i], peak));
        if (t <= 0.01) return null;
        if (onPicture) return colorAt(colorMaps.viridis, t);
        const [r, g, b] = accent();
        return `rgba(${r},${g},${b},${(0.08 + 0.72 * t).toFixed(3)})`;
      },
      title: (i) =>
        `${formatCount(i)}${token.weights ? `: weight ${weightText(token.weights[i] ?? 0)}` : ""}`,
    }),
    strip(from, to) {
      const { weights, peak } = token;
      if (!weights || !peak) return null;
      let v = 0;
      for (let i = from; i < Math.min(to, weights.length); i++)
        if (!(now.sink && i === 0) && weights[i] > v) v = weights[i];
      const t = v > 0 ? Math.min(1, shade(v, peak)) : 0,
        [r, g, b] = accent();
      return t > 0.01 ? `rgba(${r},${g},${b},${(0.1 + 0.9 * t).toFixed(3)})` : null;
    },
  });

  // ---- spans: which head carries it? ----------------------------------------------------------------
  const spanBox = h("div", { class: "g4-spans" });
  const ranking = h("div", {});
  function buildSpans() {
    if (view.isStatic) {
      spanBox.replaceChildren(
        h(
          "span",
          { class: "g4-note" },
          "Ranking the heads needs the notebook: this page is a snapshot.",
        ),
      );
      return;
    }
    const current = text.span ?? (now.token === null ? null : [now.token, now.token]);
    const name = (s) =>
      s ? `${formatCount(s[0])}${s[1] > s[0] ? ` to ${formatCount(s[1])}` : ""}` : "not set";
    const setter = (key, label, verb) =>
      h(
        "div",
        { class: "g4-spanset" },
        h("span", { class: "g4-note" }, label),
        h("strong", {}, name(spans[key])),
        h(
          "button",
          {
            type: "button",
            disabled: !current,
            onclick: () => {
              spans = { ...spans, [key]: [...current] };
              buildSpans();
            },
          },
          verb,
        ),
      );
    spanBox.replaceChildren(
      h(
        "span",
        { class: "g4-note" },
        current
          ? `Marked in the text: ${name(current)} (Shift extends it).`
          : "Mark a token in the text; Shift extends it to a span.",
      ),
      setter("from", "These tokens look:", "Use the mark"),
      setter("to", "at these:", "Use the mark"),
      h(
        "button",
        {
          type: "button",
          class: "g4-primary",
          disabled: !spans.from || !spans.to,
          onclick: () => rank(),
        },
        "Rank the heads",
      ),
    );
  }

  let ranked = 0; // the newest ranking that was asked for
  async function rank(compute = false) {
    const mine = ++ranked,
      bar = h("progress", { max: 1, value: 0, "aria-label": "Reading the prompt" });
    ranking.replaceChildren(
      h(
        "p",
        { class: "g4-note", role: "status" },
        ...(compute
          ? ["The model reads the prompt once more… ", bar]
          : ["Adding up every head's weights…"]),
      ),
    );
    try {
      const asked = {
        source: [spans.from[0], spans.from[1] + 1],
        target: [spans.to[0], spans.to[1] + 1],
        compute,
      };
      const answer = await patient(ask)(
        "span",
        asked,
        (share) => {
          bar.value = share;
        },
        () => mine === ranked,
      );
      if (mine !== ranked) return;
      heads.setSpan(floats(answer.buffer));
      panel.showSpan();
      const best = heads.ranked("span").slice(0, 12),
        high = heads.value("span", best[0]) || 1;
      ranking.replaceChildren(
        table(
          "Heads by the mass from the first span to the second",
          ["Head", "Kind", "#Mass per query"],
          best.map((index) => {
            const { layer, head, kind } = heads.list[index],
              button = h(
                "button",
                { type: "button", class: "g4-quiet" },
                `Layer ${layer}, head ${head}`,
              );
            button.addEventListener("click", () => {
              link.set({ layer, head, token: spans.from[0] });
              axis.set("keys");
              setAxis("keys");
              map.show(spans.from[0], spans.to[0]);
              map.setMark({ query: spans.from[0], key: spans.to[0] });
            });
            return h(
              "tr",
              {},
              h("th", { scope: "row" }, button),
              h("td", {}, kind),
              barCell(heads.value("span", index) / high, formatPercent(heads.value("span", index))),
            );
          }),
        ),
        h(
          "p",
          { class: "g4-note" },
          answer.content.note,
          answer.content.demand
            ? h(
                "button",
                { type: "button", onclick: () => rank(true) },
                "Run the model for exact ones",
              )
            : "",
        ),
      );
      view.announce(`Strongest: ${panel.describe(best[0])}`);
    } catch (error) {
      if (mine === ranked)
        ranking.replaceChildren(h("p", { class: "g4-note", role: "status" }, error.message));
    }
  }

  // ---- changes ------------------------------------------------------------------------------------
  function headChanged() {
    const layer = layerOf(now.layer);
    stat.node.hidden = !holdsMaxima(); // a page without a kernel has them of one head at most
    if (stat.node.hidden) stat.select.value = now.stat = "mean";
    map.setHead({
      n: meta().n,
      window: layer.window,
      blocks: layer.window ? meta().blocks : [],
      exact: layer.kept.includes(now.head) ? layer.exact : -1,
      bin: meta().bin,
    });
    setAxis(now.axis);
    panel.choose(now.layer, now.head);
    buildSummary();
    loadWeights();
    view.announce(`Layer ${now.layer}, head ${now.head}, ${layer.kind} attention`);
  }

  function tokenChanged(to) {
    now.token = to;
    map.setMark(now.mode === "row" ? { query: to, key: null } : { query: null, key: to });
    offsets.setQuery(to);
    text.select(to).then(() => {
      token.build();
      buildSpans();
    });
    loadWeights();
  }

  // ---- assembly -------------------------------------------------------------------------------------
  const stat = picker(
    "Value of a pooled cell",
    [
      ["mean", "mean"],
      ["max", "max"],
    ],
    "mean",
    (value) => {
      now.stat = value;
      headChanged();
    },
  );
  stat.node.title =
    "mean: over the cell's queries, of the mass on its keys; max: the largest single weight in the cell, in which a needle stays visible";
  const scale = picker(
    "Colour scale",
    [
      ["log", "log"],
      ["linear", "linear"],
      ["rank", "rank"],
    ],
    "log",
    (value) => {
      now.scale = value;
      map.setScale(value);
      offsets.setScale(value);
      text.repaint();
    },
  );
  const colours = picker(
    "Colours",
    [
      ["viridis", "viridis"],
      ["cividis", "cividis"],
    ],
    "viridis",
    (value) => {
      now.map = value;
      pixels = pixelTable(value);
      repaint();
    },
  );
  for (const { node } of [scale, stat]) node.classList.add("g4-bare"); // its values say what it is
  const sink = h("input", { type: "checkbox" });
  sink.addEventListener(
    "change",
    () => {
      now.sink = sink.checked;
      map.setHideSink(sink.checked);
      loadWeights();
    },
    { signal },
  );
  const zoomers = h(
    "div",
    { class: "g4-segmented", role: "group", "aria-label": "Zoom" },
    h("button", { type: "button", "aria-label": "Zoom in", onclick: () => map.zoom(2) }, "+"),
    h("button", { type: "button", "aria-label": "Zoom out", onclick: () => map.zoom(0.5) }, "−"),
    h("button", { type: "button", onclick: () => map.fit() }, "Whole context"),
  );
  const showPair = h(
    "button",
    {
      type: "button",
      onclick: () => {
        if (now.token !== null)
          map.show(now.token, now.mode === "row" ? (token.strongest() ?? now.token) : now.token);
      },
    },
    "Zoom to token",
  );
  function repaint() {
    panel.redraw();
    map.draw();
    offsets.repaint();
    text.repaint();
  }
  const m = meta();
  const perLayer = m.layers[0].heads.length;
  root.append(
    headline(
      "Attention",
      [chip(counted(m.n)), chip(`${m.layers.length} layers × ${perLayer} heads`), chip(m.source)],
      [colours.node, exportPicker(model, "attention", show)],
    ),
    problem,
    h(
      "div",
      { class: "g4-columns" },
      panel.node,
      h(
        "div",
        { class: "g4-stack" },
        h(
          "section",
          { class: "g4-panel g4-section g4-mapbox", "aria-label": "One head" },
          h(
            "div",
            { class: "g4-toolbar g4-maptitle" },
            mapTitle,
            h("span", { class: "g4-grow" }),
            axis.node,
          ),
          h(
            "div",
            { class: "g4-toolbar g4-maptools" },
            scale.node,
            stat.node,
            zoomers,
            showPair,
            h("label", {}, sink, "Without sink"),
          ),
          hold,
          h("div", { class: "g4-toolbar g4-mapfoot" }, legend, state),
          readout,
          why,
          summaryBox,
          links.node,
        ),
        token.node,
        h(
          "section",
          { class: "g4-panel g4-section", "aria-label": "Text" },
          text.root,
          legendOfParts(m.parts),
          h("h4", { class: "g4-subtitle" }, "Which head carries it?"),
          spanBox,
          ranking,
        ),
      ),
    ),
  );
  view.onInk((newest) => {
    ink = newest;
    legendShown = "";
    repaint();
  }); // a theme's colours may come one by one
  map.setParts(m.parts.map((p) => ({ ...p, colour: partColor(p.role) })));
  map.start(hold);
  keepInView(panel.node, panel.node.parentElement, signal);
  const selected = link.get();
  if (layerOf(selected.layer)) {
    now.layer = selected.layer;
    const there = layerOf(now.layer).heads;
    now.head = there.includes(selected.head)
      ? selected.head
      : there.includes(now.head)
        ? now.head
        : there[0];
  }
  now.axis =
    m.layers.some((l) => l.window) && m.n > 4 * Math.max(...m.layers.map((l) => l.window ?? 0))
      ? "offsets"
      : "keys";
  axis.set(now.axis);
  headChanged();
  buildSpans();
  token.build();
  let exactFor = m;
  watch(
    model,
    ["computing", "meta"],
    () => {
      if (meta() !== exactFor) {
        exactFor = meta();
        headChanged();
      } else sayWhy();
    },
    signal,
  );
  ask("heads")
    .then((answer) => {
      heads.fill(answer);
      panel.start();
      buildSummary();
      root.dataset.heads = "true";
    })
    .catch(show);
  text.show(0).then(() => {
    if (Number.isInteger(selected.token)) tokenChanged(selected.token);
    else if (Number.isInteger(m.start.token)) tokenChanged(m.start.token);
  });
  signal.addEventListener("abort", () => {
    map.destroy();
    offsets.destroy();
    text.destroy();
  });
  return view.cleanup;
}

/** The colours of the parts, once each. */
function legendOfParts(parts) {
  const seen = new Map(parts.map((p) => [p.name, p.role]));
  return h(
    "div",
    { class: "g4-keys", "aria-label": "Parts" },
    ...[...seen].map(([name, role]) =>
      h(
        "span",
        { class: "g4-key" },
        h("i", { class: "g4-swatch", style: { background: partColor(role) } }),
        name,
      ),
    ),
  );
}

/** Tokens of a cell: below ten a part of one matters. */
const whole = (cell) =>
  Number.isInteger(cell) || cell >= 10 ? formatCount(cell) : cell.toFixed(1);

function shortNumber(v) {
  return v >= 0.01 ? v.toFixed(2) : v.toExponential(0);
}

/** Values of an answer: float32, or 8 bits on a scale of logarithms. */
function decoded(content, buffer) {
  if (content?.bits !== 8) return floats(buffer);
  const { low, high } = content,
    step = Math.log(high / low) / 254;
  const values = Float32Array.from({ length: 256 }, (_, code) =>
    code ? low * Math.exp((code - 1) * step) : 0,
  );
  return Float32Array.from(bytesOf(buffer), (code) => values[code]);
}

export default { render };
