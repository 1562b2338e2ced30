/* The chosen token's weights as colours over the text. */

import { shadeOf } from "./attention_words.js";
import { colorAt, colorMaps } from "./colours.js";
import { weightText } from "./onetoken.js";
import { markColour } from "./pieces.js";
import { formatCount } from "./words.js";

const FAINTEST = 0.01; // shade below which nothing is drawn

export class WeightColours {
  /**
   * @param {AttentionScene} scene
   * @param {() => { weights: Float32Array | null, peak: number }} weights of the chosen token
   */
  constructor(scene, weights) {
    Object.assign(this, { scene, weights });
  }

  /** CSS colour of a token; `onPicture`: over a patch of a picture. */
  background(token, onPicture) {
    const shade = this.#shadeOf(token, token + 1);
    if (shade <= FAINTEST) return null;
    return onPicture ? colorAt(colorMaps.viridis, shade) : this.#mark(0.08 + 0.72 * shade);
  }

  /** CSS colour of a stretch of the text, the strongest weight in it. */
  stretch(start, stop) {
    const shade = this.#shadeOf(start, stop);
    return shade > FAINTEST ? this.#mark(0.1 + 0.9 * shade) : null;
  }

  title(token) {
    const { weights } = this.weights();
    return `${formatCount(token)}${weights ? `: weight ${weightText(weights[token] ?? 0)}` : ""}`;
  }

  #mark(alpha) {
    return `rgba(${markColour(this.scene.ink).join()},${alpha.toFixed(3)})`;
  }

  #shadeOf(start, stop) {
    const { weights, peak } = this.weights();
    if (!weights || !peak) return 0;
    const { sink, scale } = this.scene.now;
    let most = 0;
    for (let i = sink ? Math.max(1, start) : start; i < Math.min(stop, weights.length); i++)
      most = Math.max(most, weights[i]);
    return most > 0 ? shadeOf(scale, most, peak) : 0;
  }
}
