// Whether the host is dark, and the colours for canvases that follow from it.

import { onResize } from "./canvas.js";
import { perFrame } from "./dom.js";

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
export function followInk(root, signal) {
  const callbacks = new Set();
  let ink = readInk(root);
  let known = "";
  const look = () => {
    root.dataset.theme = hostIsDark() ? "dark" : "light";
    if (!root.isConnected) return;
    ink = readInk(root);
    if (!ink.text) {
      requestAnimationFrame(look); // our style sheet is still on its way
      return;
    }
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
