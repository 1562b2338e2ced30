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
