/* The bar above the Routing view's map: grouping, colours, order, filter, layer. */

import { h } from "./dom.js";
import { liftFilter } from "./expertfilter.js";
import { picker, segmented } from "./pieces.js";

const VIEWS = [
  ["purpose", "What for", "The group of tokens that each expert is most clearly for"],
  ["load", "Load", "The share of the tokens that each expert worked on, over the even load"],
  ["lift", "Lift", "How much more each expert works on one group of tokens than on all"],
];
const ORDERS = [
  ["purpose", "what for"],
  ["load", "load"],
  ["lift", "lift"],
  ["number", "number"],
];
const TEXTS = [
  ["map", "all its experts"],
  ["expert", "the chosen expert"],
];

export class RoutingControls {
  /**
   * @param {RoutingScene} scene
   * @param {object} o
   * @param {(layer: number) => void} o.onLayer
   * @param {() => void} o.onGrouping another grouping of the tokens
   * @param {() => void} o.onView other colours, and another order
   * @param {() => void} o.onOrder
   * @param {() => void} o.onFilter
   * @param {() => void} o.onText
   */
  constructor(scene, o) {
    Object.assign(this, { scene, ...o });
    const { now, layers, meta } = scene;
    const layerChoices = layers.map((layer) => [String(layer), `${layer}`]);
    this.layer = picker("Layer", layerChoices, String(now.layer), (value) =>
      this.onLayer(Number(value)),
    );
    const groupings = meta.groupings.map((by) => [by, by]);
    if (meta.atlas) groupings.push(["label", "atlas label"]);
    this.by = picker("Tokens by", groupings, now.by, (value) => {
      now.by = value;
      now.group = now.filter.group = 0;
      this.onGrouping();
    });
    this.views = segmented("Colour", VIEWS, now.view, (value) => this.setView(value));
    this.group = picker("for", [], "", (value) => this.setView("lift", Number(value)));
    this.order = picker("Order", ORDERS, now.order, (value) => {
      now.order = value;
      this.onOrder();
    });
    this.text = picker("Text by", TEXTS, now.text, (value) => {
      now.text = value;
      this.onText();
    });
    this.group.node.hidden = true;
    this.filter = liftFilter(scene, "Group of the filter", () => this.onFilter());
    this.filterGroup = this.filter.group;
    this.node = this.#build();
  }

  showLayer() {
    this.layer.select.value = String(this.scene.now.layer);
  }

  /** Another table has other groups. */
  fillGroups() {
    const { now, table } = this.scene;
    for (const [select, value] of [
      [this.group.select, now.group],
      [this.filterGroup, now.filter.group],
    ]) {
      select.replaceChildren(...table.groups.map((g, i) => h("option", { value: i }, g.name)));
      select.value = String(value);
    }
  }

  /** @param {string} view "purpose", "load" or "lift"; its order comes with it */
  setView(view, group = this.scene.now.group) {
    const { now } = this.scene;
    Object.assign(now, { view, group, order: view === "purpose" ? "purpose" : "load" });
    if (view === "lift") {
      now.order = "lift";
      now.filter.group = group;
      this.filterGroup.value = String(group);
    }
    this.group.select.value = String(group);
    this.#showView();
    this.onView();
  }

  /** Other traces have another view: "difference" where two are compared. */
  showTraces() {
    const { now } = this.scene;
    const both = now.which === "b-a";
    now.view = both ? "difference" : "purpose";
    now.order = both ? "load" : "purpose";
    this.#showView();
  }

  #showView() {
    const { now } = this.scene;
    this.views.set(now.view);
    this.order.select.value = now.order;
    this.group.node.hidden = now.view !== "lift";
  }

  #build() {
    return h(
      "div",
      { class: "g4-toolbar g4-expertbar g4-routingbar" },
      this.by.node,
      this.views.node,
      this.group.node,
      this.order.node,
      this.filter.node,
      this.layer.node,
      this.text.node,
    );
  }
}
