"""The attention of a trace: overviews, tiles, rows, column sums, head summaries and links.

All of them are exact: they describe the weights that the model computed, not approximations.
Overviews, column sums and summaries were reduced during the traced pass. Tiles and rows are
recomputed here, with numpy, from the queries and keys that the plan retained, so an opened trace
needs neither MLX nor weights.
"""

import numpy as np

from ...errors import TraceError
from . import between, head_maps, overviews, tiles
from .between import HeadMass, Link
from .head_maps import OffsetMap, SpanMass
from .layer_attention import LayerAttention, check_whole
from .maps import bin_sizes, square
from .queries_keys import QueriesAndKeys
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

#: Above so many products of two numbers, a query's and a key's, a tile comes from the overview, if
#: there is one: 2^28 weights of heads of 256 numbers.
PRODUCTS = 1 << 36


class AttentionData(QueriesAndKeys):
    """The attention of a trace over ``n`` tokens, in ``layers``; overviews have bins of ``width``
    tokens.

    ``rerun`` computes queries and keys that the plan did not keep, while the traced model is in
    memory: see ``tracing/recording/rerun.py``. ``room``: bytes of computed queries and keys that
    are kept for reuse.
    """

    @property
    def edges(self) -> np.ndarray:
        """Token positions at which the overview's bins begin, and ``n``: (R + 1,)."""
        return np.minimum(np.arange(0, self.n + self.width, self.width), self.n)

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
        rows, columns = (overviews.bins_of(whole, cells, None, self.edges) for cells in shape)
        return overviews.merged(part, h, rows, columns, self.edges, statistic)

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

    def tile_source(
        self,
        layer: int,
        head: int,
        queries: slice = slice(None),
        keys: slice = slice(None),
        shape: tuple[int, int] = (256, 256),
        *,
        cell: int | None = None,
        limit: int = PRODUCTS,
        compute: bool = True,
    ) -> str:
        """Where :meth:`tile` takes a rectangle from: "recomputed" or "overview".

        Arguments and errors as there.
        """
        part, _ = self.part_and_head(layer, head)
        queries, keys = checked_span(queries, self.n, "queries"), checked_span(keys, self.n, "keys")
        shape = tiles.checked_shape(shape if cell is None else cell)
        state = self.exactness(layer, head)
        if part.mass is None:
            return "recomputed"
        if state == "pooled" or (state == "on demand" and not compute):
            shortest = min(queries.stop - queries.start, keys.stop - keys.start)
            wide = cell is not None or shortest >= min(2 * self.width, self.n)
            return "overview" if wide else "recomputed"
        if cell is not None and cell >= self.width:  # whole bins: the overview is as exact
            return "overview"
        if state == "on demand" and cell is None:  # rather than run the model for such cells
            cells = zip((queries, keys), shape)
            if all(-(-(s.stop - s.start) // c) >= self.width for s, c in cells):
                return "overview"
        products = overviews.seen_weights(part, queries, keys) * max(64, self.head_dim(layer))
        return "overview" if products > limit else "recomputed"

    def tile(
        self,
        layer: int,
        head: int,
        queries: slice = slice(None),
        keys: slice = slice(None),
        shape: tuple[int, int] = (256, 256),
        statistic: str = "mass",
        *,
        cell: int | None = None,
        limit: int = PRODUCTS,
        compute: bool = True,
    ) -> Tile:
        """Any rectangle of the map, pooled to cells, exact.

        It is recomputed from queries and keys, or merged from the overview's cells: then its edges
        move outwards to theirs, see ``Tile.query_edges`` and ``Tile.source``. The latter where
        recomputing would take more than ``limit`` products, in a layer that was not retained, and
        for cells of at least a bin that need not be elsewhere.

        Args:
            layer, head: indices
            queries, keys: spans of tokens
            shape: the most cells (rows, columns); a rectangle no larger comes as single weights
            statistic: "mass", "mean" or "max": see :class:`.Tile`
            cell: in place of ``shape``: cells of so many tokens along each side, at multiples of
                that, so that neighbouring tiles fit together. From the overview: of as many whole
                bins as fit, one at least.
            limit: the most products of a query's number with a key's, of weights that are seen;
                a weight of a head of D numbers takes D, and never less than 64
            compute: whether the model may run again for queries and keys that were not kept

        Raises TraceError for a layer, head or span that does not exist, for a shape without cells,
        and, without ``cell``, for a rectangle finer than two bins of the overview whose queries
        and keys are not to be had.
        """
        tiles.check_statistic(statistic)
        part, h = self.part_and_head(layer, head)
        how = {"cell": cell, "limit": limit, "compute": compute}
        source = self.tile_source(layer, head, queries, keys, shape, **how)
        queries, keys = checked_span(queries, self.n, "queries"), checked_span(keys, self.n, "keys")
        rows, columns = tiles.checked_shape(shape)
        if source == "overview":
            return overviews.merged(
                part,
                h,
                overviews.bins_of(queries, rows, cell, self.edges),
                overviews.bins_of(keys, columns, cell, self.edges),
                self.edges,
                statistic,
            )
        if not compute and self.exactness(layer, head) != "kept":
            raise TraceError(self.why_not(layer, head))
        load_q, load_k, normaliser = self.loaders(part, h, queries, keys)
        query_edges = tiles.edges_of(queries, rows, cell)
        key_edges = tiles.edges_of(keys, columns, cell)
        pooled = tiles.pooled_weights(
            load_q,
            load_k,
            normaliser,
            query_edges,
            key_edges,
            part.window,
            self.blocks_of(part),
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
        blocks = self.blocks_of(part)
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
        return between.ranked(self, source, target, compute, progress)[:top]

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
