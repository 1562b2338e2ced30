/* A picture or a sound in the text of a trace: its soft tokens as boxes over it, painted by the
 * view that shows them. */

import { h } from "./dom.js";

const WAVE = { width: 720, height: 88 }; // css pixels of a sound, at most
const PICTURE = 288; // css pixels of a picture's sides that come without a size
const LABELLED = 20; // css pixels of a box from which it has a label

/** A copy of an answer's bytes, for typed arrays of more than a byte. */
const copyOf = ({ buffer, byteOffset, byteLength }) =>
  buffer.slice(byteOffset, byteOffset + byteLength);

export class MediaBlock {
  #content = null; // {boxes, type, width, height, seconds}
  #picture = null;
  #wave = null; // pairs: lowest and highest sample of a stretch

  /** @param {any} media {index, kind, start, stop, label} @param {string} id of the canvas */
  constructor(media, id) {
    this.media = media;
    const tokens = media.stop - media.start;
    this.canvas = h("canvas", {
      class: `g4-media g4-${media.kind}`,
      width: 10,
      height: 10,
      role: "option",
      "aria-selected": "false",
      id,
      "aria-label": `${media.kind}: ${media.label}, ${tokens} soft tokens`,
    });
    const caption = `${media.label} · ${tokens.toLocaleString("en")} soft tokens`;
    this.figure = h(
      "figure",
      { class: "g4-figure", role: "presentation" },
      this.canvas,
      h("figcaption", {}, caption),
    );
  }

  /**
   * @param {(type: string, args: object) => Promise<{ content: any, buffer: DataView | null }>} ask
   */
  async load(ask) {
    const { content, buffer } = await ask("media", { span: this.media.index });
    this.#content = content;
    if (!buffer?.byteLength) return;
    if (this.media.kind === "audio") this.#wave = new Float32Array(copyOf(buffer));
    else {
      const file = new Blob([copyOf(buffer)], { type: content.type });
      this.#picture = await createImageBitmap(file);
    }
  }

  holds(token) {
    return token >= this.media.start && token < this.media.stop;
  }

  /** The token at a point of the canvas, or null. */
  tokenAt(px, py) {
    const boxes = this.#content?.boxes ?? [];
    const inside = (_, k) => {
      const [x, y, width, height] = this.#boxOf(k);
      return px >= x && px < x + width && py >= y && py < y + height;
    };
    const k = boxes.findIndex(inside);
    return k < 0 ? null : this.media.start + k;
  }

  /**
   * @param {object} o
   * @param {number} o.room css pixels that a sound may take
   * @param {number} o.selected token, or -1
   * @param {any} o.paint as TokenView's
   * @param {Ink} o.ink
   */
  draw({ room, selected, paint, ink }) {
    if (!this.#content) return;
    const sound = this.media.kind === "audio";
    const width = sound ? Math.min(WAVE.width, room) : (this.#content.width ?? PICTURE);
    const height = sound ? WAVE.height : (this.#content.height ?? PICTURE);
    const context = this.#clear(width, height);
    context.fillStyle = ink.zero;
    context.fillRect(0, 0, width, height);
    if (this.#picture) {
      context.imageSmoothingEnabled = width < this.#picture.width;
      context.drawImage(this.#picture, 0, 0, width, height);
      if (paint.grey) fade(context, width, height);
    }
    this.#content.boxes.forEach((_, k) => {
      const token = this.media.start + k;
      this.#drawToken(context, token, this.#boxOf(k), paint, ink);
      if (token === selected) drawFrame(context, this.#boxOf(k), ink);
    });
    if (this.#wave) this.#drawWave(context, width, height, ink);
  }

  #clear(width, height) {
    const { canvas } = this;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    return context;
  }

  /** Box of the k-th soft token, in css pixels: [x, y, width, height]. */
  #boxOf(k) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const [x0, y0, x1, y1] = this.#content.boxes[k]; // fractions of the picture, or of the clip
    return [x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height];
  }

  #drawToken(context, token, [x, y, width, height], paint, ink) {
    const colour = paint.background(token, true);
    if (colour) {
      context.globalAlpha = this.#picture ? (paint.alpha?.(token) ?? 0.62) : 0.9;
      context.fillStyle = colour;
      context.fillRect(x, y, width, height);
      context.globalAlpha = 1;
    }
    const label = paint.label?.(token);
    if (!label || width < LABELLED) return;
    context.font = `600 12px ${ink.font}`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineWidth = 2.5;
    context.strokeStyle = ink.panel;
    context.strokeText(label, x + width / 2, y + height / 2);
    context.fillStyle = ink.text;
    context.fillText(label, x + width / 2, y + height / 2);
  }

  #drawWave(context, width, height, ink) {
    const wave = this.#wave;
    const stretches = wave.length / 2;
    context.strokeStyle = ink.text;
    context.lineWidth = 1;
    context.beginPath();
    for (let k = 0; k < stretches; k++) {
      const x = (k / stretches) * width;
      context.moveTo(x, height / 2 - wave[2 * k + 1] * height * 0.46);
      context.lineTo(x, height / 2 - wave[2 * k] * height * 0.46 + 0.5);
    }
    context.stroke();
    context.fillStyle = ink.faint;
    context.font = `12px ${ink.font}`;
    context.textBaseline = "bottom";
    context.textAlign = "left";
    context.fillText("0 s", 3, height - 2);
    context.textAlign = "right";
    context.fillText(`${this.#content.seconds.toFixed(2)} s`, width - 3, height - 2);
  }
}

/** Take most of a picture's own colour away, so that colours over it can be told. */
function fade(context, width, height) {
  context.globalCompositeOperation = "saturation";
  context.globalAlpha = 0.8;
  context.fillStyle = "#808080";
  context.fillRect(0, 0, width, height);
  context.globalAlpha = 1;
  context.globalCompositeOperation = "source-over";
}

function drawFrame(context, [x, y, width, height], ink) {
  for (const [colour, line] of [
    [ink.halo, 4],
    [ink.text, 2],
  ]) {
    context.strokeStyle = colour;
    context.lineWidth = line;
    context.strokeRect(x + 1, y + 1, width - 2, height - 2);
  }
}
