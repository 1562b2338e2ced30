/* The plan: every block of the model side by side, area to scale, with its parts one above the
 * other. Below stand the layers' kinds and names, above it arcs to the layers whose keys are read.
 */

import { attentionWords, PART_COLORS } from "./anatomy_words.js";
import { h } from "./dom.js";
import { formatPercent } from "./words.js";

const WIDTH = 1000; // units of the drawing
const TOP = 74;
const HEIGHT = 190;
const FLOOR = TOP + HEIGHT;
const LETTER = 7; // width of one, about
const ROOM = 22; // between the middles of two layers' names

/** A name below the plan. */
const label = (x, y, text, attributes = {}) =>
  h("text", { x, y, "font-size": 12, class: "g4-faint", ...attributes }, text);

export class AnatomyPlan {
  node = h("svg", {
    class: "g4-plan",
    role: "group",
    "aria-label": "Blocks of the model, area by size. Arrow keys move, Enter chooses.",
    viewBox: `0 0 ${WIDTH} ${FLOOR + 60}`,
  });

  /**
   * @param {object} o
   * @param {any} o.meta
   * @param {() => { block: string, part: string }} o.chosen
   * @param {(chosen: { block: string, part: string }) => void} o.onPick
   * @param {(value: number) => string} o.amount a size in words
   * @param {(text: string) => void} o.say
   * @param {AbortSignal} o.signal
   */
  constructor({ meta, chosen, onPick, amount, say, signal }) {
    Object.assign(this, { meta, chosen, onPick, amount, say });
    this.node.addEventListener("click", (event) => this.#pick(event.target), { signal });
    this.node.addEventListener("keydown", (event) => this.#pressKey(event), { signal });
  }

  /** @param {"params" | "bytes"} unit what area shows @param {number} whole of the model */
  draw(unit, whole) {
    const bodies = h("g");
    const labels = h("g");
    const middles = new Map(); // layer -> x
    const ends = { layer: -99, below: 0 }; // where the last names are
    let x = 0;
    for (const block of this.meta.blocks) {
      const size = block.parts.reduce((sum, part) => sum + part[unit], 0);
      const wide = (WIDTH * size) / whole;
      bodies.append(this.#column(block, { x, wide, size, unit, whole }));
      if (block.layer !== null) {
        middles.set(block.layer, x + wide / 2);
        labels.append(...this.#layerLabel(block, x, wide, ends));
      } else labels.append(...this.#blockLabel(block, x, wide, ends));
      x += wide;
    }
    const arcs = this.#arcs(middles);
    this.node.replaceChildren(h("g", {}, ...arcs), bodies, labels);
    const words = "Arcs: layers that read another layer's keys and values";
    if (arcs.length) this.node.append(label(0, 14, words));
  }

  #blockName(block) {
    return block.layer === null ? this.meta.names[block.parts[0].part] : `Layer ${block.layer}`;
  }

  #isChosen(block, part) {
    const chosen = this.chosen();
    return chosen.block === block.id && chosen.part === part.part;
  }

  #column(block, { x, wide, size, unit, whole }) {
    const column = h("g");
    let y = TOP;
    for (const part of block.parts) {
      const high = (HEIGHT * part[unit]) / size;
      const on = this.#isChosen(block, part);
      const share = formatPercent(part[unit] / whole);
      const what = `${this.#blockName(block)}, ${this.meta.names[part.part]}`;
      const name = `${what}: ${this.amount(part[unit])}, ${share}`;
      const segment = {
        class: "g4-segment",
        x,
        y,
        width: Math.max(0.5, wide),
        height: Math.max(0.5, high),
        fill: PART_COLORS[part.part],
        role: "button",
        tabindex: on ? 0 : -1,
        "aria-label": name,
        "aria-pressed": String(on),
        "data-block": block.id,
        "data-part": part.part,
      };
      column.append(h("rect", segment, h("title", {}, name)));
      y += high;
    }
    return column;
  }

  /** A rule in the colour of the layer's kind, and its name where there is room. */
  #layerLabel(block, x, wide, ends) {
    const fact = this.meta.layers[block.layer];
    const full = fact.kind === "full";
    const rule = {
      x: x + 1,
      y: FLOOR + 4,
      width: Math.max(1, wide - 2),
      height: 5,
      fill: full ? "var(--g4-accent)" : "var(--g4-line)",
    };
    const title = `Layer ${fact.layer}: ${attentionWords(fact)}`;
    const drawn = [h("rect", rule, h("title", {}, title))];
    const middle = x + wide / 2;
    if (middle - ends.layer > ROOM) {
      ends.layer = middle;
      const style = { "text-anchor": "middle", class: full ? null : "g4-faint" };
      drawn.push(label(middle, FLOOR + 24, `L${block.layer}`, style));
    }
    return drawn;
  }

  /** A name wider than its block stands in a row of its own below, with a line to the block. */
  #blockLabel(block, x, wide, ends) {
    const words = block.id === "output" ? "Output" : this.#blockName(block);
    const long = words.length * LETTER;
    const middle = x + wide / 2;
    if (wide > long) {
      ends.layer = middle;
      return [label(middle, FLOOR + 24, words, { "text-anchor": "middle" })];
    }
    const start = Math.max(ends.below, Math.min(middle - 4, WIDTH - long));
    ends.below = start + long + 12;
    const down = `M ${middle} ${FLOOR + 2} L ${middle} ${FLOOR + 30}`;
    const line = {
      d: `${down} L ${Math.max(middle, start + 4)} ${FLOOR + 40}`,
      fill: "none",
      stroke: "var(--g4-line-strong)",
    };
    return [h("path", line), label(start, FLOOR + 52, words)];
  }

