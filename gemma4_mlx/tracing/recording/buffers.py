"""Arrays that grow with the tokens of a run, in memory or in a mapped temporary file."""

import math
import tempfile

import numpy as np

from .room import PREFIX

PAGE = 4096  # bytes; where the next array of a file begins is a multiple


class MappedFile:
    """A temporary file for all arrays of a run, with one memory mapping. One file or mapping per
    array would need a file descriptor each, of which a process has few (256 on macOS).

    The file is unlinked as soon as it is open (on systems that allow it), so it is deleted with the
    last of its arrays. Parts of it cannot be freed earlier.
    """

    def __init__(self, folder: str):
        self._folder, self._file, self._whole, self._size = folder, None, None, 0

    def take(self, nbytes: int) -> int:
        """Reserve zeroed bytes and return their offset. Raises OSError if there is no file."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder, prefix=PREFIX, buffering=0)  # noqa: SIM115
        at = self._size
        self._size += -(-max(nbytes, 1) // PAGE) * PAGE
        self._file.truncate(self._size)
        return at

    def write(self, at: int, data: bytes) -> None:
        """Store bytes through the file, which raises OSError on a full disk; writing to the mapping
        would end the process then."""
        self._file.seek(at)
        while data:  # a write may store a part
            data = data[self._file.write(data) :]

    def array(self, at: int, shape: tuple, dtype: np.dtype) -> np.ndarray:
        """The array at an offset, as a view of the mapping."""
        stop = at + math.prod(shape) * dtype.itemsize
        if self._whole is None or len(self._whole) < stop:
            self._whole = np.memmap(self._file, np.uint8, "r+", shape=(self._size,))
        return self._whole[at:stop].view(dtype).reshape(shape)


class TokenBuffer:
    """An array with one axis of tokens, axis 1: (rows, n, ...).

    Room for ``expected`` tokens is allocated at once and doubled when it is full. With ``file``,
    the array is stored in it.
    """

    def __init__(self, shape: tuple, dtype, expected: int = 0, file: MappedFile | None = None):
        self._dtype, self._file, self.n = np.dtype(dtype), file, 0
        self._allocate((shape[0], max(expected, 64), *shape[1:]))

    def _allocate(self, shape: tuple) -> None:
        self._shape = shape  # with all the room
        if self._file is None:
            self._array = np.zeros(shape, self._dtype)
        else:
            self._at = self._file.take(math.prod(shape) * self._dtype.itemsize)

    def room(self, n: int) -> np.ndarray:
        """The array with room for ``n`` tokens, which count as used from now on."""
        self._make_room(n)
        return self._data

    def _make_room(self, n: int) -> None:
        if n > self._shape[1]:
            smaller = self.values
            self._allocate((self._shape[0], max(n, 2 * self._shape[1]), *self._shape[2:]))
            for row in range(len(smaller)):
                self._store(row, 0, smaller[row])
        self.n = max(self.n, n)

    def put(self, start: int, values: np.ndarray, row: int = 0) -> None:
        """Store values (rows, r, ...) of tokens ``start ..`` in the rows from ``row`` on.

        Raises OSError if they go into a file and its disk is full.
        """
        self._make_room(start + values.shape[1])
        for i, each in enumerate(values, row):
            self._store(i, start, each)

    def pick(self, rows: list[int], file: MappedFile | None) -> "TokenBuffer":
        """A copy of some rows, stored in ``file``. Raises OSError as :meth:`put`."""
        shape, values = self._shape, self.values
        found = TokenBuffer((len(rows), *shape[2:]), self._dtype, shape[1], file)
        found.n = self.n
        for new, row in enumerate(rows):
            found._store(new, 0, values[row])
        return found

    def _store(self, row: int, start: int, values: np.ndarray) -> None:
        """Values (r, ...) of one row."""
        if self._file is None:
            self._array[row, start : start + len(values)] = values
            return
        token = math.prod(self._shape[2:]) * self._dtype.itemsize
        at = self._at + (row * self._shape[1] + start) * token
        self._file.write(at, np.ascontiguousarray(values, self._dtype).tobytes())

    @property
    def _data(self) -> np.ndarray:
        if self._file is None:
            return self._array
        return self._file.array(self._at, self._shape, self._dtype)

    @property
    def values(self) -> np.ndarray:
        """The used part, (rows, n, ...), as a view."""
        return self._data[:, : self.n]
