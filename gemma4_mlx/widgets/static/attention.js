/* Attention over the whole context: all heads in one map, one head large, one token in the text. */

import { HeadCloseup } from "./attention_closeup.js";
import { AttentionScene } from "./attention_scene.js";
import { SpanRanking } from "./attention_spans.js";
import { HeadSummary } from "./attention_summary.js";
import { WeightColours } from "./attention_text.js";
import { decoded, pictureTile, pictureWeights } from "./attention_values.js";
import { h } from "./dom.js";
import { mount } from "./frame.js";
import { HeadPanel } from "./heads.js";
import { linkSelection, watch } from "./kernel.js";
import { counted, OneToken } from "./onetoken.js";
import {
  chip,
  exportPicker,
  headline,
  partColor,
  picker,
  pixelTable,
  problemNote,
} from "./pieces.js";
import { keepInView } from "./sticky.js";
import { PAGE } from "./tokenpages.js";
import { TokenView } from "./tokenview.js";

function render({ model, el }) {
  const view = mount(model, el, "attention");
  view.root.classList.add("g4-view");
  const { layers, empty } = model.get("meta");
  if (layers?.length) new AttentionView(model, view).start();
  else
    view.root.append(
      headline("Attention", [], []),
      h("p", { class: "g4-empty" }, empty || "This trace kept no attention."),
    );
  return view.cleanup;
}

class AttentionView {
  constructor(model, view) {
    this.note = problemNote();
    this.scene = new AttentionScene(model, view, this.note.show);
    this.link = linkSelection(model, (selection) => this.#selected(selection), view.signal);
    this.panel = this.#makePanel();
    this.text = this.#makeText();
    this.closeup = new HeadCloseup(this.scene, {
      text: this.text,
      onToken: (token) => this.link.set({ token }),
      strongest: () => this.weights.strongest(),
      onStat: () => this.#headChanged(),
      onScale: () => this.text.repaint(),
      onSink: () => this.#loadWeights(),
      onSmall: () => this.summary.saySmall(),
    });
    this.weights = this.#makeWeights();
    const nameOf = (token, whenThere) => this.text.nameOf(token, whenThere);
    this.summary = new HeadSummary(this.scene, {
      nameOf,
      onPair: (query, key) => {
        this.link.set({ token: query });
        this.closeup.showPair(query, key);
      },
    });
    this.spans = this.#makeSpans();
  }

  /** Put it into the page, and ask for what it shows first. */
  start() {
    const { scene, closeup, panel, text } = this;
    const { model, view, meta } = scene;
    this.#assemble();
    view.onInk((ink) => {
      scene.ink = ink;
      this.#repaint();
    });
    closeup.start();
    keepInView(panel.node, panel.node.parentElement, view.signal);
    const selected = this.link.get();
    scene.follow(selected);
    const windows = meta.layers.map((layer) => layer.window ?? 0);
    const farther = meta.n > 4 * Math.max(...windows); // than a sliding head sees
    scene.now.axis = windows.some(Boolean) && farther ? "offsets" : "keys";
    closeup.axis.set(scene.now.axis);
    this.#headChanged();
    this.spans.build();
    this.weights.build();
    this.#followModel(model, view, meta);
    this.#loadHeads();
    text.show(0).then(() => {
      const token = [selected.token, meta.start.token].find(Number.isInteger);
      if (token !== undefined) this.#tokenChanged(token);
    });
    view.signal.addEventListener("abort", () => {
      closeup.destroy();
      text.destroy();
    });
  }

  // ---- parts -----------------------------------------------------------------------------------

  #makePanel() {
    const { scene } = this;
    return new HeadPanel({
      view: scene.view,
      heads: scene.heads,
      store: scene.pictures,
      ink: () => scene.ink,
      palette: () => scene.pixels,
      onError: scene.onError,
      onPick: ({ layer, head }) => this.link.set({ layer, head }),
    });
  }

