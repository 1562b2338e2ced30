// The Prompt widget: a conversation that streams. Python's side is widgets/prompt.py.
//
// `turns` (trait) is the truth, written when a turn starts and ends. In between Python pushes
// deltas that carry the offset they start at; when one does not fit (a message was lost, or the
// view opened in the middle) the view asks for the whole once.
import { h, perFrame } from "./dom.js";
import { mount } from "./frame.js";
import { request, watch } from "./kernel.js";
import { exportPicker } from "./pieces.js";
import { Composer, withoutType } from "./prompt_composer.js";
import { icons } from "./prompt_icons.js";
import { Message, textOf } from "./prompt_message.js";
import { OptionsPanel } from "./prompt_options.js";
import { formatBytes, formatCount, formatSeconds } from "./words.js";

class PromptView {
  #view;
  #root;
  #signal;
  // ---- the parts of the page
  #log = h("div", {
    role: "log",
    "aria-live": "off",
    "aria-label": "Conversation",
    tabIndex: 0,
  });
  #latest;
  #hint = h("div", { className: "g4-hint", role: "status", hidden: true });
  #progress = h("progress", { "aria-label": "Reading the prompt" });
  #progressText = h("span", {});
  #reading;
  #status = h("div", { className: "g4-status" });
  #context;
  #options;
  #composer;
  #empty = h("div", { className: "g4-empty" });
  // ---- what Python says
  /** @type {Map<string, Message>} */
  #messages = new Map();
  #turnIds = [];
  #healing = false;
  #begun = false; // the answer that is being written has a word
  #drawEnd = perFrame(() => this.#scrollDown());

  /**
   * @typedef {{ kind: string, text?: string, [key: string]: any }} Part
   * @typedef {{ id: string, role: string, parts: Part[], status: string, branch: number,
   *   branches: number, tokens: number, [key: string]: any }} Turn
   */
  constructor(model, el) {
    this.model = model;
    this.#view = mount(model, el, "prompt");
    this.#root = this.#view.root;
    this.#signal = this.#view.signal;
    this.#context = this.#makeContext();
    this.#options = new OptionsPanel(this.#context);
    this.#composer = new Composer(this.#context, {
      send: (text, attachments) => this.#send(text, attachments),
      stop: () => this.#stop(),
    });
    this.#assemble();
    this.#followModel();
    if (model.get("busy")) this.#heal();
  }

  get cleanup() {
    return this.#view.cleanup;
  }

  /** What the parts share. */
  #makeContext() {
    return {
      model: this.model,
      view: this.#view,
      act: (...request) => this.#act(...request),
      ask: (...request) => this.#ask(...request),
      icons,
      problem: (text) => this.#problem(text),
      isBusy: () => Boolean(this.model.get("busy")),
      explains: () => Boolean(this.model.get("explains")),
      openTokens: new Set(),
      focusComposer: () => this.#composer.focus(),
      focusAction: (index, name) => this.#messages.get(this.#turnIds[index])?.focusAction(name),
    };
  }

  #assemble() {
    const signal = this.#signal;
    this.#log.className = "g4-log";
    this.#latest = h("button", {
      type: "button",
      className: "g4-latest",
      hidden: true,
      textContent: "Jump to the newest",
      signal,
      onclick: () => this.#scrollDown(true),
    });
    this.#reading = h(
      "div",
      { className: "g4-reading", hidden: true },
      this.#progress,
      this.#progressText,
    );
    this.#root.append(
      h(
        "div",
        { className: "g4-panel g4-frame" },
        this.#header(),
        this.#options.node,
        h("div", { className: "g4-log-box" }, this.#log, this.#latest),
        this.#reading,
        this.#hint,
        this.#composer.node,
        this.#status,
      ),
    );
    const scrolled = perFrame(() => {
      this.#latest.hidden = this.#isAtEnd();
    });
    const pressed = (event) => {
      if (event.key === "Escape" && this.#context.isBusy()) this.#stop();
    };
    this.#log.addEventListener("scroll", scrolled, { signal });
    this.#root.addEventListener("keydown", pressed, { signal });
  }

  #followModel() {
    const { model } = this;
    const signal = this.#signal;
    const receive = (content) => this.#receive(content);
    model.on("msg:custom", receive);
    signal.addEventListener("abort", () => model.off("msg:custom", receive));
    watch(model, ["about"], () => this.#showEmpty(), signal);
    watch(model, ["conversation"], () => this.#context.openTokens.clear(), signal);
    watch(model, ["turns"], () => this.#showTurns(model.get("turns") ?? []), signal);
    watch(model, ["stats"], () => this.#showStats(model.get("stats")), signal);
    watch(model, ["busy"], () => this.#showBusy(Boolean(model.get("busy"))), signal);
  }

  #showBusy(busy) {
    this.#root.dataset.busy = String(busy);
    delete this.#root.dataset.stopping;
    this.#begun = false;
    this.#showProgress();
    this.#composer.setBusy(busy);
    const last = (this.model.get("turns") ?? []).at(-1);
    if (busy) this.#view.announce("The model is answering.");
    else if (last?.role === "assistant") this.#view.announce(textOf(last, " ").slice(0, 600));
  }

  #ask(type, args = {}, options = {}) {
    return request(this.model, type, args, { signal: this.#signal, ...options });
  }

  /** Ask for something the reader did; show what went wrong, and say when the kernel is silent. */
  async #act(type, args = {}, options = {}) {
    const slow = setTimeout(() => {
      this.#hint.textContent =
        "The kernel has not answered yet: another cell is running, or it is gone.";
      this.#hint.hidden = false;
    }, 3000);
    try {
      const answer = await this.#ask(type, args, options);
      this.#hint.hidden = true;
      return answer;
    } catch (error) {
      this.#problem(error.message);
      return null;
    } finally {
      clearTimeout(slow);
    }
  }

  #problem(text) {
    const words = withoutType(text);
    this.#hint.textContent = words;
    this.#hint.hidden = false;
    this.#view.announce(words);
  }

  #header() {
    const button = (name, label, onclick) =>
      h(
        "button",
        {
          type: "button",
          className: "g4-quiet",
          title: label,
          "aria-label": label,
          signal: this.#signal,
          onclick,
        },
        icons[name](),
      );
    const picker = h("input", {
      type: "file",
      accept: ".json,application/json",
      hidden: true,
      signal: this.#signal,
      onchange: async () => {
        const [file] = picker.files;
        picker.value = "";
        if (file) await this.#act("load", { text: await file.text(), name: file.name });
      },
    });
    const name = h("h3", { className: "g4-title" });
    const detail = h("span", { className: "g4-note" });
    watch(
      this.model,
      ["about"],
      () => {
        const about = this.model.get("about") ?? {};
        name.textContent = about.name ?? "";
        detail.textContent = about.detail ?? "";
      },
      this.#signal,
    );
    const bar = h(
      "div",
      { className: "g4-toolbar g4-head" },
      h("span", { className: "g4-dot", "aria-hidden": "true" }),
      name,
      detail,
      h("span", { className: "g4-grow" }),
    );
    const saving = exportPicker(this.model, "conversation", (error) =>
      this.#problem(error.message),
    );
    bar.append(saving);
    if (!this.#view.isStatic) {
      saving.insertBefore(h("option", { value: "json" }, "Conversation"), saving.children[1]);
      bar.append(
        button("plus", "New conversation", async () => {
          await this.#act("new");
          this.#composer.focus();
        }),
        button("open", "Open a saved conversation", () => picker.click()),
        picker,
        this.#options.toggle,
      );
    }
    return bar;
  }

  // ---- what the reader does
  async #send(text, attachments) {
    const answer = await this.#act("send", { text, attachments });
    return Boolean(answer);
  }

  #stop() {
    this.#root.dataset.stopping = "true";
    this.model.send({ type: "stop" });
  }

  #showTurns(turns) {
    const follow = this.#isAtEnd();
    this.#turnIds = turns.map((turn) => turn.id);
    const wanted = new Set(this.#turnIds);
    for (const [id, message] of this.#messages) {
      if (!wanted.has(id)) {
        message.remove();
        this.#messages.delete(id);
      }
    }
    let before = null;
    turns.forEach((turn, index) => {
      const known = this.#messages.get(turn.id);
      const message = known ?? new Message(this.#context, turn, index);
      if (known) known.update(turn, index);
      else this.#messages.set(turn.id, message);
      const place = before ? before.nextSibling : this.#log.firstChild;
      if (message.node !== place) this.#log.insertBefore(message.node, place);
      before = message.node;
    });
    if (turns.length) this.#empty.remove();
    else this.#log.replaceChildren(this.#empty);
    if (follow) this.#scrollDown();
  }

  async #heal() {
    if (this.#healing || this.#view.isStatic) return;
    this.#healing = true;
    try {
      const answer = await this.#ask("whole");
      if (answer) {
        this.#showTurns(answer.content.turns);
        this.#begun = Boolean(answer.content.turns.at(-1)?.parts.length);
        this.#showProgress(answer.content.progress);
      }
    } catch (error) {
      this.#problem(error.message);
    } finally {
      this.#healing = false;
    }
  }

  /** From the moment of sending until the first word; how far, as soon as that is known. */
  #showProgress(p = null) {
    this.#reading.hidden = this.#begun || !this.model.get("busy");
    if (this.#reading.hidden) return;
    if (!p) {
      this.#progress.removeAttribute("value");
      this.#progressText.textContent = "Reading the prompt…";
      return;
    }
    this.#progress.max = Math.max(1, p.total);
    this.#progress.value = p.done;
    const tokens = `${formatCount(p.done)} of ${formatCount(p.total)} tokens`;
    this.#progressText.textContent = `Reading the prompt: ${tokens}`;
  }

  #showStats(s) {
    if (!s || !Object.keys(s).length) return this.#status.replaceChildren();
    const item = (label, value, title) =>
      h(
        "span",
        { className: "g4-stat", title },
        h("span", { textContent: label }),
        h("b", { textContent: value }),
      );
    const items = [];
    if (s.tokens_per_second)
      items.push(
        item(
          "speed",
          `${s.tokens_per_second.toFixed(s.tokens_per_second < 10 ? 1 : 0)} tokens/s`,
          "Decoded tokens per second",
        ),
      );
    if (s.first_token)
      items.push(item("first token", formatSeconds(s.first_token), "Time to the first token"));
    if (s.context)
      items.push(
        item(
          "context",
          `${formatCount(s.used)} of ${formatCount(s.context)}`,
          "Tokens in the model's context",
        ),
        this.#gauge(s.used / s.context),
      );
    if (s.reused || s.reuse_note) {
      items.push(
        item(
          "from cache",
          `${formatCount(s.reused)} of ${formatCount(s.prompt)}`,
          "Prompt tokens that did not have to be read again",
        ),
      );
    }
    if (s.reuse_note)
      items.push(h("span", { className: "g4-stat", textContent: `read again: ${s.reuse_note}` }));
    if (s.reads) items.push(item("from disk", s.reads, "Weights read for this answer"));
    if (s.memory) items.push(item("memory", formatBytes(s.memory), "Memory that MLX holds now"));
    this.#status.replaceChildren(...items);
  }

  #gauge(share) {
    const fill = h("span", { style: { width: `${Math.min(100, Math.max(1, 100 * share))}%` } });
    return h("span", { className: "g4-gauge", "aria-hidden": "true" }, fill);
  }

  #receive(content) {
    if (!content?.push) return;
    const follow = this.#isAtEnd();
    for (const item of content.push) {
      if (item.kind === "progress") {
        this.#begun = false;
        this.#showProgress(item);
      } else if (item.kind === "stats") this.#showStats(item.stats);
      else if (item.kind === "draft") this.#composer.suggest(item.text);
      else if (item.kind === "turn") {
        const message = this.#messages.get(item.turn.id);
        this.#begun = true;
        this.#showProgress();
        if (message) message.update(item.turn);
        else this.#heal();
      } else if (item.kind === "delta") {
        this.#begun = true;
        this.#showProgress();
        const message = this.#messages.get(item.turn);
        if (!message?.delta(item)) this.#heal();
      }
    }
    if (follow) this.#drawEnd();
  }

  // ---- scrolling: follow the answer unless the reader has scrolled up
  #isAtEnd() {
    return this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 48;
  }

  #scrollDown(smooth = false) {
    this.#log.scrollTo({ top: this.#log.scrollHeight, behavior: smooth ? "smooth" : "instant" });
  }

  #showEmpty() {
    const about = this.model.get("about") ?? {};
    const suggestions = (about.suggestions ?? []).map((text) =>
      h("button", {
        type: "button",
        className: "g4-suggestion",
        dir: "auto",
        textContent: text,
        signal: this.#signal,
        disabled: this.#view.isStatic,
        onclick: () => this.#composer.submit(text),
      }),
    );
    this.#empty.replaceChildren(
      h("p", {
        textContent: about.greeting || "Write something below, or start with one of these.",
      }),
      h("div", { className: "g4-suggestions" }, ...suggestions),
    );
  }
}

const render = ({ model, el }) => new PromptView(model, el).cleanup;

export default { render };
