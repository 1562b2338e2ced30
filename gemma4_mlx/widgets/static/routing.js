/* Expert routing: what every expert is for, where a token went, comparison, what-if. */

import { h, perFrame } from "./dom.js";
import { ExpertList } from "./expertcard.js";
import { expertTable } from "./experts.js";
import { mount } from "./frame.js";
import { linkSelection, patient } from "./kernel.js";
import { chip, exportPicker, headline, problemNote, segmented } from "./pieces.js";
import { TraceComparison } from "./routing_compare.js";
import { RoutingControls } from "./routing_controls.js";
import { ChosenExpert } from "./routing_expert.js";
import { Growth } from "./routing_growth.js";
import { RoutingMaps } from "./routing_maps.js";
import { TokenRoutes } from "./routing_routes.js";
import { RoutingScene } from "./routing_scene.js";
import { RouteColours } from "./routing_text.js";
import { PAGE } from "./tokenpages.js";
import { TokenView } from "./tokenview.js";
import { triedChanges, WhatIf } from "./whatif.js";
import { formatCount } from "./words.js";

const OF_ONE_TRACE = ["tokens", "ids", "search", "media"]; // requests that say of which
const TRACES = [
  ["a", "A"],
  ["b", "B"],
  ["b-a", "B − A"],
];

function render({ model, el }) {
  const view = mount(model, el, "routing");
  view.root.classList.add("g4-view");
  const { layers, empty } = model.get("meta");
  if (layers?.length) new RoutingView(model, view).start();
  else
    view.root.append(
      headline("Expert routing", [], []),
      h("p", { class: "g4-empty" }, empty || "This trace has no routing."),
    );
  return view.cleanup;
}

class RoutingView {
  constructor(model, view) {
    this.note = problemNote();
    this.scene = new RoutingScene(model, view, this.note.show);
    const { scene } = this;
    this.link = linkSelection(model, (selection) => this.#selected(selection), view.signal);
    this.routes = new TokenRoutes(scene, {
      onPage: () => this.#routesCame(),
      onStrip: perFrame(() => this.#stripsCame()),
    });
    this.text = this.#makeText();
    const pick = (cell) => this.link.set(scene.pick(cell));
    this.maps = new RoutingMaps(scene, this.routes, {
      nameOf: (token, whenThere) => this.text.nameOf(token, whenThere),
      onPick: pick,
      onGroup: (group) => this.controls.setView("lift", group),
    });
    this.controls = this.#makeControls();
    this.expert = new ChosenExpert(scene, {
      onToken: (token) => this.link.set({ token }),
      onPick: pick,
    });
    this.comparison = new TraceComparison(scene);
    this.list = new ExpertList({
      table: () => scene.table,
      layers: scene.layers,
      filter: () => scene.now.filter,
      chosen: () => scene.cell,
      onPick: pick,
    });
    this.what = this.#makeWhatIf();
    this.status = h("span", { class: "g4-chip" });
  }

  /** Put it into the page, and ask for what it shows first. */
  start() {
    const { scene, maps, text, controls } = this;
    const { view, meta } = scene;
    this.#assemble();
    view.root.style.setProperty("--g4-map", `${maps.height}px`);
    view.onInk((ink) => {
      scene.ink = ink;
      this.#recolour();
      this.expert.load();
    });
    const selected = this.link.get();
    scene.start(selected);
    controls.showLayer();
    if (meta.live) this.#makeGrowth().start();
    else {
      this.#sayCount();
      this.#loadGroups();
      this.routes.loadStrip();
      const { token } = selected;
      if (Number.isInteger(token) && token < scene.count) this.#tokenChanged(token);
      else text.show(0);
    }
    scene.atlas?.load().then(() => this.#named(), scene.onError);
    view.signal.addEventListener("abort", () => text.destroy());
  }

  // ---- parts -----------------------------------------------------------------------------------

  #makeText() {
    const { scene } = this;
    const { model } = scene;
    const colours = new RouteColours(scene, this.routes);
    const pageOf = (page) => ({
      start: page * PAGE,
      stop: Math.min(scene.length, (page + 1) * PAGE),
      which: scene.side,
    });
    return new TokenView({
      label: "Text of the trace. Arrow keys move the selected token.",
      ask: (type, args) =>
        scene.ask(type, OF_ONE_TRACE.includes(type) ? { ...args, which: scene.side } : args),
      n: () => scene.length,
      media: () => scene.media,
      parts: () => scene.parts,
      ink: () => scene.ink,
      onError: scene.onError,
      keeps: model.isStatic ? (page) => model.recorded({ type: "tokens", ...pageOf(page) }) : null,
      onSelect: (token) => this.link.set({ token }),
      paint: () => colours,
      strip: (start, stop) => colours.stretch(start, stop),
    });
  }

  #makeControls() {
    const { scene, maps, text } = this;
    const reorder = () => {
      scene.reorder();
      maps.redraw();
    };
    return new RoutingControls(scene, {
      onLayer: (layer) => this.link.set({ layer, expert: null }),
      onGrouping: () => this.#loadGroups(),
      onView: () => this.#showTable(),
      onOrder: reorder,
      onFilter: () => {
        reorder();
        this.list.draw();
      },
      onText: () => text.repaint(),
    });
  }

  /** Changing experts takes the model; a page without a kernel has what was tried. */
  #makeWhatIf() {
    const { scene } = this;
    if (scene.meta.whatif || scene.model.isStatic) return null;
    const tokenName = () => {
      const { token } = scene.now;
      if (token === null || scene.side !== "a") return null;
      return this.text.nameOf(token, () => this.what.draw());
    };
    return new WhatIf({
      patiently: patient((type, args) => scene.ask(type, args)),
      meta: () => scene.meta,
      view: scene.view,
      chosen: () => scene.now,
      table: () => scene.table,
      route: () => (scene.side === "a" ? this.routes.of(scene.now.token, scene.row) : null),
      row: () => scene.row,
      atlas: scene.atlas && (() => scene.atlas.table),
      tokenName,
    });
  }

