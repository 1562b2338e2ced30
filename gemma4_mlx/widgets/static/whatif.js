/* A switch beside each expert: change it, generate again from the same cached prompt, compare. */

import { barCell, fold, table } from "./pieces.js";
import { formatCount, formatPercent, h, visibleToken } from "./shared.js";

const SHOWN = 8; // experts listed before the reader asks for all of them

/** Changes of one expert: key, the switch's word, what it does, and how a result names it. */
const ACTIONS = [
  ["drop", "Drop", (e) => `Drop expert ${e}: its output becomes zero`, "dropped"],
  ["around", "Around", (e) => `Route around expert ${e}: the others renormalise`, "routed around"],
  ["swap", "Swap", (e, o) => `Swap expert ${e} for expert ${o.other}`, "swapped"],
  ["boost", "Boost", (e, o) => `Boost expert ${e}: add ${o.factor} to its router score`, "boosted"],
];

const nats = (v) => (v >= 0.001 || v === 0 ? v.toFixed(3) : v.toExponential(1));

/**
 * @param {{ask: Function, meta: () => any, chosen: () => any, view: any,
 *   experts: () => Array<{expert: number, load: number, weight: number|null}>,
 *   tokenName: () => string|null}} o
 *   experts: of the chosen layer, in the order to list them; weight: the selected token's, or null
 */
