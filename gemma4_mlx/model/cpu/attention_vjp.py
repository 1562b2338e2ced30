"""The derivative of attention on MLX's CPU backend, in NumPy, block by block in place.

As in Dao, "FlashAttention-2" (2023), section 3.1.2: with each query's normaliser from the forward
pass a block of weights is computed again where it is needed, and never kept.
"""

from collections.abc import Callable

import mlx.core as mx
import numpy as np

from . import attention


def attention_vjp(
    q: mx.array, k: mx.array, v: mx.array, mask: mx.array | str | None
) -> tuple[mx.array, Callable]:
    """:func:`.attention.attention`'s output, and a function that makes of a derivative by it those
    by q, k and v. All float32, evaluated here."""
    mask = attention.as_array(mask, q.shape[2])
    q, k, v = (np.asarray(x) for x in (q, k, v))
    out, normalisers = attention.with_normalisers(q, k, v, mask)

    def derivatives(d_out: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        d_out = np.asarray(d_out)
        # What a softmax's derivative subtracts: sum_j w_j (d_out . v_j) = d_out . out.
        means = np.einsum("bhnd,bhnd->bhn", d_out, out)[..., None]
        dq, dk, dv = (np.zeros(x.shape, np.float32) for x in (q, k, v))
        rows = q, d_out, normalisers, means, dq
        for at, hidden, *own in attention.by_kv_head(k, mask, *rows):
            _one_head(k[at], v[at], hidden, *own, dk[at], dv[at])
        return mx.array(dq), mx.array(dk), mx.array(dv)

    return mx.array(out), derivatives


def _one_head(
    k: np.ndarray,
    v: np.ndarray,
    hidden: np.ndarray | None,
    q: np.ndarray,
    d_out: np.ndarray,
    normalisers: np.ndarray,
    means: np.ndarray,
    dq: np.ndarray,
    dk: np.ndarray,
    dv: np.ndarray,
) -> None:
    """Adds to dq (r * n, D), the query heads of one kv head, and to its dk and dv (m, D)."""
    m = len(k)
    first = m if hidden is None else m - hidden.shape[1]  # key from which ``hidden`` counts
    rows, columns = attention.block_sides(len(q), m)
    buffers = np.empty((2, rows * columns), np.float32)
    for i in range(0, len(q), rows):
        some = slice(i, min(i + rows, len(q)))
        for j in range(0, m, columns):
            keys, hides = slice(j, min(j + columns, m)), None
            if keys.stop > first:
                queries = np.arange(some.start, some.stop) % len(hidden)
                hides = hidden[queries, max(j - first, 0) : keys.stop - first]
                if j >= first and hides.all():
                    continue
            shape = some.stop - i, keys.stop - j
            w, ds = (b[: shape[0] * shape[1]].reshape(shape) for b in buffers)
            np.matmul(q[some], k[keys].T, out=w)
            w -= normalisers[some]
            np.maximum(w, attention.FADED, out=w)
            np.exp(w, out=w)  # the weights
            if hides is not None:
                np.copyto(w[:, max(first - j, 0) :], 0, where=hides)
            dv[keys] += w.T @ d_out[some]
            np.matmul(d_out[some], v[keys].T, out=ds)
            ds -= means[some]
            ds *= w  # derivative by the scores
            dq[some] += ds @ k[keys]
            dk[keys] += ds.T @ q[some]
