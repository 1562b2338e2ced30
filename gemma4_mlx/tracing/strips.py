"""Exact attention of a strip of queries over all their keys, reduced at once to what is kept.

A strip is a few query rows of every head against every key they may see. Its scores exist only
here, at most a few million numbers at a time; out come, per row and key bin, the exact mass and
the largest weight, the row's log-sum-exp, the exact column sums and the head statistics. So a map
over a whole context costs one more ``Q K^T`` and never holds n x n numbers.

The arithmetic is written once, against the operations numpy and ``mlx.core`` share: ``xp`` is
either module. Observers pass numpy on the CPU (its ``exp`` runs about eight times faster there
than that of MLX's CPU wheel) and MLX on a GPU.
"""

from dataclasses import dataclass

import numpy as np

from .visibility import visible

#: Score of a hidden key. Finite, so that 0 * HIDDEN is 0 and not nan.
HIDDEN = -1e30


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


def score_strip(
    xp, scores, start, first_key, width, *, window=None, blocks=None, tokens=None, marks=None
) -> Strip:
    """Reduce one strip.

    Parameters
    ----------
    xp : numpy or mlx.core, whichever ``scores`` belongs to
    scores : (H, r, m) float32, queries ``start ..`` times keys ``first_key ..``; m is a multiple
        of ``width`` and covers every key these rows see. It is overwritten. What the columns hold
        that stand for no key, or for one the row does not see, is ignored.
    first_key : a multiple of ``width``
    width : keys per bin, counted from position 0
    window, blocks : the layer's geometry, see :mod:`.visibility`
    tokens : (n,) int ids of all tokens so far, for ``same`` and ``induction``; None leaves them out
    marks : {name: (n,) bool}, key sets whose mass is wanted, such as image tokens
    """
    heads, r, total = scores.shape
    rows = np.arange(start, start + r)
    hidden_from = 0 if window is not None else max(0, start - first_key)
    keys = np.arange(first_key + hidden_from, first_key + total)
    seen = _to(xp, visible(rows, keys, window, blocks))
    scores[..., hidden_from:] = xp.where(seen[None], scores[..., hidden_from:], HIDDEN)

    top = scores.max(axis=-1, keepdims=True)
    scores -= top
    weights = xp.exp(scores)  # relative to the row's largest
    mass = weights.reshape(heads, r, -1, width).sum(axis=-1) if width > 1 else weights
    z = mass.sum(axis=-1)  # (H, r)
    peak = scores.reshape(heads, r, -1, width).max(axis=-1) if width > 1 else scores
    basis = _basis(first_key, total, start, marks or {})
    if xp is np:  # without BLAS, whose threads would compete with those of MLX
        dot = np.einsum("hrm,hrm->hr", weights, scores)
        columns = np.einsum("hr,hrm->hm", 1.0 / z, weights)
        moments = [np.einsum("hrm,m->hr", weights, column) for column in basis]
    else:
        dot = (weights * scores).sum(-1)
        columns = ((1.0 / z)[:, None, :] @ weights)[:, 0, :]
        moments = list(xp.moveaxis(weights @ xp.array(basis.T), -1, 0))
    z, mass, peak, dot, top, columns, *moments = _numpy(
        xp, z, mass, peak, dot, top[..., 0], columns, *moments
    )
    own = np.arange(r)
    statistics = {
        "entropy": np.log(z) - dot / z,
        "distance": own - moments[0] / z,
        "first": _numpy(xp, weights[..., 0])[0] / z if first_key == 0 else np.zeros_like(z),
        "previous": _diagonal(xp, weights, rows - 1 - first_key, z),
    }
    if tokens is not None:
        row, col = _earlier_copies(tokens, rows, first_key, total)
        statistics["same"] = _pair_mass(xp, weights, row, col, z)
        statistics["induction"] = _pair_mass(xp, weights, row, col + 1, z)
    for c, name in enumerate(marks or {}, 1):
        statistics[name] = moments[c] / z

    link_scores, link_keys = _strongest_links(xp, scores, peak, rows, first_key, width)
    return Strip(
        start=start,
        first_key=first_key,
        mass=mass / z[..., None],
        peak=np.exp(peak) / z[..., None],
        normaliser=top + np.log(z),
        columns=columns,
        statistics=statistics,
        link_weights=np.exp(link_scores) / z,
        link_keys=link_keys,
    )


