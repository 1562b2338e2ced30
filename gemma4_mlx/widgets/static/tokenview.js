/* The text of a trace, a page at a time, every token painted by the view that shows it.
 *
 * Tokens are inline spans without padding, so that scripts which join letters keep their shapes,
 * inside paragraphs with dir="auto", so that right-to-left text runs the right way. A media span
 * unfolds into its picture (patches at their boxes) or its waveform (frames at their times). Above
 * the page a strip shows the whole context; a click there jumps.
 */

import { h } from "./dom.js";
import { NotRecorded } from "./kernel.js";
import { MediaBlock } from "./tokenmedia.js";
import { PAGE, TokenPages } from "./tokenpages.js";
import { formatCount } from "./words.js";

export class TokenView {
  #pages;
  #page = -1;
  #selected = -1;
  #span = null;
  #hits = [];
  #hit = -1;
  #blocks = []; // MediaBlock of each picture and sound of the page
  #text;
  #strip = h("canvas", { class: "g4-strip", height: 22 });
  #where = h("span", { class: "g4-note g4-where" });
  #back = h(
    "button",
    { type: "button", title: "Previous page", "aria-label": "Previous page of tokens" },
    "‹",
  );
  #next = h(
    "button",
    { type: "button", title: "Next page", "aria-label": "Next page of tokens" },
    "›",
  );
  #search = h("input", {
    type: "search",
    class: "g4-search",
    placeholder: "Find text",
    "aria-label": "Find text in the trace",
  });
  #found = h("span", { class: "g4-note", role: "status" });
  #bar;
  #uid = `g4t${Math.random().toString(36).slice(2, 8)}`;
  #resized = new ResizeObserver(() => this.paintStrip());

  /**
   * @param {object} o
   * @param {(kind: string, params: object) => Promise<{content: object, buffer: DataView|null}>}
   *   o.ask
   * @param {number} o.n              tokens in the trace
   * @param {Array} o.media spans: {index, kind, start, stop, label, rows, columns, seconds}
   * @param {Array}  o.parts          {start, stop, role, colour, name}
   * @param {(index:number, event:Event) => void} o.onSelect
   * @param {() => {background:(i:number)=>string|null, text:(i:number)=>string|null,
   *                title:(i:number)=>string}} o.paint
   * @param {(from:number, to:number) => number|string|null} o.strip  colour of a range on the strip
   * @param {(page:number) => boolean} [o.keeps]  in a snapshot: whether it holds that page
   */
  constructor(o) {
    Object.assign(this, o);
    this.#pages = new TokenPages(o);
    this.#text = h("div", {
      class: "g4-tokens",
      tabindex: 0,
      role: "listbox",
      "aria-label": this.label,
      "aria-roledescription": "tokens",
    });
    this.#bar = h(
      "div",
      { class: "g4-toolbar" },
      this.#search,
      this.#found,
      h("span", { class: "g4-grow" }),
      this.#where,
      this.#back,
      this.#next,
    );
    this.root = h("div", { class: "g4-tokenview" }, this.#bar, this.#strip, this.#text);
    this.#text.addEventListener("click", (event) => this.#click(event));
    this.#text.addEventListener("pointerover", (event) => this.#pointAt(event));
    this.#text.addEventListener("keydown", (event) => this.#pressKey(event));
    this.#strip.addEventListener("click", (event) => this.#jump(event));
    this.#back.addEventListener("click", () => this.show(this.#pages.from(this.#page - 1, -1)));
    this.#next.addEventListener("click", () => this.show(this.#pages.from(this.#page + 1, 1)));
    this.#search.addEventListener("keydown", (event) => this.#find(event).catch(this.onError));
    this.#search.addEventListener("search", (event) => {
      if (!this.#search.value) this.#find(event).catch(this.onError);
    });
    this.#resized.observe(this.#strip);
  }

  #click(event) {
    const node = event.target.closest?.(".g4-word");
    if (!node) return;
    const i = Number(node.dataset.i);
    if (event.shiftKey && this.#selected >= 0) {
      this.#span = [Math.min(i, this.#selected), Math.max(i, this.#selected)];
      this.#mark();
      this.onSpan?.(this.#span);
      return;
    }
    this.#span = null;
    this.select(i);
    this.onSelect(i, event);
  }

  #pointAt(event) {
    const node = event.target.closest?.(".g4-word");
    if (!node) return;
    this.#setTitle(node, Number(node.dataset.i)); // when asked for: 512 are not written each time
  }

  #pressKey(event) {
    const step = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -12,
      ArrowDown: 12,
      Home: -1e9,
      End: 1e9,
      PageUp: -PAGE,
      PageDown: PAGE,
    }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const to = Math.max(0, Math.min(this.n() - 1, Math.max(0, this.#selected) + step));
    if (!this.#pages.has(Math.floor(to / PAGE))) {
      this.onError(new NotRecorded());
      return;
    }
    if (event.shiftKey) this.#extend(to);
    else {
      this.#span = null;
      this.select(to);
      this.onSelect(to, event);
    }
  }

  /** Move the end of the span that the selected token is. */
  async #extend(to) {
    const [first, last] = this.#span ?? [];
    const other = last === this.#selected ? first : last;
    const fixed = this.#span?.includes(this.#selected) ? other : this.#selected;
    await this.select(to);
    this.#span = [Math.min(fixed, to), Math.max(fixed, to)];
    this.#mark();
    this.onSpan?.(this.#span);
  }

  #jump(event) {
    const i = Math.max(
      0,
      Math.min(this.n() - 1, Math.floor((event.offsetX / this.#strip.clientWidth) * this.n())),
    );
    if (!this.#pages.has(Math.floor(i / PAGE))) {
      this.onError(new NotRecorded());
      return;
    }
    this.select(i);
    this.onSelect(i, event);
  }

  get span() {
    return this.#span;
  }

  /** Throw away what was loaded: the trace grew or changed. */
  reset() {
    this.#pages.clear();
    this.#page = -1;
  }

  toEnd() {
    this.#text.scrollTop = this.#text.scrollHeight;
  }

  destroy() {
    this.#resized.disconnect();
  }

  /** As TokenPages'. */
  words(start, stop, whenThere) {
    return this.#pages.words(start, stop, whenThere);
  }

  nameOf(i, whenThere) {
    return this.#pages.nameOf(i, whenThere);
  }

  async show(wanted) {
    const pages = this.#pages;
    const inside = Math.max(0, Math.min(pages.last, wanted));
    const number = pages.has(inside) ? inside : Math.max(pages.from(inside, -1), 0);
    const before = this.#page;
    this.#page = number;
    const content = await pages.load(number).catch((error) => {
      if (this.#page === number) this.#page = before; // not recorded in a snapshot: not entered
      this.onError(error);
    });
    if (!content || this.#page !== number) return;
    this.#build(content);
    this.repaint();
  }

  /** What the view says of token i, and below it what it is. */
  #setTitle(node, i) {
    const about = this.#pages.about(i, () => this.#setTitle(node, i));
    node.title = `${this.paint().title(i)}\n${about}`;
  }

  #build(content) {
    this.#text.replaceChildren();
    this.#blocks = [];
    const specials = new Set(content.special);
    let line = this.#paragraph();
    for (let k = 0; k < content.text.length; k++) {
      const i = content.start + k;
      const media = this.media().find((m) => i >= m.start && i < m.stop);
      if (media) {
        this.#text.append(this.#mediaBlock(media));
        k = Math.min(content.text.length, media.stop - content.start) - 1;
        line = this.#paragraph();
        continue;
      }
      const piece = content.text[k];
      const special = specials.has(k);
      const node = h("span", {
        class: special ? "g4-word g4-special" : "g4-word",
        role: "option",
        id: `${this.#uid}-${i}`,
        "aria-selected": "false",
      });
      node.dataset.i = i;
      node.append(piece.replace(/\n/g, "↵"));
      line.append(node);
      if (piece.includes("\n")) line = this.#paragraph();
    }
    const last = content.start + content.text.length - 1;
    const span = `${formatCount(content.start)} to ${formatCount(last)}`;
    this.#where.textContent = `tokens ${span} of ${formatCount(this.n())}`;
    this.#back.disabled = this.#pages.from(this.#page - 1, -1) < 0;
    this.#next.disabled = this.#pages.from(this.#page + 1, 1) < 0;
    this.#back.hidden = this.#next.hidden = this.n() <= PAGE;
    this.#text.classList.remove("g4-short"); // a short text takes no more room than it needs
    this.#text.classList.toggle("g4-short", this.#text.scrollHeight <= this.#text.clientHeight);
    this.#mark();
  }

  #paragraph() {
    const line = h("div", { class: "g4-line", dir: "auto", role: "presentation" });
    this.#text.append(line);
    return line;
  }

  #mediaBlock(media) {
    const block = new MediaBlock(media, `${this.#uid}-m${media.index}`);
    this.#blocks.push(block);
    const { canvas } = block;
    block
      .load(this.ask)
      .then(() => this.#drawBlock(block))
      .catch(this.onError);
    canvas.addEventListener("click", (event) => {
      const i = block.tokenAt(event.offsetX, event.offsetY);
      if (i === null) return;
      this.select(i);
      this.onSelect(i, event);
    });
    canvas.addEventListener("pointermove", (event) => {
      const i = block.tokenAt(event.offsetX, event.offsetY);
      if (i !== null) this.#setTitle(canvas, i);
    });
    return block.figure;
  }

  #drawBlock(block) {
    block.draw({
      room: this.#text.clientWidth - 20,
      selected: this.#selected,
      paint: this.paint(),
      ink: this.ink(),
    });
  }

  repaint() {
    const paint = this.paint();
    for (const node of this.#text.querySelectorAll(".g4-word")) {
      const i = Number(node.dataset.i);
      const colour = paint.background(i, false);
      const mine = paint.text?.(i);
      node.style.backgroundColor = colour ?? "";
      node.style.color = mine ?? "";
      const label = paint.label?.(i);
      if (label) node.dataset.label = label;
      else delete node.dataset.label;
    }
    for (const block of this.#blocks) this.#drawBlock(block);
    this.paintStrip();
    this.#mark();
  }

  paintStrip() {
    const width = this.#strip.clientWidth || this.root.clientWidth || 600;
    const ratio = window.devicePixelRatio || 1;
    const n = this.n();
    this.#strip.width = width * ratio;
    this.#strip.height = 22 * ratio;
    const context = this.#strip.getContext("2d");
    const ink = this.ink();
    context.scale(ratio, ratio);
    context.fillStyle = ink.zero;
    context.fillRect(0, 5, width, 13);
    for (let x = 0; x < this.#strip.width; x++) {
      // whole pixels of the screen, so that no seams show
      const from = Math.floor((x / this.#strip.width) * n);
      const colour = this.strip(
        from,
        Math.max(from + 1, Math.floor(((x + 1) / this.#strip.width) * n)),
      );
      if (colour) {
        context.fillStyle = colour;
        context.fillRect(x / ratio, 5, 1 / ratio, 13);
      }
    }
    this.#drawOnStrip(context, width, ink);
  }

  /** Parts, finds, the page and the selected token. */
  #drawOnStrip(context, width, ink) {
    const n = this.n();
    const x = (token) => (token / n) * width;
    for (const { start, stop, colour } of this.parts()) {
      context.fillStyle = colour;
      context.fillRect(x(start), 0, Math.max(1, x(stop - start) - 0.5), 3);
    }
    context.fillStyle = ink.text;
    for (const at of this.#hits) context.fillRect(x(at) - 0.5, 18, 1.5, 4);
    if (n > PAGE) {
      context.strokeStyle = ink.text;
      context.lineWidth = 1;
      context.strokeRect(x(this.#page * PAGE) + 0.5, 4.5, Math.max(3, x(PAGE)), 14);
    }
    if (this.#selected >= 0) {
      context.fillStyle = ink.accent;
      context.fillRect(x(this.#selected) - 1, 3, 3, 19);
    }
  }

  #mark() {
    for (const node of this.#text.querySelectorAll(".g4-selected,.g4-inspan,.g4-hit")) {
      node.classList.remove("g4-selected", "g4-inspan", "g4-hit");
      node.setAttribute("aria-selected", "false");
    }
    const inspan = this.#span ?? [this.#selected, this.#selected];
    for (let i = inspan[0]; i <= inspan[1]; i++)
      this.root.querySelector(`[data-i="${i}"]`)?.classList.add("g4-inspan");
    for (const at of this.#hits.slice(0, 2000))
      this.root.querySelector(`[data-i="${at}"]`)?.classList.add("g4-hit");
    const node = this.root.querySelector(`[data-i="${this.#selected}"]`);
    const holder = this.#blocks.find((block) => block.holds(this.#selected));
    for (const block of this.#blocks)
      block.canvas.setAttribute("aria-selected", String(block === holder));
    if (holder) this.#text.setAttribute("aria-activedescendant", holder.canvas.id);
    else if (node) {
      node.classList.add("g4-selected");
      node.setAttribute("aria-selected", "true");
      this.#text.setAttribute("aria-activedescendant", node.id);
    } else this.#text.removeAttribute("aria-activedescendant");
    return node ?? holder?.canvas;
  }

  /** Show token i as selected; turns to its page, and scrolls only the text itself. */
  async select(i) {
    if (i === this.#selected && this.#page === Math.floor(i / PAGE)) return;
    this.#selected = i;
    if (i < 0) {
      this.#mark();
      this.paintStrip();
      return;
    }
    if (this.#page !== Math.floor(i / PAGE)) await this.show(Math.floor(i / PAGE));
    const node = this.#mark();
    for (const block of this.#blocks) this.#drawBlock(block);
    this.paintStrip();
    if (node) {
      const top = node.offsetTop - this.#text.offsetTop;
      if (top < this.#text.scrollTop || top > this.#text.scrollTop + this.#text.clientHeight - 24)
        this.#text.scrollTop = top - this.#text.clientHeight / 3;
    }
  }

  async #find(event) {
    if (event.type === "keydown" && event.key !== "Enter") return;
    event.stopPropagation();
    const wanted = this.#search.value;
    if (!wanted) {
      this.#hits = [];
      this.#hit = -1;
      this.#found.textContent = "";
      this.#mark();
      this.paintStrip();
      return;
    }
    if (this.#search.dataset.found !== wanted) {
      const { content } = await this.ask("search", { text: wanted });
      this.#hits = content.hits;
      this.#hit = -1;
      this.#search.dataset.found = wanted;
      // A snapshot's search says how many tokens it could read.
      this.#found.title =
        content.searched < this.n()
          ? `Looked in the ${content.searched} tokens that this snapshot holds.`
          : "";
      if (!this.#hits.length) {
        this.#found.textContent = this.#found.title ? "not found in this snapshot" : "not found";
        this.#mark();
        this.paintStrip();
        return;
      }
    }
    if (!this.#hits.length) return;
    this.#hit = (this.#hit + (event.shiftKey ? this.#hits.length - 1 : 1)) % this.#hits.length;
    this.#found.textContent = `${this.#hit + 1} of ${this.#hits.length}`;
    await this.select(this.#hits[this.#hit]);
    this.#mark();
    this.onSelect(this.#hits[this.#hit], event);
  }
}
