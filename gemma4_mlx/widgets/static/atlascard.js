/* What an atlas knows of one expert: its labels, tokens, contexts, companions and path. */

import { measureWords } from "./atlas_table.js";
import { h } from "./dom.js";
import { liftTable, stepButton } from "./expertcard.js";
import { times } from "./experts.js";
import { bytesOf, chip } from "./pieces.js";
import { formatCount, formatPercent, onOneLine, visibleToken } from "./words.js";

const APPROXIMATE =
  "An approximation: tokens that the expert's average output, sent through the final norm and " +
  "the head alone, makes likelier or less likely";
/** What the card lists, and how: key, words, what they mean. */
const TOKENS = [
  ["input", "reads", "Tokens most typical of what this expert works on"],
  ["next", "is followed by", "Tokens most typical of what follows in the text"],
  ["predicted", "predicts", "Tokens most typical of what the model finds likeliest next"],
];
const WRITES = [
  ["promoted", "promotes ≈"],
  ["suppressed", "suppresses ≈"],
];
const SORTS = [
  ["strongest", "Where its share of the gate is largest"],
  ["sampled", "Drawn at random from all its tokens"],
];

/**
 * @param {any} about the answer to "card", or null where a page without a kernel lacks it
 * @param {{table: any, cell: number, layer: number, layers: number[], ink: any,
 *   onExpert: (layer: number, expert: number) => void,
 *   picture: (key: string) => Promise<string>,
 *   onToken?: (text: string, vocabulary: string) => void, tools?: Node[], title?: string}} o
 */
export function atlasCard(about, o) {
  const { table: t, cell, layer } = o;
  const name = o.title ?? `Expert ${cell % t.E} of layer ${layer}`;
  const title = h("h4", { class: "g4-subtitle" }, name);
  title.append(...facts(about, t, cell), ...(o.tools ?? []));
  const parts = [title, h("div", { class: "g4-labels" }, liftTable(t, cell, o.ink))];
  if (!about) parts.push(note("This page holds no card of this expert; the notebook has it."));
  else if (!about.tokens) parts.push(note("No token of the corpus went to this expert."));
  else parts.push(tokenLists(about, o), ...contextLists(about, o.picture), paths(about, o));
  return h("div", { class: "g4-atlascard" }, ...parts);
}

const note = (text) => h("p", { class: "g4-note" }, text);

function facts(about, t, cell) {
  const said = (word, title, value) =>
    value === null || value === undefined
      ? null
      : h("span", { class: "g4-chip", title }, `${word} ${measureWords(value)}`);
  return [
    chip(`load ${formatPercent(t.load[cell])}, ${times(t.ratio(cell))} even`),
    about && chip(`rank ${about.rank} of ${t.E}`),
    about && chip(`${formatCount(about.tokens)} tokens`),
    about && said("norm", "Mean norm of its outputs, before they are weighted", about.norm),
    about && said("REAP", "Mean of weight times norm: what is lost without it", about.reap),
    about && said("scale", "What the model multiplies its output by, learned", about.scale),
  ].filter(Boolean);
}

function tokenLists(about, { onToken }) {
  const rows = [];
  const add = (word, title, nodes) =>
    nodes.length && rows.push(h("dt", { title }, word), h("dd", {}, ...nodes));
  for (const [key, word, title] of TOKENS)
    add(
      word,
      title,
      about[key].map(([text, count, share, lift]) => {
        const says =
          `${formatCount(count)} times, ${formatPercent(share)} of its occurrences, ` +
          `${times(lift)} this expert's load`;
        return tokenNode(text, says, onToken && (() => onToken(text, key)));
      }),
    );
  for (const [key, word] of WRITES)
    add(
      word,
      APPROXIMATE,
      about[key].map((text) => tokenNode(text, APPROXIMATE)),
    );
  return h("dl", { class: "g4-tokenlists" }, ...rows);
}

function tokenNode(text, title, onclick) {
  const said = h("bdi", {}, visibleToken(text));
  if (!onclick) return h("code", { class: "g4-atoken", title }, said);
  return h("button", { type: "button", class: "g4-atoken", title, onclick }, said);
}

function contextLists(about, picture) {
  return SORTS.map(([sort, title]) => {
    const some = about.contexts.filter((each) => each.sort === sort);
    if (!some.length) return "";
    return h(
      "section",
      { class: "g4-contexts", "aria-label": title },
      h("h5", {}, title),
      ...some.map((context) => contextNode(context, picture)),
    );
  });
}

function contextNode({ before, text, after, label, gate, picture, size, box }, pictureOf) {
  const words = h(
    "p",
    { dir: "auto" },
    h("bdi", {}, onOneLine(before)),
    h("mark", {}, h("bdi", {}, visibleToken(text))),
    h("bdi", {}, onOneLine(after)),
  );
  const where = h("span", { class: "g4-note" }, h("bdi", {}, label), `, ${formatPercent(gate)}`);
  where.title = `label of the document; this expert's share of the token's gate`;
  const seen = picture ? patch(pictureOf(picture), size, box) : "";
  return h("div", { class: "g4-context" }, seen, words, where);
}

/** Addresses of the pictures that cards refer to, each asked for once.
 * @param {(type: string, args: any) => Promise<any>} ask
 * @returns {(key: string) => Promise<string>} */
export function picturesOf(ask) {
  const known = new Map();
  const load = async (key) => {
    const { buffer } = await ask("picture", { key });
    return `data:image/png;base64,${btoa(String.fromCharCode(...bytesOf(buffer)))}`;
  };
  return (key) => {
    if (!known.has(key))
      known.set(
        key,
        load(key).catch(() => ""),
      );
    return known.get(key);
  };
}

/** A small picture with one patch of it marked. */
function patch(picture, [width, height], [left, top, right, bottom]) {
  const side = (share) => `${(100 * share).toFixed(1)}%`;
  const place = {
    left: side(left),
    top: side(top),
    width: side(right - left),
    height: side(bottom - top),
  };
  const alt = "The picture; the patch that went to the expert has a frame";
  const image = h("img", { alt });
  picture.then((url) => {
    image.src = url;
  });
  return h(
    "span",
    { class: "g4-patch", style: { "aspect-ratio": `${width} / ${height}` } },
    image,
    h("i", { style: place }),
  );
}

function paths(about, { layer, layers, onExpert }) {
  const row = layers.indexOf(layer);
  const lists = [
    ["before", `from layer ${layers[row - 1]}`, layers[row - 1], "of its tokens came from"],
    ["companions", "together with", layer, "of its tokens went as well to"],
    ["after", `on to layer ${layers[row + 1]}`, layers[row + 1], "of its tokens went on to"],
  ];
  const rows = lists.flatMap(([key, word, there, says]) =>
    about[key].length
      ? [
          h("dt", {}, word),
          h(
            "dd",
            {},
            ...about[key].map(([expert, share, lift]) => {
              const title =
                `${formatPercent(share)} ${says} expert ${expert} of layer ${there}, ` +
                `${times(lift)} that expert's load`;
              return stepButton(String(expert), share, title, () => onExpert(there, expert));
            }),
          ),
        ]
      : [],
  );
  return h("dl", { class: "g4-tokenlists g4-paths" }, ...rows);
}
