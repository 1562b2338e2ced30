// The Prompt widget's icons: one path each, drawn with the text's colour.
import { icon } from "./dom.js";

/** @type {Record<string, () => SVGElement>} */
export const icons = Object.fromEntries(
  Object.entries({
    plus: "M12 5v14M5 12h14",
    open: "M12 15V4m0 0 4 4m-4-4L8 8M5 19h14",
    sliders: "M4 7h9m4 0h3M4 17h3m4 0h9M15 5v4M9 15v4",
    send: "M12 19V5m0 0-6 6m6-6 6 6",
    stop: "M7 7h10v10H7z",
    attach:
      "m20 11-8.5 8.5a5 5 0 0 1-7-7L13 4a3.3 3.3 0 0 1 4.7 4.7l-8.5 8.4a1.7 1.7 0 0 1-2.4-2.3" +
      "L14.5 7",
    microphone:
      "M12 4a2.5 2.5 0 0 1 2.5 2.5v5a2.5 2.5 0 0 1-5 0v-5A2.5 2.5 0 0 1 12 4zM6 11a6 6 0 0 0 12 0" +
      "M12 17v3",
    copy: "M9 9h10v10H9zM5 15V5h10",
    edit: "m5 19 1-4L16.5 4.5l3 3L9 18z",
    again: "M19 12a7 7 0 1 1-2.2-5.1M19 4v4h-4",
    tokens: "M4 6h6v5H4zM13 6h7v5h-7zM4 14h9v4H4zM16 14h4v4h-4z",
    left: "m14 7-5 5 5 5",
    right: "m10 7 5 5-5 5",
    tool: "M14.5 6.5a4 4 0 0 0-5.2 5.2L4 17l3 3 5.3-5.3a4 4 0 0 0 5.2-5.2L15 12l-3-3z",
    close: "M7 7l10 10M17 7 7 17",
    done: "m5 12.5 4.5 4.5L19 7.5",
  }).map(([name, d]) => [name, () => icon(d)]),
);
