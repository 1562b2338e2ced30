"""Attention weights by how far back they look."""

import numpy as np

#: Cells in which the traced pass records how far back a sliding layer looks.
OFFSET_BINS = 64


def offset_edges(window: int) -> np.ndarray:
    """Edges of the cells that are recorded of a window: 0 ... window."""
    width = -(-window // OFFSET_BINS)
    return np.minimum(np.arange(-(-window // width) + 1) * width, window)


def records_offsets(window: int, width: int) -> bool:
    """Whether cells of the window are recorded beside an overview in bins of ``width`` tokens: a
    band whose bins are no wider than the cells says as much."""
    return width > -(-window // OFFSET_BINS)


def by_offset(weights: np.ndarray, ahead: int, edges) -> np.ndarray:
    """Weights added up by how far back they look: (H, r, c) -> (H, cells).

    ``edges`` begin at 0. Key column 0 lies ``ahead`` tokens before query row 0.
    """
    return in_cells(diagonals(weights), ahead + weights.shape[1], edges)


def diagonals(weights, xp=np):
    """Sums of each diagonal, (H, r, c) -> (H, c + r - 1); column j holds what looks
    ``ahead + r - 1 - j`` tokens back. ``xp``: numpy or ``mlx.core``, whose array ``weights`` is.
    """
    heads, r, c = weights.shape
    # Rows from the last to the first, each with r zeros behind: read with rows one shorter, row t
    # moves right by its distance from the last, so that a column holds one offset.
    room = xp.zeros((heads, r, r), weights.dtype)
    turned = xp.concatenate([weights[:, ::-1], room], axis=2).reshape(heads, -1)
    return turned[:, : r * (c + r - 1)].reshape(heads, r, -1).sum(axis=1)


def in_cells(sums: np.ndarray, reach: int, edges) -> np.ndarray:
    """Sums of diagonals, the first of which looks ``reach - 1`` back, by cell: (H, cells)."""
    last = min(int(edges[-1]), reach) - 1
    sums = sums[:, reach - 1 - last : reach][:, ::-1]
    out = np.zeros((len(sums), len(edges) - 1), np.float32)
    starts = np.asarray(edges)[:-1]
    starts = starts[starts <= last]
    out[:, : len(starts)] = np.add.reduceat(sums, starts, axis=1)
    return out
