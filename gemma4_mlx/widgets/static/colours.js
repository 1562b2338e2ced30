// Colour maps and categories that are told apart with every common colour vision.

/** Interpolate hex colours into a table of 256 x 3 bytes. @param {string[]} stops */
function colorTable(stops) {
  const rgb = stops.map((s) => [1, 3, 5].map((i) => parseInt(s.slice(i, i + 2), 16)));
  const table = new Uint8Array(768);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * (rgb.length - 1);
    const low = Math.min(rgb.length - 2, Math.floor(at));
    for (let c = 0; c < 3; c++) {
      table[3 * i + c] = Math.round(rgb[low][c] + (at - low) * (rgb[low + 1][c] - rgb[low][c]));
    }
  }
  return table;
}

/** Sequential maps readable with every common colour vision (viridis and cividis of matplotlib). */
export const colorMaps = {
  viridis: colorTable([
    "#440154",
    "#482878",
    "#3e4989",
    "#31688e",
    "#26828e",
    "#1f9e89",
    "#35b779",
    "#6ece58",
    "#b5de2b",
    "#fde725",
  ]),
  cividis: colorTable([
    "#00224e",
    "#123570",
    "#3b496c",
    "#575d6d",
    "#707173",
    "#8a8678",
    "#a59c74",
    "#c3b369",
    "#e1cc55",
    "#fee838",
  ]),
  // blue - grey - orange, for differences around zero
  diverging: colorTable([
    "#2166ac",
    "#67a9cf",
    "#d1e5f0",
    "#f2f0ec",
    "#fdd7b0",
    "#ef8a45",
    "#b35806",
  ]),
};

/** Okabe and Ito's eight colours, told apart with every common colour vision. */
export const categoryColors = [
  "#0072b2",
  "#e69f00",
  "#009e73",
  "#cc79a7",
  "#56b4e9",
  "#d55e00",
  "#f0e442",
  "#999999",
];

/** A css colour of a table at t in [0, 1]. @param {Uint8Array} table @param {number} t */
export function colorAt(table, t) {
  const i = 3 * Math.max(0, Math.min(255, Math.round(255 * t)));
  return `rgb(${table[i]},${table[i + 1]},${table[i + 2]})`;
}

/**
 * Black or white, whichever reads better on a table's colour.
 * @param {Uint8Array} table
 * @param {number} t
 */
export function inkOn(table, t) {
  const i = 3 * Math.max(0, Math.min(255, Math.round(255 * t)));
  const linear = (/** @type {number} */ v) =>
    v / 255 <= 0.04045 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const luminance =
    0.2126 * linear(table[i]) + 0.7152 * linear(table[i + 1]) + 0.0722 * linear(table[i + 2]);
  return luminance > 0.179 ? "#000" : "#fff";
}

/** Red, green and blue of "#rrggbb". @param {string} hex */
export const rgbOf = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
export const mixed = (a, b, t) => [0, 1, 2].map((c) => a[c] + (b[c] - a[c]) * t);
export const cssOf = ([r, g, b], alpha = 1) =>
  `rgba(${Math.round(r)},${Math.round(g)},${Math.round(b)},${alpha.toFixed(3)})`;

const DIVERGING = {
  light: ["#1f5fa8", "#6aa5d8", "#eceae6", "#f0a35e", "#b5540a"].map(rgbOf),
  dark: ["#7ab8ff", "#3f78b5", "#30333b", "#b56a2a", "#ffab5c"].map(rgbOf),
};

/** Blue for less, orange for more. @param {number} v -1 to 1 @param {boolean} dark */
export function diverging(v, dark) {
  const stops = dark ? DIVERGING.dark : DIVERGING.light;
  const at = (Math.max(-1, Math.min(1, v)) + 1) * 2;
  const low = Math.min(3, Math.floor(at));
  return mixed(stops[low], stops[low + 1], at - low);
}
