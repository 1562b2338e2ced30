"""A widget's front end alone: its real module and style in Chromium over a model made of a dict.

No kernel and no JupyterLab, so a test takes a fraction of a second. The stand-in keeps what the
widget sends, and the test answers or pushes as Python would.
"""

import base64
import json
import tempfile
from pathlib import Path

from gemma4_mlx.widgets.base import join_css, join_esm

_MODEL = """
globalThis.state = STATE;
globalThis.sent = [];
const listeners = new Map();
const emit = (name, ...values) => [...(listeners.get(name) ?? [])].forEach((f) => f(...values));
globalThis.fake = {
  get: (name) => state[name],
  set(name, value) { if (state[name] !== value) { state[name] = value; emit(`change:${name}`); } },
  save_changes() {},
  on: (name, f) => listeners.set(name, (listeners.get(name) ?? new Set()).add(f)),
  off: (name, f) => listeners.get(name)?.delete(f),
  send(content, callbacks, buffers) {
    sent.push({ ...content, sizes: (buffers ?? []).map((b) => b.byteLength) });
    const served = globalThis.serve?.(content);
    if (served) setTimeout(() => emit("msg:custom", { id: content.id, content: served.content },
      served.buffer ? [new DataView(served.buffer)] : []));
    if (content.type in answers) setTimeout(() =>
      emit("msg:custom", { id: content.id, ...answers[content.type] }, []));
  },
};
globalThis.answers = ANSWERS;
SERVE
globalThis.emit = emit;
globalThis.ask = (type, args) => request(fake, type, args);
globalThis.push = (...items) => emit("msg:custom", { push: items });
globalThis.cleanup = g4Widget.render({ model: fake, el: document.getElementById("root") });
"""


def drawn(page):
    """Wait until the page has drawn what it was last told: two frames of its own, however long."""
    page.evaluate("() => new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))")


class FrontEnd:
    """``FrontEnd(page, "prompt", state)`` draws the widget; ``root`` is its element.

    ``serve`` is JavaScript that sets ``globalThis.serve``, a function from a request to
    ``{content, buffer}`` (an ArrayBuffer), or to undefined for what it does not answer.
    """

    def __init__(self, page, name: str, state: dict, answers: dict | None = None, serve: str = ""):
        self.page = page
        module = join_esm(name).replace("\nexport default ", "\nglobalThis.g4Widget = ", 1)
        model = _MODEL.replace("STATE", json.dumps(state), 1)
        model = model.replace("ANSWERS", json.dumps(answers or {}), 1).replace("SERVE", serve, 1)
        script = (module + model).replace("</script", "<\\/script")
        file = Path(tempfile.mkdtemp()) / f"{name}.html"  # a file may use the microphone
        file.write_text(
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
            f"<style>{join_css(name)}</style></head>"
            f'<body class="g4-page"><main id="root"></main>'
            f'<script type="module">{script}</script></body></html>',
            encoding="utf-8",
        )
        page.goto(file.as_uri())
        self.root = page.locator(f".g4-{name}")
        self.root.wait_for()

    def set(self, **traits):
        self.page.evaluate("(t) => { for (const k in t) fake.set(k, t[k]); }", traits)

    def push(self, *items):
        self.page.evaluate("(items) => push(...items)", list(items))

    def sent(self, kind: str | None = None) -> list[dict]:
        sent = self.page.evaluate("sent")
        return [m for m in sent if kind is None or m.get("type") == kind]

    def reply(self, kind: str, **reply):
        """Answer the newest request of this kind: ``content=...`` or ``error=...``."""
        id = self.sent(kind)[-1]["id"]
        self.page.evaluate("([id, r]) => emit('msg:custom', { id, ...r }, [])", [id, reply])

    def answer(self, kind: str, **reply):
        """Answer every later request of this kind."""
        self.page.evaluate("([k, r]) => { answers[k] = r; }", [kind, reply])


class WidgetPage:
    """A real widget's front end in Chromium, answered by the widget itself: no kernel between.

    Requests run one after another, as in a kernel; traits set by the page reach the widget, and
    :meth:`pull` brings the widget's traits to the page.
    """

    def __init__(self, page, widget):
        from gemma4_mlx.widgets.snapshot import _plain

        self.page, self.widget, self._plain = page, widget, _plain
        self.requests: list[dict] = []
        page.expose_function("g4Answer", self._answer)
        page.expose_function("g4Set", lambda name, value: setattr(widget, name, value))
        serve = """
globalThis.fake.send = async (content) => {
  const { id, slot, ...request } = content, reply = await g4Answer(request);
  const bytes = reply.bulk && Uint8Array.from(atob(reply.bulk), (c) => c.charCodeAt(0));
  const bulk = bytes ? [new DataView(bytes.buffer)] : [];
  emit("msg:custom", { id, content: reply.content, error: reply.error }, bulk);
};
globalThis.fake.save_changes = () => { g4Set("selection", state.selection); };
"""
        self.front = FrontEnd(page, widget.front, self._state(), serve=serve)
        self.root = self.front.root

    def _state(self) -> dict:
        return {
            name: self._plain(value)
            for name, value in self.widget.get_state().items()
            if not name.startswith("_") and name not in ("layout", "tabbable", "tooltip")
        }

    def _answer(self, request: dict) -> dict:
        self.requests.append(request)
        reply, buffers = self.widget.answer(dict(request))
        bulk = base64.b64encode(buffers[0]).decode() if buffers else None
        return {"content": reply.get("content"), "error": reply.get("error"), "bulk": bulk}

    def pull(self):
        """Bring the widget's traits to the page, as the kernel does by itself."""
        self.front.set(**self._state())
