/* An atlas of experts: what every expert is for, over a corpus. */

import { AtlasControls } from "./atlas_controls.js";
import { Finder } from "./atlas_find.js";
import { AtlasScene } from "./atlas_scene.js";
import { labelsOf } from "./atlas_table.js";
import { atlasCard, picturesOf } from "./atlascard.js";
import { h } from "./dom.js";
import { ExpertList } from "./expertcard.js";
import { ExpertMaps } from "./expertmaps.js";
import { times } from "./experts.js";
import { mount } from "./frame.js";
import { linkSelection, patient } from "./kernel.js";
import {
  barCell,
  chip,
  exportPicker,
  floats,
  fold,
  headline,
  problemNote,
  table,
} from "./pieces.js";
import { formatCount, formatPercent } from "./words.js";

const PROVES =
  "A lift says that an expert is chosen more often in documents of a label, by more than chance. " +
  "It does not say that the expert is needed for them, nor that it does the same thing in all: " +
  "take it out, beside a control of the same load, to see.";

function render({ model, el }) {
  const view = mount(model, el, "atlas");
  view.root.classList.add("g4-view");
  new AtlasView(model, view).start();
  return view.cleanup;
}

class AtlasMaps extends ExpertMaps {
  meaning() {
    const { now, table: t, shown } = this.scene;
    if (now.view === "purpose") return "";
    if (now.view === "load") return "load (share of the tokens) over the even load";
    if (now.view === "lift")
      return `lift: load for “${t.groups[now.group].name}” over load for all`;
    if (now.view === "compare") return `load for ${shown.word}`;
    return shown.word;
  }

  facts(cell) {
    const { now, table: t, shown } = this.scene;
    if (t.unused(cell)) return "never used in this corpus";
    const labels = labelsOf(t, cell).map(([name, lift]) => `${name} ${times(lift)}`);
    const value = shown?.value(cell);
    return [
      `load ${formatPercent(t.load[cell])}, ${times(t.ratio(cell))} even load`,
      Number.isFinite(value) && now.view !== "lift" && `${shown.word}: ${shown.text(value)}`,
      labels.slice(0, 4).join(", "),
    ]
      .filter(Boolean)
      .join(" · ");
  }
}

class AtlasView {
  #card = h("div", { class: "g4-cardhold" });
  #compared = h("div", {});
  #found = h("section", { class: "g4-panel g4-section g4-foundpanel", "aria-label": "Found" });
  #waiting = h("span", { class: "g4-note", role: "status" });

