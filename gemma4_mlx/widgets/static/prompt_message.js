// One message of the conversation: its parts, its actions, its token view.
import { h, perFrame } from "./dom.js";
import { isSend } from "./prompt_composer.js";
import { copyText, makePart } from "./prompt_parts.js";
import { TokenList } from "./prompt_tokens.js";

const NAMES = { user: "You", assistant: "Model", system: "System" };
const ENDINGS = {
  stopped: "Stopped",
  length: "Reached the longest answer allowed",
  memory: "No memory left to go on",
  thought: "Answered inside its thinking, which it did not close",
  error: "Failed",
};

/** The text of a message, without its thinking and calls. @param {any} turn */
export const textOf = (turn, between = "\n\n") =>
  turn.parts
    .filter((part) => part.kind === "text")
    .map((part) => part.text)
    .join(between);

export class Message {
  #view;
  #act;
  #icons;
  #isBusy;
  #signal;
  #body = h("div", { className: "g4-body" });
  #actions = h("div", { className: "g4-actions" });
  #drawParts = perFrame(() => {
    for (const part of this.#drawnParts) part.draw();
  });
  /** @type {{ kind: string, node: HTMLElement, set(part: any): void, draw(): void }[]} */
  #drawnParts = [];
  #tokens = null;
  #shown = "";

  /**
   * @param {any} context what prompt.js shares
   * @param {any} turn
   * @param {number} index place in the conversation
   */
  constructor(context, turn, index) {
    Object.assign(this, { context, turn, index });
    this.#view = this.context.view;
    this.#act = this.context.act;
    this.#icons = this.context.icons;
    this.#isBusy = this.context.isBusy;
    this.#signal = this.#view.signal;
    this.node = h(
      "article",
      {
        "aria-label": NAMES[this.turn.role] ?? this.turn.role,
        className: `g4-message g4-from-${this.turn.role}`,
      },
      this.turn.role === "user"
        ? null
        : h("div", { className: "g4-who", textContent: NAMES[this.turn.role] ?? this.turn.role }),
      this.#body,
      this.#actions,
    );
    this.update(this.turn, this.index);
  }

  remove() {
    return this.node.remove();
  }

  update(next, at = this.index) {
    const text = JSON.stringify([next, at]);
    if (text === this.#shown) return;
    this.#shown = text;
    // The trait's objects are shared with other views: deltas go into a copy.
    this.turn = structuredClone(next);
    this.index = at;
    this.node.dataset.status = this.turn.status;
    this.turn.parts.forEach((part, i) => {
      if (this.#drawnParts[i]?.kind !== part.kind) {
        this.#drawnParts[i]?.node.remove();
        this.#drawnParts[i] = makePart(this.context, part, this.turn);
        this.#body.insertBefore(this.#drawnParts[i].node, this.#body.children[i] ?? null);
      }
      this.#drawnParts[i].set(part);
      this.#drawnParts[i].draw();
    });
    for (const part of this.#drawnParts.splice(this.turn.parts.length)) part.node.remove();
    this.#showTokens();
    this.#drawActions();
  }

  /** @returns {boolean} false if something is missing in between */
  delta({ part: at, part_kind: kind, at: offset, text, tokens: count }) {
    if (at > this.turn.parts.length) return false;
    if (at === this.turn.parts.length) {
      if (offset !== 0) return false;
      this.turn.parts.push({ kind, text: "" });
      this.#drawnParts[at] = makePart(this.context, this.turn.parts[at], this.turn);
      this.#body.append(this.#drawnParts[at].node);
    }
    const part = this.turn.parts[at];
    if (part.kind !== kind || offset > part.text.length) return false;
    this.#shown = "";
    part.text = part.text.slice(0, offset) + text;
    this.turn.tokens = count ?? this.turn.tokens;
    this.#drawnParts[at].set(part);
    this.#drawParts();
    this.#showTokens();
    return true;
  }

  #drawActions() {
    const focused =
      this.#actions.contains(document.activeElement) && document.activeElement.dataset.action;
    const { turn } = this;
    const items = turn.branches > 1 ? [this.#versions()] : [];
    if (turn.status !== "streaming") items.push(...this.#afterwards());
    if (turn.role === "assistant" && turn.tokens) items.push(this.#tokensButton());
    const ending = ENDINGS[turn.status];
    const kind = turn.status === "error" ? "g4-is-bad" : "g4-is-warn";
    if (ending) items.push(h("span", { className: `g4-chip ${kind}`, textContent: ending }));
    this.#actions.replaceChildren(...items);
    if (focused) this.focusAction(focused);
  }

  #button(name, label, onclick, props = {}) {
    return h(
      "button",
      {
        type: "button",
        className: "g4-quiet g4-action",
        title: label,
        "aria-label": label,
        dataset: { action: name },
        signal: this.#signal,
        onclick,
        ...props,
      },
      this.#icons[name](),
    );
  }

  /** The way to other versions of the message. */
  #versions() {
    const { branch, branches } = this.turn;
    const { isStatic } = this.#view;
    const go = async (step) => {
      await this.#act("branch", { turn: this.index, branch: this.turn.branch + step });
      this.context.focusAction(this.index, step < 0 ? "left" : "right");
    };
    return h(
      "span",
      { className: "g4-branches", role: "group", "aria-label": "Versions of this message" },
      this.#button("left", "Previous version", () => go(-1), {
        disabled: branch === 0 || isStatic,
      }),
      h("span", { className: "g4-note", textContent: `${branch + 1} / ${branches}` }),
      this.#button("right", "Next version", () => go(1), {
        disabled: branch === branches - 1 || isStatic,
      }),
    );
  }

  /** What can be done with a message that is complete. */
  #afterwards() {
    const items = [];
    const text = textOf(this.turn);
    const copy = (event) => copyText(text, event.currentTarget, this.#icons);
    if (text) items.push(this.#button("copy", "Copy", copy));
    if (this.#view.isStatic) return items;
    if (this.turn.editable) items.push(this.#button("edit", "Edit", () => this.#startEdit()));
    const again = () => {
      if (this.#isBusy()) return;
      this.#act("regenerate", { turn: this.index });
      this.context.focusComposer();
    };
    if (this.turn.role === "assistant") items.push(this.#button("again", "Answer again", again));
    return items;
  }

  #tokensButton() {
    const toggle = () => {
      // Remembered by place, so that a new version of the answer shows its tokens, too.
      if (this.#tokens) this.context.openTokens.delete(this.index);
      else this.context.openTokens.add(this.index);
      this.#showTokens();
      this.#drawActions();
    };
    return this.#button("tokens", "Show the tokens and their probabilities", toggle, {
      "aria-pressed": Boolean(this.#tokens),
    });
  }

  /** The keyboard's place is one of this message's buttons, or where one writes if it is gone. */
  focusAction(name) {
    const button =
      this.#actions.querySelector(`[data-action="${name}"]:enabled`) ??
      this.#actions.querySelector("button:enabled");
    if (button) button.focus({ preventScroll: true });
    else this.context.focusComposer();
  }

  #showTokens() {
    const wanted =
      this.context.openTokens.has(this.index) &&
      this.turn.role === "assistant" &&
      this.turn.tokens > 0;
    if (wanted === Boolean(this.#tokens)) return this.#tokens?.refresh(this.turn);
    if (wanted) {
      this.#tokens = new TokenList(this.context, this.turn, this.index);
      this.node.insertBefore(this.#tokens.node, this.#actions);
      this.#tokens.ready.then(() => this.#actions.scrollIntoView({ block: "nearest" }));
    } else {
      this.#tokens.node.remove();
      this.#tokens = null;
    }
    this.node.dataset.tokens = String(wanted);
  }

  #startEdit() {
    if (this.#isBusy()) return;
    const field = h("textarea", {
      dir: "auto",
      "aria-label": "Edit the message",
      value: textOf(this.turn),
    });
    const finish = () => {
      form.remove();
      this.#body.hidden = false;
      this.#actions.hidden = false;
      this.focusAction("edit");
    };
    const save = async () => {
      finish();
      const again = this.turn.role === "user";
      if (again) this.context.focusComposer();
      await this.#act("edit", { turn: this.index, text: field.value });
      if (!again) this.context.focusAction(this.index, "edit");
    };
    const form = h(
      "div",
      { className: "g4-editing" },
      field,
      h(
        "div",
        { className: "g4-toolbar" },
        h("button", {
          type: "button",
          className: "g4-primary",
          textContent: this.turn.role === "user" ? "Send again" : "Save",
          onclick: save,
        }),
        h("button", { type: "button", textContent: "Cancel", onclick: finish }),
        h("span", { className: "g4-note", textContent: "Shift+Enter begins a new line" }),
      ),
    );
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") finish();
      if (isSend(event)) save();
    });
    this.#body.hidden = true;
    this.#actions.hidden = true;
    this.node.append(form);
    field.style.height = `${Math.min(400, field.scrollHeight + 4)}px`;
    field.focus();
  }
}
