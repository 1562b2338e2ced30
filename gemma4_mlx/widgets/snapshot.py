"""A widget's picture that stays alive: the same front end over recorded answers, and a PNG.

nbconvert's HTML shows live widgets only online, GitHub never. A :class:`Snapshot` displays as
three things at once: ``text/html`` with an ``<iframe srcdoc>`` whose page holds the widget's own
module, its style, its traits and the answers to its requests (no network, no kernel);
``image/png`` drawn by Pillow; and ``text/plain``. The page is sandboxed: it may run scripts and
offer downloads, and can reach neither the notebook around it nor any server (its content security
policy allows inline code, ``data:`` and ``blob:`` only; links in a frame lead nowhere).

What was not recorded is refused calmly (``NotRecorded`` in ``static/kernel.js``); a text search
works on every recorded page of tokens, for any text (``static/shim.js``).
"""

from __future__ import annotations

import base64
import contextlib
import html
import io
import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import atomic

if TYPE_CHECKING:
    from .base import Widget

STATIC = Path(__file__).parent / "static"

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; media-src data: blob:; form-action 'none'; base-uri 'none'"
)
PICTURE_BYTES = 110_000  # of the PNG beside a live view, 150 kB in base64
PIECE = 250_000  # characters of one element: WebKit takes 23 s to read 10 MB in one, 0.2 in these
_HOST_TRAITS = {"layout", "tabbable", "tooltip"}


