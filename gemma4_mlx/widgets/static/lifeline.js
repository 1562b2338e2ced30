// Whether Python is still there: what was asked and not yet answered, and the sentence to show.

const SILENCE = 5000; // milliseconds without a sign of life before the reader is told
const GONE = "The kernel behind this widget is gone. Run the cell again to go on.";
const LOST = "No answer came from the kernel. Run the cell again to go on.";
const BUSY = "Waiting for the kernel, which is busy with another cell.";
const UNSURE = "Waiting for the kernel. If no other cell is running, run this one again.";

/** @type {WeakMap<object, ReturnType<typeof lifeline>>} one for all views of a widget */
const lifelines = new WeakMap();

/** @param {any} model */
export function lifelineOf(model) {
  if (!lifelines.has(model)) lifelines.set(model, lifeline(model));
  return lifelines.get(model);
}

function lifeline(/** @type {any} */ model) {
  /**
   * @type {Map<string, { since: number, heard: number, alive: boolean, progress: any, onProgress?:
   *   Function }>}
   */
  const pending = new Map();
  let gone = false;
  // While a request waits in Python, or is computed, Python says so every two seconds.
  model.on("msg:custom", (/** @type {any} */ message) => {
    for (const [id, progress] of Object.entries(message?.alive ?? {})) {
      const one = pending.get(id);
      if (!one) continue;
      Object.assign(one, { heard: Date.now(), alive: true, progress });
      if (progress) one.onProgress?.(progress);
    }
  });
  // ipywidgets sets comm_live to false when the kernel restarts, and closes the comm with a widget.
  for (const event of ["comm_live_update", "comm:close"])
    model.on(event, () => {
      gone = true;
    });
  return {
    /** @param {string} id @param {(progress: any) => void} [onProgress] */
    begin(id, onProgress) {
      pending.set(id, {
        since: Date.now(),
        heard: Date.now(),
        alive: false,
        progress: null,
        onProgress,
      });
    },
    end(/** @type {string} */ id) {
      pending.delete(id);
    },
    get pending() {
      return pending.size;
    },
    /** What the reader should know now: `text` is "" when all is well. */
    look() {
      const host = hostKernel(model);
      gone ||= host === "gone";
      if (gone) return { gone, text: GONE };
      const now = Date.now();
      const quietest = [...pending.values()].sort((a, b) => a.heard - b.heard)[0];
      if (!quietest) return { gone, text: "" };
      if (now - quietest.heard > (quietest.alive ? 2 : 1) * SILENCE) {
        return { gone, text: { busy: BUSY, idle: LOST }[host] ?? UNSURE };
      }
      const slow = [...pending.values()].find(
        (one) => one.alive && now - one.since > SILENCE && !one.onProgress,
      );
      if (!slow) return { gone, text: "" };
      const { what, done, total } = slow.progress ?? {};
      return {
        gone,
        text: what
          ? `${what}: ${Math.floor((100 * done) / Math.max(1, total))} %`
          : "Python is computing the answer.",
      };
    },
  };
}

/** "busy", "idle", "gone", or undefined where the host does not say (marimo, Colab). */
function hostKernel(/** @type {any} */ model) {
  const manager = model.widget_manager;
  if (!manager || !("kernel" in manager)) return undefined;
  // A notebook's own session knows of a shutdown before the manager does.
  const session = manager.context?.sessionContext;
  const kernel = session ? session.session?.kernel : manager.kernel;
  if (!kernel || kernel.isDisposed || ["dead", "terminating"].includes(kernel.status))
    return "gone";
  if (kernel.connectionStatus && kernel.connectionStatus !== "connected") return undefined;
  return { busy: "busy", idle: "idle" }[/** @type {string} */ (kernel.status)];
}