  constructor(model, view) {
    this.note = problemNote();
    this.scene = new AtlasScene(model, view, this.note.show);
    const { scene } = this;
    this.pictures = picturesOf((type, args) => scene.ask(type, args));
    this.link = linkSelection(model, (selection) => this.#selected(selection), view.signal);
    const pick = (cell) => this.#pick(scene.placeOf(cell));
    this.maps = new AtlasMaps(scene, {
      onPick: pick,
      onGroup: (group) => this.controls.setView("lift", group),
    });
    this.controls = new AtlasControls(scene, {
      onGrouping: () => this.#loadGroups(),
      onView: () => {
        this.list.sortBy(["purpose", "load"].includes(scene.now.view) ? "lift" : "extra");
        this.#showTable();
      },
      onMeasure: (name) => this.#showMeasure(name),
      onOrder: () => this.#reorder(),
      onFilter: () => this.#reorder(),
      onSure: () => this.#showTable(),
    });
    this.list = new ExpertList({
      table: () => scene.table,
      layers: scene.layers,
      filter: () => scene.now.filter,
      chosen: () => scene.cell,
      onPick: pick,
      extra: () => scene.shown,
    });
    this.finder = new Finder(scene, {
      onFound: (measure) => this.#show(measure),
      onClear: () => scene.now.view === "shown" && this.controls.setView(this.#resting),
      onExpert: (layer, expert) => this.#pick({ layer, expert }),
    });
  }

  /** The view that a search goes back to. */
  get #resting() {
    return this.scene.q ? "purpose" : "load";
  }

  start() {
    const { scene, link } = this;
    this.#assemble();
    scene.follow(link.get());
    scene.view.root.style.setProperty("--g4-map", `${this.maps.height}px`);
    scene.view.onInk((ink) => {
      scene.ink = ink;
      this.#recolour();
      this.#drawCard();
    });
    this.#loadAll().catch(scene.onError);
  }

  /** What takes long comes after the first drawing. */
  async #loadAll() {
    await Promise.all([this.#loadGroups(), this.#loadCard()]);
    if (this.scene.meta.labels.length > 1) await this.#loadSignificance();
    await this.finder.load();
  }

  // ---- parts -----------------------------------------------------------------------------------

  #assemble() {
    const { scene, maps } = this;
    const { meta, layers, experts, k } = scene;
    const size = `${layers.length} layers × ${experts} experts, ${k} per token`;
    const chips = [chip(`${formatCount(meta.tokens)} tokens`), chip(size), chip(meta.source)];
    for (const under of meta.interventions) chips.push(chip(`under ${under}`, "g4-is-warn"));
    this.#found.append(this.#compared, this.finder.result);
    const panel = (label, ...nodes) =>
      h("section", { class: "g4-panel g4-section", "aria-label": label }, ...nodes);
    const closeup = h(
      "section",
      { class: "g4-closeup", "aria-label": "Experts of the chosen layer" },
      maps.rowTitle,
      maps.row.node,
    );
    scene.view.root.append(
      headline("Expert atlas", chips, [exportPicker(scene.model, "atlas", this.note.show)]),
      this.note.problem,
      this.finder.node,
      this.controls.node,
      h("div", { class: "g4-atlaskeys" }, maps.keys, this.controls.sure, this.#waiting),
      h(
        "div",
        { class: "g4-atlasside" },
        h(
          "section",
          { "aria-label": "Map" },
          maps.map.node,
          maps.readout,
          closeup,
          panel("Experts", this.list.node),
        ),
        h("div", {}, this.#found, panel("Chosen expert", this.#card)),
      ),
      this.#about(),
    );
  }

  #about() {
    const { meta, layers } = this.scene;
    const number = (n) => h("td", { class: "g4-number" }, formatCount(n));
    const name = (text) => h("th", { scope: "row" }, h("bdi", {}, text));
    const labels = table(
      "What the atlas was made of",
      ["Label", "#Documents", "#Tokens"],
      meta.labels.map((each) =>
        h("tr", {}, name(each.name), number(each.documents), number(each.tokens)),
      ),
    );
    const evenness = table(
      "Evenness of the layers",
      ["Layer", "#Evenness of its load"],
      meta.evenness.map((v, i) => h("tr", {}, name(String(layers[i])), barCell(v, v.toFixed(2)))),
    );
    return fold(
      "About this atlas",
      h("p", { class: "g4-note" }, PROVES),
      h("div", { class: "g4-halves" }, labels, h("div", { class: "g4-tall" }, evenness)),
      meta.remarks.length
        ? h(
            "ul",
            { class: "g4-note" },
            ...meta.remarks.map((said) => h("li", { dir: "auto" }, said)),
          )
        : "",
    );
  }

  // ---- the table -------------------------------------------------------------------------------

  async #loadGroups() {
    const { scene } = this;
    const { by } = scene.now;
    try {
      const answer = await scene.ask("groups", { by }, { slot: "groups" });
      if (!answer || by !== scene.now.by) return;
      scene.setTable(answer);
      this.controls.fillGroups();
      this.#showTable();
      this.#drawCard();
    } catch (error) {
      scene.onError(error);
    }
  }

  /** What is more than chance comes after the first drawing; then what experts are for is shown. */
  async #loadSignificance() {
    const { scene } = this;
    const ask = patient((type, args) => scene.ask(type, args));
    const says = "Testing which lifts are more than chance…";
    const timer = setTimeout(() => {
      this.#waiting.textContent = says;
    }, 300);
    try {
      const answer = await ask("significance", {}, () => {});
      scene.setSignificance(floats(answer.buffer));
      if (scene.now.view === "load" && scene.table) this.controls.setView("purpose");
      else this.#showTable();
      this.#drawCard();
    } catch (error) {
      scene.onError(error);
    }
    clearTimeout(timer);
    this.#waiting.textContent = "";
  }

