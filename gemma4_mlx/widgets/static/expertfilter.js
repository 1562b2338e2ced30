/* "only above 2 × for", and a group: which experts the map and the list show. */

import { h } from "./dom.js";

/** Whatever of it is changed turns it on.
 * @param {{now: any, view: View}} scene its `now.filter` is set
 * @param {string} name of the select of groups @param {() => void} onFilter
 * @returns {{node: HTMLElement, group: HTMLSelectElement}} */
export function liftFilter({ now, view }, name, onFilter) {
  const { signal } = view;
  const on = h("input", { type: "checkbox", "aria-label": "Only experts above a lift" });
  const above = h("input", {
    type: "number",
    min: 1,
    max: 50,
    step: 0.5,
    value: 2,
    "aria-label": "Least lift",
  });
  const group = h("select", { "aria-label": name });
  for (const input of [on, above, group]) {
    const changed = () => {
      if (input !== on) on.checked = true;
      now.filter = {
        on: on.checked,
        above: Math.max(0, Number(above.value) || 0),
        group: Number(group.value) || 0,
      };
      onFilter();
    };
    input.addEventListener("change", changed, { signal });
  }
  const label = h("label", {}, on, "only above");
  const unit = h("span", { class: "g4-note" }, "× for");
  return { node: h("span", { class: "g4-filter" }, label, above, unit, group), group };
}
