"""Answers to the course's exercises, compared without being shown."""

from numbers import Real

import numpy as np


def verdict(answer, right, within: float = 0.0) -> str:
    """What a cell says of a learner's answer.

    Args:
        answer: the learner's; None if there is none yet.
        right: the right one, or a function that says whether an answer is right.
        within: by how much of ``right`` a number may differ from it, as a share.

    >>> verdict(None, 4), verdict(4.1, 4, within=0.05), verdict([2, 1], {1, 2}), verdict("no", 4)
    ('No answer yet.', 'Right.', 'Right.', 'Not yet.')
    """
    if answer is None:
        return "No answer yet."
    try:
        return "Right." if _same(answer, right, within) else "Not yet."
    except (TypeError, ValueError):  # of another kind altogether
        return "Not yet."


def _same(answer, right, within: float) -> bool:
    if callable(right):
        return bool(right(answer))
    if isinstance(right, set | frozenset):
        return set(answer) == set(right)
    if isinstance(right, Real):
        return bool(np.isclose(float(answer), float(right), rtol=within, atol=1e-9))
    return bool(answer == right)
