"""Loads and lifts of all experts by groups of tokens, as ``static/experts.js`` reads them."""

from __future__ import annotations

import numpy as np

NO_PURPOSE = 255


def group_table(found, purpose: np.ndarray | None = None) -> tuple[dict, bytes]:
    """How many tokens of each group went to each expert: (layers, groups, E) uint16, uint32 or
    float64, whichever holds them; then (layers, E) uint8, the group that each expert is for (255:
    none).

    The load of an expert is its count over all groups, over the number of tokens.

    Args:
        found: a ``tracing.data.specialisation.Specialisation``
        purpose: (layers, E) index of a group or -1; None takes that of ``found``
    """
    most = int(found.counts.max(initial=0))
    kind = "<u2" if most < 2**16 else "<u4" if most < 2**32 else "<f8"
    purpose = found.purpose if purpose is None else purpose
    groups = [
        {"name": name, "tokens": int(count)}
        for name, count in zip(found.groups.names, found.groups.tokens)
    ]
    content = {"by": found.groups.by, "n": int(found.groups.tokens.sum()), "groups": groups}
    content["bytes"] = int(kind[-1])
    codes = np.where(purpose < 0, NO_PURPOSE, np.minimum(purpose, NO_PURPOSE)).astype(np.uint8)
    return content, found.counts.astype(kind).tobytes() + codes.tobytes()


def clearest(found, words: np.ndarray | None = None) -> tuple[int, int]:
    """The row of the layer with most experts that are for something, and the clearest of them: the
    highest squared logarithm of the lift times load. ``words`` (groups,): which may name it."""
    purpose = found.purpose
    row = int((purpose >= 0).sum(axis=1).argmax())
    clear = np.log2(np.maximum(np.nan_to_num(found.lift[row]), 1)) ** 2 * found.load[row]
    clear = np.take_along_axis(clear, np.maximum(purpose[row], 0)[None], axis=0)[0]
    clear[purpose[row] < 0] = -1
    if words is not None:
        clear[~words[purpose[row]]] = -1
    return row, int(clear.argmax())
