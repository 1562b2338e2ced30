"""What every widget stands on: joined front-end code, requests with answers, a 30 Hz flusher.

**Front end.** ``static/<name>.js`` is an ES module that imports its parts with
``import { ... } from "./part.js"`` (one statement per file, at the top). :func:`join_esm` puts
what is imported by a relative path in front of it, without the ``export`` and ``import`` words, so
that the result is one module without imports: nothing is fetched, and ``node`` still reads and
tests each file alone. The joined files share one scope, so their top-level names must differ.
``static/theme.css`` goes in front of ``static/<name>.css``; every rule is scoped by ``.g4``. The
module ends in ``export default { render };`` and ``render`` starts with ``const view = mount(model,
el, "<name>")`` from ``frame.js``, which makes the root ``<div class="g4 g4-<name>">``, follows the
host's theme (``data-theme="light"|"dark"``), shows the ``error`` trait, says when the kernel is
gone, and hands out ``view.signal`` (pass it to every ``addEventListener``), ``view.announce``,
``view.tip`` and ``view.cleanup`` (return it). Every widget stands on ``dom.js``, ``kernel.js``,
``frame.js``, ``theme.js``, ``canvas.js``, ``colours.js`` and ``words.js``. What the parts of a view
share is an object that they are given (``AttentionScene``, ``RoutingScene``), never a variable of a
module.

**Small state in traits, bulk by request.** ``await request(model, "tile", {layer: 3})`` in
JavaScript calls ``self.answer_tile(layer=3)`` here, which returns ``content``, ``(content, bytes)``
or ``bytes``; the promise yields ``{content, buffer}`` with ``buffer`` a ``DataView`` (send uint8,
or little-endian float32/int32, never nested buffers). The message is ``{"id", "type", ...}``, the
answer ``{"id", "content"}`` or ``{"id", "error"}``. Answers are computed in one thread per widget,
never in the kernel's message callback, whose thread differs between ipykernel versions; what needs
MLX goes on to ``engine().submit``. A newer request with the same ``slot`` replaces one that still
waits, so that scrolling does not queue up stale tiles. While requests wait or are computed, the
view hears of it every two seconds (``{"alive": {id: progress}}``; ``self.progress(...)`` says how
far the present one is): silence means that Python is gone or busy with a cell, and the view says
so (``static/lifeline.js``).

**Pushes** (streaming, live routing): mark a :class:`Flusher`; it calls back at most 30 times a
second, and the callback sends one message. The truth is also in a trait or behind a request:
Jupyter Server drops bursts silently, and messages sent before a view exists are lost.

**Snapshots.** ``widget.snapshot()`` records the traits and the answers to
``self.snapshot_requests()`` and runs the same module over them without a kernel
(:mod:`gemma4_mlx.widgets.snapshot`). ``self.snapshot_image()`` draws the still picture with Pillow.
"""

from __future__ import annotations

import base64
import contextlib
import os
import queue
import re
import threading
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from .snapshot import STATIC, Snapshot, small_png

BEAT = 2.0  # seconds between two signs of life while a request is not answered
RATE = 30  # pushes per second at most; Jupyter Server drops everything above 1000 messages a second

_IMPORT = re.compile(r'^import\s+(?:\{[^}]*\}|\w+)\s+from\s+"\./([\w./-]+)";\n?', re.M)
_CSS_IMPORT = re.compile(r'^@import "\./([\w.-]+)";$', re.M)
_EXPORT = re.compile(r"^export (?=(?:async\s+)?(?:function|const|let|class)\b)", re.M)


_ASLEEP = '<p class="g4-asleep">A live widget: run the cell again to use it.</p>'


@lru_cache
def join_esm(name: str) -> str:
    """The module ``static/<name>.js`` with its relative imports put in front, each once."""
    parts: dict[str, str] = {}

    def add(file: str) -> None:
        if file in parts:
            return
        source = (STATIC / file).read_text(encoding="utf-8")
        for wanted in _IMPORT.findall(source):
            add(wanted)
        source = _IMPORT.sub("", source)
        parts[file] = source if file == f"{name}.js" else _EXPORT.sub("", source)

    add(f"{name}.js")
    return "\n".join(parts.values())


