"""``Attention(trace)``: every head small, one head as a map, one token over the text.

The map works like a street map: the view asks for tiles of 128 x 128 cells of 2^level tokens as it
shows them. A tile is recomputed exactly from the trace's queries and keys while that means at most
:data:`TILE_WEIGHTS` weights; wider ones are merged, exactly as well, from the trace's overview,
whose bins may be coarser than the screen. The answer says which edges its cells have.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from gemma4_mlx.widgets.attention_picture import attention_drawing
from gemma4_mlx.widgets.traceview import TraceView, media_of, parts_of

TILE = 128  # cells of a tile along each side; tilemap.js cuts the context in the same way
TILE_WEIGHTS = 1 << 23  # weights recomputed for one tile at most, 2896 x 2896: about 40 ms
ANSWER_WEIGHTS = 1 << 23  # recomputed for one answer to the map, which then asks for the rest
THUMBNAIL = 48  # cells of a head's small picture along each side
SNAPSHOT_BYTES = 800_000  # tiles and rows a snapshot keeps

SUMMARY_NAMES = {
    "entropy": "entropy",
    "distance": "mean distance",
    "first": "on the first token (sink)",
    "previous": "on the previous token",
    "same": "on the same token earlier",
    "induction": "after the same token earlier (induction)",
    "image": "on image tokens",
    "video": "on video tokens",
    "audio": "on audio tokens",
}


class Attention(TraceView):
    """Look at the attention of a trace.

    Parameters
    ----------
    trace : a trace with attention, from ``g4.trace(...)``, ``chat.trace()`` or ``g4.open_trace``
    media : pictures (PIL, path, array) and sounds (samples) in the order of the prompt, drawn
        under the weights of their soft tokens; None takes what the trace carries

    The selected layer, head and token are ``trace.selection``'s, both ways. Raises TypeError for
    what is no trace.

    >>> view = Attention(g4.trace(model, "a prompt", attention=g4.AttentionPlan(retain="all")))
    """

    front = "attention"

    def __init__(self, trace: Any, media: Any = None) -> None:
        if not hasattr(trace, "attention"):
            raise TypeError(
                f"Attention draws a trace, such as g4.trace(model, ...) or chat.trace(), not "
                f"{type(trace).__name__}"
            )
        self.trace = trace
        self.set_sources("a", trace, media)
        super().__init__()
        self.meta = self._facts()
        self.link(trace.selection)

    def trace_of(self, which: str = "a"):
        return self.trace

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
                    "retained": index in data.retained,
                    "exact": _exact_level(data.n, part.window) if index in data.retained else -1,
                }
            )
        return {
            "n": data.n,
            "source": str(self.trace.model.get("source", "")),
            "layers": layers,
            "bin": int(data.width),
            "parts": parts_of(tokens),
            "media": media_of(tokens),
            "blocks": _runs(data.blocks),
            "start": self._start(),
        }

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

    def answer_heads(self, stat: str = "mean") -> tuple[dict, bytes]:
        """Small pictures of every head, uint8 (heads, side, side), and the head summaries.

        A value is 255 times the square root of its share of the head's largest cell, ``peak``.
        """
        data = self.trace.attention
        side = min(THUMBNAIL, len(data.edges) - 1)
        cuts = np.arange(side) * (len(data.edges) - 1) // side
        pictures, heads = [], []
        summaries = {(s["layer"], s["head"]): s for s in data.summaries()}
        known = [name for name in SUMMARY_NAMES if any(name in s for s in summaries.values())]
        absent = {  # a medium the trace does not have
            name
            for name in ("image", "video", "audio")
            if name in known and not self.trace.tokens.of_kind(name).any()
        }
        for layer in data.layers:
            for head in data.heads(layer):
                cells = self._overview(layer, head, stat)
                if stat == "max":
                    cells = np.maximum.reduceat(np.maximum.reduceat(cells, cuts, 0), cuts, 1)
                else:
                    cells = np.add.reduceat(np.add.reduceat(cells, cuts, 0), cuts, 1)
                    cells = cells / np.diff(np.r_[cuts, len(data.edges) - 1])[:, None]
                peak = float(cells.max()) or 1.0
                pictures.append((255 * np.sqrt(cells / peak)).round().astype(np.uint8))
                values = summaries.get((layer, head), {})
                heads.append(
                    {
                        "layer": layer,
                        "head": int(head),
                        "peak": peak,
                        "summary": {k: values.get(k) for k in known if k not in absent},
                    }
                )
        names = [[k, SUMMARY_NAMES[k]] for k in known if k not in absent]
        return {"side": side, "heads": heads, "names": names}, np.stack(pictures).tobytes()

    def _overview(self, layer: int, head: int, stat: str) -> np.ndarray:
        return self.trace.attention.overview(layer, head, "max" if stat == "max" else "mass")

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
        self, layer: int, head: int, level: int, row: int, column: int, stat: str = "mean"
    ) -> tuple[dict, bytes]:
        """Tile (row, column) of the map at ``level``: float32 (rows, columns).

        ``stat``: "mean" is the mass on a cell's keys, averaged over its queries; "max" the largest
        single weight. The content has ``query`` and ``key``, the first tokens, and ``rowCell`` and
        ``columnCell``, tokens per cell.

        Raises TraceError for a layer or head that does not exist, ValueError for a tile outside
        the text.
        """
        data = self.trace.attention
        span = TILE << level
        queries = slice(row * span, min(data.n, (row + 1) * span))
        keys = slice(column * span, min(data.n, (column + 1) * span))
        if queries.start >= data.n or keys.start >= data.n:
            raise ValueError(f"no tile ({row}, {column}) at level {level} in {data.n:,} tokens")
        return self._cells(layer, head, queries, keys, 1 << level, stat)

    def _cells(self, layer, head, queries, keys, cell: int, stat: str) -> tuple[dict, bytes]:
        """A rectangle in cells of ``cell`` tokens, or of the overview's bins where it is large."""
        data = self.trace.attention
        part, statistic = data.layer(layer), "max" if stat == "max" else "mass"
        if part.queries is None or _visible_weights(queries, keys, part.window) > TILE_WEIGHTS:
            return self._from_overview(layer, head, queries, keys, cell, stat)
        shape = tuple(-(-(s.stop - s.start) // cell) for s in (queries, keys))
        values = data.tile(layer, head, queries, keys, shape, statistic).values
        content = {
            "rows": shape[0],
            "columns": shape[1],
            "query": queries.start,
            "key": keys.start,
            "rowCell": (queries.stop - queries.start) / shape[0],
            "columnCell": (keys.stop - keys.start) / shape[1],
        }
        return content, np.ascontiguousarray(values, "<f4").tobytes()

    def whole_map(self, layer: int, head: int) -> tuple[dict, np.ndarray]:
        """The head's map over the whole context in at most 256 x 256 cells, as for a tile."""
        n = self.trace.attention.n
        everything = slice(0, n)
        facts, bulk = self._cells(layer, head, everything, everything, -(-n // 256), "mean")
        return facts, np.frombuffer(bulk, "<f4").reshape(facts["rows"], facts["columns"])

    def _from_overview(self, layer, head, queries, keys, cell, stat) -> tuple[dict, bytes]:
        """A tile merged from overview bins, its edges moved outwards to multiples of them."""
        data = self.trace.attention
        cells = self._overview(layer, head, stat)
        step = max(1, cell // data.width)  # bins merged into one cell
        size = step * data.width
        spans = [
            (s.start // size * step, min(len(cells), -(-s.stop // size) * step))
            for s in (queries, keys)
        ]
        (r0, r1), (c0, c1) = spans
        cells = cells[r0:r1, c0:c1]
        rows, columns = np.arange(0, r1 - r0, step), np.arange(0, c1 - c0, step)
        if stat == "max":
            cells = np.maximum.reduceat(np.maximum.reduceat(cells, rows, 0), columns, 1)
        else:  # mass: added over keys, averaged over queries
            tokens = np.diff(data.edges)[r0:r1].astype(np.float32)
            cells = np.add.reduceat(cells * tokens[:, None], rows, 0)
            cells = np.add.reduceat(cells, columns, 1) / np.add.reduceat(tokens, rows)[:, None]
        content = {
            "rows": len(rows),
            "columns": len(columns),
            "query": r0 * data.width,
            "key": c0 * data.width,
            "rowCell": size,
            "columnCell": size,
        }
        return content, np.ascontiguousarray(cells, "<f4").tobytes()

    def answer_weights(self, layer: int, head: int, token: int, mode: str = "row") -> tuple:
        """Exact weights of one token, float32 (n,): what it looks at, or ("column") who looks."""
        data = self.trace.attention
        if mode == "row":
            values = data.row(layer, head, token)
        else:
            one = slice(token, token + 1)
            values = data.tile(layer, head, slice(0, data.n), one, (data.n, 1), "max").values[:, 0]
        return None, np.ascontiguousarray(values, "<f4").tobytes()

    def answer_find(self, source: list, target: list) -> dict:
        """Heads ranked by the mass from one span to another; spans are [start, stop)."""
        found = self.trace.attention.find(tuple(source), tuple(target))
        missing = sorted(set(self.trace.attention.layers) - set(self.trace.attention.retained))
        note = "Exact: mean over the first span's tokens of the weight they put on the second."
        if missing:
            note += f" Layers {missing} are not ranked: this trace kept no queries of theirs."
        return {
            "heads": [
                {"layer": f.layer, "head": int(f.head), "mass": float(f.mass)} for f in found
            ],
            "note": note,
        }

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
        """The chosen head at every zoom that fits, its selected rows, and every small picture."""
        if not self.meta["layers"]:
            return []
        data, now = self.trace.attention, self.chosen()
        head = {"layer": now["layer"], "head": now["head"]}
        wanted: list[dict] = [{"type": "heads", "stat": s} for s in ("mean", "max")]
        wanted += self.page_requests(now["token"])
        wanted += [{"type": "media", "span": m["index"]} for m in self.meta["media"]]
        wanted.append({"type": "export", "format": "svg"})
        budget, level = SNAPSHOT_BYTES, max(0, int(np.ceil(np.log2(data.n / TILE))))
        while level >= 0:
            count = -(-data.n // (TILE << level))
            tiles = [(i, j) for i in range(count) for j in range(i + 1)]
            size = sum(
                4
                * np.prod(
                    [min(TILE, -(-(data.n - x * (TILE << level)) // (1 << level))) for x in t]
                )
                for t in tiles
            )
            if size > budget:
                break
            budget -= int(size)
            wanted += [
                {"type": "tile", **head, "stat": "mean", "level": level, "row": i, "column": j}
                for i, j in tiles
            ]
            level -= 1
        if now["layer"] in data.retained:
            tokens = [now["token"]] if now["token"] is not None else []
            if data.layer(now["layer"]).link_weights is not None:
                tokens += [link.query for link in data.links(**head)]
            tokens += range(data.n - 1, -1, -1)
            for token in list(dict.fromkeys(tokens))[: max(1, budget // (8 * data.n))]:
                for mode in ("row", "column"):
                    wanted.append({"type": "weights", **head, "token": token, "mode": mode})
        return wanted

    def drawing(self):
        """The still picture: every head, and the chosen one large (a ``Drawing``)."""
        return attention_drawing(self)

    def snapshot_image(self):
        return self.drawing().pil()


def _exact_level(n: int, window: int | None) -> int:
    """The coarsest level whose tiles are all recomputed."""
    level, top = 0, max(0, int(np.ceil(np.log2(n / TILE))))
    while level < top and (span := TILE << (level + 1)) * min(span, window or n) <= TILE_WEIGHTS:
        level += 1
    return level


def _visible_weights(queries: slice, keys: slice, window: int | None) -> int:
    """About how many weights of a rectangle lie below the diagonal and inside the window."""
    i = np.linspace(queries.start, queries.stop, 33)
    low = np.full_like(i, keys.start)
    if window is not None:
        low = np.maximum(low, i - window)
    seen = np.clip(np.minimum(i + 1, keys.stop) - low, 0, None).mean()
    return int(seen * (queries.stop - queries.start))


def _runs(blocks) -> list[list[int]]:
    """Bidirectional blocks as [start, stop): runs of equal numbers that are not negative."""
    if blocks is None:
        return []
    blocks = np.asarray(blocks)
    edges = np.flatnonzero(np.r_[True, blocks[1:] != blocks[:-1], True])
    return [[int(a), int(b)] for a, b in pairwise(edges) if blocks[a] >= 0]
