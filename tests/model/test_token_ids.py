"""Ids that do not exist are refused where a user hands them in, and decoding pays nothing."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.nn.utils import value_and_grad

import gemma4_mlx as g4
from gemma4_mlx.errors import GenerationError
from gemma4_mlx.model import ops


@pytest.fixture(scope="module")
def model(checkpoint):
    return g4.load(checkpoint("textonly").folder)


@pytest.mark.parametrize("wrong", [-1, "size", 10**6])
@pytest.mark.parametrize("shape", ["one", "many"])
@pytest.mark.parametrize("kind", [mx.array, list, np.array])
def test_wrong_ids_are_named(model, wrong, shape, kind):
    wrong = model.config.text.vocab_size if wrong == "size" else wrong
    row = [[wrong]] if shape == "one" else [[5, 6, wrong]]
    for cache in (None, model.make_cache()):
        with pytest.raises(GenerationError, match=f"token {wrong} does not exist: ids go from 0"):
            model(kind(row), cache=cache)


@pytest.mark.parametrize("kind", [pytest.param(mx.array, marks=pytest.mark.cpu), list, np.array])
def test_a_wrong_id_behind_a_filled_cache_is_named(model, kind):
    cache, size = model.make_cache(), model.config.text.vocab_size
    after = np.array(model([[5, 6]], cache=cache))
    assert after.shape == (1, 2, size)
    with pytest.raises(GenerationError, match=f"token {size} does not exist: ids go from 0"):
        model(kind([[size]]), cache=cache)
    assert cache[0].offset == 2
    whole = np.array(model([[5, 6, 7]]))[:, -1:]
    assert np.abs(np.array(model(kind([[7]]), cache=cache)) - whole).max() < 1e-5 * whole.max()


def test_the_last_id_exists(model):
    assert model(mx.array([[0, model.config.text.vocab_size - 1]])).shape[1] == 2


def test_a_decoded_token_is_not_waited_for(model, monkeypatch):
    cache = model.make_cache()
    model(mx.array([[5, 6]]), cache=cache)
    monkeypatch.setattr(ops, "on_cpu", lambda: False)
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
