"""Arrays that grow with the tokens of a run, in memory or in a mapped temporary file."""

import tempfile

import numpy as np

from .room import PREFIX


class TokenBuffer:
    """An array with one axis of tokens, axis 1: (rows, n, ...).

    ``expected`` tokens are allocated at once; beyond that the room doubles. With ``folder`` the
    numbers live in a file there which has no name any more once it is mapped (on systems that
    allow it) and is gone with the array.
    """

    def __init__(self, shape: tuple, dtype, expected: int = 0, folder: str | None = None):
        self._shape, self._dtype, self._folder = shape, np.dtype(dtype), folder
        self._data = self._allocate(max(expected, 64))
        self.n = 0

    def _allocate(self, tokens: int) -> np.ndarray:
        shape = (self._shape[0], tokens, *self._shape[1:])
        if self._folder is None:
            return np.zeros(shape, self._dtype)
        with tempfile.TemporaryFile(dir=self._folder, prefix=PREFIX) as file:
            return np.memmap(file, self._dtype, "w+", shape=shape)

    def room(self, n: int) -> np.ndarray:
        """The array with room for ``n`` tokens, which count as used from now on."""
        if n > self._data.shape[1]:
            larger = self._allocate(max(n, 2 * self._data.shape[1]))
            larger[:, : self.n] = self._data[:, : self.n]
            self._data = larger
        self.n = max(self.n, n)
        return self._data

    def put(self, start: int, values: np.ndarray) -> None:
        """Store values (rows, r, ...) of tokens ``start ..``."""
        self.room(start + values.shape[1])[:, start : start + values.shape[1]] = values

    @property
    def values(self) -> np.ndarray:
        """What is in use, (rows, n, ...); a view."""
        return self._data[:, : self.n]
