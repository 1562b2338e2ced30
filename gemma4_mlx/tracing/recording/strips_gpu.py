"""A strip's scores computed and reduced by MLX, all at once."""

import mlx.core as mx
import numpy as np

from ...model.sizes import HIDDEN
from .strips import Reduced

#: Scores held at once, enough to keep a GPU busy: with its temporaries about five times as many
#: float32 numbers, 160 MiB.
SCORES = 1 << 23


def ready(q: mx.array, k: mx.array) -> tuple:
    """Queries (H, n, D), transposed keys (kv heads, D, m), and what reduces them."""
    return q, k.swapaxes(1, 2), at_once


def at_once(q: mx.array, kt: mx.array, hidden: np.ndarray, width: int, basis) -> Reduced:
    """``hidden`` (r, c): which of the last c keys a row does not see."""
    (kv_heads, group, r, D), m = q.shape, kt.shape[2]
    scores = (q.reshape(kv_heads, -1, D) @ kt).reshape(kv_heads * group, r, m)
    unsure = m - hidden.shape[1]
    scores[..., unsure:] = mx.where(mx.array(hidden), HIDDEN, scores[..., unsure:])

    top = scores.max(axis=-1, keepdims=True)
    scores = scores - top
    weights = mx.exp(scores)  # relative to the row's largest
    bins = weights.reshape(*weights.shape[:2], -1, width)
    mass, peak = bins.sum(axis=-1), bins.max(axis=-1)
    z = mass.sum(axis=-1, keepdims=True)
    columns = ((1.0 / z).swapaxes(1, 2) @ weights)[:, 0]
    dot, moments = (weights * scores).sum(axis=-1, keepdims=True), weights @ mx.array(basis.T)
    total = z
    z, mass, peak, columns, moments, dot, top = _numpy(z, mass, peak, columns, moments, dot, top)
    return Reduced(
        mass=mass / z,
        peak=peak / z,
        normaliser=(top + np.log(z))[..., 0],
        entropy=(np.log(z) - dot / z)[..., 0],
        columns=columns,
        moments=moments / z,
        weights_at=lambda h, t, c: _numpy(weights[_mlx(h), _mlx(t), _mlx(c)])[0] / z[h, t, 0],
        bins_at=lambda h, t, b: _numpy(bins[_mlx(h), _mlx(t), _mlx(b)])[0] / z[h, t],
        block=lambda rows, columns: weights[:, rows, columns] / total[:, rows],
    )


def _numpy(*arrays: mx.array) -> tuple[np.ndarray, ...]:
    mx.eval(*arrays)
    return tuple(np.array(a) for a in arrays)


def _mlx(indices) -> mx.array:
    return mx.array(np.asarray(indices))