export function whatIf(o) {
  const number = (props) => h("input", { type: "number", ...props });
  const other = number({ min: 0, max: o.meta().experts - 1, value: 0, "aria-label": "Expert to swap with" });
  const factor = number({ min: -20, max: 20, step: 0.5, value: 3, "aria-label": "Amount that a boost adds to the router's score" });
  const tokens = number({ min: 1, max: 400, value: 40 });
  const everywhere = h("input", { type: "checkbox" });
  const title = h("h4", { class: "g4-subtitle" }), list = h("div", { class: "g4-switches" }), result = h("div", { class: "g4-result" });
  const more = h("button", { type: "button", class: "g4-quiet", onclick: () => { all = !all; draw(); } });
  let on = null, all = false, run = 0, focus = "", drawn = "";

  const settings = () => ({ other: Number(other.value), factor: Number(factor.value), tokens: Number(tokens.value), everywhere: everywhere.checked });
  const isOn = (layer, expert, action) => on !== null && on.layer === layer && on.expert === expert && on.action === action;

  function draw() {
    const { layer } = o.chosen(), experts = o.experts(), now = settings(), name = o.tokenName();
    const known = experts.filter((e) => all || e.weight !== null), rest = experts.filter((e) => e.weight === null);
    const shown = all ? experts : [...known, ...rest.slice(0, Math.max(0, SHOWN - known.length))];
    const chosen = experts.find((e) => e.expert === o.chosen().expert);
    if (chosen && !shown.includes(chosen)) shown.push(chosen);
    const stamp = JSON.stringify([layer, shown, now.other, now.factor, on, name, o.chosen().expert]);
    if (stamp === drawn) return; // keeps the focus where it is
    drawn = stamp;
    title.textContent = `What if an expert of layer ${layer} changed?`;
    more.textContent = all ? "Fewer experts" : `All ${experts.length} experts`;
    more.hidden = experts.length <= shown.length && !all;
    const hadFocus = list.contains(document.activeElement);
    const heads = ["Expert", name === null ? "#Weight" : `#Weight for “${name}”`, "#Load of the layer", "Change it and generate again"];
    list.replaceChildren(table("Experts of the layer, each with its switches", heads, shown.map((e) => h("tr", { class: e.expert === o.chosen().expert ? "g4-chosen" : null },
      h("th", { scope: "row" }, `expert ${e.expert}`), e.weight === null ? h("td", { class: "g4-number g4-note" }, "not chosen") : barCell(e.weight, formatPercent(e.weight)),
      h("td", { class: "g4-number" }, formatPercent(e.load)), h("td", {}, switches(layer, e.expert, now))))));
    const buttons = [...list.querySelectorAll("button")], at = buttons.find((b) => b.dataset.key === focus) ?? buttons[0];
    if (at) { at.tabIndex = 0; if (hadFocus) at.focus(); }
  }

  /** One tab stop for all the switches of the layer; arrow keys move among them. */
  function switches(layer, expert, now) {
    return h("span", { class: "g4-segmented", role: "group", "aria-label": `Change expert ${expert}` }, ...ACTIONS.map(([action, word, says]) => h("button", {
      type: "button", role: "switch", "aria-checked": String(isOn(layer, expert, action)), tabIndex: -1, disabled: action === "swap" && now.other === expert,
      title: says(expert, now), "aria-label": says(expert, now), dataset: { key: `${expert} ${action}` }, onclick: () => turn(layer, expert, action) }, word)));
  }

  list.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step || !event.target.matches("button")) return;
    event.preventDefault(); event.stopPropagation();
    const rows = [...list.querySelectorAll("tbody tr")].map((row) => [...row.querySelectorAll("button")]);
    let row = rows.findIndex((r) => r.includes(event.target)), column = rows[row].indexOf(event.target);
    do { row += step[0]; column += step[1]; } while (rows[row]?.[column]?.disabled);
    rows[row]?.[column]?.focus();
  });
  list.addEventListener("focusin", (event) => {
    if (!event.target.matches("button")) return;
    for (const button of list.querySelectorAll("button")) button.tabIndex = -1;
    event.target.tabIndex = 0;
    focus = event.target.dataset.key;
  });
  for (const input of [other, factor, tokens, everywhere]) input.addEventListener("change", () => {
    if (on && (input === tokens || input === everywhere || input === { swap: other, boost: factor }[on.action])) generate();
    draw();
  });

  function turn(layer, expert, action) {
    on = isOn(layer, expert, action) ? null : { layer, expert, action };
    run++; // whatever is on its way is no longer wanted
    draw();
    if (on) generate(); else result.replaceChildren();
  }

  async function generate() {
    const mine = ++run, asked = { ...on, ...settings() };
    result.replaceChildren(h("p", { class: "g4-note", role: "status" }, "Generating three answers: as it is, with the change, and with a random expert changed…"));
    try {
      const answer = await o.ask("whatif", asked, { slot: "whatif" });
      if (answer && mine === run) drawResult(answer.content, asked);
    } catch (error) { if (mine === run) result.replaceChildren(h("p", { class: "g4-problem", role: "alert" }, error.message)); }
  }

  function drawResult(r, asked) {
    const high = Math.max(0.05, ...r.answers.flatMap((a) => a.divergence)), most = Math.max(1e-9, ...r.answers.map((a) => a.mean));
    const column = (a) => {
      const box = h("div", { class: "g4-answer", dir: "auto" });
      a.tokens.forEach((word, i) => {
        const node = h("span", { class: a.parts !== null && i >= a.parts ? "g4-word g4-changed" : "g4-word" }, h("bdi", {}, word));
        if (i === a.parts) node.classList.add("g4-first");
        const kl = a.divergence[i];
        if (kl !== undefined) { node.title = `divergence ${nats(kl)} nats`; node.style.setProperty("--kl", `${Math.min(1, kl / high) * 14}px`); node.classList.add("g4-kl"); }
        box.append(node);
      });
      if (!a.tokens.length) box.append(h("em", { class: "g4-note" }, "(no token)"));
      return h("div", { class: "g4-answercard g4-card" }, h("h5", {}, a.name), h("p", { class: "g4-note" }, a.note), box);
    };
    const changed = r.answers.slice(1), parted = (a) => (a.parts === null ? "none" : `${formatCount(a.parts)} ${a.tokens[a.parts] === undefined ? "(stops)" : `“${visibleToken(a.tokens[a.parts])}”`}`);
    const done = ACTIONS.find(([action]) => action === asked.action)[3];
    result.replaceChildren(h("h4", { class: "g4-subtitle" }, `Expert ${asked.expert} of layer ${asked.layer} ${done}`),
      h("div", { class: "g4-answers" }, ...r.answers.map(column)), h("p", { class: "g4-note" }, r.note),
      table("Answers compared", ["Answer", "#First token that differs", "#Mean divergence per token (nats)"], changed.map((a) => h("tr", {}, h("th", { scope: "row" }, a.name), h("td", { class: "g4-number" }, parted(a)), barCell(a.mean / most, nats(a.mean))))),
      fold("Divergence of every token, as a table", perToken(changed, high)));
    o.view.announce(changed.map((a) => `${a.name}: ${a.parts === null ? "same answer" : `differs from token ${a.parts}`}`).join("; "));
  }

  /** Rows are places in the answers; a changed answer's token stands beside its divergence. */
  function perToken(answers, high) {
    const longest = Math.max(0, ...answers.map((a) => a.tokens.length));
    return table("Divergence of every token", ["#Token", ...answers.flatMap((a) => [a.name, "#Nats"])], Array.from({ length: longest }, (_, i) => h("tr", {}, h("th", { scope: "row", class: "g4-number" }, formatCount(i)), ...answers.flatMap((a) => {
      const kl = a.divergence[i], word = a.tokens[i];
      return [h("td", { class: i === a.parts ? "g4-first" : null }, word === undefined ? "" : h("bdi", {}, visibleToken(word))), kl === undefined ? h("td") : barCell(kl / high, nats(kl))];
    }))));
  }

  const node = h("section", { class: "g4-panel g4-section g4-whatif", "aria-label": "What if" }, title,
    h("div", { class: "g4-toolbar" }, h("label", {}, "swap with expert", other), h("label", {}, "boost by", factor), h("label", {}, "up to", tokens, "tokens"), h("label", { title: "Otherwise the prompt is read as it is and only the answer is generated with the change, from one shared cache" }, everywhere, "also while reading the prompt")),
    list, more, result);
  return { node, draw };
}
