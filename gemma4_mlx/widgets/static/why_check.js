/* The check: what removing the largest parts really does, beside what was predicted, and as many
 * others drawn at random. */

import { h } from "./dom.js";
import { fold, table } from "./pieces.js";
import { shareColour } from "./why_colours.js";
import { chartRange, effectsOf, questionKey } from "./why_values.js";
import { checkWords, partName, signed } from "./why_words.js";

const SIDE = 250; // css pixels of the chart
const EDGE = 40;

export class CheckPanel {
  #note = h("p", { class: "g4-note" });
  #result = h("div", {});
  #chart = h("div", { class: "g4-scroll" });
  #effects = null; // of the check that is shown
  #key = ""; // of the question whose check is shown
  #button = h(
    "button",
    { type: "button", onclick: () => this.#run().catch(this.scene.onError) },
    "Remove them and measure",
  );

  /** @param {WhyScene} scene */
  constructor(scene) {
    this.scene = scene;
    this.node = h(
      "section",
      { class: "g4-panel g4-section", "aria-label": "Check" },
      h("h4", { class: "g4-subtitle" }, "Does it hold?", this.#button),
      this.#note,
      this.#result,
    );
  }

  /** Another question is shown: its check, if it was made. */
  draw() {
    const { question, model, meta, shown } = this.scene;
    const can = Boolean(shown?.checkable) && !model.isStatic;
    this.#button.hidden = !can;
    this.#note.textContent = can
      ? `Takes the ${meta.checked} tokens and parts with the largest shares out, one at a time, ` +
        "and as many others drawn at random."
      : noCheck(model.isStatic, shown);
    if (questionKey(question) === this.#key) {
      this.#drawChart(); // the colours may be others now
      return;
    }
    this.#key = "";
    this.#effects = null;
    this.#result.replaceChildren();
    if (model.isStatic && model.recorded({ type: "check", question }))
      this.#run().catch(this.scene.onError);
  }

  async #run() {
    const { question } = this.scene;
    const key = questionKey(question);
    this.#key = key;
    this.#effects = null;
    const bar = h("progress", { max: 1, value: 0, "aria-label": "Measuring" });
    this.#result.replaceChildren(
      h("p", { class: "g4-note", role: "status" }, "Running the model once for each… ", bar),
    );
    const still = () => this.#key === key;
    const tell = (share) => {
      bar.value = share;
    };
    try {
      const answer = await this.scene.askPatiently("check", { question }, tell, still);
      if (still() && answer) this.#show(effectsOf(answer.content.effects));
    } catch (error) {
      if (still()) this.#result.replaceChildren();
      throw error;
    }
  }

  #show(effects) {
    const words = checkWords(effects);
    this.scene.view.announce(words);
    this.#effects = effects;
    this.#drawChart();
    this.#result.replaceChildren(
      h("p", {}, words),
      this.#chart,
      fold("The effects as a table", effectTable(effects)),
    );
  }

  #drawChart() {
    if (this.#effects) this.#chart.replaceChildren(chartOf(this.#effects, this.scene.ink));
  }
}

/** Why nothing can be removed here. */
function noCheck(isStatic, shown) {
  if (isStatic)
    return "The notebook runs the model for that; this page has the checks that were made there.";
  return shown ? "These shares cannot be checked here: that takes the model." : "";
}

function effectTable(effects) {
  return table(
    "Predicted and measured effects",
    ["Part", "#Predicted", "#Measured", "Drawn at random"],
    effects.map((e) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, partName(e)),
        h("td", { class: "g4-number" }, signed(e.share)),
        h("td", { class: "g4-number" }, signed(e.measured)),
        h("td", {}, e.control ? "yes" : ""),
      ),
    ),
  );
}

/** Predicted (across) against measured (up); on the line they agree. Random ones are hollow. */
function chartOf(effects, ink) {
  const { low, high } = chartRange(effects);
  const place = (v) => ((v - low) / (high - low)) * (SIDE - EDGE);
  const x = (v) => EDGE + place(v);
  const y = (v) => SIDE - EDGE - place(v);
  const line = (x1, y1, x2, y2, dash = null) =>
    h("line", { x1, y1, x2, y2, stroke: ink.line, "stroke-dasharray": dash });
  const text = (words, props) => h("text", { fill: ink.faint, "font-size": 12, ...props }, words);
  const dots = effects.map((e) =>
    h(
      "circle",
      {
        cx: x(e.share),
        cy: y(e.measured),
        r: 4.5,
        fill: e.control ? "none" : shareColour(e.share || 1, ink),
        stroke: e.control ? ink.faint : ink.text,
        "stroke-width": e.control ? 1.5 : 0.7,
      },
      h(
        "title",
        {},
        `${partName(e)}: predicted ${signed(e.share)}, measured ${signed(e.measured)}`,
      ),
    ),
  );
  return h(
    "svg",
    {
      viewBox: `0 0 ${SIDE + 8} ${SIDE}`,
      width: SIDE + 8,
      height: SIDE,
      role: "img",
      "aria-label": "Predicted against measured effects; a table with the numbers follows",
    },
    line(x(low), y(low), x(high), y(high), "4 3"),
    line(x(low), y(0), x(high), y(0)),
    line(x(0), y(low), x(0), y(high)),
    text("predicted →", { x: EDGE, y: SIDE - EDGE + 16 }),
    text("measured →", { x: 12, y: SIDE - EDGE, transform: `rotate(-90 12 ${SIDE - EDGE})` }),
    text("● largest  ○ random", { x: EDGE, y: SIDE - 6 }),
    ...dots,
  );
}
