// Traits, requests and the selection: what a widget and Python say to each other.

import { lifelineOf } from "./lifeline.js";

/**
 * @typedef {{ get(name: string): any, set(name: string, value: any): void, save_changes(): void,
 *   send(content: any, callbacks?: any, buffers?: ArrayBuffer[]): void,
 *   on(event: string, callback: Function): void, off(event: string, callback?: Function): void,
 *   isStatic?: boolean }} Model  anywidget's model, or the snapshot's stand-in for it
 */

let requestCount = 0;

/** What a snapshot did not record: to be told calmly, once. */
export class NotRecorded extends Error {
  constructor() {
    super("This page is a snapshot and did not record that; the notebook has it.");
  }
}

/**
 * Ask Python (`answer_<type>` of the widget) and wait for the answer.
 * A newer request of the same `slot` makes an older one resolve to null. `onProgress` hears what
 * Python's `self.progress(...)` tells meanwhile; without it the reader sees it above the widget.
 * @param {Model} model @param {string} type @param {Record<string, any>} [args]
 * @param {{ signal?: AbortSignal, slot?: string, buffers?: ArrayBuffer[],
 *   onProgress?: (progress: { what: string, done: number, total: number }) => void }} [options]
 * @returns {Promise<{ content: any, buffer: DataView | null } | null>}
 */
export function request(model, type, args = {}, { signal, slot, buffers, onProgress } = {}) {
  const life = lifelineOf(model);
  const id = `${Date.now().toString(36)}-${++requestCount}`;
  return new Promise((resolve, reject) => {
    const receive = (/** @type {any} */ message, /** @type {DataView[]} */ bulk) => {
      if (message?.id !== id) return;
      forget();
      if (message.unrecorded) reject(new NotRecorded());
      else if (message.error) reject(new Error(message.error));
      else if (message.stale) resolve(null);
      else resolve({ content: message.content, buffer: bulk?.[0] ?? null });
    };
    const forget = () => {
      life.end(id);
      model.off("msg:custom", receive);
      signal?.removeEventListener("abort", forget);
    };
    life.begin(id, onProgress);
    model.on("msg:custom", receive);
    signal?.addEventListener("abort", forget);
    model.send({ ...args, type, id, ...(slot ? { slot } : {}) }, undefined, buffers);
  });
}

const POLL = 250; // milliseconds between two questions

/**
 * `request`, for something that takes seconds (widgets/jobs.py): asks until it is there or not
 * `wanted` any more; `tell` hears the share done. Other requests are answered meanwhile.
 * @param {(type: string, args: any) => Promise<any>} ask
 */
export function patient(ask) {
  return async (
    /** @type {string} */ type,
    /** @type {any} */ args,
    /** @type {(share: number) => void} */ tell,
    wanted = () => true,
  ) => {
    for (;;) {
      const answer = await ask(type, args);
      if (!wanted() || !("running" in (answer.content ?? {}))) return answer;
      tell(answer.content.running);
      await new Promise((done) => setTimeout(done, POLL));
    }
  };
}

/** Set traits and send them to Python. @param {Model} model @param {Record<string, any>} values */
export function setTraits(model, values) {
  for (const [name, value] of Object.entries(values)) model.set(name, value);
  model.save_changes();
}

/** Call back now and whenever one of the traits changes.
 * @param {Model} model
 * @param {string[]} names
 * @param {() => void} callback
 * @param {AbortSignal} signal
 */
export function watch(model, names, callback, signal) {
  for (const name of names) {
    model.on(`change:${name}`, callback);
    signal.addEventListener("abort", () => model.off(`change:${name}`, callback));
  }
  callback();
}

/**
 * The shared selection ({layer, token, head, expert, ...}; see widgets/selection.py). Widgets on
 * one trace follow each other at once in the page, and through Python when the kernel is free.
 * @param {Model} model @param {(selection: Record<string, any>) => void} onChange
 * @param {AbortSignal} signal
 * @returns {{ get(): Record<string, any>, set(patch: Record<string, any>): void }}
 */
export function linkSelection(model, onChange, signal) {
  const bus = "g4-selection";
  const get = () => model.get("selection") ?? {};
  const changed = () => onChange(get());
  const heard = (/** @type {any} */ event) => {
    if (event.detail.from === model || event.detail.key !== model.get("selection_key")) return;
    model.set("selection", event.detail.value);
  };
  model.on("change:selection", changed);
  document.addEventListener(bus, heard, { signal });
  signal.addEventListener("abort", () => model.off("change:selection", changed));
  return {
    get,
    set(patch) {
      const value = { ...get(), ...patch };
      setTraits(model, { selection: value });
      const detail = { from: model, key: model.get("selection_key"), value };
      document.dispatchEvent(new CustomEvent(bus, { detail }));
    },
  };
}
