/* The colour scale below the map of one head, with the tone of what no query may see. */

import { scaleEnds, shortNumber } from "./attention_words.js";
import { sizeCanvas } from "./canvas.js";
import { colorAt } from "./colours.js";
import { h } from "./dom.js";

const WIDTH = 224; // css pixels
const BAR = 150;

export class MapLegend {
  node = h("canvas", { class: "g4-legend", role: "img" });
  #shown = "";

  /** @param {AttentionScene} scene */
  constructor(scene) {
    this.scene = scene;
  }

  /** Draw again next time, whatever is shown. */
  forget() {
    this.#shown = "";
  }

  /** @param {{ low: number, high: number }} range weights at the ends */
  draw(range) {
    const { now, pixels, ink } = this.scene;
    const [low, high] = scaleEnds(now.scale, range);
    const wanted = `${low} ${high} ${pixels.name}`;
    if (wanted === this.#shown) return;
    this.#shown = wanted;
    const context = sizeCanvas(this.node, WIDTH, 30);
    context.clearRect(0, 0, WIDTH, 30);
    for (let x = 0; x < BAR; x++) {
      context.fillStyle = colorAt(pixels.table, x / (BAR - 1));
      context.fillRect(x, 0, BAR - x, 10); // the rest is drawn over: no seams
    }
    context.fillStyle = ink.text;
    context.font = `12px ${ink.font}`;
    context.textBaseline = "top";
    context.textAlign = "left";
    context.fillText(low, 0, 14);
    context.textAlign = "right";
    context.fillText(high, BAR, 14);
    context.fillStyle = ink.masked;
    context.fillRect(162, 0, 12, 10);
    context.strokeStyle = ink.line;
    context.strokeRect(162.5, 0.5, 11, 9);
    context.fillStyle = ink.text;
    context.textAlign = "left";
    context.fillText("masked", 160, 14);
    const ends = `from ${shortNumber(range.low)} to ${shortNumber(range.high)}`;
    this.node.setAttribute("aria-label", `Colour scale, ${now.scale}, ${ends}`);
  }
}
