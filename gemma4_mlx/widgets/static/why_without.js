/* The answer again without some parts, beside the answer as it is. */

import { answersCompared } from "./answers.js";
import { h } from "./dom.js";
import { partKey } from "./why_parts.js";
import { questionKey } from "./why_values.js";
import { partName } from "./why_words.js";

const TOKENS = 24; // of each answer

export class Without {
  #parts = new Map(); // key -> part
  #chips = h("div", { class: "g4-changes" });
  #result = h("div", { class: "g4-result" });
  #key = "";
  #run = 0;
  node = h(
    "section",
    { class: "g4-panel g4-section", "aria-label": "Without these parts", hidden: true },
    h("h4", { class: "g4-subtitle" }, "Without these parts"),
    this.#chips,
    this.#result,
  );

  /**
   * @param {WhyScene} scene
   * @param {object} o
   * @param {() => void} o.onChange what is taken away has changed
   * @param {(token: number) => string | null} o.textOf
   */
  constructor(scene, { onChange, textOf }) {
    Object.assign(this, { scene, onChange, textOf });
  }

  /** Keys of what is taken away. */
  get removed() {
    return new Set(this.#parts.keys());
  }

  /** Take a part away, or put it back. */
  toggle(part) {
    const key = partKey(part);
    if (!this.#parts.delete(key)) this.#parts.set(key, part);
    this.#changed();
  }

  /** Another question is shown: everything is back, or what a page without a kernel has of it. */
  draw() {
    const { question, model } = this.scene;
    const key = questionKey(question);
    if (key === this.#key) return;
    this.#key = key;
    this.#parts.clear();
    this.#run++;
    this.node.hidden = true;
    if (model.isStatic) this.#drawTried(key);
  }

  #changed() {
    const first = this.node.hidden;
    this.node.hidden = !this.#parts.size;
    if (first) this.node.scrollIntoView?.({ block: "nearest" });
    this.#chips.replaceChildren(
      ...[...this.#parts.values()].map((part) =>
        h(
          "button",
          { type: "button", title: "Put it back", onclick: () => this.toggle(part) },
          `${partName(part)} ✕`,
        ),
      ),
    );
    this.onChange();
    if (this.#parts.size) {
      const parts = [...this.#parts.values()].map((p) => [p.kind, p.layer, p.index]);
      this.#answer({ question: this.scene.question, parts, tokens: TOKENS });
    } else this.#run++;
  }

  async #answer(asked) {
    const mine = ++this.#run;
    const bar = h("progress", { max: 1, value: 0, "aria-label": "Answering again" });
    this.#result.replaceChildren(
      h(
        "p",
        { class: "g4-note", role: "status" },
        "Answering again, and with others removed… ",
        bar,
      ),
    );
    const tell = (share) => {
      bar.value = share;
    };
    const still = () => mine === this.#run;
    try {
      const answer = await this.scene.askPatiently("without", asked, tell, still);
      if (still() && answer)
        this.#result.replaceChildren(...answersCompared(answer.content, this.scene.view));
    } catch (error) {
      if (!still()) return;
      this.#result.replaceChildren();
      this.scene.onError(error);
    }
  }

  /** What was tried in the notebook. */
  #drawTried(key) {
    const tried = this.scene.model
      .asked("without")
      .filter(({ question }) => questionKey(question) === key);
    this.node.hidden = !tried.length;
    if (!tried.length) return;
    const show = (asked) => {
      for (const button of this.#chips.children)
        button.setAttribute(
          "aria-pressed",
          String(button === this.#chips.children[tried.indexOf(asked)]),
        );
      this.#answer(asked);
    };
    this.#chips.replaceChildren(
      ...tried.map((asked) => {
        const names = asked.parts.map(([kind, layer, index]) =>
          partName({ kind, layer, index, text: this.textOf(index) }),
        );
        return h("button", { type: "button", onclick: () => show(asked) }, names.join(", "));
      }),
    );
    show(tried[0]);
  }
}
