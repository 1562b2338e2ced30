// Elements, frames of the screen, files for the reader. Plain functions, no framework.

/**
 * An element. Strings become text nodes, never HTML; `class`, `dataset`, `style`, ARIA and other
 * attributes by name, `on*` functions as listeners (give `signal` to have them removed).
 * @param {string} tag
 * @param {Record<string, any>} [props]
 * @param {...(Node | string | null)} children
 * @returns {any}
 */
export function h(tag, props = {}, ...children) {
  const svg = SVG_TAGS.has(tag);
  const node = svg
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [key, value] of Object.entries(props ?? {}))
    if (value !== undefined && value !== null) give(node, key, value, svg, props.signal);
  for (const child of children.flat())
    if (child !== null && child !== undefined) node.append(child);
  return node;
}

/** Give an element one of its `props`. */
function give(node, key, value, svg, signal) {
  if (key.startsWith("aria-")) node.setAttribute(key, String(value));
  else if (value === false || key === "signal") return;
  else if (key === "dataset") Object.assign(node.dataset, value);
  else if (key === "style" && typeof value === "object") {
    for (const [name, v] of Object.entries(value)) node.style.setProperty(name, String(v));
  } else if (key.startsWith("on") && typeof value === "function") {
    node.addEventListener(key.slice(2), value, signal ? { signal } : undefined);
  } else if (!svg && isProperty(node, key)) node[key] = value;
  else node.setAttribute(key === "className" ? "class" : key, value === true ? "" : String(value));
}

const isProperty = (node, key) =>
  key in node && !key.includes("-") && key !== "list" && key !== "form";

const SVG_TAGS = new Set([
  "svg",
  "path",
  "g",
  "rect",
  "circle",
  "line",
  "text",
  "polyline",
  "title",
  "defs",
]);

/** An icon drawn from one path on a 24 x 24 grid. @param {string} d */
export function icon(d) {
  return h(
    "svg",
    { class: "g4-icon", viewBox: "0 0 24 24", "aria-hidden": "true" },
    h("path", { d }),
  );
}

/** Run `fn` once in the next animation frame, however often it is called. @param {() => void} fn */
export function perFrame(fn) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      fn();
    });
  };
}

/** Offer `data` as a file. @param {string} name @param {Blob | string} data */
export function download(name, data) {
  const url = URL.createObjectURL(data instanceof Blob ? data : new Blob([data]));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
