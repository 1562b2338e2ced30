"""Doing work a few rows at a time, so that what lies between stays small.

Linear layers, norms and activations treat each row (a patch) by itself. In blocks of
rows their results are the same, and the wide intermediates of a 10,080-patch picture need a few
megabytes in place of hundreds. On the CPU backend such blocks also stay in the cache.
"""

from collections.abc import Callable
from contextlib import contextmanager

import mlx.core as mx

#: Rows of a block, about. A GPU wants more work at once.
ROWS_CPU = 256
ROWS_GPU = 4096
#: Bytes of freed buffers that MLX keeps at hand on the CPU backend while a tower works. Without a
#: limit they came to as much as the tower itself needs, and made it no faster. The widest
#: buffer of a 30 s clip, 12 MB, must fit, or the system clears its pages for every use.
SPARE_CPU = 16_000_000


def settled(x, everywhere: bool = False):
    """``x``, on the CPU backend (or ``everywhere``) computed now.

    That backend claims memory for everything it has been asked for before it begins to compute:
    blocks that are not waited for need as much as no blocks. A GPU's command buffers are bounded,
    though not small.
    """
    if everywhere or mx.default_device() == mx.cpu:
        evaluated(x)
    return x


def evaluated(*arrays) -> bool:
    """Compute ``arrays``; False inside mx.compile and mx.vmap, where there are no values yet."""
    try:
        mx.eval(*arrays)
    except (RuntimeError, ValueError) as error:
        if "transformations" not in str(error):
            raise
        return False
    return True


@contextmanager
def few_spare_buffers():
    """On the CPU backend, a small limit to MLX's cache of buffers; also usable as a decorator."""
    if mx.default_device() != mx.cpu:
        yield
        return
    before = mx.set_cache_limit(SPARE_CPU)
    try:
        yield
    finally:
        mx.set_cache_limit(before)


def by_rows(
    function: Callable, *arrays: mx.array, axis: int = 0
) -> mx.array | tuple[mx.array, ...]:
    """``function(*arrays)``, computed in blocks of rows and joined.

    ``arrays`` have the same number of rows (axis 0), as have the results of ``function``, one
    array or a tuple, along ``axis``.
    """
    n = arrays[0].shape[0]
    blocks = round(n / (ROWS_CPU if mx.default_device() == mx.cpu else ROWS_GPU))
    if blocks <= 1:
        return function(*arrays)
    # All of nearly one size: a last block of a few rows would read every weight for little.
    rows = -(-n // blocks)
    parts = [settled(function(*(a[i : i + rows] for a in arrays))) for i in range(0, n, rows)]
    if isinstance(parts[0], mx.array):
        return mx.concatenate(parts, axis)
    return tuple(mx.concatenate(part, axis) for part in zip(*parts))
