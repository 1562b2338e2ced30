"""Attention weights by offset: how many tokens before the query the key lies."""

import numpy as np

#: Cells into which the traced pass divides a sliding layer's window.
OFFSET_BINS = 64


def offset_edges(window: int) -> np.ndarray:
    """Edges of the cells of a window, from 0 to ``window``."""
    width = -(-window // OFFSET_BINS)
    return np.minimum(np.arange(-(-window // width) + 1) * width, window)


def records_offsets(window: int, width: int) -> bool:
    """Whether offsets are recorded beside an overview in bins of ``width`` tokens. If these are no
    wider than the cells of :func:`offset_edges`, the overview is as fine."""
    return width > -(-window // OFFSET_BINS)


def by_offset(weights: np.ndarray, ahead: int, edges) -> np.ndarray:
    """Weights summed by offset: (H, r, c) -> (H, cells).

    ``edges`` begin at 0. Key column 0 lies ``ahead`` tokens before query row 0.
    """
    return in_cells(diagonals(weights), ahead + weights.shape[1], edges)


def diagonals(weights, xp=np):
    """Sums of each diagonal, (H, r, c) -> (H, c + r - 1). If key column 0 lies ``ahead`` tokens
    before query row 0, sum j is of offset ``ahead + r - 1 - j``. ``xp``: numpy or ``mlx.core``, the
    library of ``weights``.
    """
    heads, r, c = weights.shape
    # Reverse the rows, append r zeros to each, and reshape to rows that are one shorter: the t-th
    # row then starts t places further right, so that each column holds one offset.
    room = xp.zeros((heads, r, r), weights.dtype)
    turned = xp.concatenate([weights[:, ::-1], room], axis=2).reshape(heads, -1)
    return turned[:, : r * (c + r - 1)].reshape(heads, r, -1).sum(axis=1)


def in_cells(sums: np.ndarray, reach: int, edges) -> np.ndarray:
    """Sums of diagonals, the first of which has offset ``reach - 1``, merged to (H, cells)."""
    last = min(int(edges[-1]), reach) - 1
    sums = sums[:, reach - 1 - last : reach][:, ::-1]
    out = np.zeros((len(sums), len(edges) - 1), np.float32)
    starts = np.asarray(edges)[:-1]
    starts = starts[starts <= last]
    out[:, : len(starts)] = np.add.reduceat(sums, starts, axis=1)
    return out
