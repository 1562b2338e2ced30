"""Exact attention weights of any rectangle, recomputed from retained queries and keys.

A weight is ``exp(q k - normaliser)``, where the normaliser is the log-sum-exp of the query's
scores. It was recorded, so a tile anywhere in a long context costs only its own area. A tile of
more weights than cells is pooled while it is computed; at most :data:`STRIP` weights exist at a
time.
"""

from dataclasses import dataclass
from operator import index

import numpy as np

from ...errors import TraceError
from .visibility import key_range, visible

#: Weights held at once: 2 MB, so that they stay in a core's cache from the product to the pooling.
STRIP = 1 << 19
ROWS = 512  # most queries of a strip: as float32 they should stay in the cache too
STATISTICS = ("mass", "mean", "max")


@dataclass(frozen=True)
class Tile:
    """A rectangle of attention, pooled to cells.

    ``values`` (rows, columns) float32; cell (a, b) covers queries ``query_edges[a]`` up to
    ``query_edges[a + 1]`` and keys ``key_edges[b]`` up to ``key_edges[b + 1]``. ``statistic``:
    "mass" (sum over the cell's keys, mean over its queries), "mean" or "max" of its weights.
    ``source``: "recomputed" from queries and keys, or "overview", merged from the stored map; both
    are exact for the edges given. ``values`` of single cells (no pooling) are the weights.
    """

    values: np.ndarray
    query_edges: np.ndarray
    key_edges: np.ndarray
    statistic: str
    source: str

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=dtype)

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape

    @property
    def pooled(self) -> bool:
        """Whether some cell holds more than one weight."""
        return bool((np.diff(self.query_edges) > 1).any() or (np.diff(self.key_edges) > 1).any())


def as_float32(array: np.ndarray, dtype: str) -> np.ndarray:
    """Decode retained values; bfloat16 is stored as its 16 bits."""
    if dtype == "bfloat16":
        bits = array.astype(np.uint32)
        bits <<= 16  # in place: a second array as large costs more than the shift
        return bits.view(np.float32)
    return np.asarray(array, np.float32)


