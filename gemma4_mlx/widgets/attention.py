"""``Attention(trace)``: all heads in one map, one head as a map, one token over the text.

All heads are one heat map, a cell for each, coloured by a summary; small pictures are sent a layer
at a time, when one is pointed at. The map of one head works like a street map: the view asks for
tiles of 128 x 128 cells of 2^level tokens as it shows them. The trace recomputes a tile exactly
from queries and keys while that takes at most :data:`TILE_PRODUCTS`; wider ones are merged, exactly
as well, from its overview, whose bins may be coarser than the screen. The answer says which edges
its cells have.
"""

from __future__ import annotations

import threading
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import traitlets

from . import attention_kept
from .attention_kept import TILE
from .attention_picture import attention_drawing
from .headpictures import layer_cells, layer_pictures, pooled_row, why_coarse
from .headroles import checked_roles, role_columns
from .headstats import METHOD, SUMMARY_NAMES, HeadStats, head_stats
from .jobs import Jobs
from .traceview import TraceView, media_of, parts_of

TILE_PRODUCTS = 1 << 29  # to recompute one tile at most: see AttentionData.tile
ANSWER_WEIGHTS = 1 << 23  # weights recomputed for one answer, after which the map asks again
PICTURE = 48  # cells of a head's small picture along each side
SPAN_WEIGHTS = 1 << 26  # weights recomputed for the mass between spans at most; else it is pooled
TEXT_PAGES = 256  # pages of text it keeps: 131,072 tokens


