"""Sampling options and the sampler."""

import json
import math

import mlx.core as mx
import numpy as np
import pytest

from gemma4_mlx.errors import GenerationError
from gemma4_mlx.generation import SamplingOptions
from gemma4_mlx.generation.sampling import (
    ROW,
    keep_top_p,
    likeliest,
    make_processors,
    make_sampler,
    token_key,
)


def test_defaults_come_from_generation_config():
    read = SamplingOptions.from_generation_config
    released = {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 64,
        "top_p": 0.95,
        "bos_token_id": 2,
    }
    options = read(released | {"suppress_tokens": [258883, 258882]})
    assert (options.temperature, options.top_k, options.top_p) == (1.0, 64, 0.95)
    assert options.suppress_tokens == (258883, 258882) and not options.greedy
    assert read({"do_sample": False, "temperature": 0.7}).greedy and read(None).greedy
    assert read({"do_sample": True}).temperature == 1.0
    changed = read(released, temperature=0.2, stop="END", seed=7)
    assert (changed.temperature, changed.top_k, changed.stop) == (0.2, 64, ("END",))


def test_the_released_files_are_read(reference_dir):
    for file in sorted(reference_dir.glob("generation_config_*.json")):
        options = SamplingOptions.from_generation_config(json.loads(file.read_text()))
        assert (options.temperature, options.top_k, options.top_p) == (1.0, 64, 0.95)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temprature": 1}, "Unknown sampling option 'temprature'. Did you mean 'temperature'"),
        ({"foo": 1}, "Known are: temperature, top_p"),
        ({"temperature": -1}, "temperature must be a number 0 or more, not -1"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p must be greater than 0"),
        ({"top_p": 1.2}, "top_p must be a number 0 to 1, not 1.2"),
        ({"top_k": 2.5}, "top_k must be a whole number"),
        ({"min_p": -0.1}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"max_tokens": 0}, "max_tokens must be a whole number 1 or more, not 0"),
        ({"max_tokens": True}, "max_tokens"),
        ({"seed": -1}, "seed"),
        ({"stop": [""]}, "non-empty"),
        ({"stop": [3]}, "non-empty strings"),
        ({"stop_tokens": ["x"]}, "token ids"),
        ({"stop_tokens": 2.5}, "token ids, not 2.5"),
        ({"logit_bias": [5]}, "logit_bias must be a dict of token ids to numbers"),
        ({"logit_bias": {"the": 1}}, "logit_bias must hold token ids, not 'the'"),
        ({"logit_bias": {-1: 1}}, "logit_bias must hold token ids"),
        ({"logit_bias": {5: "1"}}, "logit_bias of 5 must be a number, not '1'"),
        ({"logit_bias": {5: math.nan}}, "logit_bias of 5"),
    ],
)
def test_wrong_options_are_named(wrong, message):
    with pytest.raises(GenerationError, match=message.replace(".", r"\.")):
        SamplingOptions().override(**wrong)


@pytest.mark.parametrize(
    ("name", "value"), [("suppress_tokens", [64]), ("stop_tokens", 64), ("logit_bias", {64: 5})]
)
def test_ids_beyond_the_vocabulary_are_named(name, value):
    with pytest.raises(GenerationError, match=f"{name} holds 64"):
        make_processors(SamplingOptions(**{name: value}), 64)


def test_a_file_may_suppress_a_single_token():
    assert SamplingOptions.from_generation_config({"suppress_tokens": 5}).suppress_tokens == (5,)


@pytest.mark.parametrize("size", [64, 7 * ROW, 40 * ROW, 40 * ROW + 1])
@pytest.mark.parametrize("k", [1, 3, 20, 40])
@pytest.mark.parametrize("steps", [0, 3])
def test_the_likeliest_in_the_order_of_likelihood(size, k, steps):
    """Of equal ones, many where numbers are coarse, the lowest id comes first."""
    logits = np.random.default_rng(size + k).normal(size=size).astype(np.float32)
    if steps:
        logits = np.round(logits * steps) / steps
        logits[::5] = -np.inf
    expected = np.argsort(-logits, kind="stable")[:k]
    assert np.array_equal(likeliest(mx.array(logits)[None], k)[0], expected)


