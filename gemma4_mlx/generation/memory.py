"""Will it fit? An estimate before a generation starts, instead of a machine deep in swap.

The estimate is on the safe side: keys and values of the whole sequence, snapshots, one copy of the
largest cache buffer (it grows by copying), and the activations of one prefill chunk, compared with
the memory that is free now. Switch it off with ``memory_guard=False`` or
``GEMMA4_MLX_MEMORY_GUARD=0``.
"""

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from ..config import TextConfig
from ..errors import ContextError
from ..model.attention import SCORE_BYTES
from ..model.cache import SLACK

#: Left to the rest of the machine.
RESERVE = 512 * 2**20


@dataclass(frozen=True)
class Need:
    """Bytes that a generation will need beyond what is in memory already, by cause."""

    weights: int
    cache: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.activations


def cache_bytes(
    text: TextConfig,
    tokens: int,
    *,
    itemsize: int = 2,
    kv_bits: int | None = None,
    kv_group_size: int = 64,
    chunk: int = 0,
) -> tuple[int, int]:
    """Bytes of keys and values after ``tokens`` tokens: (all layers, largest single layer).

    Full layers hold every token (quantized: ``kv_bits`` a number plus a scale and a bias for each
    group), sliding ones the window, some slack and the last chunk, shared ones nothing. E2B in
    bfloat16 at 32,768 tokens: 3 full layers x 2,048 B and 12 sliding ones x 1,024 B x 512.
    """
    total = largest = 0
    for layer in range(text.first_kv_shared_layer):
        numbers = 2 * text.kv_heads_of(layer) * text.head_dim_of(layer)  # per token
        if text.is_full(layer):
            held = tokens * numbers
            per_number = itemsize
            if kv_bits is not None:
                per_number = kv_bits / 8 + 2 * itemsize / kv_group_size
        else:
            held = min(tokens, text.sliding_window - 1 + SLACK + chunk) * numbers
            per_number = itemsize
        size = int(held * per_number)
        total, largest = total + size, max(largest, size)
    return total, largest


def activation_bytes(text: TextConfig, chunk: int, tokens: int, itemsize: int = 2) -> int:
    """Rough upper bound of the memory one chunk of a prompt needs beside weights and cache.

    The residual stream and its neighbours, the widest MLP, the experts' inputs and outputs, one
    block of attention scores (bounded by ``SCORE_BYTES``, and again for its softmax), per-layer
    inputs, and the logits of one position.
    """
    H, n = text.hidden_size, min(chunk, tokens)
    heads = text.num_attention_heads * max(text.head_dim, text.global_head_dim)
    width = max(text.mlp_width(i) for i in range(text.num_hidden_layers))
    stream = n * itemsize * (6 * H + 4 * heads + 3 * width)
    if text.enable_moe_block:
        stream += n * itemsize * text.top_k_experts * (3 * text.moe_intermediate_size + 2 * H)
    scores = 2 * min(SCORE_BYTES, n * tokens * text.num_attention_heads * itemsize)
    per_layer = 3 * n * itemsize * text.num_hidden_layers * text.hidden_size_per_layer_input
    return stream + scores + per_layer + 6 * 4 * text.vocab_size


def free_memory() -> int:
    """Bytes that can be used without swapping: what the system calls available, at most what a
    container's limit leaves, plus what MLX holds only to use again."""
    import psutil

    free = psutil.virtual_memory().available
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            left = int(Path(limit).read_text()) - int(Path(used).read_text())
        except (OSError, ValueError):  # no such file, or "max": no limit
            continue
        free = min(free, left)
    return free + mx.get_cache_memory()


def needed(model, cache, tokens: int, chunk: int) -> Need:
    """What computing up to ``tokens`` tokens on this cache will need; see the module."""
    text = model.config.text
    itemsize = model.dtype.size
    weights = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    kv, largest = cache_bytes(
        text,
        tokens,
        itemsize=itemsize,
        kv_bits=cache.kv_bits,
        kv_group_size=cache.kv_group_size,
        chunk=chunk,
    )
    return Need(
        weights=max(0, weights - mx.get_active_memory()),
        cache=max(0, kv + cache.snapshot_bytes_at(tokens) - cache.nbytes) + largest,
        activations=activation_bytes(text, chunk, tokens, itemsize),
    )


def check_memory(model, cache, tokens: int, chunk: int, *, enabled: bool | None = None) -> None:
    """Raise ContextError if ``tokens`` tokens will not fit in the free memory.

    Args:
        enabled: False does nothing; None asks ``GEMMA4_MLX_MEMORY_GUARD``.
    """
    if enabled is None:
        enabled = os.environ.get("GEMMA4_MLX_MEMORY_GUARD", "1").lower() not in (
            "0", "false", "no", "off",
        )  # fmt: skip
    if not enabled:
        return
    need, free = needed(model, cache, tokens, chunk), free_memory() - RESERVE
    if need.total <= free:
        return

    def gb(number):
        return f"{number / 1e9:.2f} GB"

    advice = ["a shorter prompt or a smaller max_tokens"]
    if cache.kv_bits is None:
        advice.append("kv_bits=8 or 4 for the cache")
    if chunk > 256:
        advice.append("a smaller prefill_chunk")
    advice.append("a smaller or more strongly quantized model")
    raise ContextError(
        f"{tokens:,} tokens would need {gb(need.total)} more memory ({gb(need.cache)} keys and "
        f"values, {gb(need.activations)} activations"
        + (f", {gb(need.weights)} weights not yet loaded" if need.weights else "")
        + f"), but only {gb(max(0, free))} can be used without swapping. Try {', '.join(advice)}; "
        "memory_guard=False or GEMMA4_MLX_MEMORY_GUARD=0 goes on regardless."
    )


@contextmanager
def wired_memory():
    """Keep the model's pages in place while generating, where the device supports it (Metal): as
    mlx-lm does, up to the recommended working set."""
    size = mx.device_info().get("max_recommended_working_set_size")
    if size is None:
        yield
        return
    before = mx.set_wired_limit(size)
    try:
        yield
    finally:
        mx.synchronize()
        mx.set_wired_limit(before)
