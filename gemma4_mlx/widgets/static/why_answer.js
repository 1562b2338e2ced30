/* The answer's tokens: point at one and it is explained; below them what else could have come. */

import { h } from "./dom.js";
import { barCell, table } from "./pieces.js";
import { formatPercent, visibleToken } from "./words.js";

const DRAWN = 400; // tokens drawn at once; the rest on request
const REST = 150; // milliseconds that a pointer rests before something is computed

export class AnswerRow {
  #flow = h("div", {
    class: "g4-whyflow",
    role: "group",
    dir: "auto",
    "aria-label": "Tokens of the answer; arrow keys move, Enter chooses, with Shift a span",
  });
  #more = h(
    "button",
    { type: "button", hidden: true, onclick: () => this.#drawMore() },
    "Show more tokens",
  );
  #limit = DRAWN;
  #shown = null;
  #timer = 0;

  /**
   * @param {WhyScene} scene
   * @param {object} o
   * @param {(position: number) => void} o.onPoint look at a token while it is pointed at
   * @param {() => void} o.onLeave
   * @param {(position: number, stop: number | null) => void} o.onPick a token, or a span of them
   */
  constructor(scene, { onPoint, onLeave, onPick }) {
    Object.assign(this, { scene, onPoint, onLeave, onPick });
    this.node = h("div", {}, this.#flow, this.#more);
    const flow = this.#flow;
    flow.addEventListener("pointerover", (event) => this.#pointAt(this.#at(event)));
    flow.addEventListener("pointerleave", () => {
      clearTimeout(this.#timer);
      if (!flow.contains(document.activeElement)) this.onLeave();
    });
    flow.addEventListener("focusin", (event) => this.#pointAt(this.#at(event)));
    flow.addEventListener("focusout", (event) => {
      if (!flow.contains(event.relatedTarget)) this.onLeave();
    });
    flow.addEventListener("click", (event) => {
      const at = this.#at(event);
      if (at !== null) this.#pick(at, event.shiftKey);
    });
    flow.addEventListener("keydown", (event) => this.#pressKey(event));
  }

  #at(event) {
    const at = event.target.closest?.("[data-at]:not([aria-disabled])")?.dataset.at;
    return at === undefined ? null : Number(at);
  }

  /** With Shift the span from the chosen token to this one. */
  #pick(at, extend) {
    clearTimeout(this.#timer);
    const { position } = this.scene.question;
    const span = extend && at !== position;
    if (span) this.onPick(Math.min(at, position), Math.max(at, position) + 1);
    else this.onPick(at, null);
  }

  /** At once what is known; what has to be computed when the pointer rests. */
  #pointAt(at) {
    clearTimeout(this.#timer);
    if (at === null || at === this.#shown) return;
    const known = this.scene.isKnown(this.scene.questionFor(at));
    this.#timer = setTimeout(() => this.onPoint(at), known ? 0 : REST);
  }

  #pressKey(event) {
    const items = [...this.#flow.querySelectorAll("button:not([aria-disabled])")];
    const here = items.indexOf(event.target);
    const places = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 };
    const rtl = getComputedStyle(event.target.parentElement).direction === "rtl";
    const across = event.key === "ArrowLeft" || event.key === "ArrowRight";
    const step = places[event.key] * (rtl && across ? -1 : 1);
    const to = { Home: 0, End: items.length - 1 }[event.key] ?? here + step;
    if (!items[to]) return;
    event.preventDefault();
    event.stopPropagation();
    if (items[here]) items[here].tabIndex = -1;
    items[to].tabIndex = 0;
    items[to].focus();
  }

  draw() {
    const { scene } = this;
    const [start] = scene.meta.answer;
    const focused = this.#flow.contains(document.activeElement)
      ? document.activeElement.dataset.at
      : null;
    const shown = scene.row.slice(0, Math.max(this.#limit, scene.question.position - start + 1));
    this.#flow.replaceChildren(
      ...shown.flatMap(([text, , probability], k) => this.#token(start + k, text, probability)),
    );
    this.#more.hidden = shown.length >= scene.row.length;
    this.mark();
    if (focused) this.#flow.querySelector(`[data-at="${focused}"]`)?.focus();
  }

  #token(at, text, probability) {
    const can = this.scene.questionFor(at) !== null;
    const chance = probability === null ? "" : `, ${formatPercent(probability)}`;
    const name = text === null ? "the next token" : `“${visibleToken(text)}”${chance}`;
    const node = h(
      "button",
      {
        type: "button",
        class: text === null ? "g4-whytoken g4-next" : "g4-whytoken",
        dataset: { at },
        tabIndex: -1,
        title: can ? `Why ${name}?` : `${name}: not on this page`,
        "aria-label": `Why ${name}?`,
        "aria-disabled": can ? null : "true",
      },
      text === null ? "next?" : visibleToken(text), // no bdi: dir="auto" would not look into it
    );
    if (!can) node.setAttribute("aria-disabled", "true");
    return text?.includes("\n") ? [node, h("br")] : [node];
  }

  #drawMore() {
    this.#limit += 4 * DRAWN;
    this.draw();
  }

  /** Which token is chosen, and which is explained now. */
  mark() {
    const { position, stop } = this.scene.question;
    this.#shown = this.scene.shown?.position ?? null;
    for (const node of this.#flow.querySelectorAll("button")) {
      const at = Number(node.dataset.at);
      const chosen = at >= position && at < (stop ?? position + 1);
      node.setAttribute("aria-pressed", String(chosen));
      node.classList.toggle("g4-looked", at === this.#shown && !chosen);
      node.tabIndex = at === position ? 0 : -1;
    }
  }
}

/** Target and counter-target, among the likeliest tokens at the chosen place. */
export class Alternatives {
  #body = h("div", {});
  #other = h("input", {
    type: "text",
    class: "g4-search",
    placeholder: "another token",
    "aria-label": "Compare with another token, by its text or number",
  });
  node = h("div", { class: "g4-whyothers" }, this.#body);

  /**
   * @param {WhyScene} scene
   * @param {(change: {target?: number | null, against?: number | null}) => void} onChange
   */
  constructor(scene, onChange) {
    Object.assign(this, { scene, onChange });
    this.#other.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && this.#other.value) this.#find().catch(scene.onError);
    });
  }

  async #find() {
    const { content } = await this.scene.ask("token", { text: this.#other.value });
    this.#other.value = "";
    this.#added = { ...this.#added, [content.id]: content.text };
    this.onChange({ against: content.id });
  }

  #added = {}; // tokens that the reader typed: id -> text

  draw() {
    const { scene } = this;
    const { position, target, against, stop } = scene.question;
    const [, id, , others] = scene.row[position - scene.meta.answer[0]] ?? [];
    const rows = this.#rows(scene.row[position - scene.meta.answer[0]], target, against);
    this.node.hidden = !rows.length || stop !== null || (!scene.meta.live && !scene.model.isStatic);
    if (this.node.hidden) return;
    const aim = target ?? id ?? others[0]?.[0];
    this.#body.replaceChildren(
      table(
        "What could have come here",
        ["Token", "#Probability", "Explain it", "Against"],
        rows.map(([token, text, probability]) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, h("bdi", { class: "g4-token" }, visibleToken(text))),
            probability === null
              ? h("td", { class: "g4-number" }, "")
              : barCell(probability, formatPercent(probability)),
            h("td", {}, this.#choice("target", token, text, token === aim)),
            h("td", {}, this.#choice("against", token, text, token === against, token === aim)),
          ),
        ),
      ),
      scene.meta.live && !scene.model.isStatic ? this.#other : "",
    );
  }

  /** The token that stands there, the likeliest, and those that are asked about. */
  #rows(entry, target, against) {
    if (!entry) return [];
    const [text, id, probability, others] = entry;
    const rows = others.map((other) => [...other]);
    const add = (token, name, p = null) => {
      if (!rows.some(([known]) => known === token)) rows.push([token, name, p]);
    };
    if (id !== null) add(id, text, probability);
    const shown = this.scene.shown;
    for (const token of [target, against]) {
      if (token === null) continue;
      const named = [shown?.target, shown?.against].find((side) => side?.[0] === token);
      add(token, this.#added[token] ?? named?.[1] ?? `token ${token}`);
    }
    return rows;
  }

  #choice(side, token, text, pressed, disabled = false) {
    const question = {
      ...this.scene.question,
      [side]: pressed && side === "against" ? null : token,
    };
    const can = !disabled && (pressed || this.scene.canAsk(question));
    const says = side === "target" ? "Why" : "Why not";
    return h(
      "button",
      {
        type: "button",
        class: "g4-quiet",
        "aria-pressed": String(pressed),
        "aria-label": `${says} “${visibleToken(text)}”?`,
        disabled: !can,
        onclick: () => this.onChange({ [side]: question[side] }),
      },
      side === "target" ? "why" : "why not",
    );
  }
}