@lru_cache
def join_css(name: str) -> str:
    """The shared theme followed by ``static/<name>.css``, its ``@import "./x.css";`` filled in."""
    files = [STATIC / "theme.css", STATIC / f"{name}.css"]
    sheets = "\n".join(f.read_text(encoding="utf-8") for f in files)
    return _CSS_IMPORT.sub(lambda m: (STATIC / m[1]).read_text(encoding="utf-8"), sheets)


class Widget(anywidget.AnyWidget):
    """Base of all widgets. A subclass sets ``front = "routing"`` and adds traits and answers."""

    front: str | None = None

    #: Requests answered at once in the kernel's callback: they may only set an event.
    urgent: frozenset[str] = frozenset()

    error = traitlets.Unicode("").tag(sync=True)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "front" in cls.__dict__ and cls.front:
            cls._esm = join_esm(cls.front)
            cls._css = join_css(cls.front)
        super().__init_subclass__(**kwargs)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._requests: queue.Queue = queue.Queue()
        self._newest: dict[str, str] = {}
        self._answering: threading.Thread | None = None
        self._pulse = Pulse(self.send)
        self._current: str | None = None
        self.on_msg(self._on_message)

    # -- requests -------------------------------------------------------------------------------

    def _on_message(self, _widget: Any, content: Any, buffers: list) -> None:
        """Queue one request; runs on whichever thread the kernel reads messages on."""
        if not isinstance(content, dict) or "type" not in content:
            return
        if content["type"] in self.urgent:
            reply, bulk = self.answer(content, buffers)
            if content.get("id"):
                self.send(reply, bulk)
            return
        if content.get("slot"):
            self._newest[content["slot"]] = content.get("id", "")
        self._pulse.begin(content.get("id"))
        self._requests.put((content, buffers))
        if self._answering is None or not self._answering.is_alive():
            self._answering = threading.Thread(
                target=self._answer_all, name=f"gemma4-{self.front}", daemon=True
            )
            self._answering.start()

    def _answer_all(self) -> None:
        while True:
            content, buffers = self._requests.get()
            slot, id = content.get("slot"), content.get("id")
            if slot and self._newest.get(slot) != id:
                self._pulse.end(id)
                self.send({"id": id, "stale": True})
                continue
            self._current = id
            reply, bulk = self.answer(content, buffers)
            self._pulse.end(id)
            with contextlib.suppress(Exception):  # the view or the kernel may have gone meanwhile
                self.send(reply, bulk)

    def answer(self, content: dict, buffers: list | None = None) -> tuple[dict, list[bytes]]:
        """The reply to one request and its binary buffers; never raises.

        ``content`` is ``{"type": "tile", "id": ..., **arguments}``; incoming buffers are passed to
        the method as ``buffers=`` when there are any.
        """
        arguments = {k: v for k, v in content.items() if k not in ("type", "id", "slot")}
        method = getattr(self, f"answer_{content['type']}", None)
        if method is None:
            return {"id": content.get("id"), "error": f"unknown request {content['type']!r}"}, []
        try:
            if buffers:
                arguments["buffers"] = buffers
            result = method(**arguments)
        except Exception as error:  # the view shows it; a raise here would be lost in a thread
            self._last_traceback = traceback.format_exc()
            return {"id": content.get("id"), "error": f"{type(error).__name__}: {error}"}, []
        if isinstance(result, bytes | bytearray | memoryview):
            result = (None, result)
        if not (isinstance(result, tuple) and len(result) == 2):
            result = (result, None)
        value, bulk = result
        return {"id": content.get("id"), "content": value}, [] if bulk is None else [bytes(bulk)]

    def progress(self, what: str, done: float, total: float) -> None:
        """Tell the view how far the request being answered is; call it as often as you like."""
        self._pulse.progress(self._current, {"what": what, "done": done, "total": total})

    def report(self, error: BaseException | str) -> None:
        """Show an error in the view (callbacks must not raise: Jupyter would swallow it)."""
        self.error = error if isinstance(error, str) else f"{type(error).__name__}: {error}"

    def answer_dismiss(self) -> None:
        """The reader closed the error banner."""
        self.error = ""

    # -- snapshots ------------------------------------------------------------------------------

    def snapshot_requests(self) -> list[dict]:
        """The requests (``{"type": ..., **arguments}``) whose answers a snapshot carries."""
        return []

    def snapshot_image(self):
        """A ``PIL.Image`` of what the widget shows, for places that run no scripts (GitHub)."""
        raise NotImplementedError(f"{type(self).__name__} draws no still picture")

    def snapshot(self, **options: Any):
        """The widget as it is now, alive without a kernel: see ``Snapshot``.

        ``options`` are passed to ``Snapshot``: ``title``, ``height`` (pixels).
        """
        return Snapshot.of(self, **options)

    def _repr_mimebundle_(self, **kwargs: Any):
        """The live view, and beside it the still picture for places without a kernel.

        Where ``GEMMA4_WIDGETS=static`` renders a page to keep, the snapshot.
        """
        if os.environ.get("GEMMA4_WIDGETS") == "static":
            return self.snapshot()._repr_mimebundle_(**kwargs)
        data, metadata = super()._repr_mimebundle_(**kwargs)
        data["text/plain"] = f"<{type(self).__name__} widget>"
        with contextlib.suppress(Exception):  # a picture that fails must not cost the live view
            data["image/png"] = base64.b64encode(small_png(self.snapshot_image())).decode()
        return data, metadata

    def _ipython_display_(self) -> None:
        """Display the widget, and a sentence that is seen only where it is not alive.

        JupyterLab keeps to the live view's MIME type even when no kernel knows the widget, and
        then shows nothing of it; so the sentence is an output of its own. ``theme.css``, which
        comes with a live widget, takes it away.
        """
        from IPython.display import display

        if os.environ.get("GEMMA4_WIDGETS") != "static":
            display({"text/html": _ASLEEP, "text/plain": ""}, raw=True)
        bundle = self._repr_mimebundle_()
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        display(data, metadata=metadata, raw=True)

    def save_html(self, path: str | Path) -> Path:
        """Write the snapshot as a self-contained page.

        Raises ValueError for a name with another ending than .html or .png, OSError if it cannot be
        written.
        """
        return self.snapshot().save(path)


