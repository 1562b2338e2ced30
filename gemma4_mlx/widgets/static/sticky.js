/* Keeps a panel in view while what stands beside it scrolls. CSS has "sticky" for that, but a
 * notebook's output area clips its overflow, and within it nothing sticks to the page around. */

import { perFrame } from "./dom.js";

/** @param {HTMLElement} node @param {HTMLElement} within the element whose height it may use
 * @param {AbortSignal} signal */
export function keepInView(node, within, signal) {
  let scroller = null;
  const place = perFrame(() => {
    // Else they stand one below the other.
    const beside = node.offsetWidth < 0.8 * within.clientWidth;
    const edge =
      scroller instanceof Element && scroller !== document.documentElement
        ? scroller.getBoundingClientRect().top
        : 0;
    const room = within.offsetHeight - node.offsetHeight;
    const away = edge + 4 - within.getBoundingClientRect().top;
    const shift = beside ? Math.max(0, Math.min(room, away)) : 0;
    node.style.transform = shift > 0 ? `translateY(${Math.round(shift)}px)` : "";
  });
  document.addEventListener(
    "scroll",
    (event) => {
      if (!event.target.contains?.(within)) return;
      scroller = event.target;
      place();
    },
    { capture: true, passive: true, signal },
  );
}