  #whatIfNode() {
    const { model, view, meta } = this.scene;
    if (this.what) return this.what.node;
    const tried = model.isStatic ? model.asked("whatif") : [];
    const ask = (type, args) => this.scene.ask(type, args);
    if (tried.length) return triedChanges({ tried, ask, view });
    const sentence =
      "What if experts were missing? The notebook runs the model for that; this page is a " +
      "snapshot.";
    return h("p", { class: "g4-note" }, meta.whatif || sentence);
  }

  #makeGrowth() {
    const { scene, text } = this;
    return new Growth(scene, this.routes, {
      onChange: () => this.#sayCount(),
      begin: () => this.#loadGroups(),
      end: async (page) => {
        text.reset();
        await text.show(page);
        text.toEnd();
        if (Number.isInteger(this.link.get().token)) return;
        scene.now.token = scene.count - 1;
        this.maps.drawOver();
      },
    });
  }

  #assemble() {
    const { scene, maps, text, expert, list } = this;
    const { meta, layers, experts, k } = scene;
    const section = (label, ...children) => h("section", { "aria-label": label }, ...children);
    const panel = (label, child) =>
      h("section", { class: "g4-panel g4-section", "aria-label": label }, child);
    const closeup = section("Experts of the chosen layer", maps.rowTitle, maps.row.node);
    closeup.className = "g4-closeup";
    const size = `${layers.length} layers × ${experts} experts, ${k} per token`;
    const chips = [this.status, chip(size), chip(meta.source)];
    if (meta.live) chips.push(chip("live", "g4-is-good"));
    if (meta.atlas) chips.push(chip(`atlas of ${formatCount(meta.atlas)} tokens`));
    scene.view.root.append(
      headline("Expert routing", chips, this.#tools()),
      this.note.problem,
      this.controls.node,
      maps.keys,
      h(
        "div",
        { class: "g4-side" },
        section("Text", text.root, maps.stretchNote),
        section("Load", maps.map.node),
        section("Path of the selected token", maps.strip.canvas, maps.stripTitle),
      ),
      maps.readout,
      closeup,
      this.comparison.node,
      h(
        "div",
        { class: "g4-columns" },
        panel("Chosen expert", expert.node),
        panel("Experts", list.node),
      ),
      this.#whatIfNode(),
    );
  }

  #tools() {
    const { scene } = this;
    const save = exportPicker(scene.model, "routing", scene.onError);
    if (!scene.meta.other) return [save];
    const which = segmented("Which trace", TRACES, "a", (value) => this.#showTrace(value));
    return [which.node, save];
  }

  // ---- changes ---------------------------------------------------------------------------------

  #selected(selection) {
    const { scene } = this;
    const { moved, changed } = scene.follow(selection);
    if (changed) this.#expertChanged();
    if (moved) this.#layerChanged();
    const { token } = selection;
    const other = Number.isInteger(token) && token !== scene.now.token;
    if (other && token < scene.length) this.#tokenChanged(token);
    this.maps.drawOver();
  }

  #expertChanged() {
    this.expert.load();
    if (this.scene.now.text === "expert") this.text.repaint();
    this.list.mark();
    this.what?.draw();
  }

  #layerChanged() {
    const { scene } = this;
    this.controls.showLayer();
    this.routes.loadStrip();
    this.text.repaint();
    this.maps.drawTitle();
    this.maps.drawOver();
    this.what?.draw();
    scene.view.announce(`Layer ${scene.now.layer}`);
  }

  #tokenChanged(token) {
    this.scene.now.token = token;
    this.text.select(token).then(() => {
      this.maps.drawOver();
      this.what?.draw();
    });
    this.maps.drawOver();
    this.maps.drawTitle();
  }

  /** A, B, or how they differ. */
  async #showTrace(which) {
    const { scene, text, comparison } = this;
    Object.assign(scene.now, { which, hover: null, token: null });
    this.routes.forgetPages();
    text.reset();
    comparison.node.hidden = which !== "b-a";
    this.controls.showTraces();
    await this.#loadGroups();
    this.routes.loadStrip();
    await text.show(0);
    if (which === "b-a") comparison.load();
  }

  #routesCame() {
    this.text.repaint();
    this.maps.drawOver();
    this.what?.draw();
  }

  #stripsCame() {
    this.text.paintStrip();
    if (!this.scene.model.isStatic) return;
    this.text.repaint(); // stretches may stand for tokens
    this.maps.drawOver();
  }

  // ---- the table -------------------------------------------------------------------------------

  async #loadGroups() {
    const { scene } = this;
    const { now } = scene;
    const asked = { by: now.by, which: scene.side };
    const still = () => asked.by === now.by && asked.which === scene.side;
    try {
      const table = await this.#tableOf(asked);
      if (!table || !still()) return;
      scene.table = table;
      const last = scene.table.groups.length - 1;
      now.group = Math.min(now.group, last);
      now.filter.group = Math.min(now.filter.group, last);
      this.controls.fillGroups();
      scene.difference = now.view === "difference" ? await this.#difference() : null;
      this.#showTable();
      await this.expert.loadScales(asked.which);
      this.expert.load();
    } catch (error) {
      scene.onError(error);
    }
  }

  /** Loads and lifts, or null if others are wanted meanwhile. */
  async #tableOf(asked) {
    const { scene } = this;
    if (asked.by === "label") {
      await scene.atlas.load();
      return scene.atlas.table;
    }
    const answer = await scene.ask("groups", asked, { slot: "groups" });
    return answer?.content.groups.length ? expertTable(scene.meta, answer) : null;
  }

  /** Load of every expert in B minus that in A. */
  async #difference() {
    const { scene } = this;
    const answer = await scene.ask("groups", { by: scene.now.by, which: "b" });
    const other = expertTable(scene.meta, answer);
    return other.load.map((load, cell) => load - scene.table.load[cell]);
  }

  /** After other numbers, or another view of them. */
  #showTable() {
    if (!this.scene.table) return;
    this.scene.reorder();
    this.#recolour();
    this.maps.drawTitle();
    this.list.draw();
    this.what?.draw();
  }

  #recolour() {
    if (!this.scene.table) return;
    this.maps.recolour();
    this.text.repaint();
    this.maps.drawOver();
  }

  /** The atlas's names are there. */
  #named() {
    this.maps.drawOver();
    this.expert.load();
    this.what?.fillLabels();
  }

  #sayCount() {
    this.status.textContent = `${formatCount(this.scene.count)} tokens`;
  }
}

export default { render };
