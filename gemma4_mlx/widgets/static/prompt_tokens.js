// The token view: every token of an answer with its probability, and what could have come instead.
import { formatPercent, h, visibleToken } from "./shared.js";

const PAGE = 400; // tokens drawn at once; the rest on request

/** Five steps from expected to surprising; the colour is in prompt.css. @param {number} p */
const surprise = (p) => (p >= 0.9 ? 0 : p >= 0.6 ? 1 : p >= 0.3 ? 2 : p >= 0.1 ? 3 : 4);

/**
 * Tokens arrive as [text, probability, [[id, text, probability], ...]].
 * Arrow keys move through them, Enter opens the alternatives, Enter on one goes on from it.
 */
export function makeTokens(context, turn, index) {
  const { view, ask, act, isBusy } = context;
  /** @type {[string, number, [number, string, number][]][]} */
  let tokens = [];
  let asking = false;
  let drawn = 0;
  let limit = PAGE;
  let hideSoon = 0;
  const flow = h("div", {
    className: "g4-flow",
    role: "group",
    dir: "auto",
    "aria-label": "Tokens of the answer; arrow keys move, Enter shows alternatives",
  });
  const more = h("button", {
    type: "button",
    hidden: true,
    textContent: "Show more tokens",
    onclick: () => {
      limit += 4 * PAGE;
      draw();
    },
  });
  // In the page's top layer, where no box cuts it off (older browsers: in its place, fixed).
  const choices = h("div", {
    className: "g4-choices",
    role: "dialog",
    "aria-label": "Alternatives",
    hidden: true,
    popover: "manual",
    onmouseenter: () => clearTimeout(hideSoon),
    onmouseleave: closeSoon,
  });
  const legend = h(
    "div",
    { className: "g4-legend g4-note" },
    h("span", { textContent: "expected" }),
    ...[0, 1, 2, 3, 4].map((level) => h("i", { className: `g4-s${level}` })),
    h("span", { textContent: "surprising" }),
  );
  const node = h("div", { className: "g4-tokens" }, legend, flow, more, choices);

  async function refresh(next) {
    turn = next;
    if (asking || tokens.length >= turn.tokens) return;
    asking = true;
    try {
      const answer = await ask("tokens", { turn: index, start: tokens.length });
      if (answer) tokens = tokens.concat(answer.content);
      draw();
    } catch (error) {
      flow.textContent = error.message;
    } finally {
      asking = false;
    }
  }

  function draw() {
    const end = Math.min(limit, tokens.length);
    for (; drawn < end; drawn++) {
      const [text, p] = tokens[drawn];
      flow.append(
        h("button", {
          type: "button",
          className: `g4-tok g4-s${surprise(p)}`,
          tabIndex: drawn ? -1 : 0,
          dataset: { at: drawn },
          "aria-label": `${visibleToken(text)}, ${formatPercent(p)}`,
          textContent: visibleToken(text),
        }),
      );
      if (text.includes("\n")) flow.append(h("br"));
    }
    more.hidden = drawn >= tokens.length;
  }

  const at = (target) => Number(target.closest?.(".g4-tok")?.dataset.at ?? -1);
  // When the page scrolls under a resting pointer, that is not the reader pointing elsewhere.
  let pointer = "";
  const whereOf = (event) => `${event.clientX} ${event.clientY}`;
  const hasMoved = (event) => whereOf(event) !== pointer;
  document.addEventListener(
    "mousemove",
    (event) => {
      pointer = whereOf(event);
    },
    { signal: view.signal },
  );
  flow.addEventListener(
    "mouseover",
    (event) => hasMoved(event) && at(event.target) >= 0 && open(at(event.target)),
  );
  flow.addEventListener("mouseleave", closeSoon);
  document.addEventListener("scroll", place, { signal: view.signal, capture: true, passive: true });
  window.addEventListener("resize", place, { signal: view.signal });
  flow.addEventListener("focusin", (event) => at(event.target) >= 0 && open(at(event.target)));
  flow.addEventListener(
    "click",
    (event) =>
      at(event.target) >= 0 && (open(at(event.target)), choices.querySelector("button")?.focus()),
  );
  node.addEventListener("focusout", (event) => node.contains(event.relatedTarget) || close());
  node.addEventListener("keydown", (event) => {
    const inChoices = choices.contains(event.target);
    const items = [
      ...(inChoices ? choices.querySelectorAll("button") : flow.querySelectorAll(".g4-tok")),
    ];
    const here = items.indexOf(event.target);
    const back = inChoices ? ["ArrowUp"] : ["ArrowLeft", "ArrowUp"];
    const forth = inChoices ? ["ArrowDown"] : ["ArrowRight", "ArrowDown"];
    let next = null;
    if (forth.includes(event.key)) next = items[here + 1];
    else if (back.includes(event.key)) next = items[here - 1];
    else if (event.key === "Home") next = items[0];
    else if (event.key === "End") next = items.at(-1);
    else if (event.key === "Escape" && !choices.hidden) {
      event.stopPropagation();
      const token = flow.querySelector(`[data-at="${choices.dataset.at}"]`);
      if (inChoices) token?.focus();
      close();
    } else return;
    event.preventDefault();
    if (!next) return;
    if (!inChoices) {
      items[here] && (items[here].tabIndex = -1);
      next.tabIndex = 0;
    }
    next.focus();
  });

  function open(i) {
    clearTimeout(hideSoon);
    const token = flow.querySelector(`[data-at="${i}"]`);
    if (!token || (!choices.hidden && choices.dataset.at === String(i))) return;
    const [text, p, others] = tokens[i];
    choices.dataset.at = String(i);
    const rows = others.map(([id, word, q]) => {
      const bar = h("span", {
        className: "g4-bar",
        "aria-hidden": "true",
        style: { "--share": q },
      });
      const row = h(
        "button",
        {
          type: "button",
          className: "g4-choice",
          disabled: view.isStatic,
          title: view.isStatic ? "" : "Go on from this token",
          onclick: () => {
            if (isBusy()) return;
            close();
            context.focusComposer();
            act("continue_from", { turn: index, token: i, alternative: id });
          },
        },
        h("span", { className: "g4-token", textContent: visibleToken(word) }),
        bar,
        h("span", { className: "g4-number", textContent: formatPercent(q) }),
      );
      if (word === text) row.classList.add("g4-chosen");
      return row;
    });
    choices.replaceChildren(
      h(
        "div",
        { className: "g4-choice-head" },
        h("span", { className: "g4-token", textContent: visibleToken(text) }),
        h("span", { className: "g4-note", textContent: `token ${i + 1} · ${formatPercent(p)}` }),
      ),
      ...rows,
    );
    choices.hidden = false;
    choices.showPopover?.();
    place();
  }

  /** Below its token, above it where the window ends; it follows when the page scrolls. */
  function place() {
    const token = !choices.hidden && flow.querySelector(`[data-at="${choices.dataset.at}"]`);
    if (!token) return;
    const at = token.getBoundingClientRect();
    const [wide, high] = [choices.offsetWidth, choices.offsetHeight];
    const below = at.bottom + 3 + high <= window.innerHeight;
    const top = below ? at.bottom + 3 : at.top - high - 3;
    choices.style.left = `${Math.max(4, Math.min(at.left, window.innerWidth - wide - 4))}px`;
    choices.style.top = `${Math.max(4, Math.min(top, window.innerHeight - high - 4))}px`;
  }
  function closeSoon(event) {
    clearTimeout(hideSoon);
    if (!hasMoved(event)) return;
    hideSoon = setTimeout(() => choices.contains(document.activeElement) || close(), 250);
  }
  function close() {
    if (choices.hidden) return;
    choices.hidePopover?.();
    choices.hidden = true;
  }

  return { node, refresh, ready: refresh(turn) };
}
