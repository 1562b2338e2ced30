/* What the Anatomy view calls things: counts, layers, colours of parts. */

import { formatCount } from "./words.js";

export const PART_COLORS = {
  vision: "#cc79a7",
  audio: "#d55e00",
  embedding: "#8d8d8d",
  per_layer_table: "#c4b400",
  attention: "#0072b2",
  mlp: "#56b4e9",
  router: "#9c5a00",
  experts: "#009e73",
  per_layer: "#e69f00",
  norms: "#666666",
};

/** A number of parameters or tokens: "4.52 B", "640 M", "12.0 K". */
export function shortCount(n) {
  for (const [size, name] of [
    [1e9, "B"],
    [1e6, "M"],
    [1e3, "K"],
  ]) {
    const count = n / size;
    if (count >= 1) return `${count.toFixed(count < 10 ? 2 : count < 100 ? 1 : 0)} ${name}`;
  }
  return String(Math.round(n));
}

/** How a layer attends. @param {{ kind: string, window: number | null }} layer */
export const attentionWords = ({ kind, window }) =>
  kind === "full" ? "full attention" : `sliding attention, window ${formatCount(window)}`;

/** Parameters a text token passes through: no towers, k of E experts, one row of each table. */
export function activeParameters({ blocks, k, experts }) {
  const active = ({ part, params }) => {
    if (["vision", "audio", "per_layer_table"].includes(part)) return 0;
    return part === "experts" ? (params * k) / experts : params;
  };
  return blocks.flatMap((block) => block.parts).reduce((sum, part) => sum + active(part), 0);
}

/** What of a model is counted. @param {"params" | "bytes"} unit */
export const totalOf = ({ blocks }, unit) =>
  blocks.flatMap((block) => block.parts).reduce((sum, part) => sum + part[unit], 0);
