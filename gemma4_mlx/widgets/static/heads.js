/* The panel of all heads: one map, a scatter of two numbers, groups, and two dozen small pictures.
 * Whatever shows them, a head that is pointed at is described with its small picture, a click
 * chooses it, and a dragged rectangle marks the heads in it. */

import { sizeCanvas } from "./canvas.js";
import { categoryColors, colorAt, inkOn } from "./colours.js";
import { h, perFrame } from "./dom.js";
import { HeadMap } from "./headmap.js";
import { fillRoles, letterOf, sayRoles } from "./headroles.js";
import { sayValue } from "./headscale.js";
import { barCell, picker, segmented, table } from "./pieces.js";
import { HeadScatter } from "./scatter.js";

const DOZENS = 24;
const UNUSUAL = 4;
const AXES =
  "Full heads: keys to the right; sliding heads: offset to the right, 0 to the window. Queries " +
  "down.";
const VIEWS = [
  ["map", "Map", "A cell for each head"],
  ["scatter", "Scatter", "Two numbers of every head"],
  ["groups", "Groups", "Heads that are alike"],
  ["pictures", "Pictures", "Small pictures of two dozen heads"],
];

export class HeadPanel {
  #now = { view: "map", by: "unlike", across: "distance", up: "first", sorted: false };
  #marked = null;
  #markedWhy = "";
  #chosen = -1;
  #hovered = null;
  #filled = false;
  // ---- pointing -------------------------------------------------------------------------------
  #readout = h("output", { class: "g4-readout g4-headreadout", "aria-live": "off" });
  #hint = "Point at a head, or use the arrow keys. Drag to mark several.";
  #map;
  #plot;
  // ---- controls -------------------------------------------------------------------------------
  #by = picker("Colour by", [["unlike", "unlike the other heads"]], "unlike", (value) => {
    this.#now.by = value;
    this.#update();
  });
  #sorted = h("input", { type: "checkbox" });
  #unfold = h("button", {
    type: "button",
    class: "g4-quiet",
    title: "Sliding layers between the full ones",
    onclick: () => {
      this.#map.foldAll(this.#map.unfolded);
      this.#update();
    },
  });
  #views = segmented("How to show the heads", VIEWS, "map", (value) => {
    this.#now.view = value;
    this.view.tip.hide();
    this.#update();
  });
  #across = picker("Across", [], "distance", (value) => {
    this.#now.across = value;
    this.#plot.draw();
  });
  #up = picker("Up", [], "first", (value) => {
    this.#now.up = value;
    this.#plot.draw();
  });
  #sortLabel;
  #axes;
  #unmark = h(
    "button",
    { type: "button", class: "g4-quiet", onclick: () => this.#mark(null) },
    "Show all",
  );
  #markNote;
  #tools;
  #legend = h("canvas", { class: "g4-headlegend", role: "img" });
  #stage = h("div", { class: "g4-stage" });
  #list = h("div", { class: "g4-stage-list" });
  #unusual = h("div", { class: "g4-unusual" });
  #roles = h("div", { class: "g4-unusual g4-roles" });

  /**
   * @param {object} o
   * @param {any} o.view  from mount()
   * @param {any} o.heads  HeadTable of headscale.js
   * @param {any} o.store  pictureStore of headpictures.js
   * @param {() => any} o.ink @param {() => {table: Uint8Array}} o.palette
   * @param {(head: {layer: number, head: number}) => void} o.onPick
   * @param {(error: Error) => void} o.onError
   */
  constructor(o) {
    Object.assign(this, o);
    this.#readout.textContent = this.#hint;
    const shared = {
      table: this.heads,
      ink: this.ink,
      colour: (index) => this.#colour(index),
      marked: () => this.#marked,
      onHover: (index, x, y) => this.#hover(index, x, y),
      onPick: (index) => this.#pick(index),
      onMark: (heads) => this.#mark(heads),
      describe: (index) => this.describe(index),
      announce: this.view.announce,
    };
    this.#map = new HeadMap({
      ...shared,
      number: (index) => this.#number(index),
      letter: (index) => [letterOf(this.heads.labels[index]), this.#inkAt(index)],
      order: () => (this.#now.sorted ? this.heads.columns.get(this.#now.by) : null),
    });
    this.#plot = new HeadScatter({ ...shared, axes: () => [this.#now.across, this.#now.up] });
    const sort = () => {
      this.#now.sorted = this.#sorted.checked;
      this.#map.draw();
    };
    this.#sorted.addEventListener("change", sort, { signal: this.view.signal });
    const title = "Highest first in each layer";
    this.#sortLabel = h("label", { title }, this.#sorted, "Sort in layers");
    this.#axes = h("div", { class: "g4-toolbar g4-axes" }, this.#across.node, this.#up.node);
    const note = h("span", { class: "g4-note" });
    this.#markNote = h("div", { class: "g4-marknote", role: "status" }, note, this.#unmark);
    const tools = [this.#by.node, this.#sortLabel, this.#unfold];
    this.#tools = h("div", { class: "g4-toolbar g4-headtools" }, ...tools);
    this.node = h(
      "section",
      { class: "g4-panel g4-section g4-headpanel", "aria-label": "All heads" },
      h("div", { class: "g4-toolbar" }, this.#views.node),
      this.#tools,
      this.#axes,
      this.#markNote,
      this.#stage,
      this.#legend,
      this.#readout,
      this.#roles,
      this.#unusual,
    );
    this.view.signal.addEventListener("abort", () => {
      this.#map.destroy();
      this.#plot.destroy();
    });
    this.redraw = perFrame(() => {
      if (this.#filled) {
        this.#draw();
        this.#build();
      }
    });
  }

  /** The table has been filled. */
  start() {
    this.#filled = true;
    this.#now.by = this.heads.by;
    this.#choices();
    fillRoles(this.#roles, this.heads, (heads, reason) => this.#mark(heads, reason));
    this.#update();
  }

  choose(layer, head) {
    this.#chosen = this.heads.indexOf(layer, head);
    this.#map.choose(this.#chosen);
    this.#plot.choose(this.#chosen);
    if (this.#filled && this.#now.view === "pictures") this.#build();
  }

  /** Colour by the mass between the marked spans. */
  showSpan() {
    this.#now.by = "span";
    this.#now.view = "map";
    this.#views.set("map");
    this.#choices();
    this.#update();
  }

  #colour(index) {
    const value = this.heads.value(this.#now.by, index);
    if (Number.isNaN(value)) return null;
    return this.#now.by === "group"
      ? categoryColors[value % categoryColors.length]
      : colorAt(this.palette().table, this.heads.scale(this.#now.by).place(value));
  }

  #number(index) {
    const { by } = this.#now;
    const value = this.heads.value(by, index);
    if (Number.isNaN(value) || by === "group") return null;
    const said = sayValue(by, value).replace(/ (nats|tokens)$/, "");
    return [by === "unlike" ? value.toFixed(1) : said, this.#inkAt(index)];
  }

  /** What is legible on a head's colour. */
  #inkAt(index) {
    const { by } = this.#now;
    const value = this.heads.value(by, index);
    if (by === "group" || Number.isNaN(value)) return this.ink().text;
    return inkOn(this.palette().table, this.heads.scale(by).place(value));
  }

  #nameOf(index) {
    return `Layer ${this.heads.list[index].layer}, head ${this.heads.list[index].head}`;
  }

  #shortName(index) {
    return `L${this.heads.list[index].layer}·H${this.heads.list[index].head}`;
  }

  /** In which summary a head is unlike the others. */
  #why(index) {
    const name = this.heads.names[this.heads.value("reason", index)];
    return name === undefined ? "" : `${this.heads.words.get(name)} ${this.heads.say(name, index)}`;
  }

  describe(index) {
    const { heads } = this;
    const { by } = this.#now;
    const value = `${heads.words.get(by)} ${heads.say(by, index)}`;
    const why = by === "unlike" ? `; ${this.#why(index)}` : "";
    const roles = sayRoles(heads.labels[index]);
    const kind = `${heads.list[index].kind} attention${roles && `, ${roles}`}`;
    return `${this.#nameOf(index)}, ${kind}: ${value}${why}`;
  }

  #hover(index, x, y) {
    if (index === null) {
      this.#hovered = null;
      this.#readout.textContent = this.#hint;
      this.view.tip.hide();
      return;
    }
    if (index === this.#hovered) return;
    this.#hovered = index;
    this.#readout.textContent = this.describe(index);
    const canvas = h("canvas", { class: "g4-preview", width: 1, height: 1, "aria-hidden": "true" });
    const lines = [...new Set([this.#now.by, "unlike", ...this.heads.names])]
      .filter((name) => name !== "group" && this.heads.columns.has(name))
      .slice(0, 7);
    const item = this.heads.list[index];
    const roles = sayRoles(this.heads.labels[index]);
    // Beside the panel, so that no head is hidden.
    const right = this.node.getBoundingClientRect().right - 8;
    this.view.tip.show(
      right < innerWidth - 300 ? right : x,
      y,
      h(
        "div",
        { class: "g4-headtip" },
        canvas,
        h(
          "div",
          {},
          h("strong", {}, this.#nameOf(index)),
          h(
            "span",
            { class: "g4-note" },
            item.kind === "full" ? "full: queries × keys" : "sliding: queries × offset",
          ),
          roles && h("span", { class: "g4-note" }, roles),
          h(
            "dl",
            {},
            ...lines.flatMap((name) => [
              h("dt", {}, this.heads.words.get(name)),
              h("dd", {}, this.heads.say(name, index)),
            ]),
          ),
        ),
      ),
    );
    this.store
      .paint(canvas, item)
      .then(() => {
        canvas.dataset.ready = "true";
      })
      .catch(this.onError);
  }

  #pick(index) {
    this.view.tip.hide();
    this.onPick(this.heads.list[index]);
  }

  #mark(set, reason = "") {
    this.#marked = set?.size ? set : null;
    this.#markedWhy = reason;
    this.#draw();
    this.#build();
  }

  #choices() {
    const { names, roles, columns } = this.heads;
    const all = ["unlike", ...names, ...roles, "group", "span"].filter((name) => columns.has(name));
    this.#by.select.replaceChildren(
      ...all.map((name) => h("option", { value: name }, this.heads.words.get(name))),
    );
    this.#by.select.value = this.#now.by;
    for (const [one, key] of [
      [this.#across, "across"],
      [this.#up, "up"],
    ]) {
      one.select.replaceChildren(
        ...all
          .filter((name) => name !== "group")
          .map((name) => h("option", { value: name }, this.heads.words.get(name))),
      );
      if (!all.includes(this.#now[key])) this.#now[key] = all[0];
      one.select.value = this.#now[key];
    }
  }

  // ---- drawing --------------------------------------------------------------------------------
  #draw() {
    this.#map.draw();
    if (this.#now.view === "scatter") this.#plot.draw();
    this.#drawLegend();
  }

  #update() {
    if (!this.#filled) return;
    const onMap = this.#now.view === "map";
    this.#sortLabel.hidden = !onMap || this.#now.by === "group";
    this.#unfold.hidden = !onMap || !this.#map.foldable;
    this.#unfold.textContent = this.#map.unfolded ? "Fold" : "Unfold";
    this.#axes.hidden = this.#now.view !== "scatter";
    this.#tools.hidden = this.#now.view === "groups";
    this.#stage.replaceChildren(
      onMap ? this.#map.canvas : this.#now.view === "scatter" ? this.#plot.canvas : this.#list,
    );
    if (this.#now.view === "scatter")
      this.#plot.resize(Math.min(448, this.#stage.clientWidth || 448));
    this.node.dataset.by = this.#now.by;
    this.#draw();
    this.#build();
  }

  #build() {
    this.#markNote.hidden = !this.#marked;
    if (this.#marked)
      this.#markNote.firstChild.textContent =
        this.#markedWhy || `${this.#marked.size} heads marked.`;
    if (this.#now.view === "groups") this.#list.replaceChildren(...this.#groupList());
    else if (this.#now.view === "pictures") this.#list.replaceChildren(this.#pictures());
    this.#unusual.replaceChildren(
      h("span", { class: "g4-note" }, "Unusual:"),
      ...this.heads
        .ranked("unlike")
        .slice(0, UNUSUAL)
        .map((index) =>
          h(
            "button",
            {
              type: "button",
              class: "g4-quiet",
              title: this.describe(index),
              onclick: () => this.#pick(index),
            },
            this.#shortName(index),
            h("span", { class: "g4-note" }, this.#reasonWord(index)),
          ),
        ),
    );
    this.#unusual.hidden = this.heads.list.length < 12;
  }

  #reasonWord(index) {
    const name = this.heads.names[this.heads.value("reason", index)];
    return name === "first" ? "sink" : (name ?? "");
  }

  #drawLegend() {
    const ink = this.ink();
    const width = 448;
    this.#legend.hidden =
      this.#now.by === "group" ||
      this.#now.view === "groups" ||
      !this.heads.columns.has(this.#now.by);
    if (this.#legend.hidden) return;
    const context = sizeCanvas(this.#legend, width, 32);
    const scale = this.heads.scale(this.#now.by);
    const left = 58;
    const right = width - 8;
    const length = right - left;
    context.clearRect(0, 0, width, 32);
    for (let x = 0; x < length; x++) {
      context.fillStyle = colorAt(this.palette().table, x / (length - 1));
      context.fillRect(left + x, 2, length - x, 10);
    }
    context.fillStyle = ink.text;
    context.font = `12px ${ink.font}`;
    context.textBaseline = "top";
    for (let k = 0; k <= 4; k++) {
      context.textAlign = k === 0 ? "left" : k === 4 ? "right" : "center";
      const value = scale.at(k / 4);
      context.fillText(
        this.#now.by === "unlike"
          ? value.toFixed(1)
          : sayValue(this.#now.by, value).replace(k === 4 ? /$^/ : / (nats|tokens)$/, ""),
        left + (k / 4) * length,
        16,
      );
    }
    const { by } = this.#now;
    const ends = `from ${sayValue(by, scale.low)} to ${sayValue(by, scale.high)}`;
    this.#legend.setAttribute("aria-label", `Colours: ${this.heads.words.get(by)}, ${ends}`);
  }

  #headButton(index, ranked) {
    const canvas = h("canvas", { width: 1, height: 1, "aria-hidden": "true" });
    this.store.paint(canvas, this.heads.list[index]).catch(this.onError);
    return h(
      "button",
      {
        type: "button",
        class: "g4-thumb",
        "aria-pressed": String(index === this.#chosen),
        "aria-label": this.describe(index),
        title: this.describe(index),
        onclick: () => this.#pick(index),
      },
      canvas,
      ranked ? h("span", {}, this.#shortName(index)) : null,
      ranked
        ? h(
            "em",
            {},
            this.#now.by === "group"
              ? this.#reasonWord(index)
              : this.heads.say(this.#now.by, index).replace(" spreads", ""),
          )
        : null,
    );
  }

  #pictures() {
    const order = this.heads
      .ranked(this.#now.by === "group" ? "unlike" : this.#now.by)
      .filter((index) => !this.#marked || this.#marked.has(index))
      .slice(0, DOZENS);
    const of = this.#marked ? "Of the marked heads" : "Of all heads";
    const highest = `those with the highest value: ${this.heads.words.get(this.#now.by)}`;
    const which = this.#now.by === "group" ? "those most unlike the others" : highest;
    return h(
      "div",
      {},
      h("div", { class: "g4-dozens" }, ...order.map((index) => this.#headButton(index, true))),
      h("p", { class: "g4-note" }, `${of}, ${which}. ${AXES}`),
    );
  }

  #groupList() {
    const rows = this.heads.groups.map(({ name, central }, group) => {
      const members = this.heads.list
        .map((_, index) => index)
        .filter((index) => this.heads.value("group", index) === group);
      const show = h(
        "button",
        {
          type: "button",
          class: "g4-quiet g4-groupname",
          title: "Mark these heads",
          onclick: () => {
            this.#mark(
              new Set(members),
              `${members.length} heads of group ${group + 1} marked: ${name}.`,
            );
          },
        },
        h("i", {
          class: "g4-swatch",
          style: { background: categoryColors[group % categoryColors.length] },
        }),
        name,
      );
      return h(
        "tr",
        {},
        h(
          "th",
          { scope: "row" },
          show,
          h(
            "div",
            { class: "g4-central" },
            ...central.map((index) => this.#headButton(index, false)),
          ),
        ),
        barCell(
          members.length / this.heads.list.length,
          String(members.length),
          categoryColors[group % categoryColors.length],
        ),
      );
    });
    return [
      table("Groups of alike heads", ["Group, and the heads nearest its middle", "#Heads"], rows),
      h("p", { class: "g4-note" }, `Method: ${this.heads.method}.`),
    ];
  }
}
