"""The pages of a model kept in place while it is used.

On Metal, macOS may move what a program does not touch out of the GPU's reach, and a model that is
larger than what stays would be fetched again for every token. MLX keeps its arrays where they are
up to a limit (as mlx-lm does, the recommended working set); devices that know none are left alone.
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
    """For as long as anybody is inside; then the limit is again what it was."""
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
