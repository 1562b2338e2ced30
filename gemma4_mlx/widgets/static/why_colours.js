/* The text in the colours of its shares: orange spoke for the token, blue against it. */

import { sizeCanvas } from "./canvas.js";
import { cssOf, diverging } from "./colours.js";
import { h } from "./dom.js";
import { signed } from "./why_words.js";
import { formatCount } from "./words.js";

const FAINTEST = 0.01; // of the largest share; below it a token has no colour
const BAR = 150; // css pixels of the legend
const STOPS = 40; // colours of its scale

/** CSS colour of a share: `v` of the largest, -1 to 1. */
export const shareColour = (v, ink, alpha = 1) => cssOf(diverging(Math.sign(v), ink.dark), alpha);

/** How strongly a share shows, 0 to 1: by its root, so that a tenth of the largest is seen. */
export const strengthOf = (v) => Math.sqrt(Math.abs(v));

export class ShareColours {
  grey = true; // pictures are drawn without most of their own colour

  /** @param {WhyScene} scene */
  constructor(scene) {
    this.scene = scene;
  }

  #of(token) {
    const { positions, high } = this.scene.shown ?? {};
    return positions && high ? positions[token] / high : 0;
  }

  /** Whether a token is explained, or part of what is. */
  #isExplained(token) {
    const { position, stop } = this.scene.shown ?? {};
    return token >= position && token < stop;
  }

  /** CSS colour of a token; `onPicture`: over a patch of a picture. */
  background(token, onPicture) {
    if (this.#isExplained(token)) return this.scene.ink.zero;
    const v = this.#of(token);
    if (Math.abs(v) < FAINTEST) return null;
    return shareColour(v, this.scene.ink, onPicture ? 1 : 0.62 * strengthOf(v));
  }

  /** What came after the explained token had no part in it. */
  text(token) {
    const { accent, faint } = this.scene.ink;
    if (this.#isExplained(token)) return accent;
    return token >= this.scene.shown?.stop ? faint : null;
  }

  alpha(token) {
    return 0.8 * strengthOf(this.#of(token));
  }

  title(token) {
    const share = this.scene.shown?.positions?.[token];
    const place = `token ${formatCount(token)}`;
    if (this.#isExplained(token)) return `${place} · explained`;
    return share === undefined ? place : `${place} · share ${signed(share)}`;
  }

  /** CSS colour of a stretch of the text: that of its largest share. */
  stretch(start, stop) {
    const { positions, high } = this.scene.shown ?? {};
    if (!positions || !high) return null;
    let most = 0;
    for (let i = start; i < Math.min(stop, positions.length); i++)
      if (Math.abs(positions[i]) > Math.abs(most)) most = positions[i];
    const v = most / high;
    if (Math.abs(v) < FAINTEST) return null;
    return shareColour(v, this.scene.ink, 0.25 + 0.75 * strengthOf(v));
  }
}

/** The scale below the text. */
export class ShareLegend {
  canvas = h("canvas", { role: "img" });
  node = h("div", { class: "g4-sharelegend" }, this.canvas);

  /** @param {Ink} ink @param {number} high the largest share, 0 for none */
  draw(ink, high) {
    this.node.hidden = !high;
    if (!high) return;
    const context = sizeCanvas(this.canvas, BAR + 130, 34);
    context.clearRect(0, 0, BAR + 130, 34);
    const scale = context.createLinearGradient(65, 0, 65 + BAR, 0);
    for (let i = 0; i <= STOPS; i++) {
      const v = (2 * i) / STOPS - 1;
      scale.addColorStop(i / STOPS, shareColour(v, ink, strengthOf(v)));
    }
    context.fillStyle = scale;
    context.fillRect(65, 3, BAR, 10);
    context.font = `12px ${ink.font}`;
    context.fillStyle = ink.text;
    context.textBaseline = "top";
    context.textAlign = "left";
    context.fillText("against", 0, 1);
    context.fillText("for", 65 + BAR + 8, 1);
    context.textAlign = "center";
    [-high, 0, high].forEach((v, i) => {
      context.fillText(signed(v), 65 + (i * BAR) / 2, 18);
    });
    this.canvas.setAttribute(
      "aria-label",
      `Shares from ${signed(-high)}, blue, to ${signed(high)}, orange, in logits`,
    );
  }
}
