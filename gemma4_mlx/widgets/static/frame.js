// The frame around every widget: theme, banners, tooltip, live region, the whole screen.

import { h, icon } from "./dom.js";
import { request, watch } from "./kernel.js";
import { lifelineOf } from "./lifeline.js";
import { followInk } from "./theme.js";

/**
 * @typedef {{ root: HTMLElement, signal: AbortSignal, cleanup: () => void,
 *   announce: (text: string) => void, tip: Tip, isStatic: boolean,
 *   ink: () => Ink, onInk: (callback: (ink: Ink) => void) => void }} View
 * @typedef {{ show(x: number, y: number, content: Node | string): void, hide(): void,
 *   element: HTMLElement }} Tip
 */

/**
 * Prepare `el` for a widget: theme, live region, tooltip, error banner, what to know of the kernel.
 * @param {Model} model @param {HTMLElement} el @param {string} name @returns {View}
 */
export function mount(model, el, name) {
  const abort = new AbortController();
  const { signal } = abort;
  const isStatic = Boolean(model.isStatic);
  const root = makeRoot(name, signal);
  const live = h("output", { "aria-live": "polite" });
  live.className = "g4-hidden";
  const goneBox = banner("status");
  el.append(root);
  root.append(errorBanner(model, isStatic, signal), goneBox, live);
  if (!isStatic) watchKernel(model, root, goneBox, signal);
  // The view's own header takes the button, once the view is built.
  if (document.fullscreenEnabled)
    queueMicrotask(() => {
      (root.querySelector(".g4-headline, .g4-head") ?? root).append(presenter(root, signal));
    });
  const { ink, onInk } = followInk(root, signal);
  return {
    root,
    signal,
    isStatic,
    tip: makeTip(root, signal),
    ink,
    onInk,
    announce: throttledText(live),
    cleanup: () => {
      abort.abort();
      root.remove();
    },
  };
}

function makeRoot(/** @type {string} */ name, /** @type {AbortSignal} */ signal) {
  // Keys typed in the widget are its own: without this JupyterLab would move to another cell.
  const own = "data-lm-suppress-shortcuts";
  const root = h("div", { [own]: "true" });
  root.className = `g4 g4-${name}`;
  // Notebook 7 looks for that on the element with the focus, and no further.
  const focused = (event) => event.target.setAttribute(own, "true");
  root.addEventListener("focusin", focused, { signal });
  return root;
}

function banner(/** @type {string} */ role) {
  const node = h("div", { role, hidden: true });
  node.className = "g4-banner";
  return node;
}

/** Shows the `error` trait until the reader dismisses it. */
function errorBanner(model, isStatic, signal) {
  const text = h("span", { dir: "auto" });
  const box = banner("alert");
  const dismiss = () => {
    box.hidden = true;
    if (!isStatic) request(model, "dismiss", {}, { signal }).catch(() => {});
  };
  const props = { type: "button", className: "g4-quiet", signal, onclick: dismiss };
  box.append(text, h("button", props, "Dismiss"));
  const show = () => {
    const error = model.get("error");
    box.hidden = !error;
    text.textContent = error ?? "";
  };
  watch(model, ["error"], show, signal);
  return box;
}

/** Says in `box` when Python is silent. */
function watchKernel(model, root, box, signal) {
  const life = lifelineOf(model);
  const look = () => {
    const { gone, text } = life.look();
    root.dataset.waiting = String(life.pending);
    if (gone) root.dataset.gone = "true";
    box.hidden = !text;
    if (box.textContent !== text) box.textContent = text;
  };
  const timer = setInterval(look, 1000);
  signal.addEventListener("abort", () => clearInterval(timer));
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
  let waiting = false;
  return (/** @type {string} */ text) => {
    next = text;
    if (waiting) return;
    waiting = true;
    const say = () => {
      waiting = false;
      node.textContent = next;
    };
    setTimeout(say, node.textContent ? 1000 : 50);
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
