/* What stands on the axes of a map of tokens: positions, or the tokens' texts. */

/** Round numbers between two token positions, about `count` of them. */
export function ticks(from, to, count) {
  const raw = (to - from) / Math.max(1, count), power = 10 ** Math.floor(Math.log10(Math.max(raw, 1e-9)));
  const step = Math.max(1, [1, 2, 5, 10].map((k) => k * power).find((s) => s >= raw) ?? 10 * power);
  const out = [];
  for (let at = Math.ceil(from / step) * step; at < to; at += step) out.push(at);
  return out;
}

/** A token's text for an axis: one line, blanks visible, at most `length` characters. */
export function shorten(text, length) {
  const line = text.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/^ +| +$/g, (blank) => "·".repeat(blank.length));
  const letters = [...line];
  return letters.length > length ? letters.slice(0, length - 1).join("") + "…" : line;
}
