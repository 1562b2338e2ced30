// Helpers that every widget's module starts with. Joined in front of it by widgets/base.py.
// Plain functions, no framework; types are JSDoc.

import { lifelineOf } from "./lifeline.js";

/**
 * @typedef {{ get(name: string): any, set(name: string, value: any): void, save_changes(): void,
 *   send(content: any, callbacks?: any, buffers?: ArrayBuffer[]): void,
 *   on(event: string, callback: Function): void, off(event: string, callback?: Function): void,
 *   isStatic?: boolean }} Model  anywidget's model, or the snapshot's stand-in for it
 * @typedef {{ root: HTMLElement, signal: AbortSignal, cleanup: () => void,
 *   announce: (text: string) => void, tip: Tip, isStatic: boolean,
 *   ink: () => Ink, onInk: (callback: (ink: Ink) => void) => void }} View
 * @typedef {{ show(x: number, y: number, content: Node | string): void, hide(): void,
 *   element: HTMLElement }} Tip
 */

// ---- DOM -------------------------------------------------------------------------------------

/**
 * An element. Strings become text nodes, never HTML; `class`, `dataset`, `style`, ARIA and other
 * attributes by name, `on*` functions as listeners (give `signal` to have them removed).
 * @param {string} tag @param {Record<string, any>} [props] @param {...(Node | string | null)} children
 * @returns {any}
 */
