/* Expert routing: what every expert is for, where a token went, comparison, what-if. */

import {
  barCell,
  bytesOf,
  chip,
  exportPicker,
  floats,
  headline,
  partColor,
  picker,
  problemNote,
  segmented,
  table,
} from "./pieces.js";
import { expertCard, expertList } from "./expertcard.js";
import { cssOf, drawScale, expertScheme, groupKeys } from "./expertcolours.js";
import { expertMap } from "./expertmap.js";
import { expertRow } from "./expertrow.js";
import { expertTable, orderOf, passes, readRoutes, times } from "./experts.js";
import { expertStrip } from "./expertstrip.js";
import {
  formatCount,
  formatPercent,
  h,
  linkSelection,
  mount,
  patient,
  perFrame,
  request,
  watch,
} from "./shared.js";
import { tokenView } from "./tokenview.js";
import { triedChanges, whatIf } from "./whatif.js";

const ROUTES_PAGE = 512; // tokens of one request

const VIEW_WORDS = {
  purpose: "",
  load: "load (share of the tokens) over the even load",
  difference: "load in B minus load in A, percentage points of the tokens",
  lift: (group) => `lift: load among “${group}” over load among all`,
};

function render({ model, el }) {
  const view = mount(model, el, "routing");
  const { root, signal } = view;
  root.classList.add("g4-view");
  const meta = () => model.get("meta"),
    count = () => model.get("n"),
    m = meta();
  const ask = (type, args = {}, options = {}) => request(model, type, args, { signal, ...options });
  const patiently = patient(ask);
  const { problem, show } = problemNote();
  if (!m.layers?.length) {
    root.append(
      headline("Expert routing", [], []),
      h("p", { class: "g4-empty" }, m.empty || "This trace has no routing."),
    );
    return view.cleanup;
  }

  const layers = m.layers,
    E = m.experts,
    k = m.k,
    rowOf = (layer) => layers.indexOf(layer);
  const now = {
    layer: m.start.layer,
    expert: m.start.expert,
    token: null,
    hover: null,
    which: "a",
    by: m.start.by,
    view: m.start.view,
    group: 0,
    order: m.start.view,
    text: "map",
    filter: { on: false, above: 2, group: 0 },
  };
  const side = () => (now.which === "b" ? "b" : "a"),
    length = () => (now.which === "b" ? m.other.n : count());
  let t = null,
    scheme = null,
    difference = null,
    ink = view.ink(),
    scale = null,
    orders = [],
    pages = new Map(),
    strips = new Map();

  // ---- what is chosen ----------------------------------------------------------------------------
  const link = linkSelection(
    model,
    (selection) => {
      const { layer, token, expert } = selection;
      const moved = Number.isInteger(layer) && layer !== now.layer && layers.includes(layer);
      // An expert's number means nothing in another layer: only one that came with its layer is taken.
      const mine =
        Number.isInteger(expert) &&
        expert < E &&
        !(moved && expert === now.expert && pickedLayer !== layer)
          ? expert
          : moved
            ? null
            : now.expert;
      if (moved) now.layer = layer;
      if (moved || mine !== now.expert) {
        now.expert = mine;
        expertChanged();
      }
      if (moved) layerChanged();
      if (Number.isInteger(token) && token !== now.token && token < length()) tokenChanged(token);
      drawOverlays();
    },
    signal,
  );
  let pickedLayer = null;
  const pick = (i) => {
    pickedLayer = layers[Math.floor(i / E)];
    link.set({ layer: pickedLayer, expert: i % E });
  };
  const chosen = () => ({ row: rowOf(now.layer), expert: now.expert, hover: now.hover });
  const chosenCell = () => (now.expert === null ? null : rowOf(now.layer) * E + now.expert);

  // ---- data --------------------------------------------------------------------------------------
  async function loadGroups() {
    const by = now.by,
      which = side();
    try {
      const answer = await ask("groups", { by, which }, { slot: "groups" });
      if (!answer || by !== now.by || which !== side() || !answer.content.groups.length) return;
      t = expertTable(meta(), answer);
      now.group = Math.min(now.group, t.groups.length - 1);
      now.filter.group = Math.min(now.filter.group, t.groups.length - 1);
      fillGroups();
      difference = null;
      if (now.view === "difference") {
        const other = expertTable(meta(), await ask("groups", { by: now.by, which: "b" }));
        difference = other.load.map((v, i) => v - t.load[i]);
      }
      recolour();
      if (scale === null) {
        const { buffer } = await ask("scale", { which });
        scale = buffer?.byteLength ? floats(buffer) : [];
      }
      loadExpert();
    } catch (error) {
      show(error);
    }
  }

  /** Experts and shares of a token in a row; null while its page is on its way. */
  function routeOf(token, row) {
    if (token === null || token >= length()) return null;
    const number = Math.floor(token / ROUTES_PAGE),
      page = pages.get(number);
    if (!page) {
      if (model.isStatic && !model.recorded(routesOf(number)))
        return pooled(token, row)?.list.slice(0, k) ?? null;
      loadRoutes(number);
      return null;
    }
    return token >= page.start && token < page.stop ? page.at(row, token) : null;
  }
  const routesOf = (number) => ({
    type: "routes",
    start: number * ROUTES_PAGE,
    stop: Math.min(length(), (number + 1) * ROUTES_PAGE),
    which: side(),
  });
  /** Mean shares of the gate over a column of a row's strip, largest first: {list, start, stop}. */
  function pooled(token, row) {
    const key = `${side()} ${layers[row]}`,
      strip = strips.get(key);
    if (strip === undefined) loadStrip(layers[row]);
    if (!strip) return null;
    const column = Math.min(strip.columns - 1, Math.floor((token * strip.columns) / length())),
      lists = (strip.lists ??= []);
    if (!lists[column]) {
      const list = [];
      for (let e = 0; e < E; e++) {
        const v = strip.bytes[column * E + e];
        if (v) list.push([e, (v * strip.high) / 255]);
      }
      lists[column] = {
        list: list.sort((a, b) => b[1] - a[1]),
        start: Math.ceil((column * length()) / strip.columns),
        stop: Math.ceil(((column + 1) * length()) / strip.columns),
      };
    }
    return lists[column];
  }
  /** What a page without a kernel says where it has stretches of the text instead of tokens. */
  function sayPooled() {
    const number = Math.floor(Math.max(now.token ?? 0, 0) / ROUTES_PAGE),
      lacks = now.token !== null && model.isStatic && !model.recorded(routesOf(number));
    const found = lacks ? pooled(now.token, rowOf(now.layer)) : null;
    pooledNote.hidden = !found;
    if (found)
      pooledNote.textContent = `Of this part of the text the page holds stretches: what tokens ${formatCount(found.start)} to ${formatCount(found.stop - 1)} have on average. The notebook has every token.`;
  }
  const pooledNote = h("p", { class: "g4-note", role: "status", hidden: true });
  const waiting = new Map();
  function loadRoutes(number) {
    const key = `${side()} ${number}`;
    if (waiting.has(key)) return waiting.get(key);
    const start = number * ROUTES_PAGE,
      which = side();
    const done = ask("routes", { start, stop: Math.min(length(), start + ROUTES_PAGE), which })
      .then((answer) => {
        if (which !== side()) return;
        pages.set(number, readRoutes(meta(), answer));
        if (pages.size > 24) pages.delete(pages.keys().next().value);
        waiting.delete(key);
        text.repaint();
        drawOverlays();
        what?.draw();
      })
      .catch(show); // what failed once is not asked again until the trace changes
    waiting.set(key, done);
    return done;
  }

  const stripsCame = perFrame(() => {
    text.paintStrip();
    if (model.isStatic) {
      text.repaint();
      drawOverlays();
    } // stretches may stand for tokens
  });
  async function loadStrip(layer = now.layer) {
    const which = side(),
      key = `${which} ${layer}`;
    if (strips.has(key)) return;
    strips.set(key, null);
    try {
      const answer = await ask("strip", { layer, which });
      strips.set(key, { ...answer.content, bytes: bytesOf(answer.buffer).slice() });
      stripsCame();
    } catch (error) {
      if (!model.isStatic) show(error);
    }
  }

  async function loadExpert() {
    if (!t || now.expert === null) {
      cardBox.replaceChildren(
        h(
          "p",
          { class: "g4-note" },
          t
            ? `Layer ${now.layer}: choose one of its experts in the map, or in the row below it.`
            : "",
        ),
      );
      return;
    }
    const layer = now.layer,
      expert = now.expert;
    try {
      const answer =
        model.isStatic && !model.recorded({ type: "expert", layer, expert, which: side() })
          ? { content: null }
          : await ask("expert", { layer, expert, which: side() }, { slot: "expert" });
      if (!answer || layer !== now.layer || expert !== now.expert) return;
      const i = chosenCell();
      cardBox.replaceChildren(
        expertCard(t, i, answer.content, {
          layer,
          ink,
          scale: scale?.length ? scale[i] : null,
          count: length(),
          onToken: (token) => link.set({ token }),
          onExpert: (e) => pick(rowOf(layer) * E + e),
        }),
      );
    } catch (error) {
      cardBox.replaceChildren(
        h("p", { class: "g4-note", role: "status" }, error.message.replace(/^\w+Error: /, "")),
      );
    }
  }

  // ---- the text ----------------------------------------------------------------------------------
  const inRow = (token) => {
    const row = rowOf(now.layer),
      route = routeOf(token, row);
    return route?.map(([e, share]) => [row * E + e, share]) ?? null;
  };
  const shareOf = (list, i) => list.find(([cell]) => cell === i)?.[1] ?? 0;
  const orange = () => (ink.dark ? [255, 176, 80] : [230, 120, 0]);
  function colourOf(list) {
    if (!list || !scheme) return null;
    if (now.text === "map") return scheme.token(list);
    const share = now.expert === null ? 0 : shareOf(list, chosenCell());
    return share > 0 ? { rgb: orange(), alpha: 0.2 + 0.8 * share } : null;
  }
  const text = tokenView({
    label: "Text of the trace. Arrow keys move the selected token.",
    ask: (type, args) =>
      ask(
        type,
        ["tokens", "ids", "search", "media"].includes(type) ? { ...args, which: side() } : args,
      ),
    n: length,
    media: () => (now.which === "b" ? meta().other.media : meta().media),
    parts: () =>
      (now.which === "b" ? meta().other.parts : meta().parts).map((p) => ({
        ...p,
        colour: partColor(p.role),
      })),
    ink: () => ink,
    onError: show,
    keeps: model.isStatic
      ? (page) =>
          model.recorded({
            type: "tokens",
            start: page * ROUTES_PAGE,
            stop: Math.min(length(), (page + 1) * ROUTES_PAGE),
            which: side(),
          })
      : null,
    onSelect: (token) => link.set({ token }),
    paint: () => ({
      background(i, onPicture) {
        const c = colourOf(inRow(i));
        return c ? cssOf(c.rgb, onPicture ? 1 : c.alpha * (ink.dark ? 0.62 : 0.55)) : null;
      },
      alpha(i) {
        return 0.75 * (colourOf(inRow(i))?.alpha ?? 0);
      },
      title(i) {
        const list = inRow(i);
        return list
          ? `token ${formatCount(i)} · layer ${now.layer} · experts ${list.map(([c, share]) => `${c % E} (${formatPercent(share)})`).join(", ")}`
          : formatCount(i);
      },
    }),
    strip(from, to) {
      if (!scheme) return null;
      const row = rowOf(now.layer),
        found = pooled((from + to) / 2, row),
        stamp = now.text === "map" ? scheme : now.expert;
      if (found && found.stamp !== stamp) {
        const c = colourOf(found.list.map(([e, share]) => [row * E + e, share]));
        Object.assign(found, {
          stamp,
          colour: c ? cssOf(c.rgb, Math.min(1, c.alpha * 1.2)) : null,
        });
      }
      return found?.colour ?? null;
    },
  });

  // ---- the map and what stands around it -----------------------------------------------------------
  const nameOf = (i) => `Layer ${layers[Math.floor(i / E)]}, expert ${i % E}`;
  function facts(i) {
    if (t.unused(i)) return "never used in this trace";
    const told =
      now.view === "difference"
        ? [`${(100 * difference[i]).toFixed(1)} points more of the tokens in B than in A`]
        : [`load ${formatPercent(t.load[i])} of the tokens, ${times(t.ratio(i))} even load`];
    const known = t.groups
      .map((g, j) => [g.name, t.lift(j, i), j])
      .filter(([, , j]) => t.enough(j, i))
      .sort((a, b) => b[1] - a[1])
      .slice(0, 3);
    if (known.length)
      told.push(`lift ${known.map(([name, lift]) => `${name} ${times(lift)}`).join(", ")}`);
    const route = routeOf(now.token, Math.floor(i / E)),
      share = route?.find(([e]) => e === i % E)?.[1];
    if (share) told.push(`${formatPercent(share)} of the gate for the selected token`);
    return told.join(" · ");
  }
  const name = (i) => `${nameOf(i)}: ${facts(i)}`;
  const order = (row) =>
    (orders[row] ??= orderOf(t, row, {
      order: now.order,
      group: now.view === "lift" ? now.group : now.filter.group,
    }));
  const shared = {
    table: () => t,
    scheme: () => scheme,
    order,
    chosen,
    ink: () => ink,
    name,
    say: view.announce,
    signal,
    layers,
    k,
    shown: (i) => !now.filter.on || passes(t, i, now.filter),
    route: (row) => (now.which === "b-a" ? null : routeOf(now.token, row)),
    onHover: (i) => {
      if (i !== now.hover) {
        now.hover = i;
        drawOverlays();
      }
    },
    onPick: pick,
  };
  const map = expertMap(shared),
    row = expertRow(shared);
  const strip = expertStrip({ ...shared, rowHeight: map.rowHeight, top: map.top });
  const readout = h("p", { class: "g4-readout", "aria-hidden": "true" }),
    legend = h("canvas", {
      class: "g4-legend",
      role: "img",
      "aria-label": "Colour scale of the map",
    });
  const keys = h("div", {
    class: "g4-groupkeys",
    role: "group",
    "aria-label": "What the colours mean",
  });
  const rowTitle = h("h4", { class: "g4-subtitle" }),
    stripTitle = h("div", { class: "g4-striptitle" });

  function drawOverlays() {
    map.draw();
    strip.draw();
    row.draw();
    sayPooled();
    const at = now.hover ?? chosenCell();
    readout.textContent =
      t && at !== null ? name(at) : t ? `Layer ${now.layer}: point at an expert` : "";
    const word = now.token === null ? null : text.nameOf(now.token, drawOverlays);
    stripTitle.replaceChildren(
      ...(now.token === null
        ? ["Click a token: its experts"]
        : [h("bdi", {}, word ?? ""), ` ${formatCount(now.token)}`]),
    );
  }

  const more = { shown: false }; // the keys of small groups
  /** After other numbers, another view or another theme; `onlyInk`: the theme alone. */
  function recolour(onlyInk = false) {
    if (!t) return;
    if (!onlyInk) orders = [];
    scheme = expertScheme(t, now, ink, difference);
    keys.replaceChildren(
      ...(now.view === "purpose" ? groupKeys(t, ink, (g) => setView("lift", g), more) : []),
      legend,
    );
    const words = VIEW_WORDS[now.view];
    drawScale(
      legend,
      scheme,
      ink,
      typeof words === "function" ? words(t.groups[now.group].name) : words,
    );
    map.redraw();
    text.repaint();
    drawOverlays();
    if (!onlyInk) {
      drawRowTitle();
      list.draw();
      what?.draw();
    }
  }
  function reorder() {
    orders = [];
    map.redraw();
    row.draw();
  }
  function drawRowTitle() {
    const at = rowOf(now.layer),
      unused = t ? t.unusedIn(at) : 0;
    rowTitle.replaceChildren(
      `Layer ${now.layer}`,
      h(
        "span",
        { class: "g4-note" },
        `bars: load over even load (${formatPercent(k / E)} of the tokens), from ⅛ to 8 times${now.token === null ? "" : "; underlined: experts of the selected token, as far as their share of the gate"}${unused ? `; ${unused} of ${E} never used` : ""}`,
      ),
    );
  }

  // ---- controls ------------------------------------------------------------------------------------
  const layerPicker = picker(
    "Layer",
    layers.map((l) => [String(l), `${l}`]),
    String(now.layer),
    (value) => link.set({ layer: Number(value), expert: null }),
  );
  const byPicker = picker(
    "Tokens by",
    m.groupings.map((g) => [g, g]),
    now.by,
    (value) => {
      now.by = value;
      now.group = now.filter.group = 0;
      loadGroups();
    },
  );
  const views = segmented(
    "Colour",
    [
      ["purpose", "What for", "The group of tokens that each expert is most clearly for"],
      ["load", "Load", "The share of the tokens that each expert worked on, over the even load"],
      ["lift", "Lift", "How much more each expert works on one group of tokens than on all"],
    ],
    now.view,
    (value) => setView(value),
  );
  const groupPicker = picker("for", [], "", (value) => setView("lift", Number(value)));
  const orderPicker = picker(
    "Order",
    [
      ["purpose", "what for"],
      ["load", "load"],
      ["lift", "lift"],
      ["number", "number"],
    ],
    now.order,
    (value) => {
      now.order = value;
      reorder();
    },
  );
  const textPicker = picker(
    "Text by",
    [
      ["map", "all its experts"],
      ["expert", "the chosen expert"],
    ],
    now.text,
    (value) => {
      now.text = value;
      text.repaint();
    },
  );
  const filterBox = h("input", { type: "checkbox", "aria-label": "Only experts above a lift" }),
    above = h("input", {
      type: "number",
      min: 1,
      max: 20,
      step: 0.5,
      value: 2,
      "aria-label": "Least lift",
    });
  const filterGroup = h("select", { "aria-label": "Group of the filter" });
  const filterChanged = () => {
    now.filter = {
      on: filterBox.checked,
      above: Math.max(0, Number(above.value) || 0),
      group: Number(filterGroup.value) || 0,
    };
    reorder();
    list.draw();
  };
  for (const input of [filterBox, above, filterGroup])
    input.addEventListener(
      "change",
      () => {
        if (input !== filterBox) filterBox.checked = true;
        filterChanged();
      },
      { signal },
    );
  function fillGroups() {
    for (const [select, value] of [
      [groupPicker.select, now.group],
      [filterGroup, now.filter.group],
    ]) {
      const names = t.groups.map((g, i) => h("option", { value: i }, g.name));
      select.replaceChildren(...names);
      select.value = String(value);
    }
  }
  function setView(value, group = now.group) {
    now.view = value;
    now.group = group;
    if (value === "lift") {
      now.order = "lift";
      now.filter.group = group;
      filterGroup.value = String(group);
    } else now.order = value === "purpose" ? "purpose" : "load";
    views.set(value);
    orderPicker.select.value = now.order;
    groupPicker.select.value = String(group);
    groupPicker.node.hidden = value !== "lift";
    recolour();
  }

  // ---- changes -------------------------------------------------------------------------------------
  function expertChanged() {
    loadExpert();
    if (now.text === "expert") text.repaint();
    list.mark();
    what?.draw();
  }
  function layerChanged() {
    layerPicker.select.value = String(now.layer);
    loadStrip();
    text.repaint();
    drawRowTitle();
    drawOverlays();
    what?.draw();
    view.announce(`Layer ${now.layer}`);
  }
  function tokenChanged(token) {
    now.token = token;
    text.select(token).then(() => {
      drawOverlays();
      what?.draw();
    });
    drawOverlays();
    drawRowTitle();
  }

  // ---- two traces ------------------------------------------------------------------------------------
  const tools = [exportPicker(model, "routing", show)],
    compareBox = h("section", {
      class: "g4-panel g4-section",
      "aria-label": "Comparison",
      hidden: true,
    });
  let compared = false;
  if (m.other)
    tools.unshift(
      segmented(
        "Which trace",
        [
          ["a", "A"],
          ["b", "B"],
          ["b-a", "B − A"],
        ],
        "a",
        async (value) => {
          now.which = value;
          now.hover = null;
          pages = new Map();
          waiting.clear();
          now.token = null;
          text.reset();
          compareBox.hidden = value !== "b-a";
          now.view = value === "b-a" ? "difference" : "purpose";
          now.order = value === "b-a" ? "load" : "purpose";
          views.set(now.view);
          orderPicker.select.value = now.order;
          groupPicker.node.hidden = true;
          await loadGroups();
          loadStrip();
          await text.show(0);
          if (value === "b-a" && !compared) loadComparison();
        },
      ).node,
    );
  async function loadComparison() {
    const bar = h("progress", { max: 1, value: 0, "aria-label": "Comparing" });
    compareBox.replaceChildren(
      h("h4", { class: "g4-subtitle" }, "A against B, layer by layer"),
      h("p", { class: "g4-note" }, "Relabelling blocks of tokens 499 times… ", bar),
    );
    let answer;
    try {
      answer = (
        await patiently("compare", {}, (share) => {
          bar.value = share;
        })
      ).content;
    } catch (error) {
      show(error);
      return;
    }
    compared = true;
    compareBox.replaceChildren(
      h("h4", { class: "g4-subtitle" }, "A against B, layer by layer"),
      h("p", { class: "g4-note" }, answer.note),
      h(
        "div",
        { class: "g4-tall" },
        table(
          "Difference of routing",
          ["Layer", "#Difference (0 to 1)", "#p", "Experts that differ most"],
          answer.layers.map((line) =>
            h(
              "tr",
              {},
              h("th", { scope: "row" }, `L${line.layer}`),
              barCell(line.distance, line.distance.toFixed(3)),
              h("td", { class: "g4-number" }, line.p.toFixed(3)),
              h(
                "td",
                {},
                line.experts
                  .map(([e, d]) => `${e} (${d > 0 ? "+" : ""}${(100 * d).toFixed(1)})`)
                  .join(", "),
              ),
            ),
          ),
        ),
      ),
    );
  }

  // ---- the page --------------------------------------------------------------------------------------
  const cardBox = h("div", {}),
    status = h("span", { class: "g4-chip" });
  const list = expertList({
    table: () => t,
    layers,
    filter: () => now.filter,
    chosen: chosenCell,
    onPick: pick,
  });
  const tried = model.isStatic ? model.asked("whatif") : [];
  const what =
    !m.whatif && !model.isStatic
      ? whatIf({
          patiently,
          meta,
          view,
          chosen: () => now,
          table: () => t,
          route: () => (side() === "a" ? routeOf(now.token, rowOf(now.layer)) : null),
          row: () => rowOf(now.layer),
          tokenName: () =>
            now.token === null || side() !== "a"
              ? null
              : text.nameOf(now.token, () => what?.draw()),
        })
      : null;
  groupPicker.node.hidden = true;
  root.append(
    headline(
      "Expert routing",
      [
        status,
        chip(`${layers.length} layers × ${E} experts, ${k} per token`),
        chip(m.source),
        m.live ? chip("live", "g4-is-good") : "",
      ].filter(Boolean),
      tools,
    ),
    problem,
    h(
      "div",
      { class: "g4-toolbar g4-routingbar" },
      byPicker.node,
      views.node,
      groupPicker.node,
      orderPicker.node,
      h(
        "span",
        { class: "g4-filter" },
        h("label", {}, filterBox, "only above"),
        above,
        h("span", { class: "g4-note" }, "× for"),
        filterGroup,
      ),
      layerPicker.node,
      textPicker.node,
    ),
    keys,
    h(
      "div",
      { class: "g4-side" },
      h("section", { "aria-label": "Text" }, text.root, pooledNote),
      h("section", { "aria-label": "Load" }, map.node),
      h("section", { "aria-label": "Path of the selected token" }, strip.canvas, stripTitle),
    ),
    readout,
    h(
      "section",
      { class: "g4-closeup", "aria-label": "Experts of the chosen layer" },
      rowTitle,
      row.node,
    ),
    compareBox,
    h(
      "div",
      { class: "g4-columns" },
      h("section", { class: "g4-panel g4-section", "aria-label": "Chosen expert" }, cardBox),
      h("section", { class: "g4-panel g4-section", "aria-label": "Experts" }, list.node),
    ),
    what
      ? what.node
      : tried.length
        ? triedChanges({ tried, ask, view })
        : h(
            "p",
            { class: "g4-note" },
            m.whatif ||
              "What if experts were missing? The notebook runs the model for that; this page is a snapshot.",
          ),
  );
  root.style.setProperty("--g4-map", `${map.top + layers.length * map.rowHeight + 1}px`);
  view.onInk((colours) => {
    ink = colours;
    recolour(true);
    loadExpert();
  });

  // ---- start, and growing while a model runs ----------------------------------------------------------
  let upTo = "",
    revision = 0;
  const state = () => `${count()} ${meta().revision}`; // another text may be as long
  const caption = () => {
    status.textContent = `${formatCount(count())} tokens`;
  };
  async function grow() {
    caption();
    if (count() === 0 || state() === upTo) return;
    upTo = state();
    waiting.clear();
    strips = new Map();
    await loadGroups();
    const last = Math.floor((count() - 1) / ROUTES_PAGE),
      another = revision !== meta().revision;
    revision = meta().revision;
    for (const [number, page] of pages)
      if (another || (number !== last && page.stop - page.start < ROUTES_PAGE))
        pages.delete(number);
    await loadRoutes(last);
    await loadStrip();
    text.reset();
    await text.show(last);
    text.toEnd();
    if (!Number.isInteger(link.get().token)) {
      now.token = count() - 1;
      drawOverlays();
    }
  }
  const growing = perFrame(() => {
    if (growing.busy) return;
    growing.busy = true;
    const begun = performance.now(); // an update takes at most half of the time
    grow().finally(() =>
      setTimeout(
        () => {
          growing.busy = false;
          if (state() !== upTo && count() > 0) growing();
        },
        Math.max(200, performance.now() - begun),
      ),
    );
  });
  const start = link.get();
  if (Number.isInteger(start.layer) && layers.includes(start.layer)) {
    now.layer = start.layer;
    now.expert =
      Number.isInteger(start.expert) && start.expert < E
        ? start.expert
        : start.layer === m.start.layer
          ? m.start.expert
          : null;
  }
  layerPicker.select.value = String(now.layer);
  if (m.live) watch(model, ["n", "meta"], growing, signal);
  else {
    caption();
    const token = Number.isInteger(start.token) && start.token < count() ? start.token : null;
    loadGroups();
    loadStrip();
    if (token === null) text.show(0);
    else tokenChanged(token);
  }
  signal.addEventListener("abort", () => text.destroy());
  return view.cleanup;
}

export default { render };
