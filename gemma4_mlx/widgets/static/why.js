/* Why did it say that? Point at a token of the answer, and see what spoke for it and against it. */

import { h } from "./dom.js";
import { mount } from "./frame.js";
import { linkSelection, NotRecorded, setTraits, watch } from "./kernel.js";
import { chip, exportPicker, headline, problemNote, segmented } from "./pieces.js";
import { PAGE } from "./tokenpages.js";
import { TokenView } from "./tokenview.js";
import { Alternatives, AnswerRow } from "./why_answer.js";
import { CheckPanel } from "./why_check.js";
import { ShareColours, ShareLegend } from "./why_colours.js";
import { PartMap } from "./why_map.js";
import { PartList, partKey } from "./why_parts.js";
import { WhyScene } from "./why_scene.js";
import { questionKey } from "./why_values.js";
import { Without } from "./why_without.js";
import { explained, methodWords, signed, sumWords } from "./why_words.js";
import { formatCount } from "./words.js";

function render({ model, el }) {
  const view = mount(model, el, "why");
  view.root.classList.add("g4-view");
  const place = h("div", {});
  view.root.append(place);
  let abort = null;
  let revision = null;
  // Another conversation takes the place of this one when a Prompt widget asks.
  const build = () => {
    const now = model.get("meta").revision;
    if (now === revision) return;
    revision = now;
    abort?.abort();
    abort = new AbortController();
    const inner = { ...view, signal: abort.signal };
    place.replaceChildren(new WhyView(model, inner).start());
  };
  view.signal.addEventListener("abort", () => abort?.abort());
  watch(model, ["meta"], build, view.signal);
  return view.cleanup;
}

class WhyView {
  #own = false; // the selection is being set here
  #said = h("span", { class: "g4-whysaid" });
  #sum = h("span", { class: "g4-note" });
  #bar = h("progress", { max: 1, value: 0, "aria-label": "Explaining", hidden: true });
  #method = h("p", { class: "g4-note g4-whymethod" });
  #about = h("div", { class: "g4-toolbar g4-whyabout" });
  #token = null; // selected in the text

  constructor(model, view) {
    this.model = model;
    this.view = view;
    this.note = problemNote();
    this.scene = new WhyScene(model, view, this.note.show);
    const { scene } = this;
    this.link = linkSelection(model, (selection) => this.#selected(selection), view.signal);
    this.colours = new ShareColours(scene);
    this.legend = new ShareLegend();
    this.row = new AnswerRow(scene, {
      onPoint: (position) => this.#show(scene.questionFor(position)),
      onLeave: () => this.#show(scene.question),
      onPick: (position, stop) => this.#pick(position, stop),
    });
    this.others = new Alternatives(scene, (change) => this.#ask({ ...scene.question, ...change }));
    this.text = this.#makeText();
    this.without = new Without(scene, {
      onChange: () => {
        this.parts.draw();
        this.#drawAbout();
      },
      textOf: (token) => this.text.nameOf(token, () => {}),
    });
    this.parts = new PartList(scene, {
      onPick: (part) => this.#pickPart(part),
      onRemove: (part) => this.without.toggle(part),
      removed: () => this.without.removed,
      chosen: () => this.link.get(),
    });
    this.map = new PartMap(scene, { onPick: (part) => this.#pickPart(part) });
    this.check = new CheckPanel(scene);
  }

  /** The view's element; what it shows comes by itself. */
  start() {
    const { scene, view, text, link } = this;
    const node = this.#assemble();
    view.onInk((ink) => {
      scene.ink = ink;
      this.#redraw();
    });
    view.signal.addEventListener("abort", () => text.destroy());
    watch(this.model, ["question"], () => this.#asked(), view.signal);
    const { token } = link.get();
    if (Number.isInteger(token) && token < scene.n) this.#selected(link.get());
    else if (scene.n) text.show(Math.floor(Math.min(scene.question.position, scene.n - 1) / PAGE));
    this.#loadRow();
    return node;
  }

  #makeText() {
    const { scene, model } = this;
    const pageOf = (page) => ({ start: page * PAGE, stop: Math.min(scene.n, (page + 1) * PAGE) });
    return new TokenView({
      label: "The text before the token. Arrow keys move the selected token.",
      ask: (type, args) => scene.ask(type, args),
      n: () => scene.n,
      media: () => scene.media,
      parts: () => scene.parts,
      ink: () => scene.ink,
      onError: scene.onError,
      keeps: model.isStatic ? (page) => model.recorded({ type: "tokens", ...pageOf(page) }) : null,
      onSelect: (token) => this.#select({ token }),
      paint: () => this.colours,
      strip: (start, stop) => this.colours.stretch(start, stop),
    });
  }

  #assemble() {
    const { scene, text, row, others, parts, map, check, without, legend } = this;
    const { meta, question } = scene;
    const methods = meta.methods.map((name) => [
      name,
      methodWords(name).name,
      methodWords(name).says,
    ]);
    this.methods = segmented("Method", methods, question.method, (method) =>
      this.#ask({ ...scene.question, method }),
    );
    const section = (label, ...children) => h("section", { "aria-label": label }, ...children);
    const save = exportPicker(scene.model, "why", scene.onError);
    return h(
      "div",
      {},
      headline("Why did it say that?", meta.source ? [chip(meta.source)] : [], [save]),
      this.note.problem,
      h(
        "div",
        { class: "g4-whycolumns" },
        h(
          "div",
          {},
          section("Answer", row.node),
          h("div", { class: "g4-toolbar g4-whystatus" }, this.#said, this.#sum, this.#bar),
          this.methods.node,
          this.#method,
          section("Text", legend.node, text.root, this.#about),
          section("Parts by layer", map.node),
        ),
        h("div", {}, others.node, parts.node),
      ),
      without.node,
      check.node,
    );
  }

  async #loadRow() {
    const { scene } = this;
    try {
      const answer = await scene.askPatiently("row", {}, () => {});
      if (answer) scene.row = answer.content ?? [];
    } catch (error) {
      scene.onError(error);
    }
    this.row.draw();
    this.others.draw();
  }

  // ---- what is asked ---------------------------------------------------------------------------

  /** Ask another question, here and in Python. */
  #ask(question) {
    const { scene } = this;
    if (questionKey(question) === questionKey(scene.question)) return;
    if (scene.model.isStatic && !scene.canAsk(question)) {
      this.methods.set(scene.question.method);
      scene.onError(new NotRecorded());
    } else setTraits(this.model, { question });
  }

  /** The question has changed, here or in Python. */
  #asked() {
    const { scene } = this;
    this.methods.set(scene.question.method);
    this.row.mark();
    this.others.draw();
    this.without.draw();
    this.#show(scene.question);
  }

  #pick(position, stop = null) {
    const { scene } = this;
    const question = stop === null ? scene.questionFor(position) : scene.questionAt(position, stop);
    this.#ask(question);
    if (position < scene.n) this.#select({ token: position });
  }

  /** Draw the answer to a question as soon as it is there. */
  async #show(question) {
    const { scene } = this;
    const known = scene.isKnown(question);
    this.#bar.hidden = known;
    this.#bar.value = 0;
    this.view.root.dataset.explaining = String(!known);
    const tell = (share) => {
      this.#bar.value = share;
    };
    try {
      const found = await scene.explain(question, tell);
      if (!found) return;
      scene.shown = found;
      this.note.problem.hidden = true;
    } catch (error) {
      scene.onError(error);
    }
    this.#bar.hidden = true;
    this.view.root.dataset.explaining = "false";
    this.#redraw();
  }

