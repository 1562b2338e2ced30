"""The attention of a trace: overviews, tiles, rows, column sums, head summaries and links.

All of them are exact: they describe the weights that the model computed, not approximations.
Overviews, column sums and summaries were reduced during the traced pass. Tiles and rows are
recomputed here, with numpy, from the queries and keys that the plan retained, so an opened trace
needs neither MLX nor weights.
"""

import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from ...errors import TraceError
from . import head_maps, tiles
from .head_maps import OffsetMap, SpanMass
from .layer_attention import LayerAttention, Vectors, check_whole
from .maps import bin_sizes, square
from .ranges import ranges
from .tiles import Tile, checked_span
from .visibility import key_range

#: The head summaries. All but the first two are masses between 0 and 1. The soft tokens of pictures
#: and sounds share one id, but do not count as copies of each other ("same", "induction").
SUMMARIES = {
    "entropy": "entropy of the weights, in nats",
    "distance": "mean of query position minus key position, in tokens",
    "first": "mass on the first token of the context",
    "previous": "mass on the token before",
    "same": "mass on earlier copies of the query's token",
    "induction": "mass on the tokens that followed earlier copies of the query's token",
    "image": "mass on image tokens",
    "video": "mass on video tokens",
    "audio": "mass on audio tokens",
}

#: Above this many weights a tile is taken from the overview, if there is one.
TILE_LIMIT = 1 << 28


@dataclass(frozen=True)
class Link:
    """A strong attention weight from a query to a key."""

    query: int
    key: int
    weight: float


@dataclass(frozen=True)
class HeadMass:
    """A head's mass from one span to another: mean over the source tokens, and its best link."""

    layer: int
    head: int
    mass: float
    strongest: Link


