/* Change one expert, generate again from the same cached prompt, and compare the answers. */

import { barCell, picker, table } from "./pieces.js";
import { formatCount, h, visibleToken } from "./shared.js";

const ACTIONS = [
  ["drop", "Drop it (its output becomes zero)"],
  ["around", "Route around it (the others renormalise)"],
  ["swap", "Swap it for another expert"],
  ["boost", "Boost its router score"],
];

/** @param {{ask: Function, meta: () => any, chosen: () => any, view: any, onError: Function}} o */
export function whatIf(o) {
  const result = h("div", {});
  const title = h("h4", { class: "g4-subtitle" }, "What if?");
  const other = h("input", { type: "number", min: 0, max: o.meta().experts - 1, value: 0, "aria-label": "Expert that takes its place" });
  const factor = h("input", { type: "number", min: -20, max: 20, step: 0.5, value: 3, "aria-label": "Amount added to its score" });
  const tokens = h("input", { type: "number", min: 1, max: 400, value: 40 });
  const action = picker("Then", ACTIONS, "drop", () => draw());
  const go = h("button", { type: "button", class: "g4-primary" }, "Generate again");
  const extra = h("span", {});
  const everywhere = h("input", { type: "checkbox" });
  go.addEventListener("click", run);

  function draw() {
    const { layer, expert } = o.chosen(), kind = action.select.value;
    title.textContent = expert === null ? "What if? Choose an expert first" : `What if expert ${expert} of layer ${layer} changed?`;
    go.disabled = expert === null;
    extra.replaceChildren(kind === "swap" ? h("label", {}, "with expert", other) : kind === "boost" ? h("label", {}, "by", factor) : "");
  }

  async function run() {
    const { layer, expert } = o.chosen();
    go.disabled = true;
    result.replaceChildren(h("p", { class: "g4-note", role: "status" }, "Generating three answers…"));
    try {
      const answer = await o.ask("whatif", { layer, expert, action: action.select.value, other: Number(other.value), factor: Number(factor.value), tokens: Number(tokens.value), everywhere: everywhere.checked });
      if (answer) drawResult(answer.content);
    } catch (error) { result.replaceChildren(h("p", { class: "g4-problem", role: "alert" }, error.message)); }
    draw();
  }

  function drawResult(r) {
    const high = Math.max(0.05, ...r.answers.flatMap((a) => a.divergence));
    const column = (a) => {
      const box = h("div", { class: "g4-answer", dir: "auto" });
      a.tokens.forEach((word, i) => {
        const node = h("span", { class: a.parts !== null && i >= a.parts ? "g4-word g4-changed" : "g4-word" }, h("bdi", {}, word));
        if (i === a.parts) node.classList.add("g4-first");
        const kl = a.divergence[i];
        if (kl !== undefined) { node.title = `divergence ${kl.toFixed(3)} nats`; node.style.setProperty("--kl", `${Math.min(1, kl / high) * 14}px`); node.classList.add("g4-kl"); }
        box.append(node);
      });
      if (!a.tokens.length) box.append(h("em", { class: "g4-note" }, "(no token)"));
      return h("div", { class: "g4-answercard g4-card" }, h("h5", {}, a.name), h("p", { class: "g4-note" }, a.note), box);
    };
    result.replaceChildren(h("div", { class: "g4-answers" }, ...r.answers.map(column)),
      h("p", { class: "g4-note" }, r.note),
      table("Answers compared", ["Answer", "#First token that differs", "#Mean divergence per token (nats)"], r.answers.slice(1).map((a) => h("tr", {}, h("th", { scope: "row" }, a.name), h("td", { class: "g4-number" }, a.parts === null ? "none" : `${formatCount(a.parts)} ${a.tokens[a.parts] === undefined ? "(stops)" : `“${visibleToken(a.tokens[a.parts])}”`}`), barCell(a.mean / Math.max(1e-9, ...r.answers.map((x) => x.mean)), a.mean.toFixed(4))))));
    o.view.announce(r.answers.slice(1).map((a) => `${a.name}: ${a.parts === null ? "same answer" : `differs from token ${a.parts}`}`).join("; "));
  }

  draw();
  const node = h("section", { class: "g4-panel g4-section g4-whatif", "aria-label": "What if" }, title,
    h("div", { class: "g4-toolbar" }, action.node, extra, h("label", {}, "up to", tokens, "tokens"), h("label", { title: "Otherwise the prompt is read as it is and only the answer is generated with the change, from one shared cache" }, everywhere, "also while reading the prompt"), go), result);
  return { node, draw };
}
