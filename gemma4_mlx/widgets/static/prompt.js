// The Prompt widget: a conversation that streams. Python's side is widgets/prompt.py.
//
// `turns` (trait) is the truth, written when a turn starts and ends. In between Python pushes
// deltas that carry the offset they start at; when one does not fit (a message was lost, or the
// view opened in the middle) the view asks for the whole once.
import {
  formatBytes,
  formatCount,
  formatSeconds,
  h,
  mount,
  perFrame,
  request,
  watch,
} from "./shared.js";
import { exportPicker } from "./pieces.js";
import { makeComposer, withoutType } from "./prompt_composer.js";
import { icons } from "./prompt_icons.js";
import { makeMessage } from "./prompt_message.js";
import { makeOptions } from "./prompt_options.js";

/**
 * @typedef {{ kind: string, text?: string, [key: string]: any }} Part
 * @typedef {{ id: string, role: string, parts: Part[], status: string, branch: number,
 *   branches: number, tokens: number, [key: string]: any }} Turn
 */

function render({ model, el }) {
  const view = mount(model, el, "prompt");
  const { root, signal } = view;
  const ask = (type, args = {}, options = {}) => request(model, type, args, { signal, ...options });

  /** Ask for something the reader did; show what went wrong, and say when the kernel is silent. */
  async function act(type, args = {}, options = {}) {
    const slow = setTimeout(() => {
      hint.textContent = "The kernel has not answered yet: another cell is running, or it is gone.";
      hint.hidden = false;
    }, 3000);
    try {
      const answer = await ask(type, args, options);
      hint.hidden = true;
      return answer;
    } catch (error) {
      problem(error.message);
      return null;
    } finally {
      clearTimeout(slow);
    }
  }
  function problem(text) {
    hint.textContent = text = withoutType(text);
    hint.hidden = false;
    view.announce(text);
  }

  // ---- the parts of the page
  const log = h("div", {
    role: "log",
    "aria-live": "off",
    "aria-label": "Conversation",
    tabIndex: 0,
  });
  log.className = "g4-log";
  const latest = h("button", {
    type: "button",
    className: "g4-latest",
    hidden: true,
    textContent: "Jump to the newest",
    signal,
    onclick: () => scrollDown(true),
  });
  const hint = h("div", { className: "g4-hint", role: "status", hidden: true });
  const progress = h("progress", { "aria-label": "Reading the prompt" });
  const progressText = h("span", {});
  const reading = h("div", { className: "g4-reading", hidden: true }, progress, progressText);
  const status = h("div", { className: "g4-status" });
  const context = {
    model,
    view,
    act,
    ask,
    icons,
    problem,
    isBusy: () => Boolean(model.get("busy")),
    openTokens: new Set(),
    focusComposer: () => composer.focus(),
    focusAction: (index, name) => messages.get(turnIds[index])?.focusAction(name),
  };
  const options = makeOptions(context);
  const composer = makeComposer(context, { send, stop });
  const empty = h("div", { className: "g4-empty" });
  root.append(
    h(
      "div",
      { className: "g4-panel g4-frame" },
      header(),
      options.node,
      h("div", { className: "g4-log-box" }, log, latest),
      reading,
      hint,
      composer.node,
      status,
    ),
  );

  function header() {
    const button = (name, label, onclick) =>
      h(
        "button",
        {
          type: "button",
          className: "g4-quiet",
          title: label,
          "aria-label": label,
          signal,
          onclick,
        },
        icons[name](),
      );
    const picker = h("input", {
      type: "file",
      accept: ".json,application/json",
      hidden: true,
      signal,
      onchange: async () => {
        const [file] = picker.files;
        picker.value = "";
        if (file) await act("load", { text: await file.text(), name: file.name });
      },
    });
    const name = h("h3", { className: "g4-title" });
    const detail = h("span", { className: "g4-note" });
    watch(
      model,
      ["about"],
      () => {
        const about = model.get("about") ?? {};
        name.textContent = about.name ?? "";
        detail.textContent = about.detail ?? "";
      },
      signal,
    );
    const bar = h(
      "div",
      { className: "g4-toolbar g4-head" },
      h("span", { className: "g4-dot", "aria-hidden": "true" }),
      name,
      detail,
      h("span", { className: "g4-grow" }),
    );
    const saving = exportPicker(model, "conversation", (error) => problem(error.message));
    bar.append(saving);
    if (!view.isStatic) {
      saving.insertBefore(h("option", { value: "json" }, "Conversation"), saving.children[1]);
      bar.append(
        button("plus", "New conversation", async () => {
          await act("new");
          composer.focus();
        }),
        button("open", "Open a saved conversation", () => picker.click()),
        picker,
        options.toggle,
      );
    }
    return bar;
  }
  // ---- what the reader does
  async function send(text, attachments) {
    const answer = await act("send", { text, attachments });
    return Boolean(answer);
  }
  function stop() {
    root.dataset.stopping = "true";
    model.send({ type: "stop" });
  }

  // ---- what Python says
  /** @type {Map<string, ReturnType<typeof makeMessage>>} */
  const messages = new Map();
  let turnIds = [];
  let healing = false;
  let begun = false; // the answer that is being written has a word

  function showTurns(turns) {
    const follow = isAtEnd();
    turnIds = turns.map((turn) => turn.id);
    const wanted = new Set(turnIds);
    for (const [id, message] of messages) {
      if (!wanted.has(id)) {
        message.remove();
        messages.delete(id);
      }
    }
    let before = null;
    turns.forEach((turn, index) => {
      let message = messages.get(turn.id);
      if (message) message.update(turn, index);
      else messages.set(turn.id, (message = makeMessage(context, turn, index)));
      const place = before ? before.nextSibling : log.firstChild;
      if (message.node !== place) log.insertBefore(message.node, place);
      before = message.node;
    });
    if (turns.length) empty.remove();
    else log.replaceChildren(empty);
    if (follow) scrollDown();
  }

  async function heal() {
    if (healing || view.isStatic) return;
    healing = true;
    try {
      const answer = await ask("whole");
      if (answer) {
        showTurns(answer.content.turns);
        begun = Boolean(answer.content.turns.at(-1)?.parts.length);
        showProgress(answer.content.progress);
      }
    } catch (error) {
      problem(error.message);
    } finally {
      healing = false;
    }
  }

  /** From the moment of sending until the first word; how far, as soon as that is known. */
  function showProgress(p = null) {
    reading.hidden = begun || !model.get("busy");
    if (reading.hidden) return;
    if (!p) {
      progress.removeAttribute("value");
      progressText.textContent = "Reading the prompt…";
      return;
    }
    progress.max = Math.max(1, p.total);
    progress.value = p.done;
    progressText.textContent = `Reading the prompt: ${formatCount(p.done)} of ${formatCount(p.total)} tokens`;
  }

  function showStats(s) {
    if (!s || !Object.keys(s).length) return status.replaceChildren();
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
        gauge(s.used / s.context),
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
    if (s.memory) items.push(item("memory", formatBytes(s.memory), "Memory that MLX holds now"));
    status.replaceChildren(...items);
  }
  function gauge(share) {
    const fill = h("span", { style: { width: `${Math.min(100, Math.max(1, 100 * share))}%` } });
    return h("span", { className: "g4-gauge", "aria-hidden": "true" }, fill);
  }

  function receive(content) {
    if (!content?.push) return;
    const follow = isAtEnd();
    for (const item of content.push) {
      if (item.kind === "progress") {
        begun = false;
        showProgress(item);
      } else if (item.kind === "stats") showStats(item.stats);
      else if (item.kind === "draft") composer.suggest(item.text);
      else if (item.kind === "turn") {
        const message = messages.get(item.turn.id);
        begun = true;
        showProgress();
        if (message) message.update(item.turn);
        else heal();
      } else if (item.kind === "delta") {
        begun = true;
        showProgress();
        const message = messages.get(item.turn);
        if (!message || !message.delta(item)) heal();
      }
    }
    if (follow) drawEnd();
  }

  // ---- scrolling: follow the answer unless the reader has scrolled up
  const isAtEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 48;
  const drawEnd = perFrame(() => scrollDown());
  function scrollDown(smooth = false) {
    log.scrollTo({ top: log.scrollHeight, behavior: smooth ? "smooth" : "instant" });
  }
  log.addEventListener(
    "scroll",
    perFrame(() => {
      latest.hidden = isAtEnd();
    }),
    { signal },
  );

  function showEmpty() {
    const about = model.get("about") ?? {};
    const suggestions = (about.suggestions ?? []).map((text) =>
      h("button", {
        type: "button",
        className: "g4-suggestion",
        dir: "auto",
        textContent: text,
        signal,
        disabled: view.isStatic,
        onclick: () => composer.submit(text),
      }),
    );
    empty.replaceChildren(
      h("p", {
        textContent: about.greeting || "Write something below, or start with one of these.",
      }),
      h("div", { className: "g4-suggestions" }, ...suggestions),
    );
  }

  model.on("msg:custom", receive);
  signal.addEventListener("abort", () => model.off("msg:custom", receive));
  watch(model, ["about"], showEmpty, signal);
  watch(model, ["conversation"], () => context.openTokens.clear(), signal);
  watch(model, ["turns"], () => showTurns(model.get("turns") ?? []), signal);
  watch(model, ["stats"], () => showStats(model.get("stats")), signal);
  watch(
    model,
    ["busy"],
    () => {
      const busy = Boolean(model.get("busy"));
      root.dataset.busy = String(busy);
      delete root.dataset.stopping;
      begun = false;
      showProgress();
      composer.setBusy(busy);
      const last = (model.get("turns") ?? []).at(-1);
      if (busy) view.announce("The model is answering.");
      else if (last?.role === "assistant") {
        view.announce(
          last.parts
            .filter((p) => p.kind === "text")
            .map((p) => p.text)
            .join(" ")
            .slice(0, 600),
        );
      }
    },
    signal,
  );
  root.addEventListener(
    "keydown",
    (event) => {
      if (event.key === "Escape" && context.isBusy()) stop();
    },
    { signal },
  );
  if (model.get("busy")) heal();
  return view.cleanup;
}

export default { render };
