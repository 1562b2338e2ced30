"""Ids that do not exist are refused where a user hands them in, and decoding pays nothing."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.nn.utils import value_and_grad

import gemma4_mlx as g4
from gemma4_mlx.errors import GenerationError


@pytest.fixture(scope="module")
def model(checkpoint):
    return g4.load(checkpoint("textonly").folder)


@pytest.mark.parametrize("wrong", [-1, "size", 10**6])
@pytest.mark.parametrize("shape", ["one", "many"])
def test_wrong_ids_are_named(model, wrong, shape):
    wrong = model.config.text.vocab_size if wrong == "size" else wrong
    row = [[wrong]] if shape == "one" else [[5, 6, wrong]]
    for cache in (None, model.make_cache()):
        with pytest.raises(GenerationError, match=f"token {wrong} does not exist: ids go from 0"):
            model(mx.array(row), cache=cache)


def test_the_last_id_exists(model):
    assert model(mx.array([[0, model.config.text.vocab_size - 1]])).shape[1] == 2


def test_a_decoded_token_is_not_waited_for(model, monkeypatch):
    cache = model.make_cache()
    model(mx.array([[5, 6]]), cache=cache)
    monkeypatch.setattr(model, "_check_ids", lambda tokens: pytest.fail("looked at the token"))
    model(mx.array([[7]]), cache=cache)


def test_training_and_compiling_still_work(model):
    """mlx-lm's tuner compiles its step with the batch as an argument."""
    ids = mx.array([[5, 6, 7, 8]])
    compiled = mx.compile(lambda tokens: model(tokens))
    plain = np.array(model(ids))
    # Attention is NumPy's in one and MLX's in the other: logits of 12 differ in their last bits.
    assert np.abs(np.array(compiled(ids)) - plain).max() < 2e-6 * np.abs(plain).max()
    loss, _ = value_and_grad(model, lambda model, tokens: model(tokens).sum())(model, ids)
    assert np.isfinite(loss.item())
