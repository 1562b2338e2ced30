"""Attention whose scores are changed for some queries and keys, as interventions ask for.

An intervention puts :class:`ScoreChange` objects into the ``changes`` of the geometry at the tap
"queries" of a layer. Once that layer has attended as ever, :func:`attend_changed` computes the
changed queries of the changed heads again; all others keep what they have, to the bit. Without
changes nothing of this runs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from .sizes import LEAST_ROWS, block_rows

#: Which of the positions start ... stop - 1 are meant: bool (stop - start,).
Positions = Callable[[int, int], np.ndarray]


@dataclass(frozen=True, eq=False)
class ScoreChange:
    """What some queries of some heads add to their scores of some keys.

    Attributes:
        heads: the query heads.
        queries, keys: which positions.
        amount: in nats; the weight before the softmax's normalisation is multiplied by its
            exponential. -inf hides the keys.
    """

    heads: tuple[int, ...]
    queries: Positions
    keys: Positions
    amount: float


def attend_changed(out: mx.array, q: mx.array, k: mx.array, v: mx.array, geometry) -> mx.array:
    """What heads output, ``out`` (B, heads, n, D), with the ``changes`` of the geometry made.

    Args:
        q, k, v, geometry: as of :func:`.attention.attend`.

    A query to which all keys are hidden reads nothing: its output is zero.
    """
    start, heads = geometry.query_start, q.shape[1]
    touched = np.zeros((heads, geometry.n), bool)
    for change in geometry.changes:
        touched[list(change.heads)] |= change.queries(start, start + geometry.n)
    rows = np.flatnonzero(touched.any(axis=0))
    if not len(rows):
        return out
    # Whole groups of heads, so that a group's keys and values are taken once.
    group = heads // k.shape[1]
    kv = np.flatnonzero(touched.reshape(-1, group * geometry.n).any(axis=1))
    chosen = (kv[:, None] * group + np.arange(group)).ravel()
    if len(kv) < k.shape[1]:
        k, v = k[:, mx.array(kv)], v[:, mx.array(kv)]
    at = mx.array(chosen)[:, None], mx.array(rows)[None]
    some = q[:, at[0], at[1]]  # (B, chosen, r, D)
    size = block_rows(geometry.m, some[:, :, 0].size // q.shape[3] * geometry.m * 4, False)
    if geometry.window is not None:
        size = min(size, max(geometry.window, LEAST_ROWS))
    blocks = []
    for i in range(0, len(rows), size):
        block, queries = rows[i : i + size], some[:, :, i : i + size]
        keys = geometry.reached(int(block[0]), int(block[-1]) + 1)
        mask, blind = _mask(geometry, block, keys, chosen, q.dtype)
        y = mx.fast.scaled_dot_product_attention(
            queries, k[:, :, keys], v[:, :, keys], scale=1.0, mask=mask
        )
        blocks.append(mx.where(blind, 0, y).astype(out.dtype))
    new = blocks[0] if len(blocks) == 1 else mx.concatenate(blocks, axis=2)
    new = mx.where(mx.array(touched[chosen][:, rows])[..., None], new, out[:, at[0], at[1]])
    if new.shape == out.shape:
        return new
    out = mx.array(out)  # what was attended stays as it is
    out[:, at[0], at[1]] = new
    return out


def _mask(
    geometry, rows: np.ndarray, keys: slice, heads: np.ndarray, dtype: mx.Dtype
) -> tuple[mx.array, mx.array]:
    """What is added to the scores of some rows and keys, (1 or B, heads, r, c), and which rows see
    nothing, (1 or B, heads, r, 1): their mask hides nothing, so that their softmax is a number."""
    seen = geometry.mask(rows, keys)
    added = mx.zeros((1, len(heads), len(rows), keys.stop - keys.start))
    first = geometry.query_start
    for change in geometry.changes:
        of_rows = change.queries(first + int(rows[0]), first + int(rows[-1]) + 1)[rows - rows[0]]
        of_keys = change.keys(geometry.key_start + keys.start, geometry.key_start + keys.stop)
        of_heads = np.isin(heads, change.heads)
        here = mx.array(of_heads[:, None] & of_rows)[..., None] & mx.array(of_keys)
        added = mx.where(here, added + change.amount, added)
    added = mx.where(seen, added, -mx.inf)
    blind = added.max(axis=-1, keepdims=True) == -mx.inf
    return mx.where(blind, 0, added).astype(dtype), blind