LOGITS = mx.random.normal((1, 64), key=mx.random.key(3)) * 3


def draws(options, count=2000):
    sample, _ = make_sampler(SamplingOptions(seed=1).override(**options), 64)
    return np.array(mx.concatenate([sample(LOGITS, i, None) for i in range(count)]))


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"temperature": 0.5},
        {"temperature": 1.0, "top_k": 5},
        {"temperature": 1.0, "top_p": 0.7},
        {"temperature": 1.0, "min_p": 0.2},
        {"temperature": 2.0, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
    ],
    ids=str,
)
def test_draws_follow_the_distribution_transformers_defines(options):
    """Against transformers' own definition, in numpy: temperature, top-k, top-p, min-p in turn."""
    scores = np.array(LOGITS[0], np.float64) / options["temperature"]
    if k := options.get("top_k"):
        scores[scores < np.sort(scores)[-k]] = -np.inf
    if (p := options.get("top_p", 1)) < 1:
        order = np.argsort(scores)
        mass = np.cumsum(np.exp(scores[order]) / np.exp(scores).sum())
        drop = order[:-1][mass[:-1] <= 1 - p]
        scores[drop] = -np.inf
    if m := options.get("min_p"):
        scores[scores < scores.max() + np.log(m)] = -np.inf
    wanted = np.exp(scores) / np.exp(scores).sum()
    got = np.bincount(draws(options), minlength=64) / 2000
    assert set(np.flatnonzero(got)) <= set(np.flatnonzero(wanted))
    assert np.abs(got - wanted).sum() < 0.16


def test_truncation_agrees_with_mlx_lms_samplers():
    from mlx_lm.sample_utils import apply_top_p

    logprobs = LOGITS - mx.logsumexp(LOGITS)
    for p in (0.1, 0.5, 0.9, 0.99):
        assert mx.array_equal(keep_top_p(logprobs, p) > -mx.inf, apply_top_p(logprobs, p) > -mx.inf)


def test_greedy_and_seeds():
    assert set(draws({}, 5)) == {int(mx.argmax(LOGITS))}
    assert set(draws({"temperature": 1.0, "top_k": 1}, 5)) == {int(mx.argmax(LOGITS))}
    one, same, other = (draws({"temperature": 1.0, "seed": s}, 200) for s in (5, 5, 6))
    assert (one == same).all() and (one != other).any()
    assert (draws({"temperature": 1.0, "seed": 5}, 200)[1:] != other[:-1]).any()
    drawn = [make_sampler(SamplingOptions(temperature=1.0), 64)[1] for _ in range(2)]
    assert drawn[0] != drawn[1], "without a seed, each generation draws its own"


def test_processors():
    options = SamplingOptions(
        suppress_tokens=[3, 4], logit_bias={7: 5.0}, repetition_penalty=2.0, presence_penalty=1.0
    )
    logits, tokens = mx.ones((1, 64)), mx.array([9, 9, 10])
    for process in make_processors(options, 64):
        logits = process(tokens, logits)
    got = np.array(logits[0])
    assert np.isneginf(got[[3, 4]]).all() and got[7] == 6 and got[8] == 1
    assert got[9] == got[10] == -0.5
    assert make_processors(SamplingOptions(), 64) == []


def test_a_seed_gives_the_same_answer_in_every_version():
    """Conversations are saved with their seeds. Worked out once, with Python's integers."""
    known = {
        (0, 0): (0x6DB6CA64, 0x564DAEAA),
        (0, 1): (0x6CA8AE76, 0x3E8E2D74),
        (1, 0): (0x5CC60547, 0x776902BA),
        (12345, 678): (0xEC91817C, 0xCD6FAFDF),
    }
    assert {at: tuple(token_key(*at).tolist()) for at in known} == known
