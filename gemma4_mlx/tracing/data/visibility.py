"""Which keys a query may look at, in numpy.

Key ``j`` is visible to query ``i`` if ``j <= i``, or both lie in one picture (bidirectional
blocks, sliding layers of models with ``use_bidirectional_attention: "vision"``), and, in sliding
layers, if ``j > i - window``. This is the rule of transformers' ``masking_utils.py``.
"""

import numpy as np


def visible(queries, keys, window: int | None = None, blocks=None) -> np.ndarray:
    """Visibility of ``keys`` (c,) for ``queries`` (r,), absolute positions: bool (r, c).

    ``blocks`` (n,) int gives each position's block, negative outside any. Keys beyond the end of
    ``blocks`` (padding of a last bin) and negative ones are never visible.
    """
    i = np.asarray(queries)[:, None]
    j = np.asarray(keys)[None, :]
    seen = j <= i
    if blocks is not None:
        mine = _block_at(blocks, i)
        seen = seen | ((mine == _block_at(blocks, j)) & (mine >= 0))
    if window is not None:
        seen = seen & (j > i - window)
    return seen & (j >= 0)


def _block_at(blocks, positions):
    inside = (positions >= 0) & (positions < len(blocks))
    return np.where(inside, blocks[np.clip(positions, 0, len(blocks) - 1)], -1)


def key_range(start: int, stop: int, window: int | None = None, blocks=None) -> tuple[int, int]:
    """The smallest ``(low, high)`` such that queries ``start..stop-1`` see only ``low..high-1``."""
    low = 0 if window is None else max(0, start - window + 1)
    high = stop
    if blocks is not None and stop > start and stop <= len(blocks):
        last = blocks[stop - 1]
        while last >= 0 and high < len(blocks) and blocks[high] == last:
            high += 1
    return low, high


def longest_block(blocks) -> int:
    """Positions in the longest block; 0 without any."""
    if blocks is None or not len(blocks) or not (np.asarray(blocks) >= 0).any():
        return 0
    ids = np.asarray(blocks)
    edges = np.flatnonzero(np.diff(ids)) + 1
    runs = np.split(ids, edges)
    return max((len(run) for run in runs if run[0] >= 0), default=0)
