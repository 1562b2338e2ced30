/* A trace that grows while a model runs: the view follows it, at most half of the time. */

import { perFrame } from "./dom.js";
import { watch } from "./kernel.js";
import { ROUTES_PAGE } from "./routing_routes.js";

const PAUSE = 200; // ms at least between two updates

export class Growth {
  #busy = false;
  #shown = ""; // the trace that is shown
  #revision = 0;

  /**
   * @param {RoutingScene} scene
   * @param {TokenRoutes} routes
   * @param {object} o
   * @param {() => void} o.onChange before each update
   * @param {() => Promise<void>} o.begin loads the numbers of all tokens again
   * @param {(lastPage: number) => Promise<void>} o.end shows the text again
   */
  constructor(scene, routes, { onChange, begin, end }) {
    Object.assign(this, { scene, routes, onChange, begin, end });
    this.soon = perFrame(() => this.#update());
  }

  start() {
    watch(this.scene.model, ["n", "meta"], this.soon, this.scene.view.signal);
  }

  /** Another text may be as long. */
  get #state() {
    return `${this.scene.count} ${this.scene.meta.revision}`;
  }

  async #update() {
    if (this.#busy) return;
    this.#busy = true;
    const begun = performance.now();
    const done = () => {
      this.#busy = false;
      if (this.#state !== this.#shown && this.scene.count > 0) this.soon();
    };
    try {
      await this.#grow();
    } finally {
      setTimeout(done, Math.max(PAUSE, performance.now() - begun));
    }
  }

  async #grow() {
    const { scene, routes } = this;
    this.onChange();
    if (scene.count === 0 || this.#state === this.#shown) return;
    this.#shown = this.#state;
    routes.forgetStrips();
    await this.begin();
    const last = Math.floor((scene.count - 1) / ROUTES_PAGE);
    const { revision } = scene.meta;
    routes.dropPages(last, revision !== this.#revision);
    this.#revision = revision;
    await routes.load(last);
    await routes.loadStrip();
    await this.end(last);
  }
}
