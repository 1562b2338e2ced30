"""Maps with one number for each head, (layers, heads), and maps of a sliding head by offset.

The numbers come from what was reduced during the traced pass, so a map takes milliseconds. Each
says whether it is exact for the spans that were asked for, or only for these spans extended to the
edges of the overview's bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ...errors import TraceError
from . import tiles
from .between import mass_between
from .layer_attention import LayerAttention
from .offsets import by_offset
from .tiles import checked_shape, checked_span
from .visibility import key_range

if TYPE_CHECKING:
    from .attention import AttentionData


@dataclass(frozen=True)
class SpanMass:
    """Mass from one span on another, of every head.

    ``values`` (layers, heads) float32: the weights that a token of ``source`` puts on ``target``,
    summed over the target and averaged over the source; nan for a head that was not traced.
    ``exact`` (layers, heads) bool: True where the value is of the spans that were asked for, False
    where it is of ``source`` and ``target``, which are these spans extended to the overview's bins.
    """

    values: np.ndarray
    exact: np.ndarray
    source: slice
    target: slice


@dataclass(frozen=True)
class OffsetMap:
    """A sliding head's weights by query and offset (query position minus key position).

    ``values`` (rows, columns) float32: cell (a, b) is the mass that queries ``query_edges[a]`` up
    to ``query_edges[a + 1]`` put, on average, on keys ``offset_edges[b]`` up to
    ``offset_edges[b + 1]`` tokens behind them (0 is the query itself). ``source``: "recomputed"
    from queries and keys; "recorded" during the traced pass, in float16 (three digits); "overview":
    read off the overview's band, where a cell spreads over its neighbours (``exact`` False).
    """

    values: np.ndarray
    query_edges: np.ndarray
    offset_edges: np.ndarray
    source: str

    @property
    def exact(self) -> bool:
        return self.source != "overview"


def _table(data: AttentionData, dtype, empty) -> np.ndarray:
    heads = max((part.all_heads for part in data.parts), default=0)
    return np.full((len(data.layers), heads), empty, dtype)


def summary_map(data: AttentionData, name: str) -> np.ndarray:
    """A summary of every head: (layers, heads) float32, nan where there is none."""
    if not any(name in part.statistics for part in data.parts):
        known = sorted({known for part in data.parts for known in part.statistics})
        raise TraceError(
            f"no summary {name!r} in this trace; there are: "
            f"{', '.join(known) or 'none, see AttentionPlan(summaries=True)'}"
        )
    out = _table(data, np.float32, np.nan)
    for row, part in zip(out, data.parts):
        if name in part.statistics:
            row[list(part.heads)] = part.statistics[name].sum(axis=1) / data.n
    return out


def span_mass(data: AttentionData, target, source=None, exact: bool = False) -> SpanMass:
    """Mass of every head from the tokens of ``source`` (None: all) on those of ``target``."""
    target = checked_span(target, data.n, "target")
    everything = source is None
    source = checked_span(slice(None) if everything else source, data.n, "source")
    values, known = _table(data, np.float32, np.nan), _table(data, bool, False)
    rows, row_span = _outwards(data, source)
    columns, column_span = _outwards(data, target)
    aligned = (row_span, column_span) == (source, target)
    for line, sure, part in zip(values, known, data.parts):
        heads = list(part.heads)
        if everything and part.columns is not None:
            line[heads] = part.columns[:, target].sum(axis=1) / data.n
            sure[heads] = True
            continue
        if part.mass is not None:
            tokens = row_span.stop - row_span.start
            line[heads] = _cells_mass(part, rows, columns) / tokens
            sure[heads] = aligned
        if exact and not aligned and (vectors := data.at_hand(part)):
            for head in vectors.heads:
                between = mass_between(part, vectors, head, source, target, data.blocks_of(part))
                line[head], sure[head] = between.mass, True
    return SpanMass(values, known, row_span, column_span)


def _outwards(data: AttentionData, span: slice) -> tuple[slice, slice]:
    """The bins that a span touches, and the tokens of these bins, as slices."""
    first, last = span.start // data.width, -(-span.stop // data.width)
    return slice(first, last), slice(first * data.width, min(last * data.width, data.n))


def _cells_mass(part: LayerAttention, rows: slice, columns: slice) -> np.ndarray:
    """The mass of some bins' queries on some bins' keys, added up: (H,)."""
    if part.back is None:
        return part.mass[:, rows, columns].sum(axis=(1, 2))
    total = np.zeros(len(part.heads), np.float32)
    for slot in range(part.mass.shape[2]):  # key bin: row - back + slot
        first = max(rows.start, columns.start + part.back - slot)
        last = min(rows.stop, columns.stop + part.back - slot)
        if first < last:
            total += part.mass[:, first:last, slot].sum(axis=1)
    return total


def offsets(data: AttentionData, layer: int, head: int, queries, shape) -> OffsetMap:
    """A sliding head by query and offset, in at most ``shape`` cells."""
    part, h = data.part_and_head(layer, head)
    queries = checked_span(queries, data.n, "queries")
    rows, columns = checked_shape(shape)
    if part.window is None:
        raise TraceError(f"layer {layer} attends to the whole context: it has no window to show")
    reach = min(part.window, data.n)
    length = queries.stop - queries.start
    coarse = -(-length // rows) >= data.width  # cells no finer than the bins
    if part.offset_mass is not None and (coarse or data.exactness(layer, head) == "pooled"):
        return _from_recorded(data, part, h, queries, rows, columns)
    kept = data.exactness(layer, head) == "kept"
    if not kept and (coarse or data.exactness(layer, head) == "pooled") and part.mass is not None:
        return _from_band(data, part, h, queries, rows, columns)
    query_edges = tiles.edges_of(queries, rows)
    offset_edges = tiles.edges_of(slice(0, reach), columns)
    values = _recomputed(data, part, h, query_edges, offset_edges)
    return OffsetMap(values, query_edges, offset_edges, "recomputed")


def _merged(values: np.ndarray, data, queries: slice, rows: int, first: int):
    """Merge sums of bins ``first ..`` into at most ``rows`` rows; returns their means per query,
    and the rows' edges as token positions."""
    step = -(-len(values) // rows)
    starts = np.arange(0, len(values), step)
    edges = data.edges[first + np.append(starts, len(values))]
    return np.add.reduceat(values, starts, axis=0) / np.diff(edges)[:, None], edges


def _from_recorded(data, part, h, queries, rows, columns) -> OffsetMap:
    bins, _ = _outwards(data, queries)
    sizes = np.diff(data.edges)[bins, None]
    values = part.offset_mass[h, bins].astype(np.float32) * sizes
    width = -(-part.window // part.offset_mass.shape[2])
    step = -(-values.shape[1] // columns)
    values = np.add.reduceat(values, np.arange(0, values.shape[1], step), axis=1)
    values, edges = _merged(values, data, queries, rows, bins.start)
    offset_edges = np.minimum(np.arange(values.shape[1] + 1) * step * width, part.window)
    return OffsetMap(values.astype(np.float32), edges, offset_edges, "recorded")


def _from_band(data, part, h, queries, rows, columns) -> OffsetMap:
    """From the overview: a bin ``d`` bins before the query's has offsets around ``d * width``."""
    bins, _ = _outwards(data, queries)
    values = part.mass[h, bins, : part.back + 1][:, ::-1]  # nearest first
    step = -(-values.shape[1] // columns)
    values = np.add.reduceat(values, np.arange(0, values.shape[1], step), axis=1)
    values, edges = _merged(values, data, queries, rows, bins.start)
    centres = np.arange(values.shape[1] + 1) * step * data.width
    offset_edges = np.clip(centres - data.width // 2, 0, part.window)
    offset_edges[-1] = part.window
    return OffsetMap(values.astype(np.float32), edges, offset_edges, "overview")


def _recomputed(data, part, h, query_edges, offset_edges) -> np.ndarray:
    """Exact cells from queries and keys, a few rows at a time."""
    whole = slice(int(query_edges[0]), int(query_edges[-1]))
    reach, blocks = int(offset_edges[-1]), data.blocks
    low = max(0, whole.start - reach + 1)
    load_q, load_k, normaliser = data.loaders(part, h, whole, slice(low, whole.stop))
    out = np.zeros((len(query_edges) - 1, len(offset_edges) - 1), np.float32)
    for row, (start, stop) in enumerate(pairwise(query_edges)):
        for at in range(start, stop, 512):
            rows = slice(at, min(at + 512, stop))
            first, last = key_range(rows.start, rows.stop, part.window)
            keys = slice(first, last)
            args = (load_q(rows), load_k(keys), normaliser[rows], rows, keys, part.window, blocks)
            out[row] += by_offset(tiles.weights(*args)[None], at - first, offset_edges)[0]
        out[row] /= stop - start
    return out
