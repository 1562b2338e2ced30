"""A little of ``python tests/fuzz`` in every run, and that it sees what it is there for."""

import random
import sys
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))

import mutate
from targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_input_is_read_or_refused(name, tmp_path):
    target = TARGETS[name]
    for number in range(25):
        _, call = target.case(random.Random(f"{name} {number}"), tmp_path)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                call()
        except target.allowed:
            pass
        except Exception as error:
            pytest.fail(f"python tests/fuzz {name} --case {number}: {error!r}")


@pytest.mark.parametrize("name", TARGETS)
def test_a_case_is_the_same_every_time(name, tmp_path):
    first, again, other = (
        TARGETS[name].case(random.Random(f"{name} {number}"), tmp_path)[0] for number in (7, 7, 8)
    )
    assert repr(first) == repr(again) != repr(other)


def test_most_of_what_is_made_is_damaged():
    sample, rng = bytes(range(256)) * 4, random.Random(0)
    assert sum(mutate.damaged(rng, sample) != sample for _ in range(200)) > 180
    tree = {"a": [1, {"b": "c"}], "d": None}
    assert sum(mutate.changed(rng, tree) != tree for _ in range(200)) > 180
    assert tree == {"a": [1, {"b": "c"}], "d": None}, "the sample itself stays whole"
