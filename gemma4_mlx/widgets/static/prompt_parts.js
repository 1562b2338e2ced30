// The parts of a message: text, thinking, calls of tools, media. Each has its node, takes a new
// value with `set` and shows it with `draw`.

import { h } from "./dom.js";
import { renderMarkdown } from "./vendor/markdown.js";
import { formatCount, formatSeconds } from "./words.js";
/** Copy, and say so on the button. */
export async function copyText(text, button, icons) {
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

/** @param {any} context what prompt.js shares @param {any} part @param {any} turn it belongs to */
export function makePart(context, part, turn) {
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
  let waiting = false;
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
      if (waiting) return;
      waiting = true;
      const later = () => {
        waiting = false;
        draw();
      };
      setTimeout(later, 8 * cost);
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
