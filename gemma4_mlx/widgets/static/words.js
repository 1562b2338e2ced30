// Numbers and tokens as people read them.

const VISIBLE = { " ": "·", "\n": "⏎", "\t": "⇥" };

/** A token's text with its spaces and controls made visible. @param {string} text */
export function visibleToken(text) {
  if (text === "") return "∅";
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what it shows
  return text.replace(/[\u0000-\u0020\u007f]/g, (blank) => VISIBLE[blank] ?? "␦");
}

/** A stretch of text on one line: line ends and controls made visible, blanks as they are.
 * @param {string} text */
export const onOneLine = (text) =>
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what it shows
  text.replace(/[\u0000-\u001f\u007f]/g, (blank) => VISIBLE[blank] ?? "␦");

/** @param {number} bytes */
export function formatBytes(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let i = 0;
  while (bytes >= 1000 && i < units.length - 1) [bytes, i] = [bytes / 1000, i + 1];
  const digits = i && bytes < 100 ? bytes.toPrecision(bytes < 10 ? 2 : 3) : Math.round(bytes);
  return `${digits} ${units[i]}`;
}

/** 131072 -> "131,072". @param {number} n */
export const formatCount = (n) => counts.format(Math.round(n));
// Made once: a map's axes are drawn 60 times a second.
const counts = new Intl.NumberFormat("en-US");

/** A probability for people: "42 %", "0.3 %", "< 0.1 %". @param {number} p */
export function formatPercent(p) {
  if (p > 0 && p < 0.001) return "< 0.1 %";
  return `${p >= 0.0995 || p === 0 ? Math.round(100 * p) : (100 * p).toFixed(1)} %`;
}

/** @param {number} seconds */
export const formatSeconds = (seconds) =>
  seconds < 1 ? `${Math.round(1000 * seconds)} ms` : `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
