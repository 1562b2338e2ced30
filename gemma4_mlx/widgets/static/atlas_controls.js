/* The bar above the Atlas view's map: what it is coloured by, order and filter. */

import { h } from "./dom.js";
import { liftFilter } from "./expertfilter.js";
import { picker, segmented } from "./pieces.js";

const VIEWS = [
  ["purpose", "What for", "The label that each expert is most clearly for, by more than chance"],
  ["load", "Load", "The share of all tokens that each expert worked on, over the even load"],
  ["lift", "Lift", "How much more often each expert is chosen for one label than for all tokens"],
  ["compare", "Compare", "How much more often each expert is chosen for one label than another"],
];
const ORDERS = [
  ["purpose", "what for"],
  ["load", "load"],
  ["lift", "lift"],
  ["shown", "colour"],
  ["number", "number"],
];
const ORDER_OF = { purpose: "purpose", load: "load", lift: "lift", compare: "shown" };

export class AtlasControls {
  /**
   * @param {AtlasScene} scene
   * @param {object} o
   * @param {() => void} o.onGrouping another grouping of documents or tokens
   * @param {() => void} o.onView other colours, and another order
   * @param {(name: string) => void} o.onMeasure
   * @param {() => void} o.onOrder
   * @param {() => void} o.onFilter
   * @param {() => void} o.onSure
   */
  constructor(scene, o) {
    Object.assign(this, { scene, ...o });
    const { now, meta } = scene;
    this.by = picker(
      "By",
      meta.groupings.map((by) => [by, by]),
      now.by,
      (value) => {
        Object.assign(now, { by: value, group: 0, other: 1 });
        now.filter.group = 0;
        this.onGrouping();
      },
    );
    this.views = segmented("Colour", VIEWS, now.view, (value) => this.setView(value));
    this.group = picker("for", [], "", (value) => this.#setGroup({ group: Number(value) }));
    this.other = picker("over", [], "", (value) => this.#setGroup({ other: Number(value) }));
    const measures = [["", "measure…"], ...meta.measures.map(([key, word]) => [key, word])];
    this.measure = picker("or", measures, "", (name) => name && this.onMeasure(name));
    for (const [key, , title] of meta.measures)
      this.measure.select.querySelector(`[value="${key}"]`).title = title;
    this.measure.node.hidden = !meta.measures.length;
    this.order = picker("Order", ORDERS, now.order, (value) => {
      now.order = value;
      this.onOrder();
    });
    this.filter = liftFilter(scene, "Label of the filter", () => this.onFilter());
    this.filterGroup = this.filter.group;
    this.shown = h("span", { class: "g4-chip", hidden: true });
    this.node = h(
      "div",
      { class: "g4-toolbar g4-expertbar" },
      this.by.node,
      this.views.node,
      this.measure.node,
      this.shown,
      this.group.node,
      this.other.node,
      this.order.node,
      this.filter.node,
    );
    this.sure = this.#buildSure();
    this.#showView();
  }

  /** Another table has other groups. */
  fillGroups() {
    const { now, table } = this.scene;
    for (const [select, value] of [
      [this.group.select, now.group],
      [this.other.select, now.other],
      [this.filterGroup, now.filter.group],
    ]) {
      select.replaceChildren(...table.groups.map((g, i) => h("option", { value: i }, g.name)));
      select.value = String(value);
    }
    this.views.node.querySelector("[data-value=compare]").disabled = table.groups.length < 2;
  }

  /** @param {string} view "purpose", "load", "lift", "compare" or "shown"; its order comes too */
  setView(view, group = this.scene.now.group) {
    const { now } = this.scene;
    Object.assign(now, { view, group, order: ORDER_OF[view] ?? "number" });
    if (view === "lift") {
      now.filter.group = group;
      this.filterGroup.value = String(group);
    }
    this.group.select.value = String(group);
    this.#showView();
    this.onView();
  }

  #setGroup(patch) {
    Object.assign(this.scene.now, patch);
    this.setView(this.scene.now.view);
  }

  #showView() {
    const { now } = this.scene;
    this.views.set(now.view);
    this.order.select.value = now.order;
    this.group.node.hidden = now.view !== "lift" && now.view !== "compare";
    this.other.node.hidden = now.view !== "compare";
    const measured = now.view === "shown" ? now.measure : null;
    this.measure.select.value = measured?.key ?? "";
    this.shown.hidden = !measured || Boolean(measured.key);
    this.shown.textContent = measured?.word ?? "";
  }

  #buildSure() {
    const { scene } = this;
    const box = h("input", { type: "checkbox", checked: true });
    box.addEventListener(
      "change",
      () => {
        scene.setSure(box.checked);
        this.onSure();
      },
      { signal: scene.view.signal },
    );
    const title =
      "Lifts that chance explains are hidden: documents as the unit, false discoveries below 5 %";
    return h("label", { title }, box, "more than chance");
  }
}
