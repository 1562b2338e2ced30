/* An explanation as the Why view's parts take it, from an answer of widgets/why.py. */

/** The name under which a view keeps an explanation. */
export const questionKey = ({ position, target, against, method, stop }) =>
  `${position} ${target} ${against} ${method} ${stop}`;

/**
 * Arrays by name, the parts of the model, the largest first, and the largest share of each.
 * @param {{ content: any, buffer: DataView }} answer
 */
export function decodeExplanation({ content, buffer }) {
  const bytes = buffer
    ? buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.byteLength)
    : new ArrayBuffer(0);
  const arrays = {};
  let at = 0;
  for (const [name, shape] of Object.entries(content.arrays)) {
    const size = shape.reduce((a, b) => a * b, 1);
    arrays[name] = { shape, values: new Float32Array(bytes, at, size) };
    at += 4 * size;
  }
  if (arrays.experts) {
    const { shape, values } = arrays.experts;
    arrays.expert_ids = { shape, values: new Int32Array(bytes, at, values.length) };
  }
  const positions = arrays.positions?.values ?? null;
  const parts = partsOf(content.embedding, arrays);
  return {
    ...content,
    positions,
    parts,
    layers: arrays.heads?.shape[0] ?? 0,
    columns: columnsOf(arrays),
    high: largestShare(positions ?? []),
    partHigh: parts.length ? Math.abs(parts[0].share) : 0,
  };
}

function largestShare(values) {
  let high = 0;
  for (const v of values) high = Math.max(high, Math.abs(v));
  return high;
}

/** Every part with its share and its cell in the map of parts, the largest first. */
function partsOf(embedding, arrays) {
  const parts = [];
  const add = (kind, layer, index, share, column) =>
    parts.push({ kind, layer, index, share, column });
  if (embedding !== null && embedding !== undefined) add("embedding", null, null, embedding, -1);
  const { heads, mlp, per_layer: perLayer, experts, expert_ids: ids } = arrays;
  for (const [name, array] of Object.entries({ head: heads, mlp, per_layer: perLayer })) {
    if (!array) continue;
    const first = { head: 0, mlp: heads.shape[1], per_layer: heads.shape[1] + 1 }[name];
    const across = array.shape[1] ?? 1;
    array.values.forEach((share, i) => {
      const index = name === "head" ? i % across : null;
      add(name, Math.floor(i / across), index, share, first + (i % across));
    });
  }
  if (experts) {
    const first = heads.shape[1] + 1 + (perLayer ? 1 : 0);
    const across = experts.shape[1];
    experts.values.forEach((share, i) => {
      add("expert", Math.floor(i / across), ids.values[i], share, first + (i % across));
    });
  }
  return parts.sort((a, b) => Math.abs(b.share) - Math.abs(a.share));
}

/** The columns of the map of parts: {name, first, count} from left to right. */
function columnsOf({ heads, mlp, per_layer: perLayer, experts }) {
  const found = [];
  let first = 0;
  const add = (name, count) => {
    found.push({ name, first, count });
    first += count;
  };
  if (heads) add("heads", heads.shape[1]);
  if (mlp) add("MLP", 1);
  if (perLayer) add("per-layer", 1);
  if (experts) add("experts", experts.shape[1]);
  return found;
}

const OF_KIND = {
  heads: ["head"],
  experts: ["expert"],
  mlps: ["mlp"],
  embeddings: ["embedding", "per_layer"],
};

/** @param {any[]} parts @param {string} choice "all" or a key of the list's switch */
export const partsOfKind = (parts, choice) =>
  choice === "all" ? parts : parts.filter(({ kind }) => OF_KIND[choice].includes(kind));

/** Sums of shares for and against. @param {Array<{share: number}>} parts */
export function sums(parts) {
  let [pro, contra] = [0, 0];
  for (const { share } of parts)
    if (share > 0) pro += share;
    else contra += share;
  return { pro, contra };
}

/** The two ends of a chart of predicted against measured effects. */
export function chartRange(effects) {
  const all = effects.flatMap(({ share, measured }) => [share, measured, 0]);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const room = 0.06 * (high - low || 1);
  return { low: low - room, high: high + room };
}

/** Effects as the view takes them. @param {Array<any[]>} rows */
export const effectsOf = (rows) =>
  rows.map(([kind, layer, index, share, measured, control, text]) => ({
    kind,
    layer,
    index,
    share,
    measured,
    control,
    text,
  }));