  #makeText() {
    const { scene } = this;
    const colours = new WeightColours(scene, () => this.weights);
    const chosen = Math.floor((this.link.get().token ?? scene.meta.start.token ?? -1) / PAGE);
    return new TokenView({
      label: "Text of the trace. Arrow keys move the selected token, Shift extends a span.",
      keeps: scene.isStatic ? (page) => page < scene.meta.pages || page === chosen : undefined,
      ask: (type, args) => scene.ask(type, args),
      n: () => scene.meta.n,
      media: () => scene.meta.media,
      parts: () => scene.meta.parts.map((part) => ({ ...part, colour: partColor(part.role) })),
      ink: () => scene.ink,
      onError: scene.onError,
      onSelect: (token) => this.link.set({ token }),
      onSpan: () => this.spans.build(),
      paint: () => colours,
      strip: (start, stop) => colours.stretch(start, stop),
    });
  }

  #makeWeights() {
    const { scene } = this;
    return new OneToken({
      meta: () => scene.meta,
      now: scene.now,
      nameOf: (token, whenThere) => this.text.nameOf(token, whenThere),
      onMode: (mode) => {
        scene.now.mode = mode;
        this.closeup.markToken();
        this.#loadWeights();
      },
      onPair: (query, key) => this.closeup.showPair(query, key),
    });
  }

  #makeSpans() {
    const { scene } = this;
    return new SpanRanking(scene, {
      marked: () => {
        const { token } = scene.now;
        return this.text.span ?? (token === null ? null : [token, token]);
      },
      onRanked: () => this.panel.showSpan(),
      describe: (index) => this.panel.describe(index),
      onPick: ({ layer, head }, query, key) => {
        this.link.set({ layer, head, token: query });
        this.closeup.showPair(query, key);
      },
    });
  }

  #assemble() {
    const { scene, panel, closeup, summary, spans, text, weights } = this;
    const { meta, model, view } = scene;
    const same = (...values) => values.map((value) => [value, value]);
    const colours = picker("Colours", same("viridis", "cividis"), "viridis", (value) => {
      scene.pixels = pixelTable(value);
      this.#repaint();
    });
    const size = `${meta.layers.length} layers × ${meta.layers[0].heads.length} heads`;
    const words = h(
      "section",
      { class: "g4-panel g4-section", "aria-label": "Text" },
      text.root,
      legendOfParts(meta.parts),
      h("h4", { class: "g4-subtitle" }, "Which head carries it?"),
      spans.node,
      spans.ranking,
    );
    const oneHead = closeup.build(summary.title, summary.why, summary.numbers, summary.links.node);
    view.root.append(
      headline(
        "Attention",
        [chip(counted(meta.n)), chip(size), chip(meta.source)],
        [colours.node, exportPicker(model, "attention", scene.onError)],
      ),
      this.note.problem,
      h(
        "div",
        { class: "g4-columns" },
        panel.node,
        h("div", { class: "g4-stack" }, oneHead, weights.node, words),
      ),
    );
  }

  // ---- changes ---------------------------------------------------------------------------------

  #selected(selection) {
    if (this.scene.follow(selection)) this.#headChanged();
    const { token } = selection;
    if (Number.isInteger(token) && token !== this.scene.now.token) this.#tokenChanged(token);
  }

  #headChanged() {
    const { now, layer, view } = this.scene;
    this.closeup.showHead();
    this.panel.choose(now.layer, now.head);
    this.summary.build();
    this.#loadWeights();
    view.announce(`Layer ${now.layer}, head ${now.head}, ${layer.kind} attention`);
  }

  #tokenChanged(token) {
    this.scene.now.token = token;
    this.closeup.showToken(token);
    this.text.select(token).then(() => {
      this.weights.build();
      this.spans.build();
    });
    this.#loadWeights();
  }

  #repaint() {
    this.panel.redraw();
    this.closeup.repaint();
    this.text.repaint();
  }

  /** Another trace, or how far the model is with this one. */
  #followModel(model, view, shown) {
    let meta = shown;
    const changed = () => {
      if (this.scene.meta === meta) {
        this.summary.sayWhy();
        return;
      }
      meta = this.scene.meta;
      this.#headChanged();
    };
    watch(model, ["computing", "meta"], changed, view.signal);
  }

  async #loadHeads() {
    const { scene, panel, summary } = this;
    try {
      scene.heads.fill(await scene.ask("heads"));
      panel.start();
      summary.build();
      scene.view.root.dataset.heads = "true";
    } catch (error) {
      scene.onError(error);
    }
  }

  /** What the chosen token looks at, or who looks at it. */
  async #loadWeights() {
    const { scene, weights, text } = this;
    const { layer, head, token, mode } = scene.now;
    if (token === null) weights.set(null);
    else {
      const still = scene.still("layer", "head", "token", "mode");
      const asked = { layer, head, token, mode, ...(scene.isStatic ? { bits: 8 } : {}) };
      try {
        const answer = await scene.ask("weights", asked, { slot: "weights" });
        if (!answer || !still()) return;
        weights.set(decoded(answer.content, answer.buffer), answer.content.pooled);
        this.note.problem.hidden = true;
      } catch (error) {
        const small = scene.isStatic && (await scene.pictures.values({ layer, head }));
        if (!still()) return;
        if (small) this.#showSmall(small);
        else {
          weights.set(null);
          scene.onError(error);
        }
      }
    }
    text.repaint();
  }

  /** The weights of the chosen token, from its head's small picture. */
  #showSmall(picture) {
    const { meta, now } = this.scene;
    const tile = pictureTile(picture, meta.n);
    const { weights, width } = pictureWeights(tile, meta.n, now.token, now.mode);
    this.weights.set(weights, width);
  }
}

/** The colours of the parts, once each. */
function legendOfParts(parts) {
  const roles = new Map(parts.map((part) => [part.name, part.role]));
  const swatch = (role) => h("i", { class: "g4-swatch", style: { background: partColor(role) } });
  return h(
    "div",
    { class: "g4-keys", "aria-label": "Parts" },
    ...[...roles].map(([name, role]) => h("span", { class: "g4-key" }, swatch(role), name)),
  );
}

export default { render };
