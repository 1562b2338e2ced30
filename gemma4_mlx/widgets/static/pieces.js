/* Small pieces the trace and model views share: colours of a canvas, controls, tables, export. */

import { categoryColors, colorMaps } from "./colours.js";
import { download, h } from "./dom.js";
import { NotRecorded, request } from "./kernel.js";

/**
 * A line for what went wrong, and what fills it. What a snapshot lacks is said calmly, and goes.
 */
export function problemNote() {
  const problem = h("div", { class: "g4-note g4-problem", role: "status", hidden: true });
  let timer = 0;
  const show = (/** @type {Error} */ error) => {
    const calm = error instanceof NotRecorded;
    problem.textContent = error.message.replace(/^\w+Error: /, "");
    problem.classList.toggle("g4-calm", calm);
    problem.hidden = false;
    clearTimeout(timer);
    if (calm)
      timer = setTimeout(() => {
        problem.hidden = true;
      }, 6000);
  };
  return { problem, show };
}

/** A table of 256 pixels (Uint32, canvas byte order) of a sequential map. @param {string} name */
export function pixelTable(name) {
  const table = colorMaps[name];
  const lut = new Uint32Array(256);
  for (let i = 0; i < 256; i++)
    lut[i] = (255 << 24) | (table[3 * i + 2] << 16) | (table[3 * i + 1] << 8) | table[3 * i];
  return { name, lut, zero: lut[0], table };
}

const partColors = {
  system: categoryColors[7],
  user: categoryColors[0],
  thinking: categoryColors[3],
  answer: categoryColors[2],
  assistant: categoryColors[2],
  model: categoryColors[2],
  image: categoryColors[1],
  video: categoryColors[1],
  audio: categoryColors[5],
  tool: categoryColors[6],
  document: categoryColors[4],
  text: categoryColors[4],
};

/** @param {string} name a part's role or kind */
export const partColor = (name) => partColors[name] ?? categoryColors[4];

/** Red, green and blue of a mark over text. @param {{ dark: boolean }} ink */
export const markColour = (ink) => (ink.dark ? [255, 176, 80] : [230, 120, 0]);

/** A row of buttons of which one is pressed.
 * @param {string} label
 * @param {Array<[string, string] | [string, string, string]>} choices value, text, title
 * @param {string} value @param {(value: string) => void} onChange */
export function segmented(label, choices, value, onChange) {
  const buttons = choices.map(([key, text, title]) =>
    h(
      "button",
      {
        type: "button",
        title: title ?? null,
        "aria-pressed": String(key === value),
        dataset: { value: key },
        onclick: () => set(key, true),
      },
      text,
    ),
  );
  const set = (/** @type {string} */ next, tell = false) => {
    for (const b of buttons) b.setAttribute("aria-pressed", String(b.dataset.value === next));
    if (tell) onChange(next);
  };
  return {
    node: h("div", { class: "g4-segmented", role: "group", "aria-label": label }, ...buttons),
    set,
  };
}

/** A labelled select. @param {string} label @param {Array<[string, string]>} choices
 * @param {string} value @param {(value: string) => void} onChange */
export function picker(label, choices, value, onChange) {
  const select = h(
    "select",
    { "aria-label": label },
    ...choices.map(([key, text]) => h("option", { value: key }, text)),
  );
  select.value = value;
  select.addEventListener("change", () => onChange(select.value));
  return { node: h("label", {}, label, select), select };
}

/**
 * A horizontal bar with a number, for table cells.
 * @param {number} share 0 to 1
 * @param {string} text
 * @param {string} [colour]
 */
export function barCell(share, text, colour) {
  const fill = h("span", {
    class: "g4-bar-fill",
    style: { width: `${(100 * Math.max(0, Math.min(1, share))).toFixed(1)}%` },
  });
  if (colour) fill.style.background = colour;
  return h(
    "td",
    { class: "g4-number" },
    h(
      "span",
      { class: "g4-bar" },
      h("span", { class: "g4-bar-track" }, fill),
      h("span", { class: "g4-bar-text" }, text),
    ),
  );
}

