/* Answers side by side: as the model is, and with parts of it changed. */

import { h } from "./dom.js";
import { barCell, fold, table } from "./pieces.js";
import { formatCount, visibleToken } from "./words.js";

const nats = (v) => (v >= 0.001 || v === 0 ? v.toFixed(3) : v.toExponential(1));

/** What widgets/side_by_side.py gives, and how far the answers part; spoken as well. */
export function answersCompared(r, view) {
  const high = Math.max(0.05, ...r.answers.flatMap((a) => a.divergence));
  const most = Math.max(1e-9, ...r.answers.map((a) => a.mean));
  const column = (a) => {
    const box = h("div", { class: "g4-answer", dir: "auto" });
    a.tokens.forEach((word, i) => {
      const node = h(
        "span",
        { class: a.parts !== null && i >= a.parts ? "g4-word g4-changed" : "g4-word" },
        h("bdi", {}, word),
      );
      if (i === a.parts) node.classList.add("g4-first");
      const kl = a.divergence[i];
      if (kl !== undefined) {
        node.title = `divergence ${nats(kl)} nats`;
        node.style.setProperty("--kl", `${Math.min(1, kl / high) * 14}px`);
        node.classList.add("g4-kl");
      }
      box.append(node);
    });
    if (!a.tokens.length) box.append(h("em", { class: "g4-note" }, "(no token)"));
    return h(
      "div",
      { class: "g4-answercard g4-card" },
      h("h5", {}, a.name),
      h("p", { class: "g4-note" }, a.note),
      box,
    );
  };
  const others = r.answers.slice(1);
  const parted = (a) => {
    if (a.parts === null) return "none";
    const token = a.tokens[a.parts];
    const word = token === undefined ? "(stops)" : `“${visibleToken(token)}”`;
    return `${formatCount(a.parts)} ${word}`;
  };
  view.announce(
    others
      .map(
        (a) => `${a.name}: ${a.parts === null ? "same answer" : `differs from token ${a.parts}`}`,
      )
      .join("; "),
  );
  return [
    h("h4", { class: "g4-subtitle" }, others[0].name),
    h("div", { class: "g4-answers" }, ...r.answers.map(column)),
    h("p", { class: "g4-note" }, r.note),
    table(
      "Answers compared",
      ["Answer", "#First token that differs", "#Mean divergence per token (nats)"],
      others.map((a) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, a.name),
          h("td", { class: "g4-number" }, parted(a)),
          barCell(a.mean / most, nats(a.mean)),
        ),
      ),
    ),
    fold("Divergence of every token, as a table", perToken(others, high)),
  ];
}

/** Rows are places in the answers; a changed answer's token stands beside its divergence. */
function perToken(answers, high) {
  const longest = Math.max(0, ...answers.map((a) => a.tokens.length));
  return table(
    "Divergence of every token",
    ["#Token", ...answers.flatMap((a) => [a.name, "#Nats"])],
    Array.from({ length: longest }, (_, i) =>
      h(
        "tr",
        {},
        h("th", { scope: "row", class: "g4-number" }, formatCount(i)),
        ...answers.flatMap((a) => {
          const kl = a.divergence[i];
          const word = a.tokens[i];
          return [
            h(
              "td",
              { class: i === a.parts ? "g4-first" : null },
              word === undefined ? "" : h("bdi", {}, visibleToken(word)),
            ),
            kl === undefined ? h("td") : barCell(kl / high, nats(kl)),
          ];
        }),
      ),
    ),
  );
}
