"""A strip's scores computed and reduced by MLX, all at once."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from ...model.sizes import HIDDEN
from ..data.offsets import diagonals
from .strips import Reduced, Wanted, strongest_links

#: Scores of a strip, enough to keep a GPU busy: with its temporaries about five times as many
#: float32 numbers, 160 MiB. One strip is computed while the one before it is collected.
SCORES = 1 << 23


def ready(q: mx.array, k: mx.array) -> tuple:
    """Queries (H, n, D), transposed keys (kv heads, D, m), and the function that reduces them."""
    return q, k.swapaxes(1, 2), at_once


def at_once(q: mx.array, kt: mx.array, wanted: Wanted) -> Callable[[], Reduced]:
    """Begin all computation; the function that is returned waits for it once."""
    (kv_heads, group, r, D), m = q.shape, kt.shape[2]
    scores = (q.reshape(kv_heads, -1, D) @ kt).reshape(kv_heads * group, r, m)
    unsure = m - wanted.hidden.shape[1]
    scores[..., unsure:] = mx.where(mx.array(wanted.hidden), HIDDEN, scores[..., unsure:])

    top = scores.max(axis=-1, keepdims=True)
    scores = scores - top
    weights = mx.exp(scores)  # relative to the row's largest
    z = weights.sum(axis=-1, keepdims=True)
    dot = (weights * scores).sum(axis=-1, keepdims=True)
    weights = weights / z
    bins = weights.reshape(*weights.shape[:2], -1, wanted.width)
    mass, peak = bins.sum(axis=-1), bins.max(axis=-1)
    rows, columns = map(mx.array, wanted.pairs)
    link_weights, link_keys = strongest_links(lambda *at: bins[at], peak, wanted, mx)
    begun = Reduced(
        mass=mass,
        peak=peak,
        normaliser=(top + mx.log(z))[..., 0],
        entropy=(mx.log(z) - dot / z)[..., 0],
        columns=weights.sum(axis=1),
        moments=weights @ mx.array(wanted.basis.T),
        picked=weights[:, rows, columns],
        link_weights=link_weights,
        link_keys=link_keys,
        diagonals=[diagonals(weights[:, band, seen], mx) for band, seen in wanted.bands],
    )
    mx.async_eval(vars(begun))

    def collected() -> Reduced:
        mx.eval(vars(begun))
        return Reduced(**tree_map(np.array, vars(begun)))

    return collected
