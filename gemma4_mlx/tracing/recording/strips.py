"""Exact attention of a strip of queries over all their keys, reduced at once to what is kept.

A strip is a few query rows of every head against every key they may see. Its scores exist only
here, at most a few million numbers at a time; out come, per row and key bin, the exact mass and
the largest weight, the row's log-sum-exp, the exact column sums and the head statistics. So a map
over a whole context costs one more ``Q K^T`` and never holds n x n numbers.

Scores are computed and reduced by :mod:`.strips_gpu` or :mod:`.strips_cpu`; what both do is here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..data.maps import run_starts
from ..data.offsets import by_offset
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
) -> Strip:
    """Reduce one strip.

    Parameters
    ----------
    reduce : computes and reduces the scores: ``reduce(q, kt, hidden, width, basis)``, from
        ``ready`` of :mod:`.strips_gpu` or :mod:`.strips_cpu`, as are ``q`` and ``kt``
    q : (kv heads, g, r, D) float32, queries ``start ..``; g query heads share a kv head's keys
    kt : (kv heads, D, m) float32, keys ``first_key ..``; m is a multiple of ``width`` and covers
        every key these rows see. What stands for no key, or for one a row does not see, is
        ignored
    first_key : a multiple of ``width``
    width : keys per bin, counted from position 0
    window, blocks : the layer's geometry, see :mod:`.visibility`
    tokens : (n,) int ids of all tokens so far, for ``same`` and ``induction``; None leaves them
        out. Equal ids are copies of one token: give soft tokens each its own
    marks : {name: (n,) bool}, key sets whose mass is wanted, such as image tokens
    offset_edges : cells of the window in which offsets are added up, None for none
    """
    (kv_heads, group, r, _), total = q.shape, kt.shape[2]
    rows, shape = np.arange(start, start + r), (kv_heads * group, r)
    unsure = 0 if window is not None else max(0, start - first_key)  # all rows see what is before
    hidden = ~visible(rows, np.arange(first_key + unsure, first_key + total), window, blocks)
    basis = _basis(first_key, total, start, marks or {})
    reduced = reduce(q, kt, hidden, width, basis)

    heads, own, at = np.arange(shape[0])[:, None], np.arange(r), reduced.weights_at
    statistics = {
        "entropy": reduced.entropy,
        "distance": own - reduced.moments[..., 0],
        "first": at(heads, own, 0 * own) if first_key == 0 else np.zeros(shape, np.float32),
        "previous": _pair_mass(at, shape, own, rows - 1 - first_key),
    }
    if tokens is not None:
        row, col = _earlier_copies(tokens, rows, first_key, total)
        statistics["same"] = _pair_mass(at, shape, row, col)
        statistics["induction"] = _pair_mass(at, shape, row, col + 1)
    for c, name in enumerate(marks or {}, 1):
        statistics[name] = reduced.moments[..., c]

    link_weights, link_keys = _strongest_links(
        reduced.bins_at, reduced.peak, rows, first_key, width
    )
    return Strip(
        start=start,
        first_key=first_key,
        mass=reduced.mass,
        peak=reduced.peak,
        normaliser=reduced.normaliser,
        columns=reduced.columns,
        statistics=statistics,
        link_weights=link_weights,
        link_keys=link_keys,
        offsets=None
        if offset_edges is None
        else _offsets(reduced.block, rows, first_key, width, offset_edges),
    )


def _offsets(block, rows: np.ndarray, first_key: int, width: int, edges) -> np.ndarray:
    """The weights of each query bin's rows by how far back they look: (H, bins, cells)."""
    cuts = np.append(run_starts(rows // width), len(rows))
    out = []
    for start, stop in pairwise(cuts):
        low = max(first_key, int(rows[start]) - int(edges[-1]) + 1)
        columns = slice(low - first_key, int(rows[stop - 1]) + 1 - first_key)
        out.append(by_offset(block(slice(start, stop), columns), int(rows[start]) - low, edges))
    return np.stack(out, axis=1)


@dataclass
class Reduced:
    """A strip's softmax, reduced; all of numpy. See :class:`Strip` for what it shares with that.

    ``moments`` (H, r, c): the weights times the rows of ``basis`` (c, m). ``weights_at`` takes
    indices of heads, rows and columns, which broadcast, and gives those weights; ``bins_at`` those
    of whole bins, (..., width), in the columns' place. ``block`` gives the weights of a slice of
    rows and one of columns, (H, r, c), still of MLX where that computed them.
    """

    mass: np.ndarray
    peak: np.ndarray
    normaliser: np.ndarray
    entropy: np.ndarray
    columns: np.ndarray
    moments: np.ndarray
    weights_at: Callable
    bins_at: Callable
    block: Callable


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


def _pair_mass(weights_at, shape, row, col):
    """Sum the weights of pairs (row, column) by row, as ``shape`` (H, r); row ascends, and
    negative columns are outside."""
    row, col = row[col >= 0], col[col >= 0]
    out = np.zeros(shape, np.float32)
    if len(row):
        picked = weights_at(np.arange(shape[0])[:, None], row, col)  # (H, pairs)
        starts = run_starts(row)
        out[:, row[starts]] = np.add.reduceat(picked, starts, axis=1)
    return out


def _strongest_links(bins_at, peak, rows, first, width):
    """Each row's largest weight but for key 0 and the query itself: weights and keys, (H, r).

    It lies in a bin that holds one of those two, or is the largest of the other bins.
    """
    heads, r, _ = peak.shape
    t, own, others = np.arange(r), (rows - first) // width, peak.copy()
    others[:, t, own] = -1.0
    others[:, :, 0] = -1.0
    bins = np.zeros((heads, r, 3), np.int64)
    bins[..., 1], bins[..., 2] = own, others.argmax(axis=-1)
    near = bins_at(np.arange(heads)[:, None, None], t[:, None], bins)
    for key in (0, rows[:, None]):
        offset = key - first - bins * width
        at = np.nonzero((offset >= 0) & (offset < width))
        near[*at, offset[at]] = -1.0
    chosen = near.reshape(heads, r, -1).argmax(axis=-1)
    at = np.arange(heads)[:, None], t, chosen // width, chosen % width
    largest = near[at].clip(0)  # a row that sees nothing else has no link
    return largest, first + bins[at[:3]] * width + at[3]
