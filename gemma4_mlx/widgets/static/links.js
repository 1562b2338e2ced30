/* The strongest weights of one head, as the traced pass found them: a list to unfold. */

import { barCell, bytesOf, floats, fold, table } from "./pieces.js";
import { formatCount, h, perFrame } from "./shared.js";

/**
 * @param {object} o
 * @param {(layer: number) => Promise<{content: any, buffer: DataView}>} o.load
 * @param {(i: number, whenThere: () => void) => string | null} o.nameOf
 * @param {(query: number, key: number) => void} o.onPair @param {(error: Error) => void} o.onError
 */
export function linkList(o) {
  const body = h("div", {}),
    node = fold("Strongest links of this head", body),
    held = new Map();
  let chosen = null;
  node.addEventListener("toggle", () => {
    if (node.open) build().catch(o.onError);
  });

  /** Links of every head of a layer: head -> [query, key, weight], strongest first. */
  function of(layer) {
    if (!held.has(layer))
      held.set(
        layer,
        o
          .load(layer)
          .then(({ content: { heads, count }, buffer }) => {
            const bytes = bytesOf(buffer).slice(),
              size = heads.length * count;
            const places = new Int32Array(bytes.buffer, 0, 2 * size),
              weights = floats(buffer).subarray(2 * size);
            return new Map(
              heads.map((head, k) => [
                head,
                Array.from({ length: count }, (_, j) => [
                  places[k * count + j],
                  places[size + k * count + j],
                  weights[k * count + j],
                ]).filter(([, , weight]) => weight > 0),
              ]),
            );
          })
          .catch((error) => {
            held.delete(layer);
            throw error;
          }),
      );
    return held.get(layer);
  }

  const later = perFrame(() => build().catch(o.onError));
  async function build() {
    if (!node.open || !chosen) return;
    const { layer, head } = chosen,
      found = (await of(layer)).get(head) ?? [];
    if (layer !== chosen?.layer || head !== chosen.head) return;
    const name = (i) =>
      h(
        "span",
        {},
        h("bdi", {}, o.nameOf(i, later) ?? "…"),
        " ",
        h("span", { class: "g4-note" }, formatCount(i)),
      );
    body.replaceChildren(
      table(
        "Strongest links of this head",
        ["From", "To", "#Weight"],
        found.map(([query, key, weight]) => {
          const button = h(
            "button",
            {
              type: "button",
              class: "g4-quiet g4-wordlink",
              title: "Show this pair on the map",
              onclick: () => o.onPair(query, key),
            },
            name(query),
          );
          return h(
            "tr",
            {},
            h("th", { scope: "row" }, button),
            h("td", {}, name(key)),
            barCell(weight, weight.toFixed(3)),
          );
        }),
      ),
      h(
        "p",
        { class: "g4-note" },
        found.length
          ? "At most one for a query; no token's look at itself or at the first token."
          : "No weight beside those on the token itself and on the first token.",
      ),
    );
  }

  return {
    node,
    /** @param {boolean} there  whether links of this layer can be asked for */
    choose(layer, head, there) {
      chosen = there ? { layer, head } : null;
      node.hidden = !there;
      if (there) build().catch(o.onError);
    },
  };
}
