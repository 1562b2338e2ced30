"""Wired memory: keeps a model's weights resident while it is used.

On Metal, macOS may evict memory that the GPU has not used for a while, and a large model would be
paged in again for every token. So while a model runs, MLX's wired limit is the recommended working
set, as in mlx-lm; on devices without one nothing is changed.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

_lock = threading.Lock()
_users = 0
_limit_before: int | None = None


@contextmanager
def kept_in_place() -> Iterator[None]:
    """Raise MLX's wired limit; the last of several users to leave restores it."""
    global _users, _limit_before
    with _lock:
        if not _users:
            size = mx.device_info().get("max_recommended_working_set_size")
            _limit_before = mx.set_wired_limit(size) if size is not None else None
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users and _limit_before is not None:
                mx.synchronize()
                mx.set_wired_limit(_limit_before)
