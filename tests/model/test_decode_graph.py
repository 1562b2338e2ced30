"""One decoded token is no more operations for a GPU than mlx-lm's."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import decode_graph


@pytest.mark.parametrize("name", decode_graph.MODELS)
def test_a_decoded_token_takes_no_more_operations_than_mlx_lms(name):
    operations, _ = decode_graph.measured(name, repeat=1)
    assert operations["ours"] <= operations["mlx-lm"]
