"""Pooled attention maps of one layer: exact mass and largest weight per cell, no n x n array.

A cell is ``width`` queries by ``width`` keys. Full layers store a square of cells, sliding layers
only the band their window reaches. Sums are kept, not means, so that cells can be merged exactly:
a map whose final length is unknown starts with narrow cells and doubles their width when full.
"""

import numpy as np

from .visibility import longest_block


def run_starts(values: np.ndarray) -> np.ndarray:
    """Indices at which ascending ``values`` (n > 0,) change, and 0."""
    return np.concatenate([[0], np.flatnonzero(values[1:] > values[:-1]) + 1])


class PooledMap:
    """The map of one layer, filled strip by strip during a traced pass.

    Attributes: ``mass`` (H, bins, columns) float32, weights summed over the cell; ``peak``, the
    cell's largest weight; ``back``: columns in front of the diagonal in a band, None for a square;
    ``statistics`` {name: (H, bins)}, sums over each bin's queries; ``offsets`` (H, bins, cells)
    the same by how far back they look, if any were added.

    ``cells`` False keeps the statistics only.
    """

    def __init__(
        self, heads: int, bins: int, width: int, window: int | None = None, cells: bool = True
    ):
        self.bins, self.width, self.window, self.heads = bins, width, window, heads
        self.cells, self.longest = cells, 0
        self.statistics: dict[str, np.ndarray] = {}
        self.offsets: np.ndarray | None = None
        self.back, columns = self._layout(width)
        self.mass = np.zeros((heads, bins, columns), np.float32)
        self.peak = np.zeros_like(self.mass)

    def _layout(self, width: int) -> tuple[int | None, int]:
        if not self.cells:
            return None, 0
        if self.window is None:
            return None, self.bins
        back = min(-(-(self.window - 1) // width), self.bins - 1)
        ahead = min(-(-max(self.longest - 1, 0) // width), self.bins - 1)
        return back, back + 1 + ahead

    def make_room(self, n: int, blocks=None) -> None:
        """Widen cells until ``n`` tokens fit, and the band until the longest picture block fits."""
        longest = longest_block(blocks)
        if self.cells and self.window is not None and longest > self.longest:
            self.longest = longest
            more = self._layout(self.width)[1] - self.mass.shape[2]
            if more > 0:
                pad = [(0, 0), (0, 0), (0, more)]
                self.mass, self.peak = np.pad(self.mass, pad), np.pad(self.peak, pad)
        while n > self.bins * self.width:
            self._coarsen()

    def _coarsen(self) -> None:
        """Double the width: merge cells two by two in both directions."""
        old_back, rows = self.back, np.arange(self.bins)
        back, columns = self._layout(2 * self.width)
        shape = (self.heads, self.bins, columns)
        mass, peak = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for c in range(self.mass.shape[2]):
            column = np.full_like(rows, c) if old_back is None else rows - old_back + c
            target = column // 2 - (0 if back is None else rows // 2 - back)
            fits = (column >= 0) & (target >= 0) & (target < columns)
            for parity in (0, 1):
                at = rows[fits & (rows % 2 == parity)]
                mass[:, at // 2, target[at]] += self.mass[:, at, c]
                now = peak[:, at // 2, target[at]]
                peak[:, at // 2, target[at]] = np.maximum(now, self.peak[:, at, c])
        half = -(-self.bins // 2)
        for name, sums in self.statistics.items():
            merged = np.zeros_like(sums)
            merged[:, :half] = np.add.reduceat(sums, np.arange(0, self.bins, 2), axis=1)
            self.statistics[name] = merged
        self.width *= 2
        self.back, self.mass, self.peak = back, mass, peak

    def add(
        self, start: int, first_key: int, mass: np.ndarray, peak: np.ndarray, statistics: dict
    ) -> None:
        """Add rows ``start ..``: bins (H, r, nb), bin 0 at key ``first_key``; values (H, r)."""
        rows = np.arange(start, start + mass.shape[1]) // self.width
        edges = run_starts(rows)
        for name, values in statistics.items():
            if name not in self.statistics:
                self.statistics[name] = np.zeros((self.heads, self.bins), np.float32)
            self.statistics[name][:, rows[edges]] += np.add.reduceat(values, edges, axis=1)
        if not self.cells:
            return
        mass = np.add.reduceat(mass, edges, axis=1) if len(edges) < len(rows) else mass
        peak = np.maximum.reduceat(peak, edges, axis=1) if len(edges) < len(rows) else peak
        rows, first = rows[edges], first_key // self.width
        if self.back is None:
            where = (slice(None), slice(rows[0], rows[-1] + 1), slice(first, first + mass.shape[2]))
            self.mass[where] += mass
            np.maximum(self.peak[where], peak, out=self.peak[where])
            return
        for i, row in enumerate(rows):
            slot = first - row + self.back
            low, high = max(0, -slot), min(mass.shape[2], self.mass.shape[2] - slot)
            at = slice(slot + low, slot + high)
            self.mass[:, row, at] += mass[:, i, low:high]
            np.maximum(self.peak[:, row, at], peak[:, i, low:high], out=self.peak[:, row, at])

    def add_offsets(self, start: int, sums: np.ndarray) -> None:
        """Add (H, bins, cells) from the bin of row ``start`` on."""
        if self.offsets is None:
            self.offsets = np.zeros((self.heads, self.bins, sums.shape[2]), np.float32)
        first = start // self.width
        self.offsets[:, first : first + sums.shape[1]] += sums

    def mean_offsets(self, n: int) -> np.ndarray | None:
        """``offsets`` of ``n`` tokens as means over each bin's queries, float16."""
        if self.offsets is None:
            return None
        sizes = bin_sizes(n, self.width)
        return (self.offsets[:, : len(sizes)] / sizes[:, None]).astype(np.float16)

    def trimmed(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Copies of ``mass`` and ``peak`` without the rows and columns beyond ``n`` tokens."""
        used = -(-n // self.width)
        columns = used if self.back is None else self.mass.shape[2]
        return self.mass[:, :used, :columns].copy(), self.peak[:, :used, :columns].copy()

    def sums(self, n: int) -> dict[str, np.ndarray]:
        """The statistics of ``n`` tokens, (H, used bins) each."""
        return {
            name: sums[:, : -(-n // self.width)].copy() for name, sums in self.statistics.items()
        }


def square(cells: np.ndarray, back: int | None) -> np.ndarray:
    """A band's cells (..., R, columns) as a square (..., R, R), zero outside it."""
    if back is None:
        return cells
    rows = cells.shape[-2]
    out = np.zeros((*cells.shape[:-1], rows), cells.dtype)
    r = np.arange(rows)
    for c in range(cells.shape[-1]):
        column = r - back + c
        inside = (column >= 0) & (column < rows)
        out[..., r[inside], column[inside]] = cells[..., r[inside], c]
    return out


def bin_sizes(n: int, width: int) -> np.ndarray:
    """Tokens in each bin: ``width``, but fewer in the last if ``n`` is no multiple."""
    edges = np.minimum(np.arange(0, n + width, width), n)
    return np.diff(edges)
