"""What a trace knows of attention: overviews, tiles, rows, column sums, head summaries, links.

Everything is exact for what the model computed. Overviews, column sums and summaries were reduced
during the traced pass; tiles and rows are recomputed here, in numpy, from the queries and keys
that the plan retained, so an opened trace needs neither MLX nor weights.
"""

from dataclasses import dataclass, field

import numpy as np

from ..errors import TraceError
from . import tiles
from .maps import bin_sizes, square
from .tiles import Tile, checked_span
from .visibility import key_range

#: What the head summaries mean. All but the first two are masses between 0 and 1.
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


#: What of a layer is written to the trace file: arrays, and facts as JSON.
_ARRAYS = (
    "normaliser",
    "mass",
    "peak",
    "columns",
    "link_queries",
    "link_keys",
    "link_weights",
    "queries",
    "keys",
)
_FACTS = ("layer", "type", "window", "donor", "heads", "all_heads", "kv_heads", "back", "dtype")


@dataclass
class LayerAttention:
    """One layer's arrays; H recorded heads, n tokens, R bins.

    ``mass``, ``peak`` (H, R, R) or, with ``back`` set, the band (H, R, columns) whose column c
    is key bin ``row - back + c``. ``normaliser`` (H, n), ``columns`` (H, n), ``statistics``
    {name: (H, R)} sums over each bin's queries. ``link_*`` (H, K), strongest first.
    ``queries`` (H, n, D) and ``keys`` (kv heads, n, D) where retained, in ``dtype``; a KV-shared
    layer's keys are its donor's.
    """

    layer: int
    type: str
    window: int | None
    donor: int
    heads: tuple[int, ...]
    all_heads: int
    kv_heads: int
    normaliser: np.ndarray
    mass: np.ndarray | None = None
    peak: np.ndarray | None = None
    back: int | None = None
    columns: np.ndarray | None = None
    statistics: dict[str, np.ndarray] = field(default_factory=dict)
    link_queries: np.ndarray | None = None
    link_keys: np.ndarray | None = None
    link_weights: np.ndarray | None = None
    queries: np.ndarray | None = None
    keys: np.ndarray | None = None
    dtype: str = "float32"


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
    """The attention of a trace over ``n`` tokens; ``layers`` maps layer index -> arrays."""

    def __init__(self, n: int, width: int, layers: list[LayerAttention], blocks=None):
        self.n, self.width = n, width
        self.blocks = blocks
        self._layers = {part.layer: part for part in layers}

    # What there is

    @property
    def layers(self) -> tuple[int, ...]:
        """Traced layers."""
        return tuple(self._layers)

    @property
    def retained(self) -> tuple[int, ...]:
        """Layers whose queries and keys were kept: tiles, rows and ``find`` work there."""
        return tuple(i for i, part in self._layers.items() if part.queries is not None)

    @property
    def edges(self) -> np.ndarray:
        """Token positions at which the overview's bins begin, and ``n``: (R + 1,)."""
        return np.minimum(np.arange(0, self.n + self.width, self.width), self.n)

    def layer(self, layer: int) -> LayerAttention:
        """One layer's arrays and facts: type, window, donor, heads, KV heads.

        Raises TraceError for a layer that was not traced.
        """
        if layer not in self._layers:
            raise TraceError(
                f"layer {layer} has no attention in this trace; traced: {_ranges(self.layers)}"
            )
        return self._layers[layer]

    def heads(self, layer: int) -> tuple[int, ...]:
        """Traced heads of a layer. Raises TraceError for a layer that was not traced."""
        return self.layer(layer).heads

    def _head(self, layer: int, head: int) -> tuple[LayerAttention, int]:
        part = self.layer(layer)
        if head not in part.heads:
            raise TraceError(
                f"layer {layer} has no traced head {head}; traced: {_ranges(part.heads)} "
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
        part, h = self._head(layer, head)
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
        part, h = self._head(layer, head)
        whole, shape = slice(0, self.n), tiles.checked_shape(shape)
        return self._from_overview(part, h, whole, whole, shape, statistic)

    def normaliser(self, layer: int, head: int) -> np.ndarray:
        """Log-sum-exp of every query's scores, in nats: (n,).

        Raises TraceError for a layer or head that was not traced.
        """
        part, h = self._head(layer, head)
        return np.asarray(part.normaliser[h])

    def column_sums(self, layer: int, head: int) -> np.ndarray:
        """How much each token is looked at: weights summed over all queries, (n,).

        Raises TraceError for a layer or head that was not traced, and if the plan kept no sums.
        """
        part, h = self._head(layer, head)
        if part.columns is None:
            raise TraceError("this trace kept no column sums (AttentionPlan(columns=True) does)")
        return np.asarray(part.columns[h])

    def summary(self, name: str, layer: int, head: int, by_bin: bool = False):
        """A head summary (see :data:`SUMMARIES`): mean over all tokens, or (R,) over each bin's.

        Raises TraceError for a layer, head or summary that this trace does not have.
        """
        part, h = self._head(layer, head)
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

    def links(self, layer: int, head: int) -> list[Link]:
        """The strongest weights, leaving out each token itself and the context's first token.

        At most one link for a query; strongest first.

        Raises TraceError for a layer or head that was not traced, and if the plan kept no links.
        """
        part, h = self._head(layer, head)
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
        """Any rectangle at the resolution of the screen, exact.

        A rectangle no larger than ``shape`` comes as single weights. A larger one is pooled into
        at most ``shape`` cells. One of more than :data:`TILE_LIMIT` visible weights, or in a layer
        that was not retained, is merged from the overview's cells, its edges moved outwards to
        theirs: see ``Tile.query_edges`` and ``Tile.source``.

        Raises TraceError for a layer, head or span that does not exist, for a shape without cells,
        and for a rectangle finer than two bins of the overview in a layer that was not retained.
        """
        tiles.check_statistic(statistic)
        part, h = self._head(layer, head)
        queries, keys = checked_span(queries, self.n, "queries"), checked_span(keys, self.n, "keys")
        shape = tiles.checked_shape(shape)
        shortest = min(queries.stop - queries.start, keys.stop - keys.start)
        if part.queries is None:
            from_overview = shortest >= min(2 * self.width, self.n)
        else:
            from_overview = self._seen_cells(part, queries, keys) > TILE_LIMIT
        if from_overview and part.mass is not None:
            return self._from_overview(part, h, queries, keys, shape, statistic)
        load_q, load_k, normaliser = self._vectors(part, h)
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
        part, h = self._head(layer, head)
        query = checked_span(query, self.n, "query")
        if query.stop - query.start != 1:
            raise TraceError("row() takes one query; tile() takes a span")
        load_q, load_k, normaliser = self._vectors(part, h)
        blocks = self._blocks_of(part)
        keys = slice(*key_range(query.start, query.stop, part.window, blocks))
        out = np.zeros(self.n, np.float32)
        out[keys] = tiles.weights(
            load_q(query), load_k(keys), normaliser[query], query, keys, part.window, blocks
        )[0]
        return out

    def find(self, source, target, top: int | None = None) -> list[HeadMass]:
        """Rank heads by the mass that tokens of ``source`` send to tokens of ``target``.

        "Which head carries the needle?": ``source`` is the answer's span, ``target`` the
        needle's. Searches the retained layers, all of their traced heads, largest mass first.

        Raises TraceError for spans that do not exist, and if no layer was retained.
        """
        source, target = (
            checked_span(source, self.n, "source"),
            checked_span(target, self.n, "target"),
        )
        if not self.retained:
            self._vectors(next(iter(self._layers.values())), 0)  # raises, naming the remedy
        found = []
        for layer in self.retained:
            part = self._layers[layer]
            for h, head in enumerate(part.heads):
                load_q, load_k, normaliser = self._vectors(part, h)
                total, best = 0.0, Link(source.start, target.start, 0.0)
                step = max(1, tiles.STRIP // (target.stop - target.start))
                for start in range(source.start, source.stop, step):
                    rows = slice(start, min(start + step, source.stop))
                    w = tiles.weights(
                        load_q(rows),
                        load_k(target),
                        normaliser[rows],
                        rows,
                        target,
                        part.window,
                        self._blocks_of(part),
                    )
                    total += float(w.sum(dtype=np.float64))
                    i, j = np.unravel_index(w.argmax(), w.shape)
                    if w[i, j] > best.weight:
                        best = Link(start + int(i), target.start + int(j), float(w[i, j]))
                found.append(HeadMass(layer, head, total / (source.stop - source.start), best))
        found.sort(key=lambda each: -each.mass)
        return found[:top]

    def _blocks_of(self, part: LayerAttention):
        return self.blocks if part.window is not None else None

    def _vectors(self, part: LayerAttention, h: int):
        donor = self._layers.get(part.donor)
        keys = part.keys if part.keys is not None else getattr(donor, "keys", None)
        if part.queries is None or keys is None:
            raise TraceError(
                f"layer {part.layer}'s queries and keys were not retained, so its weights cannot "
                f"be recomputed; retained: {_ranges(self.retained) or 'none'}. Trace with "
                f"AttentionPlan(retain=({part.layer},)), or retain='full' for all full-attention "
                "layers, retain='all' for all"
            )
        kv = part.heads[h] // (part.all_heads // part.kv_heads)

        def load_q(rows: slice):
            return tiles.as_float32(part.queries[h, rows], part.dtype)

        def load_k(rows: slice):
            return tiles.as_float32(keys[kv, rows], part.dtype)

        return load_q, load_k, np.asarray(part.normaliser[h])

    def _seen_cells(self, part: LayerAttention, queries: slice, keys: slice) -> int:
        """About how many weights of a rectangle are visible."""
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
            for name in _ARRAYS:
                if getattr(part, name) is not None:
                    arrays[f"{i}.{name}"] = getattr(part, name)
            for name, sums in part.statistics.items():
                arrays[f"{i}.statistics.{name}"] = sums
            layers.append({fact: getattr(part, fact) for fact in _FACTS})
        return arrays, {"n": self.n, "width": self.width, "layers": layers}

    @classmethod
    def from_arrays(cls, arrays, meta) -> "AttentionData":
        """From what a trace's file holds.

        Raises ValueError if the arrays do not belong together.
        """
        layers = []
        _check_whole([meta["n"], meta["width"]], 1, "n and width")
        for facts in meta["layers"]:
            _check_facts(facts)
            prefix = f"{facts['layer']}."
            own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
            statistics = {
                k.removeprefix("statistics."): v for k, v in own.items() if k.startswith("stat")
            }
            values = {k: v for k, v in own.items() if "." not in k}
            facts = {**facts, "heads": tuple(facts["heads"])}
            layers.append(LayerAttention(**facts, statistics=statistics, **values))
            _check_shapes(layers[-1], meta["n"], meta["width"])
        return cls(meta["n"], meta["width"], layers, arrays.get("blocks"))


def _check_whole(values: list, least: int, what: str) -> None:
    if any(type(value) is not int or value < least for value in values):
        raise ValueError(f"{what}: {values}, expected whole numbers from {least} on")


def _check_facts(facts: dict) -> None:
    """Raise ValueError for a layer's facts that are no numbers where a file should hold some."""
    known = [facts[name] for name in ("window", "back") if facts[name] is not None]
    _check_whole([facts["layer"], facts["donor"], *facts["heads"], *known], 0, "a layer's facts")
    _check_whole([facts["all_heads"], facts["kv_heads"]], 1, "numbers of heads")


def _check_shapes(part: LayerAttention, n: int, width: int) -> None:
    """Raise ValueError unless a layer's arrays belong together."""
    H, R = len(part.heads), -(-n // width)
    if not all(0 <= head < part.all_heads for head in part.heads):
        raise ValueError(f"heads {part.heads} of {part.all_heads} in layer {part.layer}")
    columns = (R,) if part.back is None else np.shape(part.mass)[2:]
    links = np.shape(part.link_weights)[1:]
    wanted = {
        "normaliser": (H, n), "columns": (H, n),
        "mass": (H, R, *columns), "peak": (H, R, *columns),
        "link_weights": (H, *links), "link_queries": (H, *links), "link_keys": (H, *links),
        "queries": (H, n, part.queries.shape[-1] if part.queries is not None else 0),
        "keys": (part.kv_heads, n, part.keys.shape[-1] if part.keys is not None else 0),
    }  # fmt: skip
    found = {name: getattr(part, name) for name in wanted}
    for names in (("mass", "peak"), ("link_weights", "link_queries", "link_keys")):
        if len({found[name] is None for name in names}) > 1:
            raise ValueError(f"not all of {', '.join(names)} are there for layer {part.layer}")
    found |= part.statistics
    wanted |= dict.fromkeys(part.statistics, (H, R))
    for name, array in found.items():
        if array is not None and array.shape != wanted[name]:
            raise ValueError(
                f"{name} of layer {part.layer} has the shape {array.shape}, expected {wanted[name]}"
            )


def _ranges(indices) -> str:
    """(0, 1, 2, 5) -> "0-2, 5"."""
    parts, indices = [], sorted(indices)
    for i in indices:
        if parts and i == parts[-1][1] + 1:
            parts[-1][1] = i
        else:
            parts.append([i, i])
    return ", ".join(f"{a}-{b}" if a < b else f"{a}" for a, b in parts)
