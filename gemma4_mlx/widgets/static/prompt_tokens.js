// The token view: every token of an answer with its probability, and what could have come instead.
import { h } from "./dom.js";
import { formatPercent, visibleToken } from "./words.js";

const PAGE = 400; // tokens drawn at once; the rest on request

/** Five steps from expected to surprising; the colour is in prompt.css. @param {number} p */
const surprise = (p) => (p >= 0.9 ? 0 : p >= 0.6 ? 1 : p >= 0.3 ? 2 : p >= 0.1 ? 3 : 4);

export class TokenList {
  #view;
  #ask;
  #act;
  #isBusy;
  /** @type {[string, number, [number, string, number][]][]} */
  #tokens = [];
  #asking = false;
  #drawn = 0;
  #limit = PAGE;
  #hideSoon = 0;
  #flow = h("div", {
    className: "g4-flow",
    role: "group",
    dir: "auto",
    "aria-label": "Tokens of the answer; arrow keys move, Enter shows alternatives",
  });
  #more = h("button", {
    type: "button",
    hidden: true,
    textContent: "Show more tokens",
    onclick: () => {
      this.#limit += 4 * PAGE;
      this.#draw();
    },
  });
  #choices;
  #legend = h(
    "div",
    { className: "g4-legend g4-note" },
    h("span", { textContent: "expected" }),
    ...[0, 1, 2, 3, 4].map((level) => h("i", { className: `g4-s${level}` })),
    h("span", { textContent: "surprising" }),
  );
  // When the page scrolls under a resting pointer, that is not the reader pointing elsewhere.
  #pointer = "";

  /**
   * Tokens arrive as [text, probability, [[id, text, probability], ...]].
   * Arrow keys move through them, Enter opens the alternatives, Enter on one goes on from it.
   */
  constructor(context, turn, index) {
    Object.assign(this, { context, turn, index });
    this.#view = context.view;
    this.#ask = context.ask;
    this.#act = context.act;
    this.#isBusy = context.isBusy;
    // In the page's top layer, where no box cuts it off (older browsers: in its place, fixed).
    this.#choices = h("div", {
      className: "g4-choices",
      role: "dialog",
      "aria-label": "Alternatives",
      hidden: true,
      popover: "manual",
      onmouseenter: () => clearTimeout(this.#hideSoon),
      onmouseleave: (event) => this.#closeSoon(event),
    });
    this.node = h(
      "div",
      { className: "g4-tokens" },
      this.#legend,
      this.#flow,
      this.#more,
      this.#choices,
    );
    this.#listenToPage();
    this.#listen();
    this.ready = this.refresh(turn);
  }

  #listenToPage() {
    const { signal } = this.#view;
    const moved = (event) => {
      this.#pointer = this.#whereOf(event);
    };
    const place = () => this.#place();
    document.addEventListener("mousemove", moved, { signal });
    document.addEventListener("scroll", place, { signal, capture: true, passive: true });
    window.addEventListener("resize", place, { signal });
  }

  #listen() {
    const flow = this.#flow;
    const openAt = (event) => {
      const at = this.#at(event.target);
      if (at >= 0) this.#open(at);
      return at >= 0;
    };
    flow.addEventListener("mouseover", (event) => {
      if (this.#hasMoved(event)) openAt(event);
    });
    flow.addEventListener("mouseleave", (event) => this.#closeSoon(event));
    flow.addEventListener("focusin", openAt);
    flow.addEventListener("click", (event) => {
      if (openAt(event)) this.#choices.querySelector(".g4-choice")?.focus();
    });
    this.node.addEventListener("focusout", (event) => {
      if (!this.node.contains(event.relatedTarget)) this.#close();
    });
    this.node.addEventListener("keydown", (event) => this.#pressKey(event));
  }

  #pressKey(event) {
    const inChoices = this.#choices.contains(event.target);
    if (event.key === "Escape" && !this.#choices.hidden) {
      event.stopPropagation();
      event.preventDefault();
      const token = this.#flow.querySelector(`[data-at="${this.#choices.dataset.at}"]`);
      if (inChoices) token?.focus();
      this.#close();
      return;
    }
    const items = inChoices
      ? [...this.#choices.querySelectorAll("button")]
      : [...this.#flow.querySelectorAll(".g4-tok")];
    const here = items.indexOf(event.target);
    const places = {
      ArrowUp: here - 1,
      ArrowDown: here + 1,
      ...(inChoices ? {} : { ArrowLeft: here - 1, ArrowRight: here + 1 }),
      Home: 0,
      End: items.length - 1,
    };
    if (!Object.hasOwn(places, event.key)) return;
    event.preventDefault();
    const next = items[places[event.key]];
    if (!next) return;
    if (!inChoices) {
      if (items[here]) items[here].tabIndex = -1;
      next.tabIndex = 0;
    }
    next.focus();
  }

  async refresh(next) {
    this.turn = next;
    if (this.#asking || this.#tokens.length >= this.turn.tokens) return;
    this.#asking = true;
    try {
      const answer = await this.#ask("tokens", { turn: this.index, start: this.#tokens.length });
      if (answer) this.#tokens = this.#tokens.concat(answer.content);
      this.#draw();
    } catch (error) {
      this.#flow.textContent = error.message;
    } finally {
      this.#asking = false;
    }
  }

  #draw() {
    const end = Math.min(this.#limit, this.#tokens.length);
    for (; this.#drawn < end; this.#drawn++) {
      const [text, p] = this.#tokens[this.#drawn];
      this.#flow.append(
        h("button", {
          type: "button",
          className: `g4-tok g4-s${surprise(p)}`,
          tabIndex: this.#drawn ? -1 : 0,
          dataset: { at: this.#drawn },
          "aria-label": `${visibleToken(text)}, ${formatPercent(p)}`,
          textContent: visibleToken(text),
        }),
      );
      if (text.includes("\n")) this.#flow.append(h("br"));
    }
    this.#more.hidden = this.#drawn >= this.#tokens.length;
  }

  #at(target) {
    return Number(target.closest?.(".g4-tok")?.dataset.at ?? -1);
  }

  #whereOf(event) {
    return `${event.clientX} ${event.clientY}`;
  }

  #hasMoved(event) {
    return this.#whereOf(event) !== this.#pointer;
  }

  #open(i) {
    clearTimeout(this.#hideSoon);
    const token = this.#flow.querySelector(`[data-at="${i}"]`);
    if (!token || (!this.#choices.hidden && this.#choices.dataset.at === String(i))) return;
    const [text, p, others] = this.#tokens[i];
    this.#choices.dataset.at = String(i);
    const rows = others.map((other) => this.#choice(i, other));
    this.#choices.replaceChildren(
      h(
        "div",
        { className: "g4-choice-head" },
        h("span", { className: "g4-token", textContent: visibleToken(text) }),
        h("span", { className: "g4-note", textContent: `token ${i + 1} · ${formatPercent(p)}` }),
        this.#askButton(i, "why", text, null),
      ),
      ...rows,
    );
    this.#choices.hidden = false;
    this.#choices.showPopover?.();
    this.#place();
  }

  /** One token that could have come: go on from it, or ask why it did or did not. */
  #choice(i, [id, word, q]) {
    const [text] = this.#tokens[i];
    const { isStatic } = this.#view;
    const bar = h("span", { className: "g4-bar", "aria-hidden": "true", style: { "--share": q } });
    const goOn = () => {
      if (this.#isBusy()) return;
      this.#close();
      this.context.focusComposer();
      this.#act("continue_from", { turn: this.index, token: i, alternative: id });
    };
    const go = h(
      "button",
      {
        type: "button",
        className: "g4-choice",
        disabled: isStatic,
        title: isStatic ? "" : "Go on from this token",
        onclick: goOn,
      },
      h("span", { className: "g4-token", textContent: visibleToken(word) }),
      bar,
      h("span", { className: "g4-number", textContent: formatPercent(q) }),
    );
    if (word === text) go.classList.add("g4-chosen");
    if (word === text) return go;
    return h("div", { className: "g4-choice-row" }, go, this.#askButton(i, "why not", word, id));
  }

  /** Shows in the Why view why a token came, or with an `alternative` why that one did not. */
  #askButton(i, asks, word, alternative) {
    if (this.#view.isStatic || !this.context.explains()) return null;
    const label = `${asks} “${visibleToken(word)}”? Shown in the Why view`;
    const ask = () => {
      if (!this.#isBusy()) this.#act("explain", { turn: this.index, token: i, alternative });
    };
    const given = { type: "button", className: "g4-quiet g4-ask", title: label };
    return h("button", { ...given, "aria-label": label, onclick: ask }, `${asks}?`);
  }

  /** Below its token, above it where the window ends; it follows when the page scrolls. */
  #place() {
    const token =
      !this.#choices.hidden && this.#flow.querySelector(`[data-at="${this.#choices.dataset.at}"]`);
    if (!token) return;
    const at = token.getBoundingClientRect();
    const [wide, high] = [this.#choices.offsetWidth, this.#choices.offsetHeight];
    const below = at.bottom + 3 + high <= window.innerHeight;
    const top = below ? at.bottom + 3 : at.top - high - 3;
    this.#choices.style.left = `${Math.max(4, Math.min(at.left, window.innerWidth - wide - 4))}px`;
    this.#choices.style.top = `${Math.max(4, Math.min(top, window.innerHeight - high - 4))}px`;
  }

  #closeSoon(event) {
    clearTimeout(this.#hideSoon);
    if (!this.#hasMoved(event)) return;
    this.#hideSoon = setTimeout(
      () => this.#choices.contains(document.activeElement) || this.#close(),
      250,
    );
  }

  #close() {
    if (this.#choices.hidden) return;
    this.#choices.hidePopover?.();
    this.#choices.hidden = true;
  }
}