def edges_of(span: slice, cells: int, cell: int | None = None) -> np.ndarray:
    """Integer edges that cut a span into at most ``cells`` nearly equal parts, or, with ``cell``,
    at its multiples."""
    if cell is not None:
        inside = np.arange(span.start // cell + 1, -(-span.stop // cell)) * cell
        return np.r_[span.start, inside, span.stop]
    length = span.stop - span.start
    return span.start + np.arange(min(cells, length) + 1) * length // min(cells, length)


def checked_shape(shape) -> tuple[int, int]:
    """(rows, columns), or one number for both. Raises TraceError for what has no cells."""
    try:
        rows, columns = map(index, (shape, shape) if isinstance(shape, int) else shape)
    except (TypeError, ValueError):
        rows = columns = 0
    if min(rows, columns) < 1:
        raise TraceError(f"a tile of shape {shape!r} has no cells; give (rows, columns)")
    return rows, columns


def checked_span(span, n: int, what: str) -> slice:
    """A slice, (start, stop) pair or single index as a slice with bounds inside 0..n.

    Raises TraceError if it is none of these, lies outside, is empty or has a step.
    """
    if isinstance(span, int | np.integer):
        if not -n <= span < n:
            raise TraceError(f"{what} {span} does not exist: the trace has {n} tokens")
        return slice(int(span) % n, int(span) % n + 1)
    if isinstance(span, range):
        span = slice(span.start, span.stop, span.step)
    try:
        span = span if isinstance(span, slice) else slice(*span)
        start = 0 if span.start is None else index(span.start)
        stop = n if span.stop is None else index(span.stop)
    except TypeError:
        raise TraceError(
            f"{what} {span!r} is no span; give start:stop, such as tokens.find(text)[0]"
        ) from None
    start, stop = start + n * (start < 0), stop + n * (stop < 0)
    if span.step not in (None, 1) or not 0 <= start < stop <= n:
        raise TraceError(
            f"{what} {span.start}:{span.stop} is no span of this trace: it has {n} tokens, "
            "a span is start < stop without a step"
        )
    return slice(start, stop)


def weights(q, k, normaliser, queries: slice, keys: slice, window=None, blocks=None) -> np.ndarray:
    """Attention weights (r, c) of one head, float32.

    ``q`` (r, D) and ``normaliser`` (r,) belong to ``queries``, ``k`` (c, D) to ``keys``.
    """
    scores = q @ k.T
    scores -= normaliser[:, None]
    if keys.stop - 1 > queries.start or window is not None:
        # Masked before exp, not after: a hidden key's score may be so large that exp overflows.
        i, j = np.arange(queries.start, queries.stop), np.arange(keys.start, keys.stop)
        np.copyto(scores, -np.inf, where=~visible(i, j, window, blocks))
    return np.exp(scores, out=scores)


def row_weights(load_q, load_k, normaliser, query: int, keys: slice, window=None, blocks=None):
    """One query's weights over ``keys``: (c,) float32. Loaders as in :func:`pooled_weights`.

    Computed for a few keys at a time. All keys of 128K tokens as float32 would be 270 MB, which
    take longer to write and read than to multiply; and for larger products BLAS starts threads,
    which wait for each other.
    """
    row, out = slice(query, query + 1), np.empty(keys.stop - keys.start, np.float32)
    q = load_q(row)
    step = max(1, STRIP // (2 * q.shape[-1]))
    for start in range(keys.start, keys.stop, step):
        part = slice(start, min(start + step, keys.stop))
        w = weights(q, load_k(part), normaliser[row], row, part, window, blocks)
        out[part.start - keys.start : part.stop - keys.start] = w[0]
    return out


def pooled_weights(
    load_q, load_k, normaliser, query_edges, key_edges, window=None, blocks=None, *, maximum=False
) -> np.ndarray:
    """Sum, or with ``maximum`` the largest, of the weights in each cell of a grid: (rows, columns).

    ``load_q(slice)`` and ``load_k(slice)`` return float32 rows; keys outside what a strip of
    queries sees (above the diagonal, outside a window) are neither loaded nor computed.
    """
    pool = np.maximum if maximum else np.add
    out = np.zeros((len(query_edges) - 1, len(key_edges) - 1), np.float32)
    keys = slice(int(key_edges[0]), int(key_edges[-1]))
    at, end = int(query_edges[0]), int(query_edges[-1])
    rows = min(max(1, STRIP // (keys.stop - keys.start)), ROWS)
    if window is not None:
        rows = min(max(rows, 64), max(window, 64))
    while at < end:
        strip = slice(at, min(at + rows, end))
        low, high = key_range(strip.start, strip.stop, window, blocks)
        low, high = max(low, keys.start), min(high, keys.stop)
        if low < high:
            part = slice(low, high)
            w = weights(load_q(strip), load_k(part), normaliser[strip], strip, part, window, blocks)
            rows_here, row_starts = _cells(query_edges, strip.start, strip.stop)
            columns, column_starts = _cells(key_edges, low, high)
            w = _pool_rows(w, row_starts, pool)
            if len(column_starts) < high - low:
                w = pool.reduceat(w, column_starts, axis=1)
            where = (slice(rows_here[0], rows_here[-1] + 1), slice(columns[0], columns[-1] + 1))
            pool(out[where], w, out=out[where])
        at = strip.stop
    return out


def _pool_rows(w: np.ndarray, starts: np.ndarray, pool: np.ufunc) -> np.ndarray:
    """Reduce runs of rows that begin at ``starts``: (r, c) -> (len(starts), c).

    Runs of equal length are reduced as an axis of a reshaped array, 30 times as fast as
    ``reduceat`` along rows. That is why rows are pooled before columns, while there are most
    weights.
    """
    r, c = w.shape
    size = -(-r // len(starts))
    if size == 1:
        return w
    whole = r // size * size
    if not np.array_equal(starts, np.arange(0, r, size)):
        return pool.reduceat(w, starts, axis=0)
    pooled = pool.reduce(w[:whole].reshape(-1, size, c), axis=1)
    if whole == r:
        return pooled
    return np.concatenate([pooled, pool.reduce(w[whole:], axis=0, keepdims=True)])


def _cells(edges, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """The cells that ``low .. high - 1`` touches, and where each begins, relative to ``low``."""
    first = int(np.searchsorted(edges, low, side="right")) - 1
    last = int(np.searchsorted(edges, high, side="left"))
    cells = np.arange(first, last)
    return cells, np.maximum(np.asarray(edges)[cells] - low, 0)


def statistic_of(pooled, query_edges, key_edges, statistic: str) -> np.ndarray:
    """Turn a grid's sums, or for "max" its maxima, into one of :data:`STATISTICS`."""
    if statistic == "max":
        return pooled
    per_query = pooled / np.diff(query_edges)[:, None].astype(np.float32)
    return per_query if statistic == "mass" else per_query / np.diff(key_edges)[None, :]


def check_statistic(statistic: str) -> None:
    """Raises TraceError for a word that is none of :data:`STATISTICS`."""
    if statistic not in STATISTICS:
        raise TraceError(f"statistic {statistic!r}; there are {', '.join(STATISTICS)}")