class AttentionData:
    """The attention of a trace over ``n`` tokens, in ``layers``; overviews have bins of ``width``
    tokens.

    ``rerun`` computes queries and keys that the plan did not keep, while the traced model is in
    memory: see ``tracing/recording/rerun.py``. ``room``: bytes of computed queries and keys that
    are kept for reuse.
    """

    def __init__(self, n: int, width: int, layers: list[LayerAttention], blocks=None):
        self.n, self.width = n, width
        self.blocks = blocks
        self._layers = {part.layer: part for part in layers}
        self.rerun, self.room = None, 0
        self._computed: OrderedDict[int, Vectors] = OrderedDict()  # least recently used first
        self._lock = threading.RLock()

    # Layers and what is kept of them

    @property
    def layers(self) -> tuple[int, ...]:
        """Traced layers."""
        return tuple(self._layers)

    @property
    def parts(self) -> tuple[LayerAttention, ...]:
        """The arrays and properties of each traced layer."""
        return tuple(self._layers.values())

    @property
    def retained(self) -> tuple[int, ...]:
        """Layers with queries and keys in memory or in the file, of some heads at least: see
        :meth:`exactness`."""
        return tuple(
            i for i, part in self._layers.items() if part.queries is not None or self._ready(i)
        )

    def _ready(self, layer: int) -> bool:
        return layer in self._computed

    def exactness(self, layer: int, head: int | None = None) -> str:
        """Where tiles and rows of a head come from; without ``head``, for the worst of the layer.

        "kept": recomputed from queries and keys that are available. "on demand": the same, after
        the model has run again up to this layer (see :meth:`compute`). "pooled": there is nothing
        finer than the bins of the overview.

        Raises TraceError for a layer or head that was not traced.
        """
        part = self.layer(layer)
        if head is not None:
            self.part_and_head(layer, head)
        heads = part.heads if head is None else (head,)
        if self._ready(layer) or set(heads) <= set(part.kept):
            return "kept"
        return "on demand" if self.rerun is not None and not self.rerun.obstacle() else "pooled"

    def why_not(self, layer: int, head: int | None = None) -> str | None:
        """A sentence that says why :meth:`exactness` is not "kept" and which plan would make it so;
        None if it is "kept".

        Raises TraceError for a layer or head that was not traced.
        """
        state = self.exactness(layer, head)
        if state == "kept":
            return None
        kept = self.layer(layer).kept
        of = f"of layer {layer}" + (f" only those of heads {ranges(kept)}" if kept else "")
        what = f"Queries and keys {of} were {'' if kept else 'not '}kept"
        plan = f"g4.AttentionPlan(retain=({layer},)) keeps them"
        if state == "on demand":
            return f"{what}; the model runs again up to this layer to show single weights ({plan})."
        obstacle = self.rerun.obstacle() if self.rerun is not None else "no model is at hand"
        return (
            f"{what} and {obstacle}, so it is drawn from bins of {self.width} tokens (a trace with "
            f"{plan})."
        )

    def compute(self, *layers: int, progress=None) -> None:
        """Make the queries and keys of these layers available; runs the model again if need be.

        The prompt is read once more up to the last of these layers, chunk by chunk, which gives the
        queries and keys of the traced run, to the bit. They are kept until others need the room
        (``room`` bytes). ``progress`` is called with a ``Progress`` after every chunk; an exception
        from it stops the run, and so does Ctrl-C.

        Raises TraceError for a layer that was not traced, if the model is gone or would now
        compute something else (other interventions, other weights), and if the layers take more
        room than there is.
        """
        wanted = [i for i in dict.fromkeys(layers) if self.exactness(i) != "kept"]
        if not wanted:
            return
        with self._lock:
            for layer in wanted:
                self._check_can_compute(layer)
            held = [i for i in layers if i in self._computed]
            size = sum(map(self._size, [*wanted, *held]))
            if size > self.room:
                raise TraceError(
                    f"the queries and keys of layers {ranges(wanted)} take {size / 2**20:,.1f} "
                    f"MiB, and there is room for {self.room / 2**20:,.1f}: compute fewer at a time"
                )
            others = [i for i in self._computed if i not in held]
            while others and size + sum(self._computed[i].nbytes for i in others) > self.room:
                del self._computed[others.pop(0)]
            everything = slice(0, self.n)
            spans = {i: (self._layers[i].heads, everything, everything) for i in wanted}
            found = self.rerun.run(spans, progress)
            for layer, vectors in found.items():
                self._check_same(self._layers[layer], vectors)
            self._computed |= found

    def _check_can_compute(self, layer: int) -> None:
        if self.exactness(layer) == "pooled":
            raise TraceError(self.why_not(layer))

    def _size(self, layer: int) -> int:
        part = self._layers[layer]
        return self.rerun.bytes_of(layer, len(part.heads)) * self.n

    def _check_same(self, part: LayerAttention, vectors: Vectors) -> None:
        """Raise TraceError if recomputed weights of some queries do not sum to 1 with the traced
        run's normalisers: then the model's weights have changed since."""
        blocks, head = self._blocks_of(part), part.heads[-1]
        for query in {0, self.n // 2, self.n - 1}:
            rows = slice(query, query + 1)
            keys = slice(*key_range(query, query + 1, part.window, blocks))
            q, k = vectors.queries_of(head, rows), vectors.keys_of(part.kv_head(head), keys)
            weights = tiles.weights(
                q, k, part.normaliser[-1][rows], rows, keys, part.window, blocks
            )
            if not abs(float(weights.sum()) - 1) < 1e-2:
                raise TraceError(
                    f"the model computes other queries and keys in layer {part.layer} than when "
                    "this was traced: its weights were changed. Trace again"
                )

    def queries(self, layer: int, head: int, tokens=slice(None)) -> np.ndarray:
        """The queries of some tokens, after norm and rotation: float32 (r, D).

        Raises TraceError for a layer, head or span that does not exist, and for a layer that was
        not kept and cannot be computed.
        """
        part, _ = self.part_and_head(layer, head)
        rows = checked_span(tokens, self.n, "tokens")
        return self._vectors(part, head, rows, slice(0, 0)).queries_of(head, rows)

    def keys(self, layer: int, head: int, tokens=slice(None)) -> np.ndarray:
        """The keys of some tokens in the KV head that a query head uses: float32 (c, D).

        Raises TraceError as :meth:`queries`."""
        part, _ = self.part_and_head(layer, head)
        rows = checked_span(tokens, self.n, "tokens")
        return self._vectors(part, head, slice(0, 0), rows).keys_of(part.kv_head(head), rows)

    @property
    def edges(self) -> np.ndarray:
        """Token positions at which the overview's bins begin, and ``n``: (R + 1,)."""
        return np.minimum(np.arange(0, self.n + self.width, self.width), self.n)

    def layer(self, layer: int) -> LayerAttention:
        """One layer's arrays and properties: type, window, donor, heads, KV heads.

        Raises TraceError for a layer that was not traced.
        """
        if layer not in self._layers:
            raise TraceError(
                f"layer {layer} has no attention in this trace; traced: {ranges(self.layers)}"
            )
        return self._layers[layer]

    def heads(self, layer: int) -> tuple[int, ...]:
        """Traced heads of a layer. Raises TraceError for a layer that was not traced."""
        return self.layer(layer).heads

    def part_and_head(self, layer: int, head: int) -> tuple[LayerAttention, int]:
        part = self.layer(layer)
        if head not in part.heads:
            raise TraceError(
                f"layer {layer} has no traced head {head}; traced: {ranges(part.heads)} "
                f"of {part.all_heads} heads"
            )
        return part, part.heads.index(head)

    # Reduced during the pass

    def overview(self, layer: int, head: int, statistic: str = "mass") -> np.ndarray:
        """The whole map in bins of ``width`` tokens: (R, R) float32, rows are queries.

        ``statistic``: "mass" sums over a cell's keys and averages over its queries, so a row
        sums to 1; "mean" is the mean weight; "max" the largest, in which one needle survives.

        Raises TraceError for a layer, head or statistic that does not exist, and if the plan kept
        no overviews.
        """
        tiles.check_statistic(statistic)
        part, h = self.part_and_head(layer, head)
        if part.mass is None:
            raise TraceError("this trace kept no overviews (AttentionPlan(overview=True) does)")
        kept = part.peak if statistic == "max" else part.mass
        return tiles.statistic_of(square(kept[h], part.back), self.edges, self.edges, statistic)

    def overview_tile(
        self, layer: int, head: int, shape: tuple[int, int] = (256, 256), statistic: str = "mass"
    ) -> Tile:
        """The overview with cells merged, exactly, until at most ``shape`` are left.

        Raises TraceError for a layer, head or statistic that does not exist, for a shape without
        cells, and if the plan kept no overview.
        """
        self.overview(layer, head, statistic)  # checks
        part, h = self.part_and_head(layer, head)
        whole, shape = slice(0, self.n), tiles.checked_shape(shape)
        return self._from_overview(part, h, whole, whole, shape, statistic)

    def normaliser(self, layer: int, head: int) -> np.ndarray:
        """Log-sum-exp of every query's scores, in nats: (n,).

        Raises TraceError for a layer or head that was not traced.
        """
        part, h = self.part_and_head(layer, head)
        return np.asarray(part.normaliser[h])

    def column_sums(self, layer: int, head: int) -> np.ndarray:
        """How much attention each token gets: weights summed over all queries, (n,).

        Raises TraceError for a layer or head that was not traced, and if the plan kept no sums.
        """
        part, h = self.part_and_head(layer, head)
        if part.columns is None:
            raise TraceError("this trace kept no column sums (AttentionPlan(columns=True) does)")
        return np.asarray(part.columns[h])

    def summary(self, name: str, layer: int, head: int, by_bin: bool = False):
        """A head summary (see :data:`SUMMARIES`): mean over all tokens, or (R,) over each bin's.

        Raises TraceError for a layer, head or summary that this trace does not have.
        """
        part, h = self.part_and_head(layer, head)
        if name not in part.statistics:
            known = ", ".join(part.statistics) or "none, see AttentionPlan(summaries=True)"
            raise TraceError(f"no summary {name!r} in this trace; there are: {known}")
        sums = part.statistics[name][h]
        if by_bin:
            return sums / bin_sizes(self.n, self.width)
        return float(sums.sum() / self.n)

    def summaries(self) -> list[dict]:
        """Every head's summaries, one dict each with ``layer``, ``head``, ``type`` and values."""
        return [
            {"layer": part.layer, "head": head, "type": part.type}
            | {name: float(sums[h].sum() / self.n) for name, sums in part.statistics.items()}
            for part in self._layers.values()
            for h, head in enumerate(part.heads)
        ]

    def to_dataframe(self, library: str = "pandas"):
        """One row for each traced head with its summaries: see :func:`.frames.heads_frame`.

        Raises TraceError if that library is not installed or not known.
        """
        from .frames import heads_frame

        return heads_frame(self, library)

    def summary_map(self, name: str) -> np.ndarray:
        """A summary of every head at once: (layers, heads) float32 in the order of :attr:`layers`,
        nan for heads that were not traced.

        Raises TraceError for a summary that no layer of this trace has.
        """
        return head_maps.summary_map(self, name)

    def span_mass(self, target, source=None, exact: bool = False) -> SpanMass:
        """The mass that tokens of ``source`` (None: all tokens) put on ``target``, for every head.

        Taken from the column sums or the overview in some milliseconds. Where the spans do not end
        at the edges of bins, ``exact`` recomputes the heads whose queries and keys are available.
        Each value says whether it is exact: see :class:`.SpanMass`. Heads without data are nan.

        Raises TraceError for spans that do not exist.
        """
        return head_maps.span_mass(self, target, source, exact)

    def offsets(
        self,
        layer: int,
        head: int,
        queries: slice = slice(None),
        shape: tuple[int, int] = (256, 64),
    ) -> OffsetMap:
        """The map of a sliding head by query and by offset, which is how far back a key lies.

        If its cells are no finer than the overview's bins, it comes from what was recorded; else
        from queries and keys, where :meth:`exactness` allows: see :class:`.OffsetMap`. Mass on
        keys after the query (inside a picture) is left out.

        Raises TraceError for a layer, head or span that does not exist, for a shape without cells,
        and for a layer without a window.
        """
        return head_maps.offsets(self, layer, head, queries, shape)

    def links(self, layer: int, head: int) -> list[Link]:
        """The strongest weights, leaving out each token itself and the context's first token.

        At most one link for a query; strongest first.

        Raises TraceError for a layer or head that was not traced, and if the plan kept no links.
        """
        part, h = self.part_and_head(layer, head)
        if part.link_weights is None:
            raise TraceError("this trace kept no links (AttentionPlan(links=16) does)")
        rows = zip(part.link_queries[h], part.link_keys[h], part.link_weights[h])
        return [Link(int(q), int(k), float(w)) for q, k, w in rows if w > 0]

    # Recomputed from queries and keys

    def tile(
        self,
        layer: int,
        head: int,
        queries: slice = slice(None),
        keys: slice = slice(None),
        shape: tuple[int, int] = (256, 256),
        statistic: str = "mass",
    ) -> Tile:
        """Any rectangle of the map, pooled to at most ``shape`` cells, exact.

        A rectangle no larger than ``shape`` comes as single weights. One of more than
        :data:`TILE_LIMIT` visible weights, or in a layer that was not retained, is merged from the
        overview's cells, and its edges move outwards to theirs: see ``Tile.query_edges`` and
        ``Tile.source``.

        Raises TraceError for a layer, head or span that does not exist, for a shape without cells,
        and for a rectangle finer than two bins of the overview in a layer that was not retained.
        """
        tiles.check_statistic(statistic)
        part, h = self.part_and_head(layer, head)
        queries, keys = checked_span(queries, self.n, "queries"), checked_span(keys, self.n, "keys")
        shape = tiles.checked_shape(shape)
        shortest = min(queries.stop - queries.start, keys.stop - keys.start)
        state = self.exactness(layer, head)
        if state == "pooled":
            from_overview = shortest >= min(2 * self.width, self.n)
        else:
            from_overview = self._seen_cells(part, queries, keys) > TILE_LIMIT
            if state == "on demand":  # rather than run the model for cells as wide as bins
                cells = zip((queries, keys), shape)
                from_overview |= all(-(-(s.stop - s.start) // c) >= self.width for s, c in cells)
        if from_overview and part.mass is not None:
            return self._from_overview(part, h, queries, keys, shape, statistic)
        load_q, load_k, normaliser = self.loaders(part, h, queries, keys)
        query_edges, key_edges = tiles.edges_of(queries, shape[0]), tiles.edges_of(keys, shape[1])
        pooled = tiles.pooled_weights(
            load_q,
            load_k,
            normaliser,
            query_edges,
            key_edges,
            part.window,
            self._blocks_of(part),
            maximum=statistic == "max",
        )
        values = tiles.statistic_of(pooled, query_edges, key_edges, statistic)
        return Tile(values, query_edges, key_edges, statistic, "recomputed")

    def row(self, layer: int, head: int, query: int) -> np.ndarray:
        """One query's weights over all tokens: (n,) float32, summing to 1.

        Raises TraceError for a layer, head or query that does not exist, and for a layer that was
        not retained.
        """
        part, h = self.part_and_head(layer, head)
        query = checked_span(query, self.n, "query")
        if query.stop - query.start != 1:
            raise TraceError("row() takes one query; tile() takes a span")
        blocks = self._blocks_of(part)
        keys = slice(*key_range(query.start, query.stop, part.window, blocks))
        load_q, load_k, normaliser = self.loaders(part, h, query, keys)
        out = np.zeros(self.n, np.float32)
        out[keys] = tiles.row_weights(
            load_q, load_k, normaliser, query.start, keys, part.window, blocks
        )
        return out

    def find(
        self, source, target, top: int | None = None, *, compute: bool = True, progress=None
    ) -> list[HeadMass]:
        """Rank heads by the mass that tokens of ``source`` send to tokens of ``target``.

        "Which head carries the needle?": ``source`` is the answer's span, ``target`` the
        needle's. Largest mass first. Queries and keys that are not available are computed in one
        run of the model that keeps only these two spans (``progress`` as in :meth:`compute`); with
        ``compute`` False, or without the model, such heads are left out.

        Raises TraceError for spans that do not exist, and if nothing can be ranked.
        """
        source = checked_span(source, self.n, "source")
        target = checked_span(target, self.n, "target")
        kept = {
            i: [head for head in part.heads if self.exactness(i, head) == "kept"]
            for i, part in self._layers.items()
        }
        missing = {
            i: tuple(head for head in part.heads if self.exactness(i, head) == "on demand")
            for i, part in self._layers.items()
        }
        missing = {i: heads for i, heads in missing.items() if heads} if compute else {}
        fetched = {}
        if missing:
            spans = {i: (heads, source, target) for i, heads in missing.items()}
            with self._lock:
                fetched = self.rerun.run(spans, progress)
        if not fetched and not any(kept.values()):
            raise TraceError(self.why_not(self.layers[0]))
        found = []
        for i, part in self._layers.items():
            for head in kept[i]:
                vectors = self.at_hand(part, head)
                found.append(self._mass_between(part, vectors, head, source, target))
            for head in missing.get(i, ()):
                found.append(self._mass_between(part, fetched[i], head, source, target))
        found.sort(key=lambda each: (-each.mass, each.layer, each.head))
        return found[:top]

    def _mass_between(self, part, vectors, head: int, source: slice, target: slice) -> HeadMass:
        total, best = 0.0, Link(source.start, target.start, 0.0)
        normaliser = part.normaliser[part.heads.index(head)]
        step = max(1, tiles.STRIP // (target.stop - target.start))
        k = vectors.keys_of(part.kv_head(head), target)
        for start in range(source.start, source.stop, step):
            rows = slice(start, min(start + step, source.stop))
            q, blocks = vectors.queries_of(head, rows), self._blocks_of(part)
            w = tiles.weights(q, k, normaliser[rows], rows, target, part.window, blocks)
            total += float(w.sum(dtype=np.float64))
            i, j = np.unravel_index(w.argmax(), w.shape)
            if w[i, j] > best.weight:
                best = Link(start + int(i), target.start + int(j), float(w[i, j]))
        return HeadMass(part.layer, head, total / (source.stop - source.start), best)

    def _blocks_of(self, part: LayerAttention):
        return self.blocks if part.window is not None else None

    def at_hand(self, part: LayerAttention, head: int | None = None) -> Vectors | None:
        """Retained or computed queries and keys of all tokens, including those of ``head``, or
        without it of as many heads as possible; None if there are none."""
        vectors = self._computed.get(part.layer)
        if head in part.kept or (head is None and part.kept and vectors is None):
            keys = part.keys if part.keys is not None else self._layers[part.donor].keys
            return Vectors(part.kept, part.queries, keys, part.dtype)
        if vectors is not None:
            with suppress(KeyError):  # another thread may just have removed it to make room
                self._computed.move_to_end(part.layer)
        return vectors

    def _vectors(self, part: LayerAttention, head: int, queries: slice, keys: slice) -> Vectors:
        """A head's queries and keys of some tokens at least, computed if need be."""
        if (vectors := self.at_hand(part, head)) is not None:
            return vectors
        with self._lock:
            self._check_can_compute(part.layer)
            if self._size(part.layer) <= self.room:
                self.compute(part.layer)
                return self._computed[part.layer]
            return self.rerun.run({part.layer: ((head,), queries, keys)})[part.layer]

    def loaders(self, part: LayerAttention, h: int, queries: slice, keys: slice):
        head = part.heads[h]
        vectors = self._vectors(part, head, queries, keys)

        def load_q(rows: slice):
            return vectors.queries_of(head, rows)

        def load_k(rows: slice):
            return vectors.keys_of(part.kv_head(head), rows)

        return load_q, load_k, np.asarray(part.normaliser[h])

    def _seen_cells(self, part: LayerAttention, queries: slice, keys: slice) -> int:
        """About how many weights of a rectangle are not masked."""
        i = np.linspace(queries.start, queries.stop, 65)
        low = np.full_like(i, keys.start)
        if part.window is not None:
            low = np.maximum(low, i - part.window)
        seen = np.clip(np.minimum(i + 1, keys.stop) - low, 0, None).mean()
        return int(seen * (queries.stop - queries.start))

    def _from_overview(self, part, h, queries, keys, shape, statistic) -> Tile:
        def merged_edges(span, cells):
            first, last = span.start // self.width, -(-span.stop // self.width)
            step = -(-(last - first) // cells)
            return np.append(np.arange(first, last, step), last)

        rows, cols = merged_edges(queries, shape[0]), merged_edges(keys, shape[1])
        grid = (slice(rows[0], rows[-1]), slice(cols[0], cols[-1]))
        kept, pool = (part.peak, np.maximum) if statistic == "max" else (part.mass, np.add)
        pooled = square(kept[h], part.back)[grid]
        for axis, edges in ((0, rows), (1, cols)):
            pooled = pool.reduceat(pooled, edges[:-1] - edges[0], axis=axis)
        query_edges, key_edges = self.edges[rows], self.edges[cols]
        values = tiles.statistic_of(pooled, query_edges, key_edges, statistic)
        return Tile(values, query_edges, key_edges, statistic, "overview")

    # To and from the trace file

    def to_arrays(self) -> tuple[dict[str, np.ndarray], dict]:
        arrays, layers = {}, []
        if self.blocks is not None:
            arrays["blocks"] = self.blocks
        for i, part in self._layers.items():
            own, facts = part.to_arrays()
            arrays |= {f"{i}.{name}": array for name, array in own.items()}
            layers.append(facts)
        return arrays, {"n": self.n, "width": self.width, "layers": layers}

    @classmethod
    def from_arrays(cls, arrays, meta) -> "AttentionData":
        """From what a trace's file holds.

        Raises ValueError if the arrays do not belong together.
        """
        layers = []
        check_whole([meta["n"], meta["width"]], 1, "n and width")
        for facts in meta["layers"]:
            prefix = f"{facts['layer']}."
            own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
            layers.append(LayerAttention.from_arrays(own, facts, meta["n"], meta["width"]))
        keyed = {part.layer for part in layers if part.keys is not None}
        for part in layers:
            if part.queries is not None and not {part.layer, part.donor} & keyed:
                raise ValueError(f"queries of layer {part.layer} without keys")
        return cls(meta["n"], meta["width"], layers, arrays.get("blocks"))
