"""Arrays that must have values now."""

from collections.abc import Callable

import mlx.core as mx


def evaluated(*arrays: mx.array, by: Callable = mx.eval) -> bool:
    """Compute ``arrays``; False inside mx.compile and mx.vmap, where there are no values yet."""
    try:
        by(*arrays)
    except (RuntimeError, ValueError) as error:
        if "transformation" not in str(error):
            raise
        return False
    return True