  #redraw() {
    const { scene, legend } = this;
    const { shown } = scene;
    this.row.mark();
    this.text.repaint();
    this.parts.draw();
    this.map.draw();
    this.check.draw();
    this.#drawAbout();
    if (!shown) return;
    legend.draw(scene.ink, shown.high);
    const words = explained(shown);
    this.#said.replaceChildren(
      ...words.map((word, i) => (i % 2 ? h("bdi", { class: "g4-token" }, word) : word)),
    );
    this.#sum.textContent = sumWords(shown);
    const { says, cannot } = methodWords(shown.method);
    const changed = shown.interventions.length
      ? ` The model was changed: ${shown.interventions.join(", ")}.`
      : "";
    this.#method.textContent = `${says} ${cannot}${changed}`;
    this.view.announce(`${words.join("")}. ${this.#sum.textContent}`);
  }

  // ---- what is selected ------------------------------------------------------------------------

  #select(patch) {
    this.#own = true;
    this.link.set(patch);
    this.#own = false;
  }

  /** The selection has changed. A token of the answer that another view selects is explained. */
  #selected(selection) {
    const { scene } = this;
    const { token } = selection;
    this.parts.draw();
    if (!Number.isInteger(token) || token >= scene.n) return;
    this.#token = token;
    this.text.select(token);
    this.#drawAbout();
    const [start] = scene.meta.answer;
    const other = token >= start && token !== scene.question.position;
    if (!this.#own && other && scene.questionFor(token)) this.#pick(token);
  }

  /** Heads and experts worked where the token was predicted from: the place before it. */
  #pickPart(part) {
    const { position } = this.scene.shown;
    const chosen = { layer: part.layer, token: position - 1 };
    if (part.kind === "head") this.#select({ ...chosen, head: part.index });
    else if (part.kind === "expert") this.#select({ ...chosen, expert: part.index });
  }

  #drawAbout() {
    const { scene, text } = this;
    const token = this.#token;
    if (token === null) {
      this.#about.replaceChildren();
      return;
    }
    const share = scene.shown?.positions?.[token];
    const name = text.nameOf(token, () => this.#drawAbout()) ?? "…";
    const worth = share === undefined ? "" : `: ${signed(share)}`;
    const question = { ...scene.questionAt(token), target: null };
    const explain = h(
      "button",
      { type: "button", onclick: () => this.#ask(question) },
      "Explain this token",
    );
    const can = token > 0 && token !== scene.question.position && scene.canAsk(question);
    const part = { kind: "position", layer: null, index: token, text: name };
    const away = this.without.removed.has(partKey(part));
    const hide = h(
      "button",
      {
        type: "button",
        "aria-pressed": String(away),
        title: "Nothing may read this token; the answer is generated again",
        onclick: () => this.without.toggle(part),
      },
      away ? "hidden" : "hide it",
    );
    const live = scene.meta.live && !scene.model.isStatic;
    this.#about.replaceChildren(
      h(
        "span",
        { class: "g4-note" },
        "Token ",
        formatCount(token),
        " “",
        h("bdi", {}, name),
        `”${worth}`,
      ),
      can ? explain : "",
      live && token < scene.question.position - 1 ? hide : "",
    );
  }
}

export default { render };