/**
 * A real table.
 * @param {string} caption
 * @param {string[]} heads
 * @param {Array<HTMLElement>} rows
 */
export function table(caption, heads, rows) {
  return h(
    "table",
    { class: "g4-table" },
    h("caption", { class: "g4-hidden" }, caption),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        ...heads.map((text) =>
          h(
            "th",
            { scope: "col", class: text.startsWith("#") ? "g4-number" : null },
            text.replace("#", ""),
          ),
        ),
      ),
    ),
    h("tbody", {}, ...rows),
  );
}

/** A disclosure: the alternative to a picture. @param {string} summary @param {...Node} children */
export const fold = (summary, ...children) =>
  h("details", { class: "g4-fold" }, h("summary", {}, summary), ...children);

/** The title line of a widget. @param {string} title @param {Node[]} chips @param {Node[]} tools */
export const headline = (title, chips, tools) =>
  h(
    "header",
    { class: "g4-headline" },
    h("h3", { class: "g4-title" }, title),
    h("div", { class: "g4-chips" }, ...chips),
    ...tools,
  );

export const chip = (/** @type {string} */ text, kind = "") =>
  h("span", { class: `g4-chip ${kind}` }, text);

/** "Save as" for PNG, SVG and HTML, made by Python from what the widget shows.
 * @param {any} model @param {string} name @param {(error: Error) => void} onError */
export function exportPicker(model, name, onError) {
  const select = h(
    "select",
    { "aria-label": "Save this view as a file" },
    h("option", { value: "" }, "Save as…"),
    h("option", { value: "png" }, "PNG picture"),
    h("option", { value: "svg" }, "SVG drawing"),
    model.isStatic ? null : h("option", { value: "html" }, "HTML page"),
  );
  select.addEventListener("change", async () => {
    const format = select.value;
    select.value = "";
    if (!format) return;
    try {
      const answer = await request(model, "export", { format: model.isStatic ? "svg" : format });
      if (!answer) return;
      if (model.isStatic && format === "png") {
        download(`${name}.png`, await pngOf(answer.buffer));
        return;
      }
      const type = { png: "image/png", svg: "image/svg+xml", html: "text/html" }[format];
      download(`${name}.${format}`, new Blob([answer.buffer], { type }));
    } catch (error) {
      onError(error);
    }
  });
  return select;
}

/** An SVG drawing as a PNG, two pixels per unit. @param {DataView} svg */
async function pngOf(svg) {
  const picture = new Image();
  picture.src = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
  await picture.decode();
  const canvas = h("canvas", { width: 2 * picture.width, height: 2 * picture.height });
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(picture.src);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/**
 * The `k` largest of `values` as [index, value], largest first, zero left out.
 * @param {Float32Array} values
 * @param {number} k
 * @param {(i: number) => boolean} [skip]
 */
export function largest(values, k, skip) {
  const top = [];
  for (let i = 0; i < values.length; i++) {
    const v = values[i];
    if (!(v > 0) || (top.length === k && v <= top[k - 1][1]) || skip?.(i)) continue;
    let at = top.length;
    while (at > 0 && top[at - 1][1] < v) at--;
    top.splice(at, 0, [i, v]);
    if (top.length > k) top.pop();
  }
  return top;
}

/**
 * How many of the largest values hold `share` of their sum.
 * @param {Float32Array} values
 * @param {number} share
 */
export function tokensHolding(values, share) {
  const sorted = Float32Array.from(values).sort();
  let total = 0;
  for (const v of sorted) total += v;
  let sum = 0;
  let count = 0;
  for (let i = sorted.length - 1; i >= 0 && sum < share * total; i--) {
    sum += sorted[i];
    count++;
  }
  return count;
}

export const floats = (/** @type {DataView} */ buffer) =>
  new Float32Array(buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.byteLength));
export const bytesOf = (/** @type {DataView} */ buffer) =>
  new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength);
