"""Computing a few rows at a time, and waiting for them. MLX's CPU backend claims the memory of
everything that it has been asked for before it begins to compute, so blocks that are not waited for
need as much as no blocks.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

#: Rows of a block, about, of layers that treat each row by itself. So few also stay in the cache.
ROWS = 256
#: Bytes of freed buffers that MLX keeps at hand while a tower works. Without a limit they came to
#: as much as the tower itself needs, and made it no faster. The widest buffer of a 30 s clip,
#: 12 MB, must fit, or the system clears its pages for every use.
SPARE = 16_000_000


@contextmanager
def few_spare_buffers() -> Iterator[None]:
    """A small limit to MLX's cache of buffers."""
    before = mx.set_cache_limit(SPARE)
    try:
        yield
    finally:
        mx.set_cache_limit(before)
