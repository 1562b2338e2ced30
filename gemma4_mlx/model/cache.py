"""Keys and values kept between calls.

Both kinds speak mlx-lm's cache protocol and add three things that Gemma 4's sliding layers make
necessary: ``rewind`` to an earlier position, and ``snapshot``/``restore`` of what a sliding layer
needs to go on from a position that has left its window.

A sliding layer keeps the last ``window - 1 + SLACK`` keys in temporal order, so stepping back by
up to SLACK tokens is free; going further back needs a snapshot, which costs ``window - 1`` keys
and values a layer, and one more for each further position that it is to serve.
"""

from collections.abc import Sequence

import mlx.core as mx

from .sizes import SLACK, STEP


class _KVCache:
    """A buffer of keys and values (B, kv heads, capacity, D), the first ``_end`` in use.

    Attributes:
        offset: absolute position of the next token.
        left_padding: (B,) int32 padding tokens in front of each row, or None.
        expected: tokens that there must be room for once the buffer grows, see :func:`expect`.
    """

    def __init__(self, left_padding: Sequence[int] | None = None):
        self.keys = self.values = None
        self.offset = 0
        self._end = self.expected = 0
        self.left_padding = None
        if left_padding is not None and any(left_padding):
            self.left_padding = mx.array(left_padding, dtype=mx.int32)
            mx.eval(self.left_padding)

    def _append(self, keys: mx.array, values: mx.array) -> None:
        n = keys.shape[2]
        if self.keys is None or self._end + n > self.keys.shape[2]:
            self._make_room(keys, values)
        self.keys[..., self._end : self._end + n, :] = keys
        self.values[..., self._end : self._end + n, :] = values
        self._end += n
        self.offset += n

    def _make_room(self, keys: mx.array, values: mx.array) -> None:
        keep = self._keep_on_growth()
        room = max(keys.shape[2], STEP if keys.shape[2] == 1 else 0, self.expected - self._end)

        def grow(buffer, new):
            empty = mx.zeros((*new.shape[:2], room, new.shape[3]), dtype=new.dtype)
            if not keep:
                return empty
            return mx.concatenate([buffer[..., self._end - keep : self._end, :], empty], axis=2)

        self.keys, self.values = grow(self.keys, keys), grow(self.values, values)
        self._end = keep

    def _keep_on_growth(self) -> int:
        return self._end

    def _last(self, count: int) -> tuple[mx.array, mx.array]:
        first = self._end - count
        return self.keys[..., first : self._end, :], self.values[..., first : self._end, :]

    @property
    def state(self):
        """What must be evaluated, saved and restored: [keys, values], or [] while empty."""
        return list(self._last(self._end)) if self.keys is not None else []

    @state.setter
    def state(self, state):
        self.keys, self.values = state if state else (None, None)
        self._end = self.keys.shape[2] if state else 0

    @property
    def meta_state(self):
        return (str(self.offset),)

    @meta_state.setter
    def meta_state(self, meta):
        self.offset = int(meta[0])

    @property
    def nbytes(self) -> int:
        return 0 if self.keys is None else self.keys.nbytes + self.values.nbytes

    def size(self) -> int:
        return self._end

    def empty(self) -> bool:
        return self.keys is None

    def is_trimmable(self) -> bool:
        return True

    def can_rewind(self, position: int) -> bool:
        return 0 <= position <= self.offset

    def rewind(self, position: int) -> bool:
        """Forget everything from ``position`` on; False, and no change, where impossible."""
        if not self.can_rewind(position):
            return False
        self._end -= self.offset - position
        self.offset = position
        return True

    def trim(self, n: int) -> int:
        """mlx-lm's name for stepping back: returns how many tokens were dropped, n or 0."""
        n = min(n, self.offset)
        return n if self.rewind(self.offset - n) else 0


class FullKVCache(_KVCache):
    """Keys and values of every token, for a full-attention layer."""

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append (B, kv heads, n, D) and return all keys and values, (B, kv heads, m, D)."""
        self._append(keys, values)
        return self._last(self._end)

    def snapshot(self) -> None:
        """A full cache needs none: it rewinds to anywhere."""
        return None


def expect(cache: Sequence, tokens: int) -> None:
    """Have the full layers of a cache make room for so many tokens at once: the sequence will have
    them, and a buffer that grew chunk by chunk would be copied each time."""
    for entry in cache:
        if isinstance(entry, FullKVCache):
            entry.expected = tokens


class SlidingKVCache(_KVCache):
    """The last keys and values of a sliding-window layer, oldest first."""

    def __init__(self, window: int, left_padding: Sequence[int] | None = None):
        super().__init__(left_padding)
        self.window = window

    def _keep_on_growth(self) -> int:
        return min(self._end, self.window - 1 + SLACK)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append (B, kv heads, n, D); return the keys that some new token sees, new ones last."""
        self._append(keys, values)
        return self._last(min(self._end, self.window - 1 + keys.shape[2]))

    def can_rewind(self, position: int) -> bool:
        first = self.offset - self._end  # position of the oldest key that is still here
        needed = max(0, position - (self.window - 1))
        return 0 <= position <= self.offset and (first <= needed)

    def snapshot(self) -> dict:
        """A copy of what going on from here needs: the last ``window - 1`` keys and values."""
        return self.stretch(self.offset, self.offset)

    def stretch(self, first: int, last: int, before: dict | None = None) -> dict | None:
        """A copy of what going on from any position of ``first`` to ``last`` needs: the keys and
        values from ``window - 1`` tokens before ``first`` on.

        Args:
            before: an earlier copy, for what has left this cache since.

        Returns None if the cache has dropped some of them and ``before`` has not got them either.
        """
        start, here = max(0, first - (self.window - 1)), self.offset - self._end
        parts = []
        if start < here:
            if before is None or not before["state"]:
                return None
            end = before["offset"]
            origin = end - before["state"][0].shape[2]
            if not (origin <= start <= end and end >= min(here, last)):
                return None
            cut = slice(start - origin, min(end, last) - origin)
            parts.append([x[..., cut, :] for x in before["state"]])
            start = min(end, last)
        if start < last:
            cut = slice(start - here, last - here)
            parts.append([x[..., cut, :] for x in (self.keys, self.values)])
        joined = [mx.contiguous(mx.concatenate(x, axis=2)) for x in zip(*parts)]
        return {"offset": last, "state": joined}

    def restore(self, snapshot: dict) -> None:
        self.state = list(snapshot["state"])
        self.offset = snapshot["offset"]

    @property
    def meta_state(self):
        return (str(self.offset), str(self.window))

    @meta_state.setter
    def meta_state(self, meta):
        self.offset, self.window = int(meta[0]), int(meta[1])


def rewind(caches: Sequence, position: int) -> bool:
    """Rewind all layers' caches (mlx-lm's own kinds included) to ``position``, or none of them."""
    if not all(
        cache.can_rewind(position) if isinstance(cache, _KVCache) else cache.is_trimmable()
        for cache in caches
    ):
        return False
    for cache in caches:
        cache.trim(cache.offset - position)
    return True
