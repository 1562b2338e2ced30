/* What is said of the chosen head: its name, its numbers, its strongest links, and one sentence
 * where single weights are not at hand, with a way to them where the model is. */

import { cellLength } from "./attention_words.js";
import { h } from "./dom.js";
import { LinkList } from "./links.js";
import { counted } from "./onetoken.js";
import { formatCount } from "./words.js";

export class HeadSummary {
  title = h("h4", { class: "g4-subtitle" });
  numbers = h("div", { class: "g4-summary g4-note" });
  why = h("p", { class: "g4-note g4-coarse" });

  /**
   * @param {AttentionScene} scene
   * @param {object} o
   * @param {(token: number, whenThere: () => void) => string | null} o.nameOf
   * @param {(query: number, key: number) => void} o.onPair a link was chosen
   */
  constructor(scene, { nameOf, onPair }) {
    this.scene = scene;
    this.links = new LinkList({
      load: (layer) => scene.ask("links", { layer }),
      nameOf,
      onError: scene.onError,
      onPair,
    });
  }

  build() {
    const { scene } = this;
    const { layer, now, heads, model } = scene;
    const kind = layer.kind === "full" ? "full" : `sliding, window ${formatCount(layer.window)}`;
    const donor = `keys and values of layer ${layer.donor}`;
    this.title.replaceChildren(
      `Layer ${now.layer}, head ${now.head}`,
      h("span", { class: `g4-kind g4-kind-${layer.kind}` }, kind),
      layer.donor === null ? "" : h("span", { class: "g4-shared" }, donor),
    );
    const recorded = () => model.recorded({ type: "links", layer: now.layer });
    this.links.choose(now.layer, now.head, layer.links && (!scene.isStatic || recorded()));
    const index = heads.indexOf(now.layer, now.head);
    const told = heads.names.map((name) => `${heads.words.get(name)} ${heads.say(name, index)}`);
    this.numbers.textContent = told.join(" · ");
    this.sayWhy();
  }

  /** A page without a kernel has no more of this head than its small picture. */
  async saySmall() {
    const { pictures, now, meta } = this.scene;
    const picture = await pictures.values(now);
    const cell = meta.n / picture.rows;
    if (cell === 1 && picture.axis === "keys") return; // nothing is missing
    const size = `${picture.rows} × ${picture.columns} cells`;
    this.why.textContent =
      `This page holds this head as a picture of ${size}, each of about ${cellLength(cell)} ` +
      "queries. The notebook has all of it.";
    this.why.hidden = false;
  }

  async sayWhy() {
    const { scene, why } = this;
    const { layer, head } = scene.now;
    const running = scene.model.get("computing") ?? {};
    why.hidden = !running.total;
    if (running.total) {
      why.replaceChildren(...progressOf(running));
      return;
    }
    if (scene.isStatic || scene.layer.kept.includes(head)) return;
    const still = scene.still("layer", "head");
    try {
      const { content } = await scene.ask("why", { layer, head });
      if (!still() || !content.why) return;
      const failed = running.error && running.layer === layer;
      why.replaceChildren(
        failed ? running.error : content.why,
        content.state === "on demand" ? this.#computeButton(layer) : "",
      );
      why.hidden = false;
    } catch (error) {
      scene.onError(error);
    }
  }

  #computeButton(layer) {
    const onclick = () => this.scene.ask("compute", { layer }).catch(this.scene.onError);
    return h("button", { type: "button", onclick }, `Compute layer ${layer}`);
  }
}

function progressOf({ layer, done, total }) {
  const tokens = `${formatCount(done)} of ${counted(total)}`;
  return [
    `The model reads the prompt up to layer ${layer}: ${tokens}.`,
    h("progress", { max: total, value: done }),
  ];
}