def _basis(first_key: int, total: int, start: int, marks: dict) -> np.ndarray:
    """What the weights are multiplied with, one row each: key position from ``start``, marks."""
    basis = np.zeros((1 + len(marks), total), np.float32)
    basis[0] = np.arange(first_key - start, first_key - start + total)
    for row, mark in zip(basis[1:], marks.values()):
        part = mark[first_key : first_key + total]
        row[: len(part)] = part
    return basis


def _to(xp, array):
    return array if xp is np else xp.array(array)


def _numpy(xp, *arrays):
    if xp is np:
        return arrays
    xp.eval(*arrays)
    return tuple(np.array(a) for a in arrays)


def _diagonal(xp, weights, columns, z):
    """Weight of key ``columns[t]`` (negative: none) in row t, as (H, r)."""
    r = len(columns)
    inside = columns >= 0
    rows, cols = np.arange(r)[inside], columns[inside]
    out = np.zeros_like(z)
    if len(rows):
        picked = weights[:, _to(xp, rows), _to(xp, cols)]
        out[:, inside] = _numpy(xp, picked)[0] / z[:, inside]
    return out


def _earlier_copies(tokens, rows, first, total):
    """Pairs (row, key column) where the key is an earlier copy of the row's token, by row.

    Column -1 stands for the key just before the strip's first, whose successor is inside.
    """
    low = max(first - 1, 0)
    keys = tokens[low : min(first + total, int(rows[-1]) + 1)]
    row, col = np.nonzero(tokens[rows][:, None] == keys[None, :])
    earlier = col + low < rows[row]
    return row[earlier], col[earlier] + low - first


def _pair_mass(xp, weights, row, col, z):
    """Sum the weights of pairs (row, column) by row, as (H, r) of mass."""
    heads, r, total = weights.shape
    row, col = row[col >= 0], col[col >= 0]
    out = np.zeros_like(z)
    if not len(row):
        return out
    flat = weights.reshape(heads, r * total)
    picked = _numpy(xp, flat[:, _to(xp, row * total + col)])[0]  # (H, pairs)
    starts = np.flatnonzero(np.r_[True, np.diff(row) > 0])
    out[:, row[starts]] = np.add.reduceat(picked, starts, axis=1)
    return out / z


def _strongest_links(xp, scores, peak, rows, first, width):
    """Each row's largest score but for key 0 and the query itself: scores and keys, (H, r).

    Only the bins that hold an excluded key are reduced again.
    """
    heads, r, _ = peak.shape
    best = peak.copy()
    t = np.arange(r)
    h = np.arange(heads)[:, None, None]

    def linkable(bins):
        """Positions and scores of bins (H | 1, r), the excluded keys hidden: (H, r, width)."""
        columns = bins[..., None] * width + np.arange(width)
        picked = scores[_to(xp, h), _to(xp, t[None, :, None]), _to(xp, columns)]
        keys = columns + first
        return keys, np.where(
            (keys == rows[None, :, None]) | (keys == 0), HIDDEN, _numpy(xp, picked)[0]
        )

    if first == 0:
        best[:, :, 0] = linkable(np.zeros((1, r), np.int64))[1].max(axis=-1)
    own = (rows - first) // width
    best[:, t, own] = linkable(own[None, :])[1].max(axis=-1)
    keys, near = linkable(best.argmax(axis=-1))
    keys = np.broadcast_to(keys, near.shape)
    return near.max(axis=-1), np.take_along_axis(keys, near.argmax(-1)[..., None], -1)[..., 0]
