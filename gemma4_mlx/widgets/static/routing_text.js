/* The text in the colours of its tokens' experts. */

import { cssOf } from "./colours.js";
import { markColour } from "./pieces.js";
import { formatCount, formatPercent } from "./words.js";

export class RouteColours {
  /** @param {RoutingScene} scene @param {TokenRoutes} routes */
  constructor(scene, routes) {
    Object.assign(this, { scene, routes });
  }

  /** CSS colour of a token; `onPicture`: over a patch of a picture. */
  background(token, onPicture) {
    const colour = this.#colourOf(this.#cells(token));
    const paper = this.scene.ink.dark ? 0.62 : 0.55;
    return colour && cssOf(colour.rgb, onPicture ? 1 : colour.alpha * paper);
  }

  alpha(token) {
    return 0.75 * (this.#colourOf(this.#cells(token))?.alpha ?? 0);
  }

  title(token) {
    const { now, row } = this.scene;
    const route = this.routes.of(token, row);
    if (!route) return formatCount(token);
    const experts = route.map(([expert, share]) => `${expert} (${formatPercent(share)})`);
    return `token ${formatCount(token)} · layer ${now.layer} · experts ${experts.join(", ")}`;
  }

  /** CSS colour of a stretch of the text; kept with it until another is wanted. */
  stretch(start, stop) {
    const { scheme, now, row } = this.scene;
    const found = scheme && this.routes.stretch((start + stop) / 2, row);
    if (!found) return null;
    const stamp = now.text === "map" ? scheme : now.expert;
    if (found.stamp !== stamp) {
      const colour = this.#colourOf(this.#inRow(found.list));
      found.stamp = stamp;
      found.colour = colour && cssOf(colour.rgb, Math.min(1, colour.alpha * 1.2));
    }
    return found.colour;
  }

  #inRow(route) {
    const { row } = this.scene;
    return route.map(([expert, share]) => [this.scene.cellOf(row, expert), share]);
  }

  #cells(token) {
    const route = this.routes.of(token, this.scene.row);
    return route && this.#inRow(route);
  }

  /** @param {Array<[cell: number, share: number]> | null} cells */
  #colourOf(cells) {
    const { scheme, now, cell, ink } = this.scene;
    if (!cells || !scheme) return null;
    if (now.text === "map") return scheme.token(cells);
    const share = cells.find(([other]) => other === cell)?.[1] ?? 0;
    return share > 0 ? { rgb: markColour(ink), alpha: 0.2 + 0.8 * share } : null;
  }
}
