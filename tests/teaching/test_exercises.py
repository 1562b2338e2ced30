"""Answers to exercises are compared by value, whatever shape they come in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma4_mlx.teaching.exercises import verdict

RIGHT, WRONG, NONE = "Right.", "Not yet.", "No answer yet."


@given(st.floats(0.01, 1e6), st.floats(0.001, 0.2))
def test_a_number_may_be_off_by_a_share(right, within):
    for sign in (-1, 1):
        assert verdict(right * (1 + sign * 0.9 * within), right, within=within) == RIGHT
        assert verdict(right * (1 + sign * 1.2 * within), right, within=within) == WRONG
    assert verdict(np.float32(right), right, within=1e-5) == RIGHT


@pytest.mark.parametrize(
    ("answer", "right", "said"),
    [
        ((5, 3), {3, 5}, RIGHT),
        ([3, 4], {3, 5}, WRONG),
        (3, {3, 5}, WRONG),
        (None, {3}, NONE),
        (7, lambda x: x > 6, RIGHT),
        ("7", lambda x: x > 6, WRONG),
        ("many", 7, WRONG),
        ("red", "red", RIGHT),
        ([1, 2], [1, 2], RIGHT),
    ],
)
def test_other_answers(answer, right, said):
    assert verdict(answer, right) == said
