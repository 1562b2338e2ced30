"""Arrays that grow with the tokens of a run, in memory or in a mapped temporary file."""

import tempfile

import numpy as np

from .room import PREFIX


class TokenBuffer:
    """An array with one axis of tokens, axis 1: (rows, n, ...).

    ``expected`` tokens are allocated at once; beyond that the room doubles. With ``folder`` the
    numbers live in a file there which has no name any more once it is mapped (on systems that
    allow it) and is gone with the array.

    What :meth:`put` stores in a file is written to it, not copied into its mapping: on a full disk
    that is an OSError, where the mapping would end the process.
    """

    def __init__(self, shape: tuple, dtype, expected: int = 0, folder: str | None = None):
        self._shape, self._dtype, self._folder = shape, np.dtype(dtype), folder
        self._data, self._file = self._allocate(max(expected, 64))
        self.n = 0

    def _allocate(self, tokens: int):
        """The array, and the file that it maps."""
        shape = (self._shape[0], tokens, *self._shape[1:])
        if self._folder is None:
            return np.zeros(shape, self._dtype), None
        file = tempfile.TemporaryFile(dir=self._folder, prefix=PREFIX, buffering=0)  # noqa: SIM115
        return np.memmap(file, self._dtype, "w+", shape=shape), file

    def room(self, n: int) -> np.ndarray:
        """The array with room for ``n`` tokens, which count as used from now on."""
        if n > self._data.shape[1]:
            smaller = self.values
            self._data, self._file = self._allocate(max(n, 2 * self._data.shape[1]))
            for row in range(len(smaller)):
                self._store(row, 0, smaller[row])
        self.n = max(self.n, n)
        return self._data

    def put(self, start: int, values: np.ndarray, row: int = 0) -> None:
        """Store values (rows, r, ...) of tokens ``start ..`` in the rows from ``row`` on.

        Raises OSError if they go into a file and its disk is full.
        """
        self.room(start + values.shape[1])
        for i, each in enumerate(values, row):
            self._store(i, start, each)

    def _store(self, row: int, start: int, values: np.ndarray) -> None:
        """Values (r, ...) of one row; they are there, or an OSError is raised."""
        if self._file is None:
            self._data[row, start : start + len(values)] = values
            return
        strides = self._data.strides
        self._file.seek(row * strides[0] + start * strides[1])
        left = np.ascontiguousarray(values, self._dtype).tobytes()
        while left:  # a write may store a part
            left = left[self._file.write(left) :]

    @property
    def values(self) -> np.ndarray:
        """What is in use, (rows, n, ...); a view."""
        return self._data[:, : self.n]
