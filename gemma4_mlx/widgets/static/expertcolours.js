/* Colours of experts, of tokens by their experts, and the legend: one scheme for map and text.
 *
 * "purpose": the hue is the group an expert is for, its strength how clear that is. "load", "lift"
 * and "difference": a diverging scale around 1 (or 0), blue for less, orange for more. A token has
 * the mean of its experts, weighted by their shares of the gate.
 */

import { sizeCanvas } from "./canvas.js";
import { categoryColors, cssOf, diverging, mixed, rgbOf } from "./colours.js";
import { h } from "./dom.js";
import { times } from "./experts.js";
import { formatCount } from "./words.js";

// Okabe and Ito's, then hues between them; groups with the most tokens come first.
const HUES = [
  ...categoryColors.slice(0, 7),
  "#882255",
  "#a6d854",
  "#6a4fb3",
  "#7f4f24",
  "#b9a7e0",
].map(rgbOf);
export const LIMIT = 3; // log2: an eighth to eight times

const luminance = ([r, g, b]) =>
  [r, g, b]
    .map((v) => (v / 255 <= 0.04045 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
/** Black or white, whichever reads better on a colour. */
export const inkFor = (rgb) => (luminance(rgb) > 0.179 ? "#000" : "#fff");

export const hueOf = (group, dark) =>
  dark
    ? mixed(HUES[group] ?? [153, 153, 153], [255, 255, 255], 0.15)
    : (HUES[group] ?? [153, 153, 153]);

/**
 * @param {any} t experts.js table @param {{view: string, group: number}} how @param {any} ink
 * @param {Float32Array|null} difference load in B minus load in A, for "difference"
 */
export function expertScheme(t, how, ink, difference = null) {
  const zero = rgbOf(ink.zero);
  const dark = ink.dark;
  const cells = t.rows * t.E;
  if (how.view === "purpose") {
    const hues = t.groups.map((_, g) => hueOf(g, dark));
    const strengths = new Float32Array(cells);
    for (let i = 0; i < cells; i++) {
      const g = t.purpose(i);
      if (g >= 0) strengths[i] = Math.max(0.35, Math.min(1, Math.log2(t.lift(g, i)) / 2));
    }
    return {
      view: "purpose",
      rgb: (i) =>
        t.unused(i) ? null : strengths[i] ? mixed(zero, hues[t.purpose(i)], strengths[i]) : zero,
      /** @param {Array<[number, number]>} chosen experts with their shares */
      token(chosen) {
        let sum = 0;
        const rgb = [0, 0, 0];
        for (const [i, share] of chosen) {
          const s = strengths[i] * share;
          if (!s) continue;
          const hue = hues[t.purpose(i)];
          sum += s;
          for (let c = 0; c < 3; c++) rgb[c] += s * hue[c];
        }
        return sum > 0.02 ? { rgb: rgb.map((v) => v / sum), alpha: Math.min(1, sum * 1.25) } : null;
      },
    };
  }
  let high = 0;
  if (how.view === "difference") for (const d of difference) high = Math.max(high, Math.abs(d));
  const value = {
    load: (i) => (t.unused(i) ? NaN : Math.log2(t.ratio(i)) / LIMIT),
    lift: (i) =>
      t.enough(how.group, i) ? Math.log2(Math.max(t.lift(how.group, i), 1e-3)) / LIMIT : NaN,
    difference: (i) => (high ? difference[i] / high : 0),
  }[how.view];
  const values = Float32Array.from({ length: cells }, (_, i) =>
    Math.max(-1, Math.min(1, value(i))),
  ); // NaN stays
  return {
    view: how.view,
    high,
    rgb(i) {
      const v = values[i];
      return Number.isNaN(v) ? (t.unused(i) ? null : zero) : diverging(v, dark);
    },
    token(chosen) {
      let sum = 0;
      let total = 0;
      for (const [i, share] of chosen)
        if (!Number.isNaN(values[i])) {
          sum += share * values[i];
          total += share;
        }
      const mean = total ? sum / total : 0;
      return Math.abs(mean) > 0.02
        ? { rgb: diverging(mean * 1.6, dark), alpha: Math.min(1, 0.15 + Math.abs(mean) * 1.5) }
        : null;
    },
  };
}

/**
 * Diagonal lines for what was never used.
 * @param {CanvasRenderingContext2D} context
 * @param {any} ink
 */
export function hatch(context, ink) {
  const tile = document.createElement("canvas");
  const pen = sizeCanvas(tile, 6, 6);
  pen.fillStyle = ink.panel;
  pen.fillRect(0, 0, 6, 6);
  pen.strokeStyle = ink.line;
  pen.lineWidth = 1;
  pen.beginPath();
  for (const x of [-6, 0, 6]) {
    pen.moveTo(x, 6);
    pen.lineTo(x + 6, 0);
  }
  pen.stroke();
  const pattern = context.createPattern(tile, "repeat");
  const ratio = devicePixelRatio || 1;
  pattern.setTransform(new DOMMatrix().scale(1 / ratio));
  return pattern;
}

/** The scale of the colours with its numbers, and what hatching and, for lifts, plain grey mean;
 * "purpose" has its scale in the keys.
 * @param {HTMLCanvasElement} canvas @param {any} scheme @param {any} ink @param {string} words */
export function drawScale(canvas, scheme, ink, words) {
  const bar = scheme.view === "purpose" ? 0 : 260;
  const width = bar ? 760 : 104;
  const height = bar ? 34 : 18;
  const context = sizeCanvas(canvas, width, height);
  context.clearRect(0, 0, width, height);
  context.font = `12px ${ink.font}`;
  context.textBaseline = "top";
  for (let x = 0; x < bar; x++) {
    context.fillStyle = cssOf(diverging((2 * x) / (bar - 1) - 1, ink.dark));
    context.fillRect(x, 2, bar - x, 12); // the rest is drawn over: no seams
  }
  const left = bar ? bar + 14 : 0;
  context.fillStyle = hatch(context, ink);
  context.fillRect(left, 2, 24, 12);
  context.strokeStyle = ink.line;
  context.lineWidth = 1;
  context.strokeRect(left + 0.5, 2.5, 23, 11);
  context.fillStyle = ink.faint;
  context.fillText("never used", left + 30, 2);
  if (!bar) return;
  if (scheme.view === "lift") {
    context.fillStyle = ink.zero;
    context.fillRect(left + 120, 2, 24, 12);
    context.strokeRect(left + 120.5, 2.5, 23, 11);
    context.fillStyle = ink.faint;
    context.fillText("too few tokens of the group to tell", left + 150, 2);
  }
  const ends =
    scheme.view === "difference"
      ? [`−${(100 * scheme.high).toFixed(1)}`, "0", `+${(100 * scheme.high).toFixed(1)}`]
      : [times(2 ** -LIMIT).replace("0.1×", "⅛×"), "1×", times(2 ** LIMIT).replace(".0", "")];
  [
    ["left", 0],
    ["center", bar / 2],
    ["right", bar],
  ].forEach(([align, x], i) => {
    context.textAlign = align;
    context.fillText(ends[i], x, 18);
  });
  context.textAlign = "left";
  context.fillText(words, bar + 14, 18);
}

/** The groups as buttons: their colours, and how many experts are for each. Those beyond the hues,
 * the smallest, are grey in the map and folded here: `more` says whether they are shown. */
export function groupKeys(t, ink, onPick, more) {
  const experts = new Array(t.groups.length).fill(0);
  let none = 0;
  for (let i = 0; i < t.rows * t.E; i++) {
    const g = t.purpose(i);
    if (g >= 0) experts[g]++;
    else if (!t.unused(i)) none++;
  }
  const swatch = (g) =>
    h("i", { class: "g4-swatch", style: { background: cssOf(hueOf(g, ink.dark)) } });
  const count = (n) => h("span", { class: "g4-count" }, String(n));
  const titleOf = (group, g) =>
    `${formatCount(group.tokens)} tokens; ${formatCount(experts[g])} experts are for them. ` +
    `Click: how much each expert is for “${group.name}”.`;
  const buttons = t.groups.map((group, g) =>
    h(
      "button",
      {
        type: "button",
        class: "g4-groupkey",
        dataset: { group: g },
        hidden: g >= HUES.length && !more.shown,
        title: titleOf(group, g),
        onclick: () => onPick(g),
      },
      swatch(g),
      group.name,
      count(experts[g]),
    ),
  );
  const small = buttons.slice(HUES.length);
  const rest = experts.slice(HUES.length).reduce((sum, n) => sum + n, 0);
  const fold = h(
    "button",
    {
      type: "button",
      class: "g4-morekeys",
      "aria-expanded": String(more.shown),
      onclick: () => {
        more.shown = !more.shown;
        fold.setAttribute("aria-expanded", String(more.shown));
        for (const button of small) button.hidden = !more.shown;
      },
    },
    swatch(HUES.length),
    `${small.length} smaller groups`,
    count(rest),
    h("span", { class: "g4-count", "aria-hidden": "true" }, "▾"),
  );
  return [
    ...buttons,
    small.length ? fold : "",
    h(
      "span",
      { class: "g4-key" },
      h("i", { class: "g4-swatch", style: { background: ink.zero } }),
      `none of these (${none})`,
    ),
  ];
}
