"""Rectangles of the map that are merged from the bins of a layer's overview."""

import numpy as np

from .layer_attention import LayerAttention
from .maps import square
from .tiles import Tile, statistic_of


def bins_of(span: slice, cells: int, cell: int | None, edges: np.ndarray) -> np.ndarray:
    """The bins at which cells begin that cover a span of tokens, and the one after the last.

    At most ``cells`` cells from the bin where the span begins; or, with ``cell``, cells of so many
    tokens, rounded down to whole bins, at multiples of their size. ``edges``: the bins' (R + 1,).
    """
    width, R = int(edges[1]), len(edges) - 1
    first, last = span.start // width, -(-span.stop // width)
    if cell is None:
        step = -(-(last - first) // cells)
    else:
        step = max(1, cell // width)
        first, last = first // step * step, min(-(-last // step) * step, R)
    return np.append(np.arange(first, last, step), last)


def merged(
    part: LayerAttention,
    h: int,
    rows: np.ndarray,
    columns: np.ndarray,
    edges: np.ndarray,
    statistic: str,
) -> Tile:
    """Row ``h`` of a layer's overview, its bins merged to cells between those of ``rows`` and
    ``columns``."""
    grid = (slice(rows[0], rows[-1]), slice(columns[0], columns[-1]))
    kept, pool = (part.peak, np.maximum) if statistic == "max" else (part.mass, np.add)
    pooled = square(kept[h], part.back)[grid]
    for axis, starts in ((0, rows), (1, columns)):
        pooled = pool.reduceat(pooled, starts[:-1] - starts[0], axis=axis)
    query_edges, key_edges = edges[rows], edges[columns]
    values = statistic_of(pooled, query_edges, key_edges, statistic)
    return Tile(values, query_edges, key_edges, statistic, "overview")


def seen_weights(part: LayerAttention, queries: slice, keys: slice) -> int:
    """About how many weights of a rectangle are not masked."""
    i = np.linspace(queries.start, queries.stop, 65)
    low = np.full_like(i, keys.start)
    if part.window is not None:
        low = np.maximum(low, i - part.window)
    seen = np.clip(np.minimum(i + 1, keys.stop) - low, 0, None).mean()
    return int(seen * (queries.stop - queries.start))