  /**
   * From each layer to the one whose keys and values it reads.
   * @param {Map<number, number>} middles
   */
  #arcs(middles) {
    const { block } = this.chosen();
    return this.meta.layers
      .filter(({ donor }) => donor !== null)
      .map(({ layer, donor }) => {
        const a = middles.get(donor);
        const b = middles.get(layer);
        const top = TOP - Math.min(58, 16 + Math.abs(b - a) * 0.22) * 1.3;
        const on = [`layer${layer}`, `layer${donor}`].includes(block);
        const arc = {
          class: on ? "g4-arc g4-on" : "g4-arc",
          d: `M ${a} ${TOP - 2} C ${a} ${top}, ${b} ${top}, ${b} ${TOP - 2}`,
        };
        const title = `Layer ${layer} reads the keys and values of layer ${donor}`;
        return h("path", arc, h("title", {}, title));
      });
  }

  #pick(node) {
    if (!node?.dataset?.block) return;
    const focused = document.activeElement === node;
    this.onPick({ block: node.dataset.block, part: node.dataset.part });
    if (focused) this.node.querySelector('[aria-pressed="true"]')?.focus();
  }

  #pressKey(event) {
    const nodes = [...this.node.querySelectorAll(".g4-segment")];
    const at = nodes.indexOf(document.activeElement);
    if (at < 0) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.#pick(document.activeElement);
      return;
    }
    const to = {
      ArrowDown: () => nodes[at + 1],
      ArrowUp: () => nodes[at - 1],
      ArrowRight: () => this.#beside(nodes, nodes[at], 1),
      ArrowLeft: () => this.#beside(nodes, nodes[at], -1),
    }[event.key]?.();
    if (!to) return;
    event.preventDefault();
    nodes[at].tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
    this.say(to.getAttribute("aria-label"));
  }

  /** The same part of a block beside, or that block's first one. */
  #beside(nodes, node, step) {
    const ids = this.meta.blocks.map((block) => block.id);
    const next = ids[ids.indexOf(node.dataset.block) + step];
    const inNext = nodes.filter((each) => each.dataset.block === next);
    return inNext.find((each) => each.dataset.part === node.dataset.part) ?? inNext[0];
  }
}
