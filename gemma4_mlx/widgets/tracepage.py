"""A trace as one web page that needs nothing but a browser: ``trace.to_html``.

The page holds the Attention and the Routing view, each over recorded answers, with one selection:
see :mod:`.snapshot`. It keeps all of the text, every head's picture and links, every layer's
routing in stretches, and the routes of single tokens and the chosen head's map as far as
:data:`PAGE_BYTES` allow. What it does not keep is drawn from these, and the page says so.
"""

from __future__ import annotations

import html

from ..errors import TraceError
from .attention import Attention
from .attention_kept import Kept
from .base import join_css
from .routing import Routing
from .snapshot import Snapshot, encoded, page_of
from .traceview import parts_of

PAGE_BYTES = 10_000_000
PICTURES = 5_000_000  # bytes of heads' pictures, before base64
PICTURES_BESIDE_ROUTES = 950_000  # leaves room for every route of 8,192 tokens in 30 layers


def trace_page(trace, resolution: int = 128) -> str:
    """The page's HTML. ``resolution``: cells along each side of a head's picture, at most.

    Raises TraceError for a resolution below 1.
    """
    if resolution < 1:
        raise TraceError(f"a page with {resolution} cells along a map shows nothing")
    attention = routing = None
    if trace.attention is not None:
        attention = Attention(trace)
        attention = attention if attention.meta["layers"] else None
    if trace.routing is not None and len(trace):
        routing = Routing(trace)
    snapshots = []
    if attention is not None:
        room = PICTURES if routing is None else PICTURES_BESIDE_ROUTES
        kept = Kept(room, side=resolution, links=True, stats=("mean", "max"))
        attention.keep(kept)
        snapshots.append(Snapshot.of(attention, title="Attention"))
    if routing is not None:
        requests = routing.whole_requests()
        snapshots.append(Snapshot.of(routing, title="Expert routing", requests=requests))
    views = [view for view in (attention, routing) if view is not None]
    for view, snapshot in zip(views, snapshots):
        pages = view.page_requests(None, pages=len(trace))
        snapshot.record(view, [{**page, "type": "ids"} for page in pages])
    token = views[0].chosen()["token"] if views else None
    for snapshot in snapshots:  # both views begin with the same token
        snapshot.state["selection"] = {**snapshot.state["selection"], "token": token}
    title = " \N{MIDDLE DOT} ".join(
        filter(None, [f"Trace of {len(trace):,} tokens", str(trace.model.get("source") or "")])
    )
    head = _head(trace, title, snapshots) + ("" if snapshots else _text(trace))

    css = join_css("tracepage")

    def page() -> str:
        return page_of(snapshots, title, f'<header class="g4-pagehead">{head}</header>', css)

    if routing is not None:
        left = PAGE_BYTES - len(encoded(page()))
        snapshots[-1].record(routing, routing.route_requests(left, token))
    for view in views:
        view.close()
    return page()


def _head(trace, title: str, snapshots: list[Snapshot]) -> str:
    """What was traced, how, and under which interventions; links to the views."""
    facts = {
        "interventions": ", ".join(map(str, trace.interventions)) or "none",
        "plan": trace.plan,
        **{f"model: {name}".replace("_", " "): value for name, value in trace.model.items()},
    }
    if trace.timings.prefill:
        facts["traced pass"] = f"{trace.timings.prefill:.1f} s"
    rows = [f"<dt>{_safe(k)}</dt><dd>{_safe(v)}</dd>" for k, v in facts.items() if v]
    changed = "".join(f"<p>under {_safe(i)}</p>" for i in trace.interventions)
    links = [f'<a href="#g4-view-{i}">{_safe(s.title)}</a>' for i, s in enumerate(snapshots)]
    nav = f"<nav>{''.join(links)}</nav>" if len(links) > 1 else ""
    return (
        f"<h1>{_safe(title)}</h1>{changed}{nav}"
        f"<details><summary>About this trace</summary><dl>{''.join(rows)}</dl></details>"
    )


def _text(trace) -> str:
    """The text by parts, where there is no view to show it."""
    texts = trace.tokens.texts
    return "".join(
        f"<h2>{_safe(part['name'])}</h2>"
        f'<pre dir="auto">{_safe("".join(texts[part["start"] : part["stop"]]))}</pre>'
        for part in parts_of(trace.tokens)
    )


def _safe(value) -> str:
    """Text that cannot become an element, nor a character that UTF-8 cannot write."""
    return html.escape(str(value).encode("utf-8", "backslashreplace").decode())