  async #showMeasure(key) {
    const { scene } = this;
    const word = scene.meta.measures.find(([name]) => name === key)[1];
    try {
      const answer = await scene.ask("measure", { name: key }, { slot: "measure" });
      if (answer) this.#show({ key, word, values: floats(answer.buffer), kind: "measure" });
    } catch (error) {
      scene.onError(error);
    }
  }

  /** Colour the map by numbers of every expert. */
  #show(measure) {
    this.scene.now.measure = measure;
    this.controls.setView("shown");
  }

  /** After other numbers, or another view of them. */
  #showTable() {
    if (!this.scene.table) return;
    this.scene.reorder();
    this.#recolour();
    this.maps.drawTitle();
    this.list.draw();
    this.#drawCompared();
  }

  #reorder() {
    this.scene.reorder();
    this.maps.redraw();
    this.list.draw();
  }

  #recolour() {
    if (!this.scene.table) return;
    this.maps.recolour();
    this.maps.drawOver();
  }

  /** Two labels, layer by layer. */
  #drawCompared() {
    const { scene } = this;
    const { now, layers, table: t } = scene;
    if (now.view !== "compare") {
      this.#compared.replaceChildren();
      return;
    }
    const { distance, counts } = scene.compared();
    const [a, b] = [now.group, now.other].map((g) => t.groups[g].name);
    const mean = distance.reduce((sum, d) => sum + d, 0) / distance.length;
    const rows = distance.map((d, row) =>
      h("tr", {}, h("th", { scope: "row" }, `layer ${layers[row]}`), barCell(d, d.toFixed(3))),
    );
    const found = t.found
      ? `${counts.a} experts are for ${a} alone, ${counts.b} for ${b}, ${counts.both} for both. `
      : "";
    this.#compared.replaceChildren(
      h("h4", { class: "g4-subtitle" }, h("bdi", {}, `${a} and ${b}`)),
      h(
        "p",
        { class: "g4-note" },
        found,
        `Distance of their loads ${mean.toFixed(3)}: half the `,
        "summed difference over k, 0 for the same load, 1 for no expert in common.",
      ),
      h("div", { class: "g4-tall" }, table("Distance in each layer", ["Layer", "#Distance"], rows)),
    );
  }

  // ---- one expert ------------------------------------------------------------------------------

  #pick({ layer, expert }) {
    this.link.set({ layer, expert });
  }

  #selected(selection) {
    const { scene } = this;
    const before = scene.now.layer;
    if (!scene.follow(selection)) return;
    if (before !== scene.now.layer) this.maps.drawTitle();
    this.maps.drawOver();
    this.list.mark();
    this.#loadCard();
  }

  async #loadCard() {
    const { scene } = this;
    const { layer, expert } = scene.now;
    const asked = { layer, expert };
    try {
      const answer = scene.holds({ type: "card", ...asked })
        ? await scene.ask("card", asked, { slot: "card" })
        : { content: null };
      if (!answer || layer !== scene.now.layer || expert !== scene.now.expert) return;
      this.about = answer.content;
      this.#drawCard();
      this.#card.scrollTop = 0;
    } catch (error) {
      scene.onError(error);
    }
  }

  #drawCard() {
    const { scene } = this;
    if (!scene.table || this.about === undefined) return;
    const { layer, expert } = scene.now;
    const likeness = ["tokens", "labels"].filter((by) =>
      scene.holds({ type: "neighbours", layer, expert, by }),
    );
    const alike = likeness.map((by) =>
      h(
        "button",
        { type: "button", class: "g4-quiet", onclick: () => this.finder.alike(by) },
        `by ${by}`,
      ),
    );
    this.#card.replaceChildren(
      atlasCard(this.about, {
        table: scene.table,
        cell: scene.cell,
        layer,
        layers: scene.layers,
        ink: scene.ink,
        picture: this.pictures,
        onExpert: (there, expert) => this.#pick({ layer: there, expert }),
        onToken: (text, vocabulary) => this.finder.ofToken(text, vocabulary),
        tools: alike.length ? [h("span", { class: "g4-alike" }, "Others like it", ...alike)] : [],
      }),
    );
  }
}

export default { render };