def request_key(request: dict) -> str:
    """The name under which an answer is recorded; ``shim.js`` computes the same."""

    def canonical(value: Any) -> Any:  # JavaScript has one kind of number: 2.0 is written "2"
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, dict):
            return {k: canonical(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [canonical(v) for v in value]
        return value

    kept = canonical(
        {k: v for k, v in request.items() if k not in ("id", "slot") and (k, v) != ("which", "a")}
    )
    return json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _plain(value: Any) -> Any:
    """JSON's copy of a trait, binary values as ``{"$bytes": base64}``."""
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


@dataclass
class Snapshot:
    """One widget at one moment. Display it in a cell, or :meth:`save` it."""

    esm: str
    css: str
    state: dict[str, Any]
    answers: dict[str, dict]  # request_key -> {"content": ..., "buffer": base64?} or {"error": ...}
    title: str = "gemma4-mlx"
    height: int = 480  # pixels until the page reports its own
    _image: Any = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        widget: Widget,
        *,
        title: str | None = None,
        height: int = 480,
        requests: list[dict] | None = None,
    ) -> Snapshot:
        """Record ``widget``: its traits, and the answers to ``requests``, or else to
        ``widget.snapshot_requests()``."""
        state = {
            name: _plain(value)
            for name, value in widget.get_state().items()
            if not name.startswith("_") and name not in _HOST_TRAITS
        }
        snapshot = cls(
            esm=str(widget._esm),
            css=str(widget._css),
            state=state,
            answers={},
            title=title or f"{type(widget).__name__} · gemma4-mlx",
            height=height,
            _image=widget.snapshot_image,
        )
        snapshot.record(widget, widget.snapshot_requests() if requests is None else requests)
        return snapshot

    def record(self, widget: Widget, requests: list[dict]) -> None:
        """Keep the widget's answers to more requests."""
        for request in requests:
            reply, buffers = widget.answer(request)
            reply.pop("id", None)
            if buffers:
                reply["buffer"] = base64.b64encode(buffers[0]).decode()
            self.answers[request_key(request)] = reply

    @property
    def page(self) -> str:
        """The self-contained HTML page."""
        return page_of([self], self.title)

    def image(self):
        """The still picture, a ``PIL.Image``."""
        return self._image()

    def png(self) -> bytes:
        """The still picture as PNG bytes."""
        out = io.BytesIO()
        self.image().save(out, format="PNG", optimize=True)
        return out.getvalue()

    def save(self, path: str | Path) -> Path:
        """Write ``.html`` (the live page) or ``.png`` (the picture), by the name's ending: whole,
        or not at all.

        Raises ValueError for another ending, OSError if it cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() == ".png":
            data = self.png()
        elif path.suffix.lower() in (".html", ".htm"):
            data = encoded(self.page)
        else:
            raise ValueError(f"a snapshot is saved as .html or .png, not {path.suffix or path}")
        atomic.write(path, data)
        return path

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        name = f"g4-{secrets.token_hex(6)}"
        frame = (
            f'<iframe id="{name}" title="{html.escape(self.title)}" '
            'sandbox="allow-scripts allow-downloads" allow="fullscreen" '
            f'style="width:100%;height:{self.height}px;border:0;color-scheme:normal" '
            f'srcdoc="{html.escape(self.page)}"></iframe>\n'
            f"<script>{_HOST % json.dumps(name)}</script>"
        )
        bundle = {"text/html": frame, "text/plain": f"<{self.title}>"}
        with contextlib.suppress(NotImplementedError):
            bundle["image/png"] = base64.b64encode(self.png()).decode()
        return bundle


def page_of(snapshots: list[Snapshot], title: str, head: str = "", css: str = "") -> str:
    """One self-contained page of the views of several widgets, one below the other.

    Answers that all of them give alike are kept once. ``head`` is HTML that goes before them, and
    ``css`` its style.
    """
    shared = {
        key: reply
        for key, reply in (snapshots[0].answers.items() if len(snapshots) > 1 else ())
        if all(each.answers.get(key) == reply for each in snapshots)
    }
    views = [
        {"state": s.state, "answers": {k: v for k, v in s.answers.items() if k not in shared}}
        for s in snapshots
    ]
    data = json.dumps(
        {"views": views, "shared": shared}, ensure_ascii=False, separators=(",", ":")
    ).replace("<", "\\u003c")  # so that no text in it can end the element
    pieces = [
        f'<script type="application/json" class="g4-data">{data[i : i + PIECE]}</script>\n'
        for i in range(0, len(data), PIECE)
    ]
    styles = "\n".join(dict.fromkeys([css, *(s.css for s in snapshots)])).replace("</", "<\\/")
    scripts = [_module(s.esm, f"g4Widget{i}") for i, s in enumerate(snapshots)]
    scripts.append((STATIC / "shim.js").read_text(encoding="utf-8"))
    scripts = [f'<script type="module">\n{_inline(script)}\n</script>\n' for script in scripts]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n"
        f"<style>{styles}</style>\n</head>\n"
        f'<body class="g4-page">\n{head}<main id="g4-root"></main>\n'
        f"{''.join(pieces)}{''.join(scripts)}</body>\n</html>\n"
    )


def encoded(page: str) -> bytes:
    """A page as UTF-8. Half a surrogate pair, which a damaged file can bring, stands in the page's
    JSON, where it becomes its escape."""
    return page.encode("utf-8", "backslashreplace")


def _module(esm: str, name: str) -> str:
    """A widget's module, with what it exports as a global name."""
    module = esm.replace("\nexport default ", f"\nglobalThis.{name} = ", 1)
    if module == esm:
        raise ValueError("the module has no 'export default' at the start of a line")
    return module


def small_png(image, limit: int = PICTURE_BYTES) -> bytes:
    """A picture as a PNG of at most ``limit`` bytes: 128 colours, and smaller until it fits."""
    from PIL import Image

    image = image.convert("RGB")
    # Chosen from a ninth of the pixels, 50 times as quickly as Pillow's usual choice from all; and
    # an octree keeps colours that are rare, such as the mark on one word.
    few = image.resize([-(-side // 3) for side in image.size], Image.Resampling.NEAREST)
    colours = few.quantize(128, method=Image.Quantize.FASTOCTREE)
    while True:
        out = io.BytesIO()
        image.quantize(palette=colours, dither=Image.Dither.NONE).save(out, format="PNG")
        if out.tell() <= limit or max(image.size) < 64:
            return out.getvalue()
        scale = max(0.5, min(0.9, (limit / out.tell()) ** 0.5))
        image = image.resize([max(1, round(scale * side)) for side in image.size])


def _inline(script: str) -> str:
    """A script that cannot end its own ``<script>`` element."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


# Around the frame: take the height the page reports, and tell it whether the host is dark.
_HOST = """(() => {
  const frame = document.getElementById(%s);
  if (!frame) return;
  const dark = () => document.body.dataset.jpThemeLight === "false"
    || document.body.classList.contains("vscode-dark")
    || document.documentElement.getAttribute("theme") === "dark";
  const tell = () =>
    frame.contentWindow?.postMessage({ g4Theme: dark() ? "dark" : "light" }, "*");
  addEventListener("message", (event) => {
    if (event.source !== frame.contentWindow || !event.data) return;
    if (event.data.g4Height) frame.style.height = `${Math.min(4000, event.data.g4Height)}px`;
    if (event.data.g4Ready) tell();
  });
  new MutationObserver(tell).observe(document.body, { attributes: true });
})();"""
