"""A trace as one web page that needs nothing but a browser.

The page carries the tokens, the routing, each head's attention overview and strongest links. Its
content security policy forbids every network access. Numbers are float16 in the page (three
significant digits); the trace file has them in full.
"""

import base64
import json
from pathlib import Path

import numpy as np

from ..errors import TraceError
from .tokens import KINDS

TEMPLATE = Path(__file__).with_name("page.html")


def page(trace, resolution: int = 128) -> str:
    """The page's HTML. ``resolution``: cells along each side of an attention map, at most.

    Raises TraceError for a resolution below 1.
    """
    if resolution < 1:
        raise TraceError(f"a page with {resolution} cells along a map shows nothing")
    tokens = trace.tokens
    data = {
        "model": trace.model,
        "plan": trace.plan,
        "interventions": list(trace.interventions),
        "kinds": list(KINDS),
        "tokens": {
            "ids": tokens.ids.tolist(),
            "texts": tokens.texts,
            "kinds": tokens.kinds.tolist(),
            "roles": tokens.roles,
        },
        "routing": None if trace.routing is None else _routing(trace.routing),
        "attention": None if trace.attention is None else _attention(trace.attention, resolution),
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    # Inside a script element only these could end it or open a comment.
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return TEMPLATE.read_text(encoding="utf-8").replace("@DATA@", text)


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _routing(routing) -> dict:
    return {
        "layers": list(routing.layers),
        "k": routing.k,
        "E": routing.num_experts,
        "experts": _base64(routing.experts.astype("<u2")),
        "weights": _base64(routing.weights.astype("<f2")),
        "load": routing.load().round(5).tolist(),
    }


def _attention(attention, resolution: int) -> dict:
    layers = []
    for layer in attention.layers:
        part = attention.layer(layer)
        heads = []
        for head in part.heads:
            shown = {"head": head}
            if part.link_weights is not None:
                links = attention.links(layer, head)
                shown["links"] = [[x.query, x.key, round(x.weight, 4)] for x in links]
            if part.mass is not None:
                shape = (resolution, resolution)
                for statistic in ("mass", "max"):
                    tile = attention.overview_tile(layer, head, shape, statistic)
                    shown[statistic] = _base64(tile.values.astype("<f2"))
                edges = tile.query_edges.tolist()
            shown["summaries"] = {
                name: round(attention.summary(name, layer, head), 4) for name in part.statistics
            }
            heads.append(shown)
        layers.append({"layer": layer, "type": part.type, "window": part.window, "heads": heads})
    has_maps = attention.layer(attention.layers[0]).mass is not None
    return {"layers": layers, "edges": edges if has_maps else None}
