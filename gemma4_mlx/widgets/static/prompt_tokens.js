// The token view: every token of an answer with its probability, and what could have come instead.
import { formatPercent, h, visibleToken } from "./shared.js";

const PAGE = 400; // tokens drawn at once; the rest on request

/** Five steps from expected to surprising; the colour is in prompt.css. @param {number} p */
const surprise = (p) => (p >= 0.9 ? 0 : p >= 0.6 ? 1 : p >= 0.3 ? 2 : p >= 0.1 ? 3 : 4);

/**
 * Tokens arrive as [text, probability, [[id, text, probability], ...]].
 * Arrow keys move through them, Enter opens the alternatives, Enter on one goes on from it.
 */
export function makeTokens({ view, ask, act, isBusy }, turn, index) {
  /** @type {[string, number, [number, string, number][]][]} */
  let tokens = [];
  let asking = false;
  let drawn = 0;
  let limit = PAGE;
  let hideSoon = 0;
  const flow = h("div", { className: "g4-flow", role: "group", dir: "auto", "aria-label": "Tokens of the answer; arrow keys move, Enter shows alternatives" });
  const more = h("button", { type: "button", hidden: true, textContent: "Show more tokens", onclick: () => {
    limit += 4 * PAGE;
    draw();
  } });
  const choices = h("div", { className: "g4-choices", role: "dialog", "aria-label": "Alternatives", hidden: true,
    onmouseenter: () => clearTimeout(hideSoon), onmouseleave: close });
  const legend = h("div", { className: "g4-legend g4-note" }, h("span", { textContent: "expected" }),
    ...[0, 1, 2, 3, 4].map((level) => h("i", { className: `g4-s${level}` })), h("span", { textContent: "surprising" }));
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
      flow.append(h("button", { type: "button", className: `g4-tok g4-s${surprise(p)}`, tabIndex: drawn ? -1 : 0,
        dataset: { at: drawn }, "aria-label": `${visibleToken(text)}, ${formatPercent(p)}`, textContent: visibleToken(text) }));
      if (text.includes("\n")) flow.append(h("br"));
    }
    more.hidden = drawn >= tokens.length;
  }

  const at = (target) => Number(target.closest?.(".g4-tok")?.dataset.at ?? -1);
  flow.addEventListener("mouseover", (event) => at(event.target) >= 0 && open(at(event.target)));
  flow.addEventListener("mouseleave", () => { hideSoon = setTimeout(close, 250); });
  flow.addEventListener("focusin", (event) => at(event.target) >= 0 && open(at(event.target)));
  flow.addEventListener("click", (event) => at(event.target) >= 0 && (open(at(event.target)), choices.querySelector("button")?.focus()));
  node.addEventListener("focusout", (event) => node.contains(event.relatedTarget) || close());
  node.addEventListener("keydown", (event) => {
    const inChoices = choices.contains(event.target);
    const items = [...(inChoices ? choices.querySelectorAll("button") : flow.querySelectorAll(".g4-tok"))];
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
      const bar = h("span", { className: "g4-bar", "aria-hidden": "true", style: { "--share": q } });
      const row = h("button", { type: "button", className: "g4-choice", disabled: view.isStatic,
        title: view.isStatic ? "" : "Go on from this token", onclick: () => {
          if (isBusy()) return;
          close();
          act("continue_from", { turn: index, token: i, alternative: id });
        } },
      h("span", { className: "g4-token", textContent: visibleToken(word) }), bar, h("span", { className: "g4-number", textContent: formatPercent(q) }));
      if (word === text) row.classList.add("g4-chosen");
      return row;
    });
    choices.replaceChildren(
      h("div", { className: "g4-choice-head" }, h("span", { className: "g4-token", textContent: visibleToken(text) }),
        h("span", { className: "g4-note", textContent: `token ${i + 1} · ${formatPercent(p)}` })), ...rows);
    choices.hidden = false;
    const box = node.getBoundingClientRect();
    const place = token.getBoundingClientRect();
    const left = Math.max(0, Math.min(place.left - box.left, box.width - choices.offsetWidth));
    choices.style.left = `${left}px`;
    // Below the token, or above it where the conversation's box ends.
    const room = node.closest(".g4-log").getBoundingClientRect();
    const above = place.bottom + choices.offsetHeight > room.bottom && place.top - choices.offsetHeight > room.top;
    choices.style.top = `${above ? place.top - box.top - choices.offsetHeight - 3 : place.bottom - box.top + 3}px`;
  }
  function close() {
    choices.hidden = true;
  }

  return { node, refresh, ready: refresh(turn) };
}