class Pulse:
    """Tells the view every :data:`BEAT` seconds which of its requests are not answered yet."""

    def __init__(self, send: Callable[[dict], Any]) -> None:
        self._send = send
        self._open: dict[str, dict | None] = {}  # request id -> progress
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, id: str | None) -> None:
        """A request has come."""
        if not id:
            return
        with self._lock:
            self._open[id] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="gemma4-pulse", daemon=True)
                self._thread.start()

    def end(self, id: str | None) -> None:
        """It is answered."""
        with self._lock:
            self._open.pop(id, None)

    def progress(self, id: str | None, progress: dict) -> None:
        """The next sign of life comes sooner, and carries this."""
        with self._lock:
            if id in self._open:
                self._open[id] = progress
                self._wake.set()

    def _run(self) -> None:
        while True:
            if self._wake.wait(BEAT):
                threading.Event().wait(1 / 4)  # progress four times a second is plenty
            self._wake.clear()
            with self._lock:
                told = dict(self._open)
                if not told:
                    self._thread = None
                    return
            with contextlib.suppress(Exception):  # the view or the kernel may have gone meanwhile
                self._send({"alive": told})


class Flusher:
    """Calls ``flush()`` at most ``rate`` times a second after :meth:`mark`, in its own thread.

    The thread starts with the first mark and ends by itself after a second without one.
    """

    def __init__(self, flush: Callable[[], None], rate: float = RATE) -> None:
        self._flush = flush
        self._pause = 1.0 / rate
        self._dirty = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def mark(self) -> None:
        """Something changed: flush soon. Costs a microsecond, so call it per token."""
        if self._dirty.is_set():
            return
        self._dirty.set()
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="gemma4-flusher", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        wait = threading.Event()
        while True:
            if not self._dirty.wait(timeout=1.0):
                with self._lock:
                    if not self._dirty.is_set():
                        self._thread = None
                        return
            self._dirty.clear()
            with contextlib.suppress(Exception):
                self._flush()
            wait.wait(self._pause)