export function h(tag, props = {}, ...children) {
  const svg = h.svgTags.has(tag);
  const node = svg
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [key, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null) continue;
    if (key.startsWith("aria-")) node.setAttribute(key, String(value));
    else if (value === false) continue;
    else if (key === "dataset") Object.assign(node.dataset, value);
    else if (key === "style" && typeof value === "object") {
      for (const [name, v] of Object.entries(value)) node.style.setProperty(name, String(v));
    } else if (key.startsWith("on") && typeof value === "function") {
      node.addEventListener(
        key.slice(2),
        value,
        props.signal ? { signal: props.signal } : undefined,
      );
    } else if (key === "signal") continue;
    else if (!svg && key in node && !key.includes("-") && key !== "list" && key !== "form")
      node[key] = value;
    else
      node.setAttribute(key === "className" ? "class" : key, value === true ? "" : String(value));
  }
  for (const child of children.flat())
    if (child !== null && child !== undefined) node.append(child);
  return node;
}
h.svgTags = new Set([
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

// ---- The kernel ------------------------------------------------------------------------------

let requestCount = 0;

/** What a snapshot did not record: to be told calmly, once. */
export class NotRecorded extends Error {
  constructor() {
    super("This page is a snapshot and did not record that; the notebook has it.");
  }
}

/**
 * Ask Python (`answer_<type>` of the widget) and wait for the answer.
 * A newer request of the same `slot` makes an older one resolve to null. `onProgress` hears what
 * Python's `self.progress(...)` tells meanwhile; without it the reader sees it above the widget.
 * @param {Model} model @param {string} type @param {Record<string, any>} [args]
 * @param {{ signal?: AbortSignal, slot?: string, buffers?: ArrayBuffer[],
 *   onProgress?: (progress: { what: string, done: number, total: number }) => void }} [options]
 * @returns {Promise<{ content: any, buffer: DataView | null } | null>}
 */
export function request(model, type, args = {}, { signal, slot, buffers, onProgress } = {}) {
  const life = lifelineOf(model);
  const id = `${Date.now().toString(36)}-${++requestCount}`;
  return new Promise((resolve, reject) => {
    const receive = (/** @type {any} */ message, /** @type {DataView[]} */ bulk) => {
      if (message?.id !== id) return;
      forget();
      if (message.unrecorded) reject(new NotRecorded());
      else if (message.error) reject(new Error(message.error));
      else if (message.stale) resolve(null);
      else resolve({ content: message.content, buffer: bulk?.[0] ?? null });
    };
    const forget = () => {
      life.end(id);
      model.off("msg:custom", receive);
      signal?.removeEventListener("abort", forget);
    };
    life.begin(id, onProgress);
    model.on("msg:custom", receive);
    signal?.addEventListener("abort", forget);
    model.send({ ...args, type, id, ...(slot ? { slot } : {}) }, undefined, buffers);
  });
}

const POLL = 250; // milliseconds between two questions

/**
 * `request`, for something that takes seconds (widgets/jobs.py): asks until it is there or not
 * `wanted` any more; `tell` hears the share done. Other requests are answered meanwhile.
 * @param {(type: string, args: any) => Promise<any>} ask
 */
export function patient(ask) {
  return async (
    /** @type {string} */ type,
    /** @type {any} */ args,
    /** @type {(share: number) => void} */ tell,
    wanted = () => true,
  ) => {
    for (;;) {
      const answer = await ask(type, args);
      if (!wanted() || !("running" in (answer.content ?? {}))) return answer;
      tell(answer.content.running);
      await new Promise((done) => setTimeout(done, POLL));
    }
  };
}

/** Set traits and send them to Python. @param {Model} model @param {Record<string, any>} values */
export function setTraits(model, values) {
  for (const [name, value] of Object.entries(values)) model.set(name, value);
  model.save_changes();
}

/** Call back now and whenever one of the traits changes.
 * @param {Model} model @param {string[]} names @param {() => void} callback @param {AbortSignal} signal */
export function watch(model, names, callback, signal) {
  for (const name of names) {
    model.on(`change:${name}`, callback);
    signal.addEventListener("abort", () => model.off(`change:${name}`, callback));
  }
  callback();
}

/**
 * The shared selection ({layer, token, head, expert, ...}; see widgets/selection.py). Widgets on one
 * trace follow each other at once in the page, and through Python when the kernel is free.
 * @param {Model} model @param {(selection: Record<string, any>) => void} onChange
 * @param {AbortSignal} signal
 * @returns {{ get(): Record<string, any>, set(patch: Record<string, any>): void }}
 */
export function linkSelection(model, onChange, signal) {
  const bus = "g4-selection";
  const get = () => model.get("selection") ?? {};
  const changed = () => onChange(get());
  const heard = (/** @type {any} */ event) => {
    if (event.detail.from === model || event.detail.key !== model.get("selection_key")) return;
    model.set("selection", event.detail.value);
  };
  model.on("change:selection", changed);
  document.addEventListener(bus, heard, { signal });
  signal.addEventListener("abort", () => model.off("change:selection", changed));
  return {
    get,
    set(patch) {
      const value = { ...get(), ...patch };
      setTraits(model, { selection: value });
      const detail = { from: model, key: model.get("selection_key"), value };
      document.dispatchEvent(new CustomEvent(bus, { detail }));
    },
  };
}

// ---- The frame around a widget ----------------------------------------------------------------

/**
 * Prepare `el` for a widget: theme, live region, tooltip, error banner, what to know of the kernel.
 * @param {Model} model @param {HTMLElement} el @param {string} name @returns {View}
 */
export function mount(model, el, name) {
  const abort = new AbortController();
  const { signal } = abort;
  const isStatic = Boolean(model.isStatic);
  // Keys typed in the widget are its own: without this JupyterLab would move to another cell.
  const root = h("div", { class: `g4 g4-${name}`, "data-lm-suppress-shortcuts": "true" });
  root.className = `g4 g4-${name}`;
  // Notebook 7 looks for that on the element with the focus, and no further.
  root.addEventListener(
    "focusin",
    (event) => /** @type {any} */ (event.target).setAttribute("data-lm-suppress-shortcuts", "true"),
    { signal },
  );
  const live = h("output", { "aria-live": "polite" });
  live.className = "g4-hidden";
  const errorBox = banner("alert");
  const goneBox = banner("status");
  errorBox.append(
    h("span", { dir: "auto" }),
    h("button", {
      type: "button",
      className: "g4-quiet",
      textContent: "Dismiss",
      signal,
      onclick: () => {
        errorBox.hidden = true;
        if (!isStatic) request(model, "dismiss", {}, { signal }).catch(() => {});
      },
    }),
  );
  el.append(root);
  root.append(errorBox, goneBox, live);

  watch(
    model,
    ["error"],
    () => {
      const text = model.get("error");
      errorBox.hidden = !text;
      errorBox.firstChild.textContent = text ?? "";
    },
    signal,
  );
  if (!isStatic) {
    const life = lifelineOf(model);
    const look = () => {
      const { gone, text } = life.look();
      root.dataset.waiting = String(life.pending);
      if (gone) root.dataset.gone = "true";
      goneBox.hidden = !text;
      if (goneBox.textContent !== text) goneBox.textContent = text;
    };
    const timer = setInterval(look, 1000);
    signal.addEventListener("abort", () => clearInterval(timer));
  }

  // The view's own header takes the button, once the view is built.
  if (document.fullscreenEnabled)
    queueMicrotask(() => {
      (root.querySelector(".g4-headline, .g4-head") ?? root).append(presenter(root, signal));
    });
  const { ink, onInk } = followInk(root, signal);
  const tip = makeTip(root, signal);
  return {
    root,
    signal,
    isStatic,
    tip,
    ink,
    onInk,
    announce: throttledText(live),
    cleanup: () => {
      abort.abort();
      root.remove();
    },
  };

  function banner(/** @type {string} */ role) {
    const node = h("div", { role, hidden: true });
    node.className = "g4-banner";
    return node;
  }
}

/** A button that shows the widget alone on the whole screen, for a projector. */
function presenter(/** @type {HTMLElement} */ root, /** @type {AbortSignal} */ signal) {
  const says = "Fill the screen (Escape ends it)";
  const button = h(
    "button",
    {
      type: "button",
      class: "g4-quiet g4-present",
      title: says,
      "aria-label": says,
      "aria-pressed": "false",
      signal,
      onclick: () =>
        root.matches(":fullscreen") ? document.exitFullscreen() : root.requestFullscreen(),
    },
    icon("M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5"),
  );
  root.addEventListener(
    "fullscreenchange",
    () => {
      button.setAttribute("aria-pressed", String(root.matches(":fullscreen")));
    },
    { signal },
  );
  return button;
}

/** Speak at most once a second, the newest text last. @param {HTMLElement} node */
function throttledText(node) {
  let next = "";
  let timer = 0;
  return (/** @type {string} */ text) => {
    next = text;
    timer ||= setTimeout(
      () => {
        timer = 0;
        node.textContent = next;
      },
      node.textContent ? 1000 : 50,
    );
  };
}

/** Whether the page around us is dark: JupyterLab, VS Code, Colab, marimo, then the system. */
function hostIsDark() {
  const { body, documentElement: page } = document;
  if (page.dataset.g4Theme) return page.dataset.g4Theme === "dark";
  if (body.dataset.jpThemeLight) return body.dataset.jpThemeLight === "false";
  if (page.getAttribute("theme")) return page.getAttribute("theme") === "dark";
  const classes = `${page.className} ${body.className}`;
  if (/\bvscode-(dark|high-contrast)\b|\bdark(-theme)?\b/.test(classes)) return true;
  if (/\bvscode-light\b|\blight(-theme)?\b/.test(classes)) return false;
  const theme = page.dataset.theme ?? body.dataset.theme;
  if (theme) return theme === "dark";
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

/**
 * Keep `data-theme` and the colours for canvases true. A module draws before its host puts it into
 * the page, where computed styles are still empty; hosts take cells out and in again, and change
 * their style sheets when they like. So `onInk` calls back once the colours are there (at once if
 * they are) and whenever they have changed; `ink()` is the newest. Before the first call its
 * colours are "", which a canvas ignores.
 * @param {HTMLElement} root @param {AbortSignal} signal
 */
function followInk(root, signal) {
  const callbacks = new Set();
  let ink = readInk(root),
    known = "";
  const look = () => {
    root.dataset.theme = hostIsDark() ? "dark" : "light";
    if (!root.isConnected) return;
    ink = readInk(root);
    if (!ink.text) {
      requestAnimationFrame(look);
      return;
    } // our style sheet is still on its way
    const now = JSON.stringify(ink);
    if (now === known) return;
    // A hidden page has no sizes to draw by; JupyterLab hides its own while themes change.
    if (!root.clientWidth) {
      setTimeout(look, 250);
      return;
    }
    known = now;
    for (const callback of callbacks) callback(ink);
  };
  look();
  const soon = perFrame(look);
  const observer = new MutationObserver(soon);
  const attributeFilter = [
    "class",
    "style",
    "theme",
    "data-theme",
    "data-jp-theme-light",
    "data-g4-theme",
  ];
  for (const node of [document.documentElement, document.body]) {
    observer.observe(node, { attributes: true, attributeFilter });
  }
  document.addEventListener("load", (event) => /** @type {any} */ (event.target).sheet && soon(), {
    capture: true,
    signal,
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", soon, { signal });
  onResize(root, look, signal); // from nothing to something: it came into the page, or back
  signal.addEventListener("abort", () => observer.disconnect());
  return {
    ink: () => ink,
    onInk(/** @type {(ink: Ink) => void} */ callback) {
      callbacks.add(callback);
      if (known) callback(ink);
    },
  };
}

/** @typedef {ReturnType<typeof readInk>} Ink */

/** Colours for a canvas, read from the theme. @param {HTMLElement} root */
export function readInk(root) {
  const style = getComputedStyle(root);
  const of = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
  const dark = root.dataset.theme === "dark";
  return {
    dark,
    text: of("--g4-fg"),
    faint: of("--g4-muted"),
    line: of("--g4-line-strong"),
    thin: of("--g4-line"),
    panel: of("--g4-bg"),
    masked: of("--g4-sunken"),
    accent: of("--g4-accent"),
    zero: dark ? "#2a2d35" : "#e3e6ec",
    halo: dark ? "#000000" : "#ffffff",
    font: style.fontFamily || "sans-serif",
    mono: of("--g4-mono"),
  };
}

/** One tooltip per widget; `show` takes client coordinates. @returns {Tip} */
function makeTip(/** @type {HTMLElement} */ root, /** @type {AbortSignal} */ signal) {
  const element = h("div", { role: "tooltip", hidden: true });
  element.className = "g4-tip";
  root.append(element);
  const tip = {
    element,
    hide: () => {
      element.hidden = true;
    },
    show(/** @type {number} */ x, /** @type {number} */ y, /** @type {Node | string} */ content) {
      element.replaceChildren(content);
      element.hidden = false;
      const box = root.getBoundingClientRect();
      const { offsetWidth: width, offsetHeight: height } = element;
      const left = Math.max(4, Math.min(x - box.left + 12, box.width - width - 4));
      const above = y - box.top - height - 12;
      element.style.left = `${left}px`;
      element.style.top = `${above > 0 ? above : y - box.top + 18}px`;
    },
  };
  root.addEventListener("keydown", (event) => event.key === "Escape" && tip.hide(), { signal });
  return tip;
}

// ---- Canvas ----------------------------------------------------------------------------------

/**
 * Size a canvas to its CSS box at the screen's resolution, scaled so that one unit is one CSS pixel.
 * @param {HTMLCanvasElement} canvas @param {number} width @param {number} height
 * @returns {CanvasRenderingContext2D}
 */
export function sizeCanvas(canvas, width, height) {
  const ratio = devicePixelRatio || 1;
  const w = Math.max(1, Math.round(width * ratio));
  const hh = Math.max(1, Math.round(height * ratio));
  if (canvas.width !== w || canvas.height !== hh) Object.assign(canvas, { width: w, height: hh });
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

/** @param {Element} node @param {(width: number, height: number) => void} callback @param {AbortSignal} signal */
export function onResize(node, callback, signal) {
  const observer = new ResizeObserver(([entry]) =>
    callback(entry.contentRect.width, entry.contentRect.height),
  );
  observer.observe(node);
  signal.addEventListener("abort", () => observer.disconnect());
}

// ---- Colour ----------------------------------------------------------------------------------

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

/** Black or white, whichever reads better on a table's colour. @param {Uint8Array} table @param {number} t */
export function inkOn(table, t) {
  const i = 3 * Math.max(0, Math.min(255, Math.round(255 * t)));
  const linear = (/** @type {number} */ v) =>
    v / 255 <= 0.04045 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const luminance =
    0.2126 * linear(table[i]) + 0.7152 * linear(table[i + 1]) + 0.0722 * linear(table[i + 2]);
  return luminance > 0.179 ? "#000" : "#fff";
}

// ---- Words and numbers -----------------------------------------------------------------------

/** A token's text with its spaces and controls made visible. @param {string} text */
export function visibleToken(text) {
  if (text === "") return "∅";
  return text
    .replace(/ /g, "·")
    .replace(/\n/g, "⏎")
    .replace(/\t/g, "⇥")
    .replace(/[\u0000-\u001f\u007f]/g, "␦");
}

/** @param {number} bytes */
export function formatBytes(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let i = 0;
  while (bytes >= 1000 && i < units.length - 1) [bytes, i] = [bytes / 1000, i + 1];
  return `${i && bytes < 100 ? bytes.toPrecision(2 + Number(bytes >= 10)) : Math.round(bytes)} ${units[i]}`;
}

/** 131072 -> "131,072". @param {number} n */
export const formatCount = (n) => counts.format(Math.round(n));
const counts = new Intl.NumberFormat("en-US"); // made once: a map's axes are drawn 60 times a second

/** A probability for people: "42 %", "0.3 %", "< 0.1 %". @param {number} p */
export function formatPercent(p) {
  if (p > 0 && p < 0.001) return "< 0.1 %";
  return `${p >= 0.0995 || p === 0 ? Math.round(100 * p) : (100 * p).toFixed(1)} %`;
}

/** @param {number} seconds */
export const formatSeconds = (seconds) =>
  seconds < 1 ? `${Math.round(1000 * seconds)} ms` : `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
