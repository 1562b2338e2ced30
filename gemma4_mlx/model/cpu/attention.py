"""Attention on MLX's CPU backend.

That backend's exponential takes about 15 ns an element on x86: in a picture's attention the softmax
took twice as long as both matrix products. NumPy's takes 0.5 ns and works in place, so that a block
of scores stays in the processor's cache: a picture's attention and a prompt's are left to it.
"""

import math
from collections.abc import Iterator
from functools import partial

import mlx.core as mx
import numpy as np

from ..sizes import HIDDEN
from .activations import LOG2_E, SAFE, exp2, worked_out_in_numpy

#: From how many keys on the softmax for a single query is better done with :func:`exp2`.
KEYS = 1536
#: Scores further below their row's largest are raised to this. Even all of a long context's add
#: nothing to a float32 sum, but with their own exponentials, which are subnormal numbers, products
#: take thirty times as long.
FADED = -60.0
#: Queries and keys of a block of scores: a megabyte.
_ROWS, _COLUMNS = 512, 512


def attention(
    q: mx.array, k: mx.array, v: mx.array, mask: mx.array | str | None = None
) -> mx.array:
    """softmax(q k^T) v with scale 1 for grouped queries, float32.

    Args:
        q: (B, heads, n, D). k, v: (B, kv heads, m, D).
        mask: bool (1 or B, 1, n, c) for the *last* c keys; the m - c before are seen by all
            queries. "causal": query i sees all but the last n - 1 - i keys. None: every key is
            seen.

    NumPy computes it, block by block in place: a block's scores stay in the processor's cache,
    and its exponential, maximum and sum cost a third of MLX's. A single query, which MLX is
    faster at, is left to it. Every query must see some key.
    """
    n, m = q.shape[2], k.shape[2]
    if n == 1 and mask is None and m < KEYS:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=1.0)
    mask = as_array(mask, n)
    plain = partial(_mlx_attention, mask=mask)
    if n == 1:
        return plain(q, k, v)
    return worked_out_in_numpy(plain)(lambda *values: with_normalisers(*values, mask)[0])(q, k, v)


def as_array(mask: mx.array | str | None, n: int) -> mx.array | None:
    """A mask of n queries, where it is "causal" as an array for their own n keys."""
    return (mx.arange(n) <= mx.arange(n)[:, None])[None, None] if isinstance(mask, str) else mask


def with_normalisers(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: mx.array | None
) -> tuple[np.ndarray, np.ndarray]:
    """The output (B, heads, n, D), and for each query the logarithm of the sum of its scores'
    exponentials (B, heads, n, 1)."""
    out, normalisers = np.empty(q.shape, np.float32), np.empty((*q.shape[:3], 1), np.float32)
    for at, hidden, *rows in by_kv_head(k, mask, q, out, normalisers):
        _one_head(rows[0], k[at], v[at], hidden, *rows[1:])
    return out, normalisers


def by_kv_head(k: np.ndarray, mask: mx.array | None, *queries: np.ndarray) -> Iterator[tuple]:
    """For each kv head of k (B, kv heads, m, D): its index (b, g); which of the last c keys each of
    its n queries does not see, (n, c) or None; and of ``queries``, arrays (B, heads, n, ...), the
    rows of its r query heads, (r * n, ...)."""
    hidden = None if mask is None else ~np.asarray(mask)[:, 0]
    B, groups = k.shape[:2]
    rows = [x.reshape(B, groups, -1, x.shape[-1]) for x in queries]
    for b in range(B):
        hides = None if hidden is None else hidden[min(b, len(hidden) - 1)]
        for g in range(groups):
            yield (b, g), hides, *(x[b, g] for x in rows)


def block_sides(rows: int, columns: int) -> tuple[int, int]:
    """Sides of blocks of nearly one size that stay in the processor's cache."""
    return tuple(-(-n // -(-n // most)) for n, most in ((rows, _ROWS), (columns, _COLUMNS)))


def _one_head(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    hidden: np.ndarray | None,
    out: np.ndarray,
    normalisers: np.ndarray,
) -> None:
    """Attention of q (r * n, D), the query heads of one kv head, to k and v (m, D) into ``out``.
    ``hidden`` (n, c) tells which of the last c keys each of the n queries does not see."""
    m = len(k)
    first = m if hidden is None else m - hidden.shape[1]  # key from which ``hidden`` counts
    # No score is larger than |q| |k|, which norms keep small.
    safe = longest(q) * longest(k) <= SAFE
    rows, columns = block_sides(len(q), m)
    scores = np.empty(rows * columns, np.float32)
    for i in range(0, len(q), rows):
        some = q[i : i + rows]
        peak = np.full((len(some), 1), HIDDEN, np.float32)
        total, y = np.zeros_like(peak), np.zeros_like(some)
        for j in range(0, m, columns):
            end = min(j + columns, m)
            if end > first:
                queries = np.arange(i, i + len(some)) % len(hidden)
                hides = hidden[queries, max(j - first, 0) : end - first]
                if j >= first and hides.all():
                    continue
            w = scores[: len(some) * (end - j)].reshape(len(some), -1)
            np.matmul(some, k[j:end].T, out=w)
            if end > first:
                np.copyto(w[:, max(first - j, 0) :], HIDDEN, where=hides)
            if not safe:  # against the largest score so far
                before, peak = peak, np.maximum(peak, w.max(axis=-1, keepdims=True))
                w -= peak
                np.maximum(w, FADED, out=w)
                shrink = np.exp(before - peak)
                total *= shrink
                y *= shrink
            np.exp(w, out=w)
            total += w.sum(axis=-1, keepdims=True)
            y += w @ v[j:end]
        np.divide(y, total, out=out[i : i + rows])
        np.log(total, out=total)
        np.add(total, 0 if safe else peak, out=normalisers[i : i + rows])


def longest(x: np.ndarray) -> float:
    """Length of the longest of the vectors (..., D)."""
    return math.sqrt(np.einsum("...d,...d->...", x, x).max())


def _mlx_attention(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None) -> mx.array:
    B, heads, n, D = q.shape
    groups, m = k.shape[1:3]
    q = (q * LOG2_E).reshape(B, groups, heads // groups * n, D)
    k = k.swapaxes(-1, -2)
    first = m if mask is None else m - mask.shape[-1]  # key from which the mask counts
    parts = []
    if first:
        parts.append((q @ k[..., :first], v[:, :, :first]))
    if first < m:
        x = (q @ k[..., first:]).reshape(B, groups, heads // groups, n, m - first)
        x = mx.where(mask[:, :, None], x, -mx.inf)
        parts.append((x.reshape(*q.shape[:3], m - first), v[:, :, first:]))
    peak = parts[0][0].max(axis=-1, keepdims=True)
    if len(parts) > 1:
        peak = mx.maximum(peak, parts[1][0].max(axis=-1, keepdims=True))
    peak = mx.stop_gradient(peak)  # a softmax does not change with it
    weights = [exp2(x - peak) for x, _ in parts]
    total = sum(w.sum(axis=-1, keepdims=True) for w in weights)
    y = sum(w @ values for w, (_, values) in zip(weights, parts))
    return (y / total).reshape(B, heads, n, D)
