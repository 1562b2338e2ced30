/* The bytes of one plan side by side, against what a model may use and what the machine has. */

import { h } from "./dom.js";

export const GIB = 2 ** 30;
const WIDTH_OF_BAR = 1000; // units of the drawing

/** @param {number} bytes */
export function gib(bytes) {
  if (bytes < 0.1 * GIB) return `${Math.round(bytes / 2 ** 20)} MiB`;
  return `${(bytes / GIB).toFixed(bytes < 10 * GIB ? 2 : 1)} GiB`;
}

export class FitBar {
  node = h("svg", { class: "g4-stack", viewBox: "0 0 1000 92", role: "img" });

  clear() {
    this.node.replaceChildren();
  }

  /**
   * @param {Array<{ name: string, color: string, size: number }>} parts
   * @param {{ usable: number, total: number, memory: number }} bytes
   */
  draw(parts, { usable, total, memory }) {
    const high = Math.max(memory, total) * 1.01;
    const x = (bytes) => (bytes / high) * WIDTH_OF_BAR;
    const ground = { x: 0, y: 28, width: x(memory), height: 36, rx: 4, fill: "var(--g4-sunken)" };
    const end = { x: WIDTH_OF_BAR - 2, "text-anchor": "end" };
    const beside = memory < 0.7 * high ? end : { x: 2 };
    this.node.replaceChildren(
      h("rect", ground),
      ...pieces(parts, x),
      ...mark(x(usable), `usable by a model ${gib(usable)}`, "var(--g4-bad)", 18),
      ...mark(x(memory), `memory ${gib(memory)}`, "var(--g4-line-strong)", 82),
      h("text", { ...beside, y: 82, class: "g4-faint" }, `needs ${gib(total)}`),
    );
    const there = `${gib(usable)} usable and ${gib(memory)} of memory`;
    this.node.setAttribute("aria-label", `${gib(total)} needed of ${there}`);
  }
}

function pieces(parts, x) {
  let before = 0;
  return parts.map(({ name, color, size }) => {
    const width = Math.max(0.4, x(size));
    const piece = { class: "g4-piece", x: x(before), y: 28, width, height: 36, fill: color };
    before += size;
    return h("rect", piece, h("title", {}, `${name}: ${gib(size)}`));
  });
}

/** A line with its words on the side where there is room. */
function mark(x, text, colour, y) {
  const words = x > 220 ? { x: x - 5, "text-anchor": "end" } : { x: x + 5 };
  return [
    h("line", { x1: x, x2: x, y1: 22, y2: 70, stroke: colour, "stroke-width": 2 }),
    h("text", { ...words, y, class: "g4-faint" }, text),
  ];
}
