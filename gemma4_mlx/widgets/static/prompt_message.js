// One message of the conversation: its parts, its actions, its token view.
import { formatCount, formatSeconds, h, perFrame } from "./shared.js";
import { isSend } from "./prompt_composer.js";
import { makeTokens } from "./prompt_tokens.js";
import { renderMarkdown } from "./vendor/markdown.js";

const NAMES = { user: "You", assistant: "Model", system: "System" };
const ENDINGS = {
  stopped: "Stopped",
  length: "Reached the longest answer allowed",
  memory: "No memory left to go on",
  thought: "Answered inside its thinking, which it did not close",
  error: "Failed",
};

/**
 * @param {any} context what prompt.js shares
 * @param {any} turn
 * @param {number} index place in the conversation
 */
export function makeMessage(context, turn, index) {
  const { view, act, icons, isBusy } = context;
  const { signal } = view;
  const body = h("div", { className: "g4-body" });
  const actions = h("div", { className: "g4-actions" });
  const node = h(
    "article",
    { "aria-label": NAMES[turn.role] ?? turn.role, className: `g4-message g4-from-${turn.role}` },
    turn.role === "user"
      ? null
      : h("div", { className: "g4-who", textContent: NAMES[turn.role] ?? turn.role }),
    body,
    actions,
  );
  const drawParts = perFrame(() => drawnParts.forEach((part) => part.draw()));
  /** @type {{ kind: string, node: HTMLElement, set(part: any): void, draw(): void }[]} */
  let drawnParts = [];
  let tokens = null;
  let shown = "";

  function update(next, at = index) {
    const text = JSON.stringify([next, at]);
    if (text === shown) return;
    shown = text;
    // The trait's objects are shared with other views: deltas go into a copy.
    turn = structuredClone(next);
    index = at;
    node.dataset.status = turn.status;
    turn.parts.forEach((part, i) => {
      if (drawnParts[i]?.kind !== part.kind) {
        drawnParts[i]?.node.remove();
        drawnParts[i] = makePart(context, part, turn);
        body.insertBefore(drawnParts[i].node, body.children[i] ?? null);
      }
      drawnParts[i].set(part);
      drawnParts[i].draw();
    });
    drawnParts.splice(turn.parts.length).forEach((part) => part.node.remove());
    showTokens();
    drawActions();
  }

  /** @returns {boolean} false if something is missing in between */
  function delta({ part: at, part_kind: kind, at: offset, text, tokens: count }) {
    if (at > turn.parts.length) return false;
    if (at === turn.parts.length) {
      if (offset !== 0) return false;
      turn.parts.push({ kind, text: "" });
      drawnParts[at] = makePart(context, turn.parts[at], turn);
      body.append(drawnParts[at].node);
    }
    const part = turn.parts[at];
    if (part.kind !== kind || offset > part.text.length) return false;
    shown = "";
    part.text = part.text.slice(0, offset) + text;
    turn.tokens = count ?? turn.tokens;
    drawnParts[at].set(part);
    drawParts();
    showTokens();
    return true;
  }

  function drawActions() {
    const button = (name, label, onclick, props = {}) =>
      h(
        "button",
        {
          type: "button",
          className: "g4-quiet g4-action",
          title: label,
          "aria-label": label,
          dataset: { action: name },
          signal,
          onclick,
          ...props,
        },
        icons[name](),
      );
    const focused =
      actions.contains(document.activeElement) && document.activeElement.dataset.action;
    const items = [];
    const plain = turn.parts
      .filter((p) => p.kind === "text")
      .map((p) => p.text)
      .join("\n\n");
    const running = turn.status === "streaming";
    if (turn.branches > 1) {
      const go = async (step) => {
        await act("branch", { turn: index, branch: turn.branch + step });
        context.focusAction(index, step < 0 ? "left" : "right");
      };
      items.push(
        h(
          "span",
          { className: "g4-branches", role: "group", "aria-label": "Versions of this message" },
          button("left", "Previous version", () => go(-1), {
            disabled: turn.branch === 0 || view.isStatic,
          }),
          h("span", { className: "g4-note", textContent: `${turn.branch + 1} / ${turn.branches}` }),
          button("right", "Next version", () => go(1), {
            disabled: turn.branch === turn.branches - 1 || view.isStatic,
          }),
        ),
      );
    }
    if (plain && !running)
      items.push(button("copy", "Copy", (event) => copyText(plain, event.currentTarget, icons)));
    if (!running && !view.isStatic) {
      if (turn.editable) items.push(button("edit", "Edit", startEdit));
      if (turn.role === "assistant")
        items.push(
          button("again", "Answer again", () => {
            if (isBusy()) return;
            act("regenerate", { turn: index });
            context.focusComposer();
          }),
        );
    }
    if (turn.role === "assistant" && turn.tokens) {
      items.push(
        button(
          "tokens",
          "Show the tokens and their probabilities",
          () => {
            // Remembered by place, so that a new version of the answer shows its tokens, too.
            if (tokens) context.openTokens.delete(index);
            else context.openTokens.add(index);
            showTokens();
            drawActions();
          },
          { "aria-pressed": Boolean(tokens) },
        ),
      );
    }
    const ending = ENDINGS[turn.status];
    if (ending)
      items.push(
        h("span", {
          className: `g4-chip ${turn.status === "error" ? "g4-is-bad" : "g4-is-warn"}`,
          textContent: ending,
        }),
      );
    actions.replaceChildren(...items);
    if (focused) focusAction(focused);
  }

  /** The keyboard's place is one of this message's buttons, or where one writes if it is gone. */
  function focusAction(name) {
    const button =
      actions.querySelector(`[data-action="${name}"]:enabled`) ??
      actions.querySelector("button:enabled");
    if (button) button.focus({ preventScroll: true });
    else context.focusComposer();
  }

  function showTokens() {
    const wanted = context.openTokens.has(index) && turn.role === "assistant" && turn.tokens > 0;
    if (wanted === Boolean(tokens)) return tokens?.refresh(turn);
    if (wanted) {
      tokens = makeTokens(context, turn, index);
      node.insertBefore(tokens.node, actions);
      tokens.ready.then(() => actions.scrollIntoView({ block: "nearest" }));
    } else {
      tokens.node.remove();
      tokens = null;
    }
    node.dataset.tokens = String(wanted);
  }

  function startEdit() {
    if (isBusy()) return;
    const field = h("textarea", {
      dir: "auto",
      "aria-label": "Edit the message",
      value: turn.parts
        .filter((p) => p.kind === "text")
        .map((p) => p.text)
        .join("\n\n"),
    });
    const finish = () => {
      form.remove();
      body.hidden = false;
      actions.hidden = false;
      focusAction("edit");
    };
    const save = async () => {
      finish();
      const again = turn.role === "user";
      if (again) context.focusComposer();
      await act("edit", { turn: index, text: field.value });
      if (!again) context.focusAction(index, "edit");
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
          textContent: turn.role === "user" ? "Send again" : "Save",
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
    body.hidden = true;
    actions.hidden = true;
    node.append(form);
    field.style.height = `${Math.min(400, field.scrollHeight + 4)}px`;
    field.focus();
  }

  update(turn, index);
  return { node, update, delta, focusAction, remove: () => node.remove() };
}

async function copyText(text, button, icons) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // no permission (an old browser, a page without https): the way that always worked
    const field = h("textarea", { value: text, className: "g4-hidden" });
    button.after(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  const before = [...button.childNodes];
  button.replaceChildren(icons.done());
  setTimeout(() => button.replaceChildren(...before), 1200);
}

// ---- parts: each has its node, takes a new value with `set` and shows it with `draw`

function makePart(context, part, turn) {
  const make =
    {
      text: turn.role === "user" ? plainPart : textPart,
      thinking: thinkingPart,
      tool_call: toolPart,
      image: imagePart,
      audio: soundPart,
      video: soundPart,
    }[part.kind] ?? plainPart;
  return { kind: part.kind, draw() {}, ...make(context, part, turn) };
}

function plainPart() {
  const node = h("div", { className: "g4-plain", dir: "auto" });
  return {
    node,
    set: (part) => {
      node.textContent = part.text ?? "";
    },
  };
}

/** An answer: markdown, drawn block by block so that what has not changed keeps its selection. */
function textPart({ view, icons }) {
  const node = h("div", { className: "g4-text", dir: "auto" });
  let text = "";
  let cost = 0;
  let last = 0;
  let timer = 0;
  node.addEventListener(
    "click",
    (event) => {
      const button = event.target.closest?.("button.g4-copy-code");
      if (button)
        copyText(
          button.parentElement.parentElement.querySelector("code").textContent,
          button,
          icons,
        );
    },
    { signal: view.signal },
  );

  function draw() {
    // A long answer takes milliseconds to draw: spend at most an eighth of the time on it.
    const now = performance.now();
    if (now - last < 8 * cost) {
      timer ||= setTimeout(() => {
        timer = 0;
        draw();
      }, 8 * cost);
      return;
    }
    const fresh = renderMarkdown(text);
    for (const code of fresh.querySelectorAll("pre > code")) {
      const language = /language-([\w+-]+)/.exec(code.className)?.[1] ?? "";
      const bar = h(
        "div",
        { className: "g4-code-bar" },
        h("span", { textContent: language }),
        h("button", { type: "button", className: "g4-quiet g4-copy-code", textContent: "Copy" }),
      );
      const frame = h("div", { className: "g4-code" }, bar);
      code.parentElement.replaceWith(frame);
      frame.append(h("pre", { dir: "ltr", tabIndex: 0 }, code));
    }
    for (const table of fresh.querySelectorAll("table")) {
      const frame = h("div", { className: "g4-scroll", tabIndex: 0 });
      table.replaceWith(frame);
      frame.append(table);
    }
    const wanted = [...fresh.childNodes];
    wanted.forEach((child, i) => {
      const old = node.childNodes[i];
      if (!old) node.append(child);
      else if (!old.isEqualNode(child)) old.replaceWith(child);
    });
    while (node.childNodes.length > wanted.length) node.lastChild.remove();
    cost = performance.now() - now;
    last = performance.now();
  }
  return {
    node,
    set: (part) => {
      text = part.text ?? "";
    },
    draw,
  };
}

function thinkingPart(_context, _part, turn) {
  const summary = h("summary", {});
  const text = h("div", { className: "g4-plain", dir: "auto" });
  const node = h("details", { className: "g4-thinking" }, summary, text);
  return {
    node,
    set(part) {
      const open = turn.status === "streaming" && !part.closed;
      node.dataset.open = String(open);
      summary.textContent = open ? "Thinking…" : "Thought about it";
      text.textContent = part.text ?? "";
    },
  };
}

const TOOL_STATES = {
  waiting: ["Wants to run", "g4-is-warn"],
  running: ["Running…", ""],
  done: ["Done", "g4-is-good"],
  denied: ["Denied", "g4-is-bad"],
  failed: ["Failed", "g4-is-bad"],
  stopped: ["Not run", "g4-is-warn"],
};

function toolPart({ act, icons, view }) {
  const name = h("code", {});
  const state = h("span", { className: "g4-chip" });
  const values = h("dl", {});
  const approve = h("button", { type: "button", className: "g4-primary", textContent: "Approve" });
  const deny = h("button", { type: "button", textContent: "Deny" });
  const ask = h(
    "div",
    { className: "g4-toolbar", role: "group", "aria-label": "Allow this tool?" },
    approve,
    deny,
  );
  const result = h("pre", { dir: "auto", tabIndex: 0 });
  const answer = h(
    "details",
    { className: "g4-result" },
    h("summary", { textContent: "Result" }),
    result,
  );
  const node = h(
    "section",
    { className: "g4-card g4-tool", "aria-label": "Tool call" },
    h("header", {}, icons.tool(), name, state),
    values,
    ask,
    answer,
  );
  let call = null;
  const decide = (allow) => {
    approve.disabled = deny.disabled = true;
    act("approve", { call: call.id, allow });
  };
  approve.onclick = () => decide(true);
  deny.onclick = () => decide(false);
  return {
    node,
    set(part) {
      call = part;
      name.textContent = part.name;
      const [words, colour] = TOOL_STATES[part.status] ?? [part.status, ""];
      state.textContent = words;
      state.className = `g4-chip ${colour}`;
      values.replaceChildren(
        ...Object.entries(part.arguments ?? {}).flatMap(([key, value]) => [
          h("dt", { textContent: key }),
          h("dd", {
            dir: "auto",
            textContent: typeof value === "string" ? value : JSON.stringify(value),
          }),
        ]),
      );
      values.hidden = !values.children.length;
      ask.hidden = part.status !== "waiting" || view.isStatic;
      if (!ask.hidden) approve.disabled = deny.disabled = false;
      answer.hidden = part.result === undefined || part.result === null;
      result.textContent = part.result ?? "";
      answer.open = (part.result ?? "").length < 400;
    },
  };
}

function imagePart() {
  const image = h("img", {});
  const words = h("figcaption", { className: "g4-note", dir: "auto" });
  const node = h("figure", { className: "g4-media" }, image, words);
  return {
    node,
    set(part) {
      if (image.src !== part.thumb) image.src = part.thumb ?? "";
      image.alt = part.label || "picture";
      const size = part.width ? `${part.width} × ${part.height}` : null;
      words.textContent = [part.label, size, `${formatCount(part.tokens)} tokens`]
        .filter(Boolean)
        .join(" · ");
    },
  };
}

/** Sounds and videos: the bytes stay in Python until the reader presses play. */
function soundPart({ ask, view }, { kind }) {
  const words = h("figcaption", { className: "g4-note", dir: "auto" });
  const load = h("button", {
    type: "button",
    textContent: kind === "video" ? "Show video" : "Listen",
  });
  const node = h("figure", { className: "g4-media" }, load, words);
  let current = null;
  load.onclick = async () => {
    load.disabled = true;
    try {
      const { content, buffer } = await ask("media", { key: current.key });
      const url = URL.createObjectURL(new Blob([buffer], { type: content.mime }));
      view.signal.addEventListener("abort", () => URL.revokeObjectURL(url));
      const player = h(kind === "video" ? "video" : "audio", { controls: true, src: url });
      player.setAttribute("aria-label", current.label || kind);
      load.replaceWith(player);
      player.play?.().catch(() => {});
    } catch (error) {
      words.textContent = error.message;
      load.disabled = false;
    }
  };
  return {
    node,
    set(part) {
      current = part;
      words.textContent = [
        part.label,
        part.seconds && formatSeconds(part.seconds),
        `${formatCount(part.tokens)} tokens`,
      ]
        .filter(Boolean)
        .join(" · ");
    },
  };
}
