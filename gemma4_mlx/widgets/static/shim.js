// The end of a page without a kernel: stand-ins for anywidget's models, over recorded traits and
// answers, one for each view.

{
  const data = JSON.parse(
    [...document.querySelectorAll("script.g4-data")].map((piece) => piece.textContent).join(""),
  );
  const bytes = (text) => {
    const raw = atob(text);
    const out = new Uint8Array(raw.length);
    // 20 times as fast as Uint8Array.from
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return new DataView(out.buffer);
  };
  const revive = (value) => {
    if (Array.isArray(value)) return value.map(revive);
    if (value === null || typeof value !== "object") return value;
    if (typeof value.$bytes === "string") return bytes(value.$bytes);
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, revive(v)]));
  };
  // The same canonical text as widgets/snapshot.py: keys sorted at every depth, "which" only if not
  // "a".
  const key = (request) => {
    const { which, ...rest } = request;
    return canonical(which === "a" ? rest : request);
  };
  const canonical = (value) =>
    Array.isArray(value)
      ? `[${value.map(canonical)}]`
      : value && typeof value === "object"
        ? `{${Object.keys(value)
            .filter((k) => value[k] !== undefined)
            .sort()
            .map((k) => `${JSON.stringify(k)}:${canonical(value[k])}`)}}`
        : JSON.stringify(value);

  function modelOf(view) {
    const state = revive(view.state);
    const listeners = new Map();
    const emit = (event, ...values) => {
      for (const listener of [...(listeners.get(event) ?? [])]) listener(...values);
    };
    const answerTo = (request) => {
      const name = key(request);
      return view.answers[name] ?? data.shared[name];
    };
    return {
      isStatic: true,
      get: (name) => state[name],
      set(name, value) {
        if (state[name] === value) return;
        state[name] = value;
        emit(`change:${name}`);
      },
      save_changes() {},
      /** Whether the answer to a request is on this page. */
      recorded: (request) => answerTo(request) !== undefined,
      /** The requests of a type whose answers are on this page, without their type. */
      asked: (type) =>
        Object.keys(view.answers)
          .map((name) => JSON.parse(name))
          .filter((asked) => asked.type === type)
          .map(({ type: _, ...rest }) => rest),
      /** The answers to requests of a type: [request, content]. */
      held: (type) =>
        Object.entries({ ...data.shared, ...view.answers })
          .map(([name, answer]) => [JSON.parse(name), answer.content])
          .filter(([asked, content]) => asked.type === type && content),
      on: (event, f) => listeners.set(event, (listeners.get(event) ?? new Set()).add(f)),
      off: (event, f) => (f ? listeners.get(event)?.delete(f) : listeners.delete(event)),
      send({ id, slot, ...request }) {
        const answer =
          answerTo(request) ??
          (request.type === "search" ? { content: found(view, request) } : { unrecorded: true });
        const buffers = answer.buffer ? [bytes(answer.buffer)] : [];
        const { content, error, unrecorded } = answer;
        setTimeout(() => emit("msg:custom", { id, content, error, unrecorded }, buffers));
      },
    };
  }

  /** `answer_search` of widgets/traceview.py over the recorded pages: first tokens of the hits. */
  function found(view, { text, which = "a" }) {
    const pages = Object.entries({ ...view.answers, ...data.shared })
      .filter(([name]) => name.includes('"tokens"'))
      .map(([name, answer]) => [JSON.parse(name), answer.content])
      .filter(
        ([asked, content]) =>
          asked.type === "tokens" && (asked.which ?? "a") === which && content?.text,
      )
      .map(([, content]) => content)
      .sort((a, b) => a.start - b.start);
    const runs = []; // neighbouring pages read as one text
    for (const page of pages) {
      const last = runs.at(-1);
      if (last && last.start + last.texts.length === page.start) last.texts.push(...page.text);
      else runs.push({ start: page.start, texts: [...page.text] });
    }
    const look = (fold) =>
      runs.flatMap(({ start, texts }) => {
        const hits = [];
        const whole = fold(texts.join(""));
        const wanted = fold(text);
        let token = 0;
        let end = texts[0]?.length ?? 0;
        for (
          let at = whole.indexOf(wanted);
          wanted && at >= 0;
          at = whole.indexOf(wanted, at + wanted.length)
        ) {
          while (end <= at) end += texts[++token].length;
          hits.push(start + token);
        }
        return hits;
      });
    const exact = look((t) => t);
    const hits = exact.length ? exact : look((t) => t.toLowerCase());
    const searched = runs.reduce((sum, run) => sum + run.texts.length, 0);
    return { hits, total: hits.length, searched };
  }

  const root = document.getElementById("g4-root");
  addEventListener("message", ({ data: message }) => {
    if (message?.g4Theme) document.documentElement.dataset.g4Theme = message.g4Theme;
  });
  data.views.forEach((view, i) => {
    const el = Object.assign(document.createElement("section"), { id: `g4-view-${i}` });
    root.append(el);
    globalThis[`g4Widget${i}`].render({ model: modelOf(view), el });
  });
  if (parent !== window) {
    // Inside somebody's page a link would replace the widget; what it leads to is in its text.
    addEventListener(
      "click",
      (event) => {
        const link = event
          .composedPath()
          .find((node) => node.href !== undefined && node.tagName === "A");
        if (link && !link.download) event.preventDefault();
      },
      { capture: true },
    );
    document.body.classList.add("g4-framed");
    const tell = () =>
      parent.postMessage({ g4Height: Math.ceil(root.getBoundingClientRect().height) + 4 }, "*");
    new ResizeObserver(tell).observe(root);
    parent.postMessage({ g4Ready: true }, "*");
  }
}
