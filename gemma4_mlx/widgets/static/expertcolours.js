/* Colours of experts, of tokens by their experts, and the legend: one scheme for map and text.
 *
 * "purpose": the hue is the group an expert is for, its strength how clear that is. Numbers have a
 * diverging scale around 1 (or 0), blue for less, orange for more, or a sequential one. A token has
 * the mean of its experts, weighted by their shares of the gate.
 */

import { sizeCanvas } from "./canvas.js";
import { categoryColors, colorMaps, cssOf, diverging, mixed, rgbOf } from "./colours.js";
import { h } from "./dom.js";
import { times } from "./experts.js";
import { formatCount } from "./words.js";

// Okabe and Ito's, then hues between them; groups with the most tokens come first.
export const HUES = [
  ...categoryColors.slice(0, 7),
  "#882255",
  "#a6d854",
  "#6a4fb3",
  "#7f4f24",
  "#b9a7e0",
].map(rgbOf);
const GREY = [153, 153, 153];
export const LIMIT = 3; // log2: an eighth to eight times

const luminance = ([r, g, b]) =>
  [r, g, b]
    .map((v) => (v / 255 <= 0.04045 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
/** Black or white, whichever reads better on a colour. */
export const inkFor = (rgb) => (luminance(rgb) > 0.179 ? "#000" : "#fff");

/** The colour of a group of a table (experts.js); grey beyond the hues. */
export function hueOf(t, group, dark) {
  const hue = HUES[t.rank(group)] ?? GREY;
  return dark ? mixed(hue, [255, 255, 255], 0.15) : hue;
}

/**
 * @param {any} t experts.js table @param {{view: string, group: number}} how @param {any} ink
 * @param {Float32Array|null} difference load in B minus load in A, for "difference"
 */
export function expertScheme(t, how, ink, difference = null) {
  if (how.view === "purpose") return purposeScheme(t, ink);
  const ends = [
    times(2 ** -LIMIT).replace("0.1×", "⅛×"),
    "1×",
    times(2 ** LIMIT).replace(".0", ""),
  ];
  if (how.view === "load")
    return valueScheme(t, (i) => Math.log2(t.ratio(i)) / LIMIT, ink, { view: "load", ends });
  if (how.view === "lift") {
    const lift = (i) => Math.log2(Math.max(t.lift(how.group, i), 1e-3)) / LIMIT;
    const value = (i) => (t.enough(how.group, i) ? lift(i) : NaN);
    return valueScheme(t, value, ink, { view: "lift", ends, plain: t.unsure });
  }
  let high = 0;
  for (const d of difference) high = Math.max(high, Math.abs(d));
  const points = (100 * high).toFixed(1);
  return valueScheme(t, (i) => (high ? difference[i] / high : 0), ink, {
    view: how.view,
    ends: [`−${points}`, "0", `+${points}`],
  });
}

function purposeScheme(t, ink) {
  const zero = rgbOf(ink.zero);
  const hues = t.groups.map((_, g) => hueOf(t, g, ink.dark));
  const strengths = new Float32Array(t.rows * t.E);
  for (let i = 0; i < strengths.length; i++) {
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

/** A sequential colour. @param {number} v 0 to 1 */
function sequential(v) {
  const at = 3 * Math.round(255 * Math.max(0, Math.min(1, v)));
  return [...colorMaps.cividis.subarray(at, at + 3)];
}

/**
 * @param {any} t experts.js table
 * @param {(i: number) => number} value -1 to 1, NaN: plain grey
 * @param {any} ink
 * @param {{view: string, ends: string[], plain?: string, from0?: boolean}} o ends: words under the
 *   scale; plain: what plain grey means; from0: values are 0 to 1 on a sequential scale
 */
export function valueScheme(t, value, ink, { view, ends, plain = "", from0 = false }) {
  const { dark } = ink;
  const zero = rgbOf(ink.zero);
  const bar = from0 ? sequential : (v) => diverging(2 * v - 1, dark);
  const colour = from0 ? sequential : (v) => diverging(v, dark);
  const values = Float32Array.from({ length: t.rows * t.E }, (_, i) =>
    t.unused(i) ? NaN : Math.max(-1, Math.min(1, value(i))),
  ); // NaN stays
  return {
    view,
    ends,
    plain,
    bar,
    rgb(i) {
      const v = values[i];
      return Number.isNaN(v) ? (t.unused(i) ? null : zero) : colour(v);
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
        ? { rgb: colour(mean * 1.6), alpha: Math.min(1, 0.15 + Math.abs(mean) * 1.5) }
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

/** The scale of the colours with its numbers, and what hatching and plain grey mean; "purpose" has
 * its scale in the keys.
 * @param {HTMLCanvasElement} canvas @param {any} scheme @param {any} ink @param {string} words */
export function drawScale(canvas, scheme, ink, words) {
  const bar = scheme.view === "purpose" ? 0 : 260;
  const width = bar ? 760 : 104;
  const height = bar ? 34 : 18;
  const context = sizeCanvas(canvas, width, height);
  context.clearRect(0, 0, width, height);
  context.font = `12px ${ink.font}`;
  context.textBaseline = "top";
  context.direction = "ltr";
  context.textAlign = "left";
  for (let x = 0; x < bar; x++) {
    context.fillStyle = cssOf(scheme.bar(x / (bar - 1)));
    context.fillRect(x, 2, bar - x, 12); // the rest is drawn over: no seams
  }
  const left = bar ? bar + 14 : 0;
  const key = (at, fill, said) => {
    context.fillStyle = fill;
    context.fillRect(at, 2, 24, 12);
    context.strokeStyle = ink.line;
    context.lineWidth = 1;
    context.strokeRect(at + 0.5, 2.5, 23, 11);
    context.fillStyle = ink.faint;
    context.fillText(said, at + 30, 2);
  };
  key(left, hatch(context, ink), "never used");
  if (!bar) return;
  if (scheme.plain) key(left + 120, ink.zero, scheme.plain);
  [
    ["left", 0],
    ["center", bar / 2],
    ["right", bar],
  ].forEach(([align, x], i) => {
    context.textAlign = align;
    context.fillText(scheme.ends[i], x, 18);
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
  const order = t.groups.map((_, g) => g).sort((a, b) => t.rank(a) - t.rank(b));
  const swatch = (rgb) => h("i", { class: "g4-swatch", style: { background: cssOf(rgb) } });
  const count = (n) => h("span", { class: "g4-count" }, String(n));
  const titleOf = (group, g) =>
    `${formatCount(group.tokens)} tokens; ${formatCount(experts[g])} experts are for them. ` +
    `Click: how much each expert is for “${group.name}”.`;
  const buttons = order.map((g) =>
    h(
      "button",
      {
        type: "button",
        class: "g4-groupkey",
        dataset: { group: g },
        hidden: t.rank(g) >= HUES.length && !more.shown,
        title: titleOf(t.groups[g], g),
        onclick: () => onPick(g),
      },
      swatch(hueOf(t, g, ink.dark)),
      t.groups[g].name,
      count(experts[g]),
    ),
  );
  const small = buttons.slice(HUES.length);
  const rest = order.slice(HUES.length).reduce((sum, g) => sum + experts[g], 0);
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
    swatch(GREY),
    `${small.length} ${t.rest ?? "smaller groups"}`,
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
