/* The tokens of a trace, asked for a page at a time: their texts, their ids, what to call them. */

import { NotRecorded } from "./kernel.js";
import { formatCount, visibleToken } from "./words.js";

export const PAGE = 512; // tokens

const spanOf = (spans, i) => spans.find(({ start, stop }) => i >= start && i < stop);

export class TokenPages {
  #held = new Map(); // number -> {start, text: string[], special: number[], ids}
  #waiting = new Map();

  /** @param {any} o as TokenView's: ask, n, media, parts, keeps, onError */
  constructor(o) {
    Object.assign(this, o);
  }

  /** Throw away what was loaded. */
  clear() {
    this.#held.clear();
  }

  /** Whether a page can be shown: a snapshot may lack it. */
  has(number) {
    return !this.keeps || this.keeps(number);
  }

  get last() {
    return Math.ceil(this.n() / PAGE) - 1;
  }

  /** The nearest page from `number` on in the direction of `step` that can be shown, or -1. */
  from(number, step) {
    let page = number;
    while (page >= 0 && page <= this.last && !this.has(page)) page += step;
    return page < 0 || page > this.last ? -1 : page;
  }

  async load(number) {
    if (this.#held.has(number)) return this.#held.get(number);
    if (!this.#waiting.has(number)) this.#waiting.set(number, this.#ask(number));
    return this.#waiting.get(number);
  }

  async #ask(number) {
    try {
      const stop = Math.min(this.n(), (number + 1) * PAGE);
      const { content } = await this.ask("tokens", { start: number * PAGE, stop });
      this.#held.set(number, content);
      return content;
    } finally {
      this.#waiting.delete(number);
    }
  }

  /** Texts of tokens [start, stop), or null while they are on their way. */
  words(start, stop, whenThere) {
    const first = Math.max(0, start);
    const end = Math.min(this.n(), stop);
    const missing = [];
    for (let page = Math.floor(first / PAGE); page * PAGE < end; page++)
      if (!this.#held.has(page) && this.has(page)) missing.push(this.load(page));
    if (missing.length) {
      Promise.all(missing).then(whenThere).catch(this.onError);
      return null;
    }
    const textOf = (i) => this.#held.get(Math.floor(i / PAGE))?.text[i % PAGE] ?? "";
    return Array.from({ length: Math.max(0, end - first) }, (_, k) => textOf(first + k));
  }

  /** What to call token i: its text, or its place in a picture or sound; null while loading. */
  nameOf(i, whenThere) {
    const media = spanOf(this.media(), i);
    const piece = media?.kind === "audio" ? "frame" : "patch";
    if (media) return `${media.label} ${piece} ${i - media.start}`;
    if (!this.has(Math.floor(i / PAGE))) return `token ${formatCount(i)}`;
    const found = this.words(i, i + 1, whenThere);
    return found?.length ? visibleToken(found[0]) : null;
  }

  /** What token i is: its id, kind and part. A page's ids come when one of its tokens is first
   * asked for; then `whenThere` is called. A snapshot may lack them. */
  about(i, whenThere) {
    const page = this.#held.get(Math.floor(i / PAGE));
    const k = i % PAGE;
    const id = page?.ids?.[k];
    if (page && !page.ids) this.#loadIds(page, whenThere);
    const media = spanOf(this.media(), i);
    const kind = page?.special.includes(k) ? "control token" : "text";
    const part = media ? "" : (spanOf(this.parts(), i)?.name ?? "");
    return [id === undefined ? "" : `id ${id}`, media ? media.kind : kind, part]
      .filter(Boolean)
      .join(" · ");
  }

  async #loadIds(page, whenThere) {
    page.ids = [];
    try {
      const stop = page.start + page.text.length;
      const { buffer } = await this.ask("ids", { start: page.start, stop });
      const { byteOffset, byteLength } = buffer;
      page.ids = new Int32Array(buffer.buffer.slice(byteOffset, byteOffset + byteLength));
      whenThere();
    } catch (error) {
      if (!(error instanceof NotRecorded)) this.onError(error);
    }
  }
}
