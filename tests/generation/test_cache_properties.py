"""Random lives of a prompt cache: whatever happens to it, it holds what a fresh run computes."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemma4_mlx.generation import PromptCache, Token, stream

tokens = st.lists(st.integers(371, 2000), min_size=1, max_size=40)
steps = st.one_of(
    st.tuples(st.just("read"), tokens, st.sampled_from([1, 7, 64])),  # prefill, in such chunks
    st.tuples(st.just("decode"), st.integers(1, 25)),
    st.tuples(st.just("rewind"), st.floats(0, 1)),
    st.tuples(st.just("edit"), st.floats(0, 1), tokens),
    st.just(("save",)),
    st.just(("fork",)),
)
PROBE = 777


@pytest.mark.parametrize("variant", ["small", pytest.param("moe", marks=pytest.mark.slow)])
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(lived=st.lists(steps, min_size=3, max_size=8))
def test_any_life_equals_a_fresh_run(tiny, tmp_path, variant, lived):
    model = tiny(variant)
    cache, known = PromptCache(model, snapshot_every=24), [2]
    forks = []
    for step, *rest in lived:
        if step == "read":
            known = [*known, *rest[0]]
            run(model, known, cache, 1, prefill_chunk=rest[1])
        elif step == "decode":
            known += run(model, known, cache, rest[0])
        elif step == "rewind":
            position = int(rest[0] * len(cache))
            assert position >= cache.rewind(position) == len(cache)
            known = known[: max(1, len(cache))]
        elif step == "edit":
            known = [*known[: max(1, int(rest[0] * len(known)))], *rest[1]]
            run(model, known, cache, 1)
        elif step == "save":
            cache.save(tmp_path / "cache")
            cache = PromptCache.load(tmp_path / "cache", model)
        else:
            forks.append((cache, list(cache.tokens)))
            cache = cache.fork()
        check(model, cache)
        assert cache.tokens == known[: len(cache)]
    for original, held in forks:  # what was done to a fork left the original alone
        assert original.tokens == held
        check(model, original)


def run(model, prompt, cache, count, **options):
    """Generate ``count`` tokens, checked against a run without a cache."""
    sampling = {"max_tokens": count, "ignore_eos": True}
    got, fresh = (
        [
            event.id
            for event in stream(model, prompt, options=sampling, cache=held, **options)
            if isinstance(event, Token)
        ]
        for held in (cache, None)
    )
    assert got == fresh and len(got) == count
    return got


def check(model, cache):
    """One more token behind the cache gives the logits that reading everything gives."""
    assert {entry.offset for entry in cache.entries} == {len(cache.tokens)}
    behind = model(mx.array([[PROBE]]), cache.fork().entries)[0, -1]
    fresh = model(mx.array([[*cache.tokens, PROBE]]))[0, -1]
    np.testing.assert_allclose(np.array(behind), np.array(fresh), atol=5e-5)
