/* The text of a trace, a page at a time, every token painted by the view that shows it.
 *
 * Tokens are inline spans without padding, so that scripts which join letters keep their shapes,
 * inside paragraphs with dir="auto", so that right-to-left text runs the right way. A media span
 * unfolds into its picture (patches at their boxes) or its waveform (frames at their times). Above
 * the page a strip shows the whole context; a click there jumps.
 */

import { h, NotRecorded, visibleToken } from "./shared.js";

export const PAGE = 512; // tokens

/**
 * @param {object} o
 * @param {(kind: string, params: object) => Promise<{content: object, buffer: DataView|null}>} o.ask
 * @param {number} o.n              tokens in the trace
 * @param {Array}  o.media          spans: {index, kind, start, stop, label, rows, columns, seconds}
 * @param {Array}  o.parts          {start, stop, role, colour, name}
 * @param {(index:number, event:Event) => void} o.onSelect
 * @param {() => {background:(i:number)=>string|null, text:(i:number)=>string|null,
 *                title:(i:number)=>string}} o.paint
 * @param {(from:number, to:number) => number|string|null} o.strip  colour of a range on the strip
 * @param {(page:number) => boolean} [o.keeps]  in a snapshot: whether it holds that page
 */
export function tokenView(o) {
  const pages = new Map(),
    waiting = new Map();
  let page = -1,
    selected = -1,
    span = null,
    hits = [],
    hit = -1,
    body = null,
    sources = [];

  const text = h("div", {
    class: "g4-tokens",
    tabindex: 0,
    role: "listbox",
    "aria-label": o.label,
    "aria-roledescription": "tokens",
  });
  const strip = h("canvas", { class: "g4-strip", height: 22 });
  const where = h("span", { class: "g4-note g4-where" });
  const back = h(
    "button",
    { type: "button", title: "Previous page", "aria-label": "Previous page of tokens" },
    "‹",
  );
  const next = h(
    "button",
    { type: "button", title: "Next page", "aria-label": "Next page of tokens" },
    "›",
  );
  const search = h("input", {
    type: "search",
    class: "g4-search",
    placeholder: "Find text",
    "aria-label": "Find text in the trace",
  });
  const found = h("span", { class: "g4-note", role: "status" });
  const bar = h(
    "div",
    { class: "g4-toolbar" },
    search,
    found,
    h("span", { class: "g4-grow" }),
    where,
    back,
    next,
  );
  const root = h("div", { class: "g4-tokenview" }, bar, strip, text);

  /** Tokens of a page: {start, text: string[], special: number[]}. */
  function load(number) {
    if (pages.has(number)) return Promise.resolve(pages.get(number));
    if (!waiting.has(number))
      waiting.set(
        number,
        o
          .ask("tokens", { start: number * PAGE, stop: Math.min(o.n(), (number + 1) * PAGE) })
          .then(({ content }) => {
            pages.set(number, content);
            return content;
          })
          .finally(() => waiting.delete(number)),
      );
    return waiting.get(number);
  }

  const token = (i) => {
    const content = pages.get(Math.floor(i / PAGE));
    return content ? { text: content.text[i % PAGE] } : null;
  };

  /** Texts of tokens [start, stop), or null while they are on their way. */
  function words(start, stop, whenThere) {
    start = Math.max(0, start);
    stop = Math.min(o.n(), stop);
    const missing = [];
    for (let p = Math.floor(start / PAGE); p * PAGE < stop; p++)
      if (!pages.has(p) && (!o.keeps || o.keeps(p))) missing.push(load(p));
    if (missing.length) {
      Promise.all(missing).then(whenThere).catch(o.onError);
      return null;
    }
    return Array.from(
      { length: Math.max(0, stop - start) },
      (_, k) => token(start + k)?.text ?? "",
    );
  }

  /** What to call token i: its text, or its place in a picture or sound; null while loading. */
  function nameOf(i, whenThere) {
    const media = o.media().find((m) => i >= m.start && i < m.stop);
    if (media)
      return `${media.label} ${media.kind === "audio" ? "frame" : "patch"} ${i - media.start}`;
    if (!held(i)) return `token ${i.toLocaleString("en")}`;
    const found = words(i, i + 1, whenThere);
    return found && found.length ? visibleToken(found[0]) : null;
  }

  /** Whether token i can be shown: a snapshot may lack its page. */
  const held = (i) => !o.keeps || o.keeps(Math.floor(i / PAGE));
  const lastPage = () => Math.ceil(o.n() / PAGE) - 1;

  /** The nearest page from `number` on in the direction of `step` that can be shown, or -1. */
  function pageFrom(number, step) {
    while (number >= 0 && number <= lastPage() && o.keeps && !o.keeps(number)) number += step;
    return number < 0 || number > lastPage() ? -1 : number;
  }

  async function show(number) {
    number = Math.max(0, Math.min(lastPage(), number));
    if (o.keeps && !o.keeps(number)) number = Math.max(pageFrom(number, -1), 0);
    const before = page;
    page = number;
    let content;
    try {
      content = await load(number);
    } catch (error) {
      if (page === number) page = before; // a page that a snapshot did not record is not entered
      o.onError(error);
      return;
    }
    if (page === number) {
      build(content);
      repaint();
    }
  }

  /** What token i is, below what the view says of it: its id, kind and part. A page's ids come when
   * one of its tokens is first pointed at; then `whenThere` is called. A snapshot may lack them. */
  function about(i, whenThere) {
    const content = pages.get(Math.floor(i / PAGE)),
      k = i % PAGE,
      id = content?.ids?.[k];
    if (content && !content.ids) {
      content.ids = [];
      o.ask("ids", { start: content.start, stop: content.start + content.text.length })
        .then(({ buffer }) => {
          content.ids = new Int32Array(
            buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.byteLength),
          );
          whenThere();
        })
        .catch((error) => {
          if (!(error instanceof NotRecorded)) o.onError(error);
        });
    }
    const media = o.media().find((m) => i >= m.start && i < m.stop),
      part = o.parts().find((p) => i >= p.start && i < p.stop);
    return [
      id === undefined ? "" : `id ${id}`,
      media ? media.kind : content?.special.includes(k) ? "control token" : "text",
      media ? "" : (part?.name ?? ""),
    ]
      .filter(Boolean)
      .join(" · ");
  }
  function setTitle(node, i) {
    node.title = `${o.paint().title(i)}\n${about(i, () => setTitle(node, i))}`;
  }

  function build(content) {
    text.replaceChildren();
    sources = [];
    const specials = new Set(content.special);
    let line = paragraph();
    for (let k = 0; k < content.text.length; k++) {
      const i = content.start + k,
        media = o.media().find((m) => i >= m.start && i < m.stop);
      if (media) {
        text.append(mediaBlock(media));
        k = Math.min(content.text.length, media.stop - content.start) - 1;
        line = paragraph();
        continue;
      }
      const piece = content.text[k],
        special = specials.has(k);
      const node = h("span", {
        class: special ? "g4-word g4-special" : "g4-word",
        role: "option",
        id: `${uid}-${i}`,
        "aria-selected": "false",
      });
      node.dataset.i = i;
      node.append(piece.replace(/\n/g, "↵"));
      line.append(node);
      if (piece.includes("\n")) line = paragraph();
    }
    where.textContent = `tokens ${content.start.toLocaleString("en")} to ${(content.start + content.text.length - 1).toLocaleString("en")} of ${o.n().toLocaleString("en")}`;
    back.disabled = pageFrom(page - 1, -1) < 0;
    next.disabled = pageFrom(page + 1, 1) < 0;
    back.hidden = next.hidden = o.n() <= PAGE;
    text.classList.remove("g4-short"); // a short text takes no more room than it needs
    text.classList.toggle("g4-short", text.scrollHeight <= text.clientHeight);
    mark();
  }

  function paragraph() {
    const line = h("div", { class: "g4-line", dir: "auto", role: "presentation" });
    text.append(line);
    return line;
  }

  function mediaBlock(media) {
    const canvas = h("canvas", {
      class: `g4-media g4-${media.kind}`,
      width: 10,
      height: 10,
      role: "option",
      "aria-selected": "false",
      id: `${uid}-m${media.index}`,
      "aria-label": `${media.kind}: ${media.label}, ${media.stop - media.start} soft tokens`,
    });
    const figure = h(
      "figure",
      { class: "g4-figure", role: "presentation" },
      canvas,
      h(
        "figcaption",
        {},
        `${media.label} · ${(media.stop - media.start).toLocaleString("en")} soft tokens`,
      ),
    );
    const source = { media, canvas, content: null, picture: null };
    sources.push(source);
    o.ask("media", { span: media.index })
      .then(async ({ content, buffer }) => {
        source.content = content;
        if (media.kind !== "audio" && buffer?.byteLength)
          source.picture = await createImageBitmap(
            new Blob([new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength)], {
              type: content.type,
            }),
          );
        else if (buffer?.byteLength)
          source.wave = new Float32Array(
            buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.byteLength),
          );
        paintMedia(source);
      })
      .catch(o.onError);
    canvas.addEventListener("click", (event) => {
      const i = tokenAt(source, event.offsetX, event.offsetY);
      if (i !== null) {
        select(i);
        o.onSelect(i, event);
      }
    });
    canvas.addEventListener("pointermove", (event) => {
      const i = tokenAt(source, event.offsetX, event.offsetY);
      if (i !== null) {
        setTitle(canvas, i);
        o.onHover?.(i);
      }
    });
    return figure;
  }

  /** Box of the k-th soft token of a media block, in css pixels: [x, y, width, height]. */
  function boxOf(source, k) {
    const { content, canvas } = source,
      w = canvas.clientWidth,
      hh = canvas.clientHeight;
    const [x0, y0, x1, y1] = content.boxes[k]; // fractions of the picture, or of the clip's length
    return [x0 * w, y0 * hh, (x1 - x0) * w, (y1 - y0) * hh];
  }

  function tokenAt(source, x, y) {
    if (!source.content) return null;
    for (let k = 0; k < source.content.boxes.length; k++) {
      const [bx, by, bw, bh] = boxOf(source, k);
      if (x >= bx && x < bx + bw && y >= by && y < by + bh) return source.media.start + k;
    }
    return null;
  }

  function paintMedia(source) {
    const { canvas, media, content, picture, wave } = source;
    if (!content) return;
    const width =
      media.kind === "audio" ? Math.min(720, text.clientWidth - 20) : (content.width ?? 288);
    const height = media.kind === "audio" ? 88 : (content.height ?? 288);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const context = canvas.getContext("2d"),
      ink = o.ink(),
      paint = o.paint();
    context.scale(ratio, ratio);
    context.fillStyle = ink.zero;
    context.fillRect(0, 0, width, height);
    if (picture) {
      context.imageSmoothingEnabled = width < picture.width;
      context.drawImage(picture, 0, 0, width, height);
    }
    for (let k = 0; k < content.boxes.length; k++) {
      const colour = paint.background(media.start + k, true),
        [x, y, w, hh] = boxOf(source, k);
      if (colour) {
        context.globalAlpha = picture ? (paint.alpha?.(media.start + k) ?? 0.62) : 0.9;
        context.fillStyle = colour;
        context.fillRect(x, y, w, hh);
        context.globalAlpha = 1;
      }
      const label = paint.label?.(media.start + k);
      if (label && w >= 20) {
        context.font = "600 12px " + ink.font;
        context.textAlign = "center";
        context.textBaseline = "middle";
        context.lineWidth = 2.5;
        context.strokeStyle = ink.panel;
        context.strokeText(label, x + w / 2, y + hh / 2);
        context.fillStyle = ink.text;
        context.fillText(label, x + w / 2, y + hh / 2);
      }
      if (media.start + k === selected) {
        context.strokeStyle = ink.halo;
        context.lineWidth = 4;
        context.strokeRect(x + 1, y + 1, w - 2, hh - 2);
        context.strokeStyle = ink.text;
        context.lineWidth = 2;
        context.strokeRect(x + 1, y + 1, w - 2, hh - 2);
      }
    }
    if (wave) {
      context.strokeStyle = ink.text;
      context.lineWidth = 1;
      context.beginPath();
      for (let k = 0; k < wave.length / 2; k++) {
        // pairs: lowest and highest sample of a stretch
        const x = (k / (wave.length / 2)) * width;
        context.moveTo(x, height / 2 - wave[2 * k + 1] * height * 0.46);
        context.lineTo(x, height / 2 - wave[2 * k] * height * 0.46 + 0.5);
      }
      context.stroke();
      context.fillStyle = ink.faint;
      context.font = "12px " + ink.font;
      context.textBaseline = "bottom";
      context.textAlign = "left";
      context.fillText("0 s", 3, height - 2);
      context.textAlign = "right";
      context.fillText(`${content.seconds.toFixed(2)} s`, width - 3, height - 2);
    }
  }

  function repaint() {
    const paint = o.paint();
    for (const node of text.querySelectorAll(".g4-word")) {
      const i = Number(node.dataset.i),
        colour = paint.background(i, false),
        mine = paint.text?.(i);
      node.style.backgroundColor = colour ?? "";
      node.style.color = mine ?? "";
      const label = paint.label?.(i);
      if (label) node.dataset.label = label;
      else delete node.dataset.label;
    }
    for (const source of sources) paintMedia(source);
    paintStrip();
    mark();
  }

  function paintStrip() {
    const width = strip.clientWidth || root.clientWidth || 600,
      ratio = window.devicePixelRatio || 1,
      n = o.n();
    strip.width = width * ratio;
    strip.height = 22 * ratio;
    const context = strip.getContext("2d"),
      ink = o.ink();
    context.scale(ratio, ratio);
    context.fillStyle = ink.zero;
    context.fillRect(0, 5, width, 13);
    for (let x = 0; x < strip.width; x++) {
      // whole pixels of the screen, so that no seams show
      const from = Math.floor((x / strip.width) * n),
        colour = o.strip(from, Math.max(from + 1, Math.floor(((x + 1) / strip.width) * n)));
      if (colour) {
        context.fillStyle = colour;
        context.fillRect(x / ratio, 5, 1 / ratio, 13);
      }
    }
    for (const part of o.parts()) {
      context.fillStyle = part.colour;
      context.fillRect(
        (part.start / n) * width,
        0,
        Math.max(1, ((part.stop - part.start) / n) * width - 0.5),
        3,
      );
    }
    for (const at of hits) {
      context.fillStyle = ink.text;
      context.fillRect((at / n) * width - 0.5, 18, 1.5, 4);
    }
    if (n > PAGE) {
      context.strokeStyle = ink.text;
      context.lineWidth = 1;
      context.strokeRect(
        ((page * PAGE) / n) * width + 0.5,
        4.5,
        Math.max(3, (PAGE / n) * width),
        14,
      );
    }
    if (selected >= 0) {
      context.fillStyle = ink.accent;
      context.fillRect((selected / n) * width - 1, 3, 3, 19);
    }
  }

  function mark() {
    for (const node of text.querySelectorAll(".g4-selected,.g4-inspan,.g4-hit")) {
      node.classList.remove("g4-selected", "g4-inspan", "g4-hit");
      node.setAttribute("aria-selected", "false");
    }
    const inspan = span ?? [selected, selected];
    for (let i = inspan[0]; i <= inspan[1]; i++)
      root.querySelector(`[data-i="${i}"]`)?.classList.add("g4-inspan");
    for (const at of hits.slice(0, 2000))
      root.querySelector(`[data-i="${at}"]`)?.classList.add("g4-hit");
    const node = root.querySelector(`[data-i="${selected}"]`);
    const holder = sources.find(({ media }) => selected >= media.start && selected < media.stop);
    for (const source of sources)
      source.canvas.setAttribute("aria-selected", String(source === holder));
    if (holder) text.setAttribute("aria-activedescendant", holder.canvas.id);
    else if (node) {
      node.classList.add("g4-selected");
      node.setAttribute("aria-selected", "true");
      text.setAttribute("aria-activedescendant", node.id);
    } else text.removeAttribute("aria-activedescendant");
    return node ?? holder?.canvas;
  }

  /** Show token i as selected; turns to its page, and scrolls only the text itself. */
  async function select(i) {
    if (i === selected && page === Math.floor(i / PAGE)) return;
    selected = i;
    if (i < 0) {
      mark();
      paintStrip();
      return;
    }
    if (page !== Math.floor(i / PAGE)) await show(Math.floor(i / PAGE));
    const node = mark();
    for (const source of sources) paintMedia(source);
    paintStrip();
    if (node) {
      const top = node.offsetTop - text.offsetTop;
      if (top < text.scrollTop || top > text.scrollTop + text.clientHeight - 24)
        text.scrollTop = top - text.clientHeight / 3;
    }
  }

  text.addEventListener("click", (event) => {
    const node = event.target.closest?.(".g4-word");
    if (!node) return;
    const i = Number(node.dataset.i);
    if (event.shiftKey && selected >= 0) {
      span = [Math.min(i, selected), Math.max(i, selected)];
      mark();
      o.onSpan?.(span);
      return;
    }
    span = null;
    select(i);
    o.onSelect(i, event);
  });
  text.addEventListener("pointerover", (event) => {
    const node = event.target.closest?.(".g4-word");
    if (!node) return;
    setTitle(node, Number(node.dataset.i)); // said when asked for: 512 are not written each time
    o.onHover?.(Number(node.dataset.i));
  });
  text.addEventListener("keydown", (event) => {
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
    const to = Math.max(0, Math.min(o.n() - 1, Math.max(0, selected) + step));
    if (!held(to)) {
      o.onError(new NotRecorded());
      return;
    }
    if (event.shiftKey) {
      const fixed =
        span && span[1] === selected ? span[0] : span && span[0] === selected ? span[1] : selected;
      select(to).then(() => {
        span = [Math.min(fixed, to), Math.max(fixed, to)];
        mark();
        o.onSpan?.(span);
      });
    } else {
      span = null;
      select(to);
      o.onSelect(to, event);
    }
  });
  strip.addEventListener("click", (event) => {
    const i = Math.max(
      0,
      Math.min(o.n() - 1, Math.floor((event.offsetX / strip.clientWidth) * o.n())),
    );
    if (!held(i)) {
      o.onError(new NotRecorded());
      return;
    }
    select(i);
    o.onSelect(i, event);
  });
  back.addEventListener("click", () => show(pageFrom(page - 1, -1)));
  next.addEventListener("click", () => show(pageFrom(page + 1, 1)));

  const find = async (event) => {
    if (event.type === "keydown" && event.key !== "Enter") return;
    event.stopPropagation();
    const wanted = search.value;
    if (!wanted) {
      hits = [];
      hit = -1;
      found.textContent = "";
      mark();
      paintStrip();
      return;
    }
    if (search.dataset.found !== wanted) {
      const { content } = await o.ask("search", { text: wanted });
      hits = content.hits;
      hit = -1;
      search.dataset.found = wanted;
      // A snapshot's search says how many tokens it could read.
      found.title =
        content.searched < o.n()
          ? `Looked in the ${content.searched} tokens that this snapshot holds.`
          : "";
      if (!hits.length) {
        found.textContent = found.title ? "not found in this snapshot" : "not found";
        mark();
        paintStrip();
        return;
      }
    }
    if (!hits.length) return;
    hit = (hit + (event.shiftKey ? hits.length - 1 : 1)) % hits.length;
    found.textContent = `${hit + 1} of ${hits.length}`;
    await select(hits[hit]);
    mark();
    o.onSelect(hits[hit], event);
  };
  search.addEventListener("keydown", (event) => find(event).catch(o.onError));
  search.addEventListener("search", (event) => {
    if (!search.value) find(event).catch(o.onError);
  });

  const uid = `g4t${Math.random().toString(36).slice(2, 8)}`;
  const resized = new ResizeObserver(() => paintStrip());
  resized.observe(strip);
  return {
    root,
    show,
    select,
    repaint,
    paintStrip,
    words,
    nameOf,
    search,
    get selected() {
      return selected;
    },
    get span() {
      return span;
    },
    /** Throw away what was loaded: the trace grew or changed. */
    reset() {
      pages.clear();
      page = -1;
    },
    page: () => page,
    toEnd() {
      text.scrollTop = text.scrollHeight;
    },
    destroy() {
      resized.disconnect();
    },
  };
}
