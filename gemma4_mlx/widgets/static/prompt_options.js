// The Prompt widget's sampling controls: a panel that unfolds under the header.
import { h } from "./dom.js";
import { setTraits, watch } from "./kernel.js";

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

export class OptionsPanel {
  #signal;
  #update = [];
  #thinking;

  /** @returns {{ node: HTMLElement, toggle: HTMLElement }} */
  constructor({ model, view, icons }) {
    Object.assign(this, { model, view, icons });
    this.#signal = this.view.signal;
    this.#thinking = h("input", {
      type: "checkbox",
      signal: this.#signal,
      onchange: () => this.#set("thinking", this.#thinking.checked),
    });
    this.#update.push((options) => {
      this.#thinking.checked = Boolean(options.thinking);
    });
    this.node = h(
      "div",
      { className: "g4-options", hidden: true, role: "group", "aria-label": "Sampling" },
      ...CONTROLS.map((control) => this.#slider(control)),
      this.#number("max_tokens", "Longest answer", "no limit", 1),
      this.#number("seed", "Seed", "random", 0),
      h(
        "label",
        { className: "g4-check" },
        this.#thinking,
        h("span", { textContent: "Think before answering" }),
      ),
    );
    this.toggle = h(
      "button",
      {
        type: "button",
        className: "g4-quiet",
        "aria-label": "Sampling controls",
        title: "Sampling controls",
        "aria-expanded": false,
        signal: this.#signal,
        onclick: () => {
          this.node.hidden = !this.node.hidden;
          this.toggle.setAttribute("aria-expanded", String(!this.node.hidden));
        },
      },
      this.icons.sliders(),
    );
    watch(
      this.model,
      ["options"],
      () => {
        for (const show of this.#update) show(this.model.get("options") ?? {});
      },
      this.#signal,
    );
  }

  #set(name, value) {
    return setTraits(this.model, { options: { ...this.model.get("options"), [name]: value } });
  }

  #slider({ name, label, min, max, step, help }) {
    const value = h("output", {});
    const input = h("input", {
      type: "range",
      min,
      max,
      step,
      title: help,
      signal: this.#signal,
      oninput: () => {
        value.textContent = input.value;
      },
      onchange: () => this.#set(name, Number(input.value)),
    });
    this.#update.push((options) => {
      input.value = options[name] ?? 0;
      value.textContent = input.value;
    });
    return h("label", { className: "g4-slider" }, h("span", { textContent: label }), input, value);
  }

  #number(name, label, placeholder, min) {
    const input = h("input", {
      type: "number",
      min,
      step: 1,
      placeholder,
      signal: this.#signal,
      onchange: () =>
        this.#set(name, input.value === "" ? null : Math.max(min, Math.round(Number(input.value)))),
    });
    this.#update.push((options) => {
      input.value = options[name] ?? "";
    });
    return h("label", { className: "g4-number-field" }, h("span", { textContent: label }), input);
  }
}
