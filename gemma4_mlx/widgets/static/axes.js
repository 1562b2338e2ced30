/* Cells and axes of a map of tokens: which tokens a cell holds, and what stands on its axes. */

/** Round numbers between two token positions, about `count` of them. */
export function ticks(from, to, count) {
  const raw = (to - from) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(Math.max(raw, 1e-9)));
  const step = Math.max(1, [1, 2, 5, 10].map((k) => k * power).find((s) => s >= raw) ?? 10 * power);
  const out = [];
  for (let at = Math.ceil(from / step) * step; at < to; at += step) out.push(at);
  return out;
}

/** A token's text for an axis: one line, blanks visible, at most `length` characters. */
export function shorten(text, length) {
  const line = text
    .replace(/\n/g, "↵")
    .replace(/\t/g, "⇥")
    .replace(/^ +| +$/g, (blank) => "·".repeat(blank.length));
  const letters = [...line];
  return letters.length > length ? `${letters.slice(0, length - 1).join("")}…` : line;
}

/** First token of a tile's cell; tiles whose length no power of two divides have uneven cells. */
export const edge = (start, index, cell) => start + Math.floor(index * cell + 1e-6);
export const cellIndex = (token, start, cell) => {
  let index = Math.floor((token - start) / cell + 1e-6);
  while (edge(start, index + 1, cell) <= token) index++;
  while (edge(start, index, cell) > token) index--;
  return index;
};
