// The Prompt widget's sampling controls: a panel that unfolds under the header.
import { h, setTraits, watch } from "./shared.js";

const CONTROLS = [
  {
    name: "temperature",
    label: "Temperature",
    min: 0,
    max: 2,
    step: 0.05,
    help: "0 always takes the likeliest token",
  },
  {
    name: "top_p",
    label: "Top p",
    min: 0.05,
    max: 1,
    step: 0.05,
    help: "Keep the likeliest tokens that share this much probability",
  },
  {
    name: "top_k",
    label: "Top k",
    min: 0,
    max: 128,
    step: 1,
    help: "Keep this many of the likeliest tokens; 0 keeps all",
  },
  {
    name: "min_p",
    label: "Min p",
    min: 0,
    max: 0.5,
    step: 0.01,
    help: "Drop tokens less likely than this share of the likeliest",
  },
  {
    name: "repetition_penalty",
    label: "Repetition",
    min: 1,
    max: 2,
    step: 0.05,
    help: "Repetition penalty: divides the logits of recent tokens; 1 is none",
  },
];

/** @returns {{ node: HTMLElement, toggle: HTMLElement }} */
export function makeOptions({ model, view, icons }) {
  const { signal } = view;
  const set = (name, value) =>
    setTraits(model, { options: { ...model.get("options"), [name]: value } });
  const update = [];

  const sliders = CONTROLS.map(({ name, label, min, max, step, help }) => {
    const value = h("output", {});
    const input = h("input", {
      type: "range",
      min,
      max,
      step,
      title: help,
      signal,
      oninput: () => {
        value.textContent = input.value;
      },
      onchange: () => set(name, Number(input.value)),
    });
    update.push((options) => {
      input.value = options[name] ?? 0;
      value.textContent = input.value;
    });
    return h("label", { className: "g4-slider" }, h("span", { textContent: label }), input, value);
  });
  const number = (name, label, placeholder, min) => {
    const input = h("input", {
      type: "number",
      min,
      step: 1,
      placeholder,
      signal,
      onchange: () =>
        set(name, input.value === "" ? null : Math.max(min, Math.round(Number(input.value)))),
    });
    update.push((options) => {
      input.value = options[name] ?? "";
    });
    return h("label", { className: "g4-number-field" }, h("span", { textContent: label }), input);
  };
  const thinking = h("input", {
    type: "checkbox",
    signal,
    onchange: () => set("thinking", thinking.checked),
  });
  update.push((options) => {
    thinking.checked = Boolean(options.thinking);
  });

  const node = h(
    "div",
    { className: "g4-options", hidden: true, role: "group", "aria-label": "Sampling" },
    ...sliders,
    number("max_tokens", "Longest answer", "no limit", 1),
    number("seed", "Seed", "random", 0),
    h(
      "label",
      { className: "g4-check" },
      thinking,
      h("span", { textContent: "Think before answering" }),
    ),
  );
  const toggle = h(
    "button",
    {
      type: "button",
      className: "g4-quiet",
      "aria-label": "Sampling controls",
      title: "Sampling controls",
      "aria-expanded": false,
      signal,
      onclick: () => {
        node.hidden = !node.hidden;
        toggle.setAttribute("aria-expanded", String(!node.hidden));
      },
    },
    icons.sliders(),
  );
  watch(model, ["options"], () => update.forEach((f) => f(model.get("options") ?? {})), signal);
  return { node, toggle };
}
