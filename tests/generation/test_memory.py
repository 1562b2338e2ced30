"""The guard that refuses what would end in swap."""

import mlx.core as mx
import pytest

from gemma4_mlx.checkpoints.planner import activation_bytes, fit
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


@pytest.mark.parametrize("kv_bits", [None, 8])
@pytest.mark.parametrize(("length", "chunk"), [(600, 2048), (1500, 256)])
def test_the_estimate_is_what_a_generation_needs(teaching, kv_bits, length, chunk):
    """The guard's figure is the planner's, and it is at least the measured peak (MLX's own count
    of bytes) and at most 1.75 times that."""
    cache = PromptCache(teaching, kv_bits=kv_bits)
    mx.eval(teaching.parameters())
    mx.clear_cache()
    before = mx.get_active_memory()
    need = memory.needed(teaching, cache, length + 3, chunk)
    *_, finish = stream(
        teaching, [400 + i % 900 for i in range(length)], cache=cache, prefill_chunk=chunk,
        options={"max_tokens": 4, "ignore_eos": True},
    )  # fmt: skip
    used = finish.peak_memory - before
    assert need.weights == 0 and used < need.total < 1.75 * used
    plan = fit(teaching, context=length + 3, kv_bits=kv_bits, chunk=chunk)
    snapshots = cache.snapshot_bytes_at(length + 3)
    assert need.cache == sum(plan.cache.values()) + snapshots
    assert need.activations == plan.activations
    assert plan.machine.itemsize != teaching.dtype.size or used < plan.total


@pytest.mark.parametrize("cpu", [False, True])
def test_the_guard_counts_scores_as_the_device_keeps_them(tiny, monkeypatch, cpu):
    model = tiny()
    monkeypatch.setattr(memory, "on_cpu", lambda: cpu)
    need = memory.needed(model, PromptCache(model), 100_000, 2048)
    planned = activation_bytes(model.config.text, 100_000, model.dtype.size, on_cpu=cpu)
    assert need.activations == planned


def test_experts_and_shared_layers_are_counted(tiny):
    for variant in ("shared", "moe", "k_eq_v"):
        model, cache = tiny(variant), PromptCache(tiny(variant))
        mx.clear_cache()
        before = mx.get_active_memory()
        need = memory.needed(model, cache, 1500, 256)
        *_, finish = stream(
            model, [405] * 1496, cache=cache, prefill_chunk=256,
            options={"max_tokens": 5, "ignore_eos": True},
        )  # fmt: skip
        assert finish.peak_memory - before < need.total < 2 * (finish.peak_memory - before)


def test_an_open_answer_ends_where_memory_does(tiny, monkeypatch):
    model, open_end = tiny(), {"max_tokens": None, "ignore_eos": True}
    cache = PromptCache(model)
    room = memory.needed(model, cache, len(PROMPT) + 20, 2048).total
    monkeypatch.setattr(memory, "free_memory", lambda: memory.RESERVE + room)
    *_, finish = stream(model, PROMPT, cache=cache, options=open_end)
    assert finish.reason == "memory" and 20 <= finish.generated_tokens < 30
    with pytest.raises(ContextError):  # what is asked for must fit
        list(stream(model, PROMPT, options={"max_tokens": 4000}))
    tight = memory.needed(model, PromptCache(model), len(PROMPT) - 1, 2048).total
    monkeypatch.setattr(memory, "free_memory", lambda: memory.RESERVE + tight)
    with pytest.raises(ContextError):  # and the prompt
        list(stream(model, PROMPT, cache=PromptCache(model), options=open_end))


def test_a_generation_leaves_others_what_they_asked_for(tiny, monkeypatch):
    model = tiny()
    first, second = PromptCache(model), PromptCache(model)
    need = memory.needed(model, first, 2000, 2048)
    monkeypatch.setattr(memory, "free_memory", lambda: memory.RESERVE + need.total)
    memory.check_memory(model, second, 2000, 2000, 2048)
    with memory.under_way(model, first, 2000, 2048), pytest.raises(ContextError):
        memory.check_memory(model, second, 2000, 2000, 2048)
    memory.check_memory(model, second, 2000, 2000, 2048)


def test_free_memory_is_a_sensible_number():
    assert 2**20 < memory.free_memory() < 2**50
