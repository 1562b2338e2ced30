"""Writes lists of indices as ranges, for messages."""

from collections.abc import Iterable


def ranges(indices: Iterable[int]) -> str:
    """(0, 1, 2, 3, 5, 6) -> "0 to 3, 5, 6"."""
    runs: list[list[int]] = []
    for i in sorted(indices):
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    parts = [f"{a} to {b}" if b > a + 1 else f"{a}, {b}" if b > a else f"{a}" for a, b in runs]
    return ", ".join(parts)