class Attention(TraceView):
    """Look at the attention of a trace.

    Args:
        trace: a trace with attention, from ``g4.trace(...)``, ``chat.trace()`` or ``g4.open_trace``
        media: pictures (PIL, path, array) and sounds (samples) in the order of the prompt, drawn
            under the weights of their soft tokens; None takes what the trace carries
        roles: what the heads do over many prompts, from ``g4.head_roles(...)`` or
            ``g4.open_head_roles``: heads can be coloured and sorted by it, and carry its labels

    The selected layer, head and token are ``trace.selection``'s, both ways. Raises TypeError for
    what is no trace or no table of roles, ValueError for the roles of a model of another size.

    >>> view = Attention(g4.trace(model, "a prompt", attention=g4.AttentionPlan(retain="all")))
    """

    front = "attention"

    #: While the model reads the prompt again for a layer: ``{layer, done, total}`` in tokens, then
    #: ``{layer}``, with ``error`` where it failed.
    computing = traitlets.Dict().tag(sync=True)

    #: What a page without a kernel keeps.
    kept = attention_kept.SNAPSHOT

    def __init__(self, trace: Any, media: Any = None, roles: Any = None) -> None:
        if not hasattr(trace, "attention"):
            raise TypeError(
                f"Attention draws a trace, such as g4.trace(model, ...) or chat.trace(), not "
                f"{type(trace).__name__}"
            )
        self.trace, self._jobs = trace, Jobs()
        self.roles = checked_roles(roles, trace.attention)
        self.set_sources("a", trace, media)
        super().__init__()
        self.meta = self._facts()
        self.link(trace.selection)

    def trace_of(self, which: str = "a"):
        return self.trace

    def keep(self, kept: attention_kept.Kept) -> None:
        """Keep so much in pages without a kernel."""
        self.kept = kept
        self.meta = self._facts()

    def _facts(self) -> dict:
        data, tokens = self.trace.attention, self.trace.tokens
        if data is None or not data.layers or data.layer(data.layers[0]).mass is None:
            return {
                "layers": [],
                "empty": "This trace kept no overview of its attention. Trace with "
                "attention=g4.AttentionPlan().",
            }
        layers = []
        for index in data.layers:
            part = data.layer(index)
            layers.append(
                {
                    "index": index,
                    "kind": "full" if part.window is None else "sliding",
                    "window": part.window,
                    "donor": part.donor if part.donor not in (None, index) else None,
                    "heads": [int(h) for h in part.heads],
                    "kv_heads": part.kv_heads,
                    "links": part.link_weights is not None,
                    **self._exactness(part),
                }
            )
        return {
            "n": data.n,
            "source": str(self.trace.model.get("source", "")),
            "layers": layers,
            "bin": int(data.width),
            "pages": TEXT_PAGES,
            "pictures": {"side": PICTURE, "kept": attention_kept.picture_side(data, self.kept)},
            "parts": parts_of(tokens),
            "media": media_of(tokens),
            "blocks": _runs(data.blocks),
            "start": self._start(),
        }

    def _exactness(self, part) -> dict:
        """Of which ``kept`` heads a layer's queries and keys are at hand, up to which level tiles
        are then recomputed (-1: none), and whether the model could compute them on ``demand``."""
        state = self.trace.attention.exactness(part.layer)
        kept = part.heads if state == "kept" else part.kept
        level = self._exact_level(part, kept[0]) if kept else -1
        return {
            "kept": [int(head) for head in kept],
            "exact": level,
            "demand": state == "on demand",
        }

    def _exact_level(self, part, head: int) -> int:
        """The coarsest level whose tiles are all recomputed, -1 for none.

        No tile of a level has more weights that are seen than the first one on the diagonal (in a
        sliding layer) or the one below that."""
        data, level = self.trace.attention, -1
        while level < 0 or TILE << level < data.n:
            spans = [self._span_of(level + 1, k) for k in (0, 1)]
            places = [(queries, spans[0]) for queries in spans if queries.start < data.n]
            how = {"cell": 1 << (level + 1), "limit": TILE_PRODUCTS, "compute": False}
            sources = {data.tile_source(part.layer, head, *place, **how) for place in places}
            if "overview" in sources:
                break
            level += 1
        return level

    def _span_of(self, level: int, k: int) -> slice:
        """The tokens of the ``k``-th row or column of tiles."""
        span = TILE << level
        return slice(k * span, min(self.trace.attention.n, (k + 1) * span))

    def _start(self) -> dict:
        """The head and query of the strongest link outside the sinks, a full layer's if any."""
        data = self.trace.attention
        best = {"layer": data.layers[0], "head": data.heads(data.layers[0])[0], "token": None}
        strongest = (False, 0.0)
        for layer in data.retained or data.layers:
            part = data.layer(layer)
            if part.link_weights is None:
                continue
            for h, head in enumerate(part.heads):
                if not part.link_weights[h].size:
                    continue
                rank = (part.window is None, float(part.link_weights[h][0]))
                if rank > strongest:
                    strongest = rank
                    token = int(part.link_queries[h][0]) if rank[1] > 0 else None
                    best = {"layer": layer, "head": int(head), "token": token}
        return best

    # ---- answers ------------------------------------------------------------------------------

    @cached_property
    def stats(self) -> HeadStats:
        """Summaries, distance from the others and group of every head."""
        return head_stats(self.trace.attention, self.trace.tokens)

    def heads_by(self) -> str:
        """What the heads are coloured by at first: how unlike the others they are, where there are
        enough to tell; else the first summary."""
        s = self.stats
        return "unlike" if len(s.unlike) >= 24 and s.unlike.any() else (s.names or ("unlike",))[0]

    def answer_heads(self) -> tuple[dict, bytes]:
        """Every head's numbers, float32 (columns, heads), heads in the order of ``meta``'s layers.

        Columns are the summaries in ``names`` ([name, words]), then "unlike" (how far from other
        heads of its kind), "reason" (the summary in which) and "group"; not a number: not kept.
        With roles, their scores follow, ``roles`` ([name, words]), and each head has ``labels``.
        """
        s = self.stats
        columns = [*s.values.T, s.unlike, s.reason, s.group]
        content = {
            "names": [[name, SUMMARY_NAMES[name]] for name in s.names],
            "groups": list(s.groups),
            "method": METHOD,
            "by": self.heads_by(),
        }
        if self.roles is not None:
            words, scores, content["labels"] = role_columns(self.roles, self.trace.attention)
            content["roles"], columns = words, [*columns, *scores]
        return content, np.stack(columns).astype("<f4").tobytes()

    def answer_pictures(self, layer: int, side: int, stat: str = "mean") -> tuple[dict, bytes]:
        """Small pictures of a layer's heads: see :func:`.headpictures.layer_pictures`."""
        facts, pictures = layer_pictures(self.trace.attention, layer, min(side, 256), stat)
        return facts, pictures.tobytes()

    def answer_links(self, layer: int) -> tuple[dict, bytes]:
        """The strongest weights of a layer's heads that the traced pass kept, strongest first:
        int32 queries and keys (heads, count), then float32 weights, 0 where a head has fewer.

        Raises TraceError for a layer that was not traced.
        """
        part = self.trace.attention.layer(layer)
        weights = part.link_weights
        if weights is None:
            return {"heads": [], "count": 0}, b""
        content = {"heads": [int(h) for h in part.heads], "count": int(weights.shape[1])}
        places = [np.asarray(p, "<i4").tobytes() for p in (part.link_queries, part.link_keys)]
        return content, b"".join([*places, np.asarray(weights, "<f4").tobytes()])

    def answer_offsets(self, layer: int, head: int, stat: str = "mean") -> tuple[dict, bytes]:
        """A sliding head as queries x offset over the whole text: float32 (rows, columns).

        ``rowCell`` and ``columnCell`` are tokens per cell, ``start`` is the offset at the left edge
        of the first column: a key bin so many bins back holds offsets around so many widths.
        ``note`` says why there are very few columns, where there are.
        """
        data = self.trace.attention
        cells, axis, reach = layer_cells(data, layer, stat, head)
        if axis != "offsets":
            raise ValueError(f"layer {layer} sees every earlier token: it has no offsets")
        recorded = data.layer(layer).offset_mass is not None and stat != "max"
        content = {
            "rows": cells.shape[1],
            "columns": cells.shape[2],
            "rowCell": int(data.width),
            "columnCell": reach / cells.shape[2],
            "start": 0 if recorded else -data.width / 2,
            "note": "" if recorded else why_coarse(data, cells.shape[2], stat),
        }
        return content, np.ascontiguousarray(cells[0], "<f4").tobytes()

    def answer_span(self, source: list, target: list, compute: bool = False) -> Any:
        """Every head's mass from one span to another, float32 (heads,), and a ``note`` on it.

        Exact where queries and keys are at hand, elsewhere for the spans moved outwards to bins;
        ``demand`` tells that ``compute`` would run the model for the rest. With ``compute`` the
        answer may be how far that is, ``{"running": share}``: ask again. Raises TraceError for a
        span outside the text.
        """
        spans = slice(*source), slice(*target)
        if not compute:
            return self._span(*spans)

        def work(tell):
            def progress(event) -> None:
                tell(event.done / event.total)

            return self._span(*spans, self.trace.attention.find(*spans, progress=progress))

        return self._jobs.poll((*source, *target), work)

    def _span(self, source: slice, target: slice, ranked=()) -> tuple[dict, bytes]:
        """The answer for a span, with the masses of the heads that were ``ranked`` exactly."""
        data = self.trace.attention
        area = (source.stop - source.start) * (target.stop - target.start)
        count = len(self.stats.unlike)
        exact = 0 < count * area <= SPAN_WEIGHTS
        masses = data.span_mass(target, source, exact=exact)
        rows = [(k, list(data.heads(layer))) for k, layer in enumerate(data.layers)]
        mass = np.concatenate([masses.values[row] for row in rows])
        known = int(np.concatenate([masses.exact[row] for row in rows]).sum())
        if ranked:
            found = {(f.layer, f.head): f.mass for f in ranked}
            heads = [(layer, head) for layer in data.layers for head in data.heads(layer)]
            mass, known = np.array([found.get(h, m) for h, m in zip(heads, mass)]), len(found)
        note = "Mean over the first span's tokens of the weight they put on the second. "
        if known == count:
            note += "Exact."
        else:
            some = f"Exact for {known:,} of {count:,} heads; the others" if known else "Pooled"
            spans = [f"{s.start:,} to {s.stop - 1:,}" for s in (masses.source, masses.target)]
            note += f"{some}: from {spans[0]} on {spans[1]}, whole bins of {data.width} tokens."
        demand = known < count and any(
            data.exactness(layer) == "on demand" for layer in data.layers
        )
        return {"note": note, "demand": demand}, np.asarray(mass, "<f4").tobytes()

    def answer_why(self, layer: int, head: int) -> dict:
        """Whether a head's single weights are at hand ("kept", "on demand" or "pooled"), and a
        sentence why not."""
        data = self.trace.attention
        return {"state": data.exactness(layer, head), "why": data.why_not(layer, head)}

    def answer_compute(self, layer: int) -> None:
        """Begin to compute a layer's queries and keys: the trait ``computing`` tells how far it
        is, ``meta`` what is exact then. Other requests go on meanwhile."""
        if self.computing.get("total"):
            return
        self.computing = {"layer": layer, "done": 0, "total": self.meta["n"]}
        threading.Thread(target=self._compute, args=(layer,), daemon=True).start()

    def _compute(self, layer: int) -> None:
        def progress(event) -> None:
            self.computing = {"layer": layer, "done": event.done, "total": event.total}

        try:
            self.trace.attention.compute(layer, progress=progress)
            self.meta = self._facts()
            self.computing = {"layer": layer}
        except Exception as error:  # a raise would be lost in this thread
            self.computing = {"layer": layer, "error": str(error)}

    def answer_tiles(
        self, layer: int, head: int, tiles: list, stat: str = "mean"
    ) -> tuple[list[dict], bytes]:
        """The first of ``tiles``, [level, row, column] each, and what more is quickly done.

        One message for many tiles, for a message costs more than most of them; it leaves early
        when the view has asked for something else meanwhile. The content has for each tile what
        :meth:`answer_tile` says, and ``level``, ``row``, ``column``; values follow one another.

        Raises TraceError for a head that does not exist, ValueError for a tile outside the text.
        """
        facts = next(f for f in self.meta["layers"] if f["index"] == layer)
        contents, bulk, done = [], [], 0
        for level, row, column in tiles:
            content, values = self.answer_tile(layer, head, level, row, column, stat)
            contents.append({**content, "level": level, "row": row, "column": column})
            bulk.append(values)
            if level <= facts["exact"]:  # recomputed rather than read off the overview
                span = TILE << level
                done += span * min(span, facts["window"] or span)
            if done >= ANSWER_WEIGHTS or not self._requests.empty():
                break
        return contents, b"".join(bulk)

    def answer_tile(
        self,
        layer: int,
        head: int,
        level: int,
        row: int,
        column: int,
        stat: str = "mean",
        bits: int = 32,
    ) -> tuple[dict, bytes]:
        """Tile (row, column) of the map at ``level``: float32 (rows, columns).

        ``stat``: "mean" is the mass on a cell's keys, averaged over its queries; "max" the largest
        single weight. The content has ``query`` and ``key``, the first tokens, and ``rowCell`` and
        ``columnCell``, tokens per cell. With ``bits=8`` values are coded: see :func:`eight_bits`.

        Raises TraceError for a layer or head that does not exist, ValueError for a tile outside
        the text.
        """
        n = self.trace.attention.n
        queries, keys = self._span_of(level, row), self._span_of(level, column)
        if queries.start >= n or keys.start >= n:
            raise ValueError(f"no tile ({row}, {column}) at level {level} in {n:,} tokens")
        content, bulk = self._cells(layer, head, queries, keys, 1 << level, stat)
        return eight_bits(content, bulk) if bits == 8 else (content, bulk)

    def _cells(self, layer, head, queries, keys, cell: int, stat: str) -> tuple[dict, bytes]:
        """A rectangle in cells of ``cell`` tokens, or of bins of the overview, as the trace says.

        The model does not run again for it."""
        statistic = "max" if stat == "max" else "mass"
        tile = self.trace.attention.tile(
            layer, head, queries, keys, statistic=statistic,
            cell=cell, limit=TILE_PRODUCTS, compute=False,
        )  # fmt: skip
        content = {
            "rows": tile.shape[0],
            "columns": tile.shape[1],
            "query": int(tile.query_edges[0]),
            "key": int(tile.key_edges[0]),
            "rowCell": int(tile.query_edges[1] - tile.query_edges[0]),
            "columnCell": int(tile.key_edges[1] - tile.key_edges[0]),
        }
        return content, np.ascontiguousarray(tile.values, "<f4").tobytes()

    def whole_map(self, layer: int, head: int) -> tuple[dict, np.ndarray]:
        """The head's map over the whole context in at most 256 x 256 cells, as for a tile."""
        n = self.trace.attention.n
        everything = slice(0, n)
        facts, bulk = self._cells(layer, head, everything, everything, -(-n // 256), "mean")
        return facts, np.frombuffer(bulk, "<f4").reshape(facts["rows"], facts["columns"])

    def answer_weights(
        self, layer: int, head: int, token: int, mode: str = "row", bits: int = 32
    ) -> tuple[dict, bytes]:
        """Weights of one token, float32 (n,): what it looks at, or ("column") who looks.

        Exact where the layer's queries and keys were kept; else ``pooled`` is the width of the
        bins that they are spread over.
        """
        data = self.trace.attention
        if data.exactness(layer, head) != "kept" and data.layer(layer).mass is not None:
            values, pooled = pooled_row(data, layer, head, token, mode), int(data.width)
        elif mode == "row":
            values, pooled = data.row(layer, head, token), 0
        else:
            one = slice(token, token + 1)
            values = data.tile(layer, head, slice(0, data.n), one, (data.n, 1), "max").values[:, 0]
            pooled = 0
        answer = {"pooled": pooled}, np.ascontiguousarray(values, "<f4").tobytes()
        return eight_bits(*answer) if bits == 8 else answer

    # ---- snapshots and pictures -----------------------------------------------------------------

    def chosen(self) -> dict:
        """The layer, head and token that the view shows: the selection's, where it has such, or
        where it starts."""
        start, chosen = self.meta["start"], self.selection
        layer = chosen.get("layer")
        layer = layer if layer in self.trace.attention.layers else start["layer"]
        heads = self.trace.attention.heads(layer)
        head = chosen.get("head") if chosen.get("head") in heads else None
        if head is None:
            head = start["head"] if start["head"] in heads else heads[0]
        token = chosen.get("token")
        return {
            "layer": layer,
            "head": int(head),
            "token": token if token in range(self.meta["n"]) else start["token"],
        }

    def snapshot_requests(self) -> list[dict]:
        """What a page without a kernel keeps: see :mod:`.attention_kept`."""
        if not self.meta["layers"]:
            return []
        return attention_kept.requests(self, self.kept)

    def drawing(self):
        """The still picture: every head, and the chosen one large (a ``Drawing``)."""
        return attention_drawing(self)

    def snapshot_image(self):
        return self.drawing().pil()


def eight_bits(content: dict, bulk: bytes) -> tuple[dict, bytes]:
    """An answer's float32 values as uint8: 0 is zero, 1 to 255 go from ``low`` to ``high`` of the
    content in even steps of the logarithm over five decades: right within 2.3%."""
    values = np.frombuffer(bulk, "<f4")
    high = float(values.max(initial=0)) or 1.0
    low = high * 1e-5
    place = np.log(np.maximum(values, low) / low) / np.log(high / low)
    codes = np.where(values > low / 2, 1 + 254 * place, 0).round().astype(np.uint8)
    return {**content, "bits": 8, "low": low, "high": high}, codes.tobytes()


def _runs(blocks) -> list[list[int]]:
    """Bidirectional blocks as [start, stop): runs of equal numbers that are not negative."""
    if blocks is None:
        return []
    blocks = np.asarray(blocks)
    edges = np.flatnonzero(np.r_[True, blocks[1:] != blocks[:-1], True])
    return [[int(a), int(b)] for a, b in pairwise(edges) if blocks[a] >= 0]
