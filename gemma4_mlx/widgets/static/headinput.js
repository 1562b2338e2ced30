/* Pointing at heads on a canvas, choosing one, and dragging a rectangle around some. */

const SLACK = 6; // css pixels that a click may move

export class HeadPointer {
  /** The head that is pointed at, or -1. */
  cursor = -1;
  #view;
  #at;
  #from = null;
  #box = null; // [x, y, width, height] while it is dragged

  /**
   * @param {object} view  with canvas, draw, onHover, onPick and onMark
   * @param {object} o
   * @param {(x: number, y: number) => number} o.at  the head at a point of the canvas, or -1
   * @param {(box: number[]) => Set<number> | null} o.within  the heads to mark, null: none
   * @param {(x: number, y: number) => void} [o.over]  told of every point that is pointed at
   * @param {(x: number, y: number) => boolean} [o.clicked]  whether a click was for something else
   * @param {AbortSignal} o.signal
   */
  constructor(view, { at, within, over = () => {}, clicked = () => false, signal }) {
    this.#view = view;
    this.#at = at;
    const on = (type, does) => view.canvas.addEventListener(type, does, { signal });
    on("pointerdown", (event) => {
      this.#from = [event.offsetX, event.offsetY];
    });
    on("pointermove", (event) => {
      if (this.#from && event.buttons) {
        this.#drag(event.offsetX, event.offsetY);
        return;
      }
      over(event.offsetX, event.offsetY);
      this.point(at(event.offsetX, event.offsetY), event.clientX, event.clientY);
    });
    on("pointerup", (event) => this.#release(event.offsetX, event.offsetY, within, clicked));
    on("pointerleave", () => {
      if (!this.#from) this.point(-1);
    });
  }

  /** Point at a head, or with -1 at none; client coordinates. */
  point(index, x = 0, y = 0) {
    if (index !== this.cursor) {
      this.cursor = index;
      this.#view.draw();
    }
    this.#view.onHover(index < 0 ? null : index, x, y);
  }

  /** The rectangle, while one is dragged. */
  drawBox(context, ink) {
    if (!this.#box) return;
    const [x, y, w, h] = this.#box;
    context.strokeStyle = ink.accent;
    context.lineWidth = 1;
    context.setLineDash([4, 3]);
    context.strokeRect(x + 0.5, y + 0.5, w, h);
    context.setLineDash([]);
  }

  #drag(x, y) {
    const [x0, y0] = this.#from;
    const [w, h] = [Math.abs(x - x0), Math.abs(y - y0)];
    if (!this.#box && Math.hypot(w, h) <= SLACK) return;
    this.#box = [Math.min(x, x0), Math.min(y, y0), w, h];
    this.#view.draw();
    this.#view.onHover(null, 0, 0);
  }

  #release(x, y, within, clicked) {
    const box = this.#box;
    this.#from = this.#box = null;
    if (box) {
      const heads = within(box);
      if (heads) this.#view.onMark(heads);
      this.#view.draw();
      return;
    }
    if (clicked(x, y)) return;
    const index = this.#at(x, y);
    if (index >= 0) this.#view.onPick(index);
  }
}
