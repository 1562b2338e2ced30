"""The guard that refuses what would end in swap."""

import pytest

from gemma4_mlx.errors import ContextError
from gemma4_mlx.generation import PromptCache, memory, stream

PROMPT = [2, *range(400, 440)]


def test_the_guard_refuses_before_anything_is_computed(tiny, monkeypatch):
    model, cache = tiny(), PromptCache(tiny())
    monkeypatch.setattr(memory, "free_memory", lambda: memory.RESERVE + 10_000)
    with pytest.raises(ContextError, match=r"GB keys and values.*kv_bits.*memory_guard=False"):
        list(stream(model, PROMPT, cache=cache))
    assert cache.tokens == []
    few = {"options": {"max_tokens": 2}, "cache": cache}
    assert list(stream(model, PROMPT, memory_guard=False, **few))
    monkeypatch.setenv("GEMMA4_MLX_MEMORY_GUARD", "0")
    assert list(stream(model, PROMPT, **few))
    with pytest.raises(ContextError):
        list(stream(model, PROMPT, memory_guard=True, **few))


def test_the_estimate_covers_what_is_used(tiny):
    """Measured against MLX's own count of bytes, for every variant and a quantized cache."""
    import mlx.core as mx

    for variant in ("shared", "moe", "k_eq_v"):
        for bits in (None, 8):
            model, cache = tiny(variant), PromptCache(tiny(variant), kv_bits=bits)
            mx.clear_cache()
            before = mx.get_active_memory()
            need = memory.needed(model, cache, 1500, 256)
            *_, finish = stream(
                model, [5] * 1496, cache=cache, prefill_chunk=256,
                options={"max_tokens": 5, "ignore_eos": True},
            )  # fmt: skip
            used = finish.peak_memory - before
            assert need.weights == 0 and used < need.total < 60 * used
            assert 0.8 * cache.nbytes < need.cache < 3 * cache.nbytes + 2**20


def test_free_memory_is_a_sensible_number():
    assert 2**20 < memory.free_memory() < 2**50
