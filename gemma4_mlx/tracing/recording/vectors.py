"""Queries and keys of one layer, collected call by call as the model computes them."""

import mlx.core as mx
import numpy as np

from ...errors import TraceError
from ..data.layer_attention import Vectors
from .buffers import MappedFile, TokenBuffer

#: How retained 16- and 32-bit values are stored.
_STORED = {mx.float32: np.float32, mx.float16: np.float16, mx.bfloat16: np.uint16}
_EVERYTHING = slice(0, 1 << 62)


class VectorStore:
    """Keeps the queries of some heads, and the keys, of some tokens.

    Args:
        heads: which heads' queries; ``all_heads`` is how many the layer has
        expected: tokens to make room for, 0 if unknown
        file: where they go; None: in memory
        queries, keys: spans of tokens whose queries and keys are kept; ``keys`` None: no keys
    """

    def __init__(
        self,
        heads: tuple[int, ...],
        all_heads: int,
        expected: int,
        file: MappedFile | None = None,
        queries: slice = _EVERYTHING,
        keys: slice | None = _EVERYTHING,
    ):
        self.heads, self._all, self._expected, self._file = heads, all_heads, expected, file
        self._query_span, self._key_span = queries, keys
        self._queries = self._keys = None
        self.dtype = "float32"

    def put(self, q: mx.array, k: mx.array, start: int, n: int) -> None:
        """One call's queries (all heads, n, D) of tokens ``start ..``, and keys (kv heads, m, D),
        of which the last n are new. Both evaluated.

        Raises TraceError for a type that cannot be kept, OSError where the disk is full.
        """
        if self._queries is None:
            self._begin(q, k)
        low, high = _overlap(self._query_span, start, n)
        if low < high and self.heads:
            q = q[:, low - start : high - start]
            if len(self.heads) < self._all:
                q = q[mx.array(self.heads)]
            self._queries.put(low - self._query_span.start, _stored(q))
        if self._keys is None:
            return
        low, high = _overlap(self._key_span, start, n)
        if low < high:
            first = k.shape[1] - n - start
            k = k[:, first + low : first + high]
            self._keys.put(low - self._key_span.start, _stored(k))

    def _begin(self, q, k) -> None:
        if q.dtype not in _STORED:
            raise TraceError(f"queries of type {q.dtype} cannot be retained")
        self.dtype = str(q.dtype).removeprefix("mlx.core.")
        stored = _STORED[q.dtype]
        room = (stored, self._expected, self._file)
        self._queries = TokenBuffer((len(self.heads), q.shape[2]), *room)
        if self._key_span is not None:
            length = self._key_span.stop - self._key_span.start
            expected = self._expected if self._key_span is _EVERYTHING else length
            self._keys = TokenBuffer((k.shape[0], k.shape[2]), stored, expected, self._file)

    @property
    def queries(self) -> np.ndarray | None:
        """(heads, n, D) so far."""
        return None if self._queries is None else self._queries.values

    @property
    def keys(self) -> np.ndarray | None:
        """(kv heads, n, D) so far."""
        return None if self._keys is None else self._keys.values

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in (self.queries, self.keys) if array is not None)

    def keep(self, heads: tuple[int, ...], keys: bool, file: MappedFile | None = None) -> None:
        """Keep the queries of these heads only, and the keys only if ``keys``, stored in ``file``.

        Raises OSError where the disk is full.
        """
        self._queries = self._queries.pick([self.heads.index(head) for head in heads], file)
        self.heads, self._file = heads, file
        if not keys:
            self._keys = self._key_span = None
        elif self._keys is not None and file is not None:
            self._keys = self._keys.pick(list(range(len(self._keys.values))), file)

    def vectors(self) -> Vectors:
        return Vectors(
            self.heads,
            self.queries,
            self.keys,
            self.dtype,
            self._query_span.start,
            self._key_span.start,
        )


def _overlap(span: slice, start: int, n: int) -> tuple[int, int]:
    return max(span.start, start), min(span.stop, start + n)


def _stored(x: mx.array) -> np.ndarray:
    """As a numpy array; bfloat16, which numpy lacks, as its 16 bits."""
    return np.array(x.view(mx.uint16) if x.dtype == mx.bfloat16 else x)
