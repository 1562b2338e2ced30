/* How the Why view names parts and methods, and writes shares. */

import { formatCount, visibleToken } from "./words.js";

/** Of each method of g4.attribute: its name, what its shares are, and what they cannot tell. */
const METHODS = {
  direct: {
    name: "Direct",
    says:
      "What each part wrote into the residual stream at the place before the token, along the " +
      "token's logit. The shares sum to the logit.",
    cannot:
      "It cannot tell which earlier tokens a part took it from, nor what a part did through " +
      "later ones.",
  },
  gradient: {
    name: "Gradient × input",
    says:
      "The slope of the logit along each token's embedding, and along each part's output, times " +
      "that embedding or output.",
    cannot:
      "It cannot tell what a large change does: where the model saturates the slope is small " +
      "although the token matters, and shares need not sum.",
  },
  integrated: {
    name: "Integrated gradients",
    says:
      "The slope along each token's embedding, averaged on the way from an empty input to this " +
      "one. The shares sum to what the input adds to the logit.",
    cannot:
      "It cannot tell which parts of the model carry it, and depends on what the empty input is.",
  },
  patching: {
    name: "Attribution patching",
    says:
      "To first order, by how much the logit would fall if the token or the part were as in the " +
      "other prompt.",
    cannot: "It cannot tell what a large change does; a sweep really makes each change.",
  },
};

/** @param {string} method */
export const methodWords = (method) => METHODS[method] ?? { name: method, says: "", cannot: "" };

const KINDS = {
  embedding: "Token embedding",
  head: "head",
  expert: "expert",
  mlp: "MLP",
  per_layer: "per-layer embedding",
};

/** A part of the model: "Layer 5 head 2"; or a token. @param {{kind: string, layer: number|null,
 *   index: number|null, text?: string|null}} part */
export function partName({ kind, layer, index, text }) {
  if (kind === "position") return `Token ${formatCount(index)} “${visibleToken(text ?? "")}”`;
  if (layer === null || layer === undefined) return KINDS[kind] ?? kind;
  const number = index === null || index === undefined ? "" : ` ${index}`;
  return `Layer ${layer} ${KINDS[kind] ?? kind}${number}`;
}

/** A share: "+3.21", "−0.0004", "0". @param {number} v */
export function signed(v) {
  const size = Math.abs(v);
  if (size === 0) return "0";
  const text = size >= 0.01 ? size.toFixed(2) : size.toPrecision(1);
  return `${v < 0 ? "−" : "+"}${text}`;
}

/** What is explained: "logit of “2” less that of “9”: +12.31", as strings and token texts, which
 * are given apart so that a right-to-left token cannot turn the sentence. */
export function explained({ target, against, total }) {
  const number = `: ${signed(total)}`;
  if (against) return ["Logit of ", target[1], " less that of ", against[1], number];
  return [target[0] === null ? "" : "Logit of ", target[1], number];
}

/** What the shares sum to. @param {any} shown a decoded explanation */
export function sumWords({ remainder, base, positions, method }) {
  const from = base === null ? "" : `, from ${signed(base)} at the other end`;
  const what = positions ? "Shares of the text" : "Shares of the parts";
  const exact = Math.abs(remainder) < 5e-3;
  if (exact) return `${what} sum to it${from}.`;
  const why = { direct: "rounding", integrated: "steps", gradient: "the model is not linear" };
  const reason = why[method] ? ` (${why[method]})` : "";
  return `${what} leave ${signed(remainder)} of it unexplained${reason}${from}.`;
}

/** The check in a sentence. @param {Array<{share: number, measured: number, control: boolean}>}
 *   effects */
export function checkWords(effects) {
  const asked = effects.filter((e) => !e.control);
  const random = effects.filter((e) => e.control);
  const mean = (list) => list.reduce((s, e) => s + Math.abs(e.measured), 0) / list.length;
  if (!asked.length) return "There is nothing here to remove.";
  const same = asked.filter((e) => Math.sign(e.share) === Math.sign(e.measured)).length;
  const one = `Removing one of the ${formatCount(asked.length)} largest changes it by`;
  const control = random.length
    ? `, one of ${formatCount(random.length)} others drawn at random by ${mean(random).toFixed(2)}`
    : "";
  return (
    `${one} ${mean(asked).toFixed(2)} on average${control}. ` +
    `The direction was as predicted for ${same} of ${asked.length}.`
  );
}
