// The end of a snapshot's page: a stand-in for anywidget's model, over recorded traits and answers.

{
  const data = JSON.parse(document.getElementById("g4-data").textContent);
  const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const revive = (value) => {
    if (Array.isArray(value)) return value.map(revive);
    if (value === null || typeof value !== "object") return value;
    if (typeof value.$bytes === "string") return bytes(value.$bytes);
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, revive(v)]));
  };
  // The same canonical text as widgets/snapshot.py: keys sorted at every depth.
  const key = (value) =>
    Array.isArray(value) ? `[${value.map(key)}]`
      : value && typeof value === "object"
        ? `{${Object.keys(value).filter((k) => value[k] !== undefined).sort().map((k) => `${JSON.stringify(k)}:${key(value[k])}`)}}`
        : JSON.stringify(value);

  const state = revive(data.state);
  const listeners = new Map();
  const emit = (event, ...values) => [...(listeners.get(event) ?? [])].forEach((f) => f(...values));
  const model = {
    isStatic: true,
    get: (name) => state[name],
    set(name, value) {
      if (state[name] === value) return;
      state[name] = value;
      emit(`change:${name}`);
    },
    save_changes() {},
    on: (event, f) => listeners.set(event, (listeners.get(event) ?? new Set()).add(f)),
    off: (event, f) => (f ? listeners.get(event)?.delete(f) : listeners.delete(event)),
    send({ id, slot, ...request }) {
      const answer = data.answers[key(request)]
        ?? { error: "This is a snapshot: what it did not record needs the notebook." };
      const buffers = answer.buffer ? [bytes(answer.buffer)] : [];
      setTimeout(() => emit("msg:custom", { id, content: answer.content, error: answer.error }, buffers));
    },
  };

  const root = document.getElementById("g4-root");
  addEventListener("message", ({ data: message }) => {
    if (message?.g4Theme) document.documentElement.dataset.g4Theme = message.g4Theme;
  });
  globalThis.g4Widget.render({ model, el: root });
  if (parent !== window) {
    document.body.classList.add("g4-framed");
    const tell = () => parent.postMessage({ g4Height: Math.ceil(root.getBoundingClientRect().height) + 4 }, "*");
    new ResizeObserver(tell).observe(root);
    parent.postMessage({ g4Ready: true }, "*");
  }
}
