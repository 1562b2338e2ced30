/* What the parts of the Why view share: the conversation, the question, and what is known of it. */

import { patient, request } from "./kernel.js";
import { partColor } from "./pieces.js";
import { decodeExplanation, questionKey } from "./why_values.js";

export class WhyScene {
  /** @type {any} the explanation that is drawn (why_values.js); null until there is one */
  shown = null;
  /** @type {any[]} of each token of the answer [text, id, probability, others]; empty at first */
  row = [];
  #known = new Map();
  #wanted = null;
  #patiently = patient((type, args) => this.ask(type, args));

  /**
   * @param {Model} model
   * @param {View} view
   * @param {(error: Error) => void} onError
   */
  constructor(model, view, onError) {
    Object.assign(this, { model, view, onError });
    this.ink = view.ink();
  }

  get meta() {
    return this.model.get("meta");
  }

  /** What is asked: {position, target, against, method, stop}. */
  get question() {
    return this.model.get("question");
  }

  get n() {
    return this.meta.n;
  }

  get media() {
    return this.meta.media;
  }

  get parts() {
    return this.meta.parts.map((part) => ({ ...part, colour: partColor(part.role) }));
  }

  ask(type, args = {}) {
    return request(this.model, type, args, { signal: this.view.signal });
  }

  /** As `ask`, for what takes seconds. */
  askPatiently(type, args, tell, wanted) {
    return this.#patiently(type, args, tell, wanted);
  }

  /** Why the token at a position came, or with a `stop` the tokens up to it, and nothing else. */
  questionAt(position, stop = null) {
    const [, id] = this.row[position - this.meta.answer[0]] ?? [];
    const { method } = this.question;
    return { position, target: stop === null ? (id ?? null) : null, against: null, method, stop };
  }

  /** Whether a question's answer is at hand, or can be computed. */
  canAsk(question) {
    if (this.#known.has(questionKey(question))) return true;
    return this.model.isStatic
      ? this.model.recorded({ type: "explain", ...question })
      : this.meta.live || question.position === this.question.position;
  }

  /** What is shown when a token of the answer is pointed at, or null if nothing can be. */
  questionFor(position) {
    const plain = this.questionAt(position);
    if (this.canAsk(plain)) return plain;
    return position === this.question.position ? this.question : null;
  }

  isKnown(question) {
    return this.#known.has(questionKey(question));
  }

  /**
   * The explanation of a question, or null if another was asked for meanwhile.
   * @param {any} question
   * @param {(share: number) => void} tell
   */
  async explain(question, tell) {
    this.#wanted = question;
    const key = questionKey(question);
    const still = () => this.#wanted === question;
    if (!this.#known.has(key)) {
      const answer = await this.askPatiently("explain", question, tell, still);
      if (!answer || "running" in answer.content) return null;
      this.#known.set(key, decodeExplanation(answer));
    }
    return still() ? this.#known.get(key) : null;
  }
}
