"""Exact attention of a strip of queries over all their keys, reduced at once to what is kept.

A strip is a few query rows of every head against all keys they may see. Its scores, at most a few
million at a time, only exist here. They are reduced to the exact mass and the largest weight of
each row and key bin, each row's log-sum-exp, exact column sums and head statistics. So a map over a
whole context costs one more ``Q K^T`` and never holds n x n numbers.

Scores are computed and reduced by :mod:`.strips_gpu` or :mod:`.strips_cpu`; what both do is here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..data.maps import run_starts
from ..data.offsets import in_cells
from ..data.visibility import visible


@dataclass
class Strip:
    """Results for rows ``start .. start + r - 1``; arrays are float32 numpy, H query heads.

    ``mass`` and ``peak`` (H, r, bins): the sum and the largest of the weights in each key bin;
    bin 0 begins at key ``first_key``. ``normaliser`` (H, r): log-sum-exp of the scores, in nats.
    ``columns`` (H, m): weights summed over the strip's rows, from ``first_key`` on. The rest is
    (H, r): ``entropy`` in nats, ``distance`` mean of query minus key position, in tokens, and the
    masses ``first``, ``previous``, ``same`` (an earlier copy of this token), ``induction`` (the
    token after an earlier copy) and one per row of ``marks``.
    ``link_weights``, ``link_keys`` (H, r): the largest weight, and its key, among the keys that
    are neither the first of the context nor the query itself.
    ``offsets`` (H, query bins, cells): weights of each query bin's rows by how far back they look,
    from the bin of row ``start`` on; None unless asked for.
    """

    start: int
    first_key: int
    mass: np.ndarray
    peak: np.ndarray
    normaliser: np.ndarray
    columns: np.ndarray
    statistics: dict[str, np.ndarray]
    link_weights: np.ndarray
    link_keys: np.ndarray
    offsets: np.ndarray | None = None


def score_strip(
    reduce,
    q,
    kt,
    start,
    first_key,
    width,
    *,
    window=None,
    blocks=None,
    tokens=None,
    marks=None,
    offset_edges=None,
) -> Callable[[], Strip]:
    """Begin to reduce one strip. The function that it returns waits for the result and returns it.

    Args:
        reduce: computes and reduces the scores: ``reduce(q, kt, wanted)``, from ``ready`` of
            :mod:`.strips_gpu` or :mod:`.strips_cpu`, as are ``q`` and ``kt``
        q: (kv heads, g, r, D) float32, queries ``start ..``; g query heads share a kv head's keys
        kt: (kv heads, D, m) float32, keys ``first_key ..``; m is a multiple of ``width`` and covers
            every key these rows see. Columns of padding, and keys a row does not see, are ignored
        first_key: a multiple of ``width``
        width: keys per bin, counted from position 0
        window, blocks: the layer's geometry, see :mod:`.visibility`
        tokens: (n,) int ids of all tokens so far, for ``same`` and ``induction``; None leaves them
            out. Equal ids are copies of one token: give soft tokens each its own
        marks: {name: (n,) bool}, key sets whose mass is wanted, such as image tokens
        offset_edges: cells of the window in which offsets are added up, None for none
    """
    r, total = q.shape[2], kt.shape[2]
    rows, marks = np.arange(start, start + r), marks or {}
    unsure = 0 if window is not None else max(0, start - first_key)  # all rows see the keys before
    pairs = _pairs(rows, first_key, total, tokens)
    wanted = Wanted(
        width=width,
        rows=rows,
        first_key=first_key,
        hidden=~visible(rows, np.arange(first_key + unsure, first_key + total), window, blocks),
        basis=_basis(first_key, total, start, marks),
        pairs=tuple(np.concatenate(each) for each in zip(*pairs.values())),
        bands=[] if offset_edges is None else _bands(rows, first_key, width, offset_edges),
    )
    reduced = reduce(q, kt, wanted)

    def result() -> Strip:
        found = reduced()
        statistics = {
            "entropy": found.entropy,
            "distance": np.arange(r) - found.moments[..., 0],
        }
        ends = np.cumsum([len(row) for row, _ in pairs.values()])[:-1]
        for (name, (row, _)), picked in zip(pairs.items(), np.split(found.picked, ends, axis=1)):
            statistics[name] = _by_row(picked, row, r)
        for c, name in enumerate(marks, 1):
            statistics[name] = found.moments[..., c]
        offsets = None
        if offset_edges is not None:
            cells = [
                in_cells(sums, seen.stop - seen.start, offset_edges)
                for (_, seen), sums in zip(wanted.bands, found.diagonals)
            ]
            offsets = np.stack(cells, axis=1)
        return Strip(
            start=start,
            first_key=first_key,
            mass=found.mass,
            peak=found.peak,
            normaliser=found.normaliser,
            columns=found.columns,
            statistics=statistics,
            link_weights=found.link_weights,
            link_keys=found.link_keys,
            offsets=offsets,
        )

    return result


@dataclass
class Wanted:
    """What to compute from a strip's weights; it is known before any score is computed.

    ``width``, ``rows`` (r,) and ``first_key`` as in :func:`score_strip`. ``hidden`` (r, c): which
    of the last c keys a row does not see. ``basis`` (c, m): the weights are multiplied with its
    rows. ``pairs``: rows and key columns, (p,) each, whose weights are picked. ``bands``: slices of
    rows and of key columns whose diagonals are added up.
    """

    width: int
    rows: np.ndarray
    first_key: int
    hidden: np.ndarray
    basis: np.ndarray
    pairs: tuple[np.ndarray, np.ndarray]
    bands: list[tuple[slice, slice]]


@dataclass
class Reduced:
    """A strip's softmax, reduced; all of numpy. See :class:`Strip` for what it shares with that.

    ``moments`` (H, r, c): the weights times the rows of ``basis``. ``picked`` (H, p): the weights
    of ``pairs``. ``diagonals``: of each band, (H, diagonals).
    """

    mass: np.ndarray
    peak: np.ndarray
    normaliser: np.ndarray
    entropy: np.ndarray
    columns: np.ndarray
    moments: np.ndarray
    picked: np.ndarray
    link_weights: np.ndarray
    link_keys: np.ndarray
    diagonals: list[np.ndarray]


def _pairs(rows: np.ndarray, first: int, total: int, tokens) -> dict:
    """Name -> (row, key column) of the weights that a summary adds up, by row, which ascends."""
    t = np.arange(len(rows))
    found = {
        "first": (t, 0 * t) if first == 0 else (t[:0], t[:0]),
        "previous": (t, rows - 1 - first),
    }
    if tokens is not None:
        row, col = _earlier_copies(tokens, rows, first, total)
        found |= {"same": (row, col), "induction": (row, col + 1)}
    # Negative columns are keys before the strip's first.
    return {name: (row[col >= 0], col[col >= 0]) for name, (row, col) in found.items()}


def _bands(rows: np.ndarray, first_key: int, width: int, edges) -> list[tuple[slice, slice]]:
    """Of each query bin its rows, and the key columns that they see within the last edge."""
    out = []
    for start, stop in pairwise(np.append(run_starts(rows // width), len(rows))):
        low = max(first_key, int(rows[start]) - int(edges[-1]) + 1)
        out.append(
            (slice(start, stop), slice(low - first_key, int(rows[stop - 1]) + 1 - first_key))
        )
    return out


def _basis(first_key: int, total: int, start: int, marks: dict) -> np.ndarray:
    """What the weights are multiplied with, one row each: key position from ``start``, marks."""
    basis = np.zeros((1 + len(marks), total), np.float32)
    basis[0] = np.arange(first_key - start, first_key - start + total)
    for row, mark in zip(basis[1:], marks.values()):
        part = mark[first_key : first_key + total]
        row[: len(part)] = part
    return basis


def _earlier_copies(tokens, rows, first, total):
    """Pairs (row, key column) where the key is an earlier copy of the row's token, by row.

    Column -1 stands for the key just before the strip's first, whose successor is inside.
    """
    low = max(first - 1, 0)
    keys = tokens[low : min(first + total, int(rows[-1]) + 1)]
    # One flat axis: numpy finds a long row's few hits five times as fast as a matrix's.
    row, col = divmod(np.flatnonzero(tokens[rows][:, None] == keys[None, :]), len(keys))
    earlier = col + low < rows[row]
    return row[earlier], col[earlier] + low - first


def _by_row(picked: np.ndarray, row: np.ndarray, r: int) -> np.ndarray:
    """Weights of pairs added up by row, which ascends: (H, pairs) -> (H, r)."""
    out = np.zeros((len(picked), r), np.float32)
    if len(row):
        starts = run_starts(row)
        out[:, row[starts]] = np.add.reduceat(picked, starts, axis=1)
    return out


def strongest_links(bins_at, peak, wanted: Wanted, xp=np):
    """Each row's largest weight on keys except 0 and the query itself: weights and keys, (H, r).

    It is in one of the two bins that hold those keys, or in the bin with the largest peak of the
    others, so only three bins per row are searched.

    Args:
        bins_at: takes indices of heads, rows and bins, which broadcast, and gives the weights of
            those bins, (..., width)
        peak: (H, r, bins), the largest weight of each bin
        xp: numpy or ``mlx.core``, of which the arrays are
    """
    (heads, r, count), width = peak.shape, wanted.width
    own, every = (wanted.rows - wanted.first_key) // width, np.arange(count)
    special = (every == 0) | (every == own[:, None])
    best = xp.where(xp.array(special), -1.0, peak).argmax(axis=-1).astype(xp.int32)
    own = xp.array(np.broadcast_to(own, (heads, r)).astype(np.int32))
    bins = xp.stack([xp.zeros_like(own), own, best], axis=-1)
    weights = bins_at(xp.arange(heads)[:, None, None], xp.arange(r)[:, None], bins)
    keys = wanted.first_key + width * bins  # the first of each bin
    for excluded in (0, xp.array(wanted.rows)[:, None]):
        weights = xp.where(xp.arange(width) == (excluded - keys)[..., None], -1.0, weights)
    weights = weights.reshape(heads, r, -1)
    at = weights.argmax(axis=-1, keepdims=True)
    largest = xp.take_along_axis(weights, at, axis=-1)[..., 0]
    first = xp.take_along_axis(keys, at // width, axis=-1)[..., 0]
    # A row that sees nothing else has no link.
    return xp.maximum(largest, 0.0), first + at[..., 0] % width
