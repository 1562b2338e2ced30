"""Will it fit? An estimate before a generation starts, instead of a machine deep in swap.

The estimate is the planner's (:mod:`gemma4_mlx.checkpoints.planner`) and on the safe side: keys and
values of the whole sequence, snapshots, and the activations of one prefill chunk, less what is in
memory already, compared with the memory that is free now and that no generation under way has
asked for. An answer of open length (``max_tokens=None``) may grow as long as there is room. Switch
it off with ``memory_guard=False`` or ``GEMMA4_MLX_MEMORY_GUARD=0``.
"""

import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from ..checkpoints.planner import activation_bytes, cache_bytes
from ..errors import ContextError
from ..model.ops import on_cpu
from .wired import kept_in_place

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


def free_memory() -> int:
    """Bytes that can be used without swapping: what the system calls available, at most what a
    container's limit or the GPU's working set leaves, plus what MLX holds only to use again."""
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
    on_gpu = mx.device_info().get("max_recommended_working_set_size")
    if on_gpu is not None:
        free = min(free, on_gpu - mx.get_active_memory() - mx.get_cache_memory())
    return free + mx.get_cache_memory()


def needed(model, cache, tokens: int, chunk: int) -> Need:
    """What computing up to ``tokens`` tokens on this cache will need; see the module."""
    weights = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    return _needed(model, cache, tokens, chunk, max(0, weights - mx.get_active_memory()))


def _needed(model, cache, tokens: int, chunk: int, weights: int) -> Need:
    text, itemsize = model.config.text, model.dtype.size
    quantized = (itemsize, cache.kv_bits, cache.kv_group_size, chunk)
    kv = sum(cache_bytes(text, tokens, *quantized).values())
    return Need(
        weights=weights,
        cache=max(0, kv + cache.snapshot_bytes_at(tokens) - cache.nbytes),
        activations=activation_bytes(text, tokens, itemsize, cache.kv_bits, chunk, on_cpu()),
    )


def check_memory(
    model, cache, least: int, most: int, chunk: int, *, enabled: bool | None = None
) -> int:
    """How many tokens fit in the free memory, ``most`` or fewer.

    Args:
        least: tokens that must fit, the prompt and what was asked for after it.
        most: tokens wanted where there is room for them.
        enabled: False allows ``most`` unseen; None asks ``GEMMA4_MLX_MEMORY_GUARD``.

    Raises:
        ContextError: ``least`` tokens will not fit.
    """
    if enabled is None:
        enabled = os.environ.get("GEMMA4_MLX_MEMORY_GUARD", "1").lower() not in (
            "0", "false", "no", "off",
        )  # fmt: skip
    if not enabled:
        return most
    free = free_memory() - RESERVE - sum(claim.left() for claim in list(_claims))
    need = needed(model, cache, least, chunk)
    if need.total > free:
        _refuse(need, free, least, chunk, cache.kv_bits)
    low, high = least, most
    while low < high:
        middle = (low + high + 1) // 2
        fits = _needed(model, cache, middle, chunk, need.weights).total <= free
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _refuse(need: Need, free: int, tokens: int, chunk: int, kv_bits: int | None) -> None:
    def gb(number):
        return f"{number / 1e9:.2f} GB"

    advice = ["a shorter prompt or a smaller max_tokens"]
    if kv_bits is None:
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


@dataclass(frozen=True, eq=False)
class _Claim:
    """A generation under way, and the tokens that it may still need room for."""

    model: object
    cache: object
    tokens: int
    chunk: int

    def left(self) -> int:
        """Bytes of keys and values that it has not taken yet."""
        return _needed(self.model, self.cache, self.tokens, self.chunk, 0).cache


_claims: list[_Claim] = []
_claiming = threading.Lock()


@contextmanager
def under_way(model, cache, tokens: int, chunk: int):
    """A generation of ``tokens`` tokens, perhaps beside others: others leave it the memory that it
    has asked for, the model's pages stay in place, and the peak of memory is counted from the first
    one's begin."""
    claim = _Claim(model, cache, tokens, chunk)
    with _claiming:
        if not _claims:
            mx.reset_peak_memory()
        _claims.append(claim)
    try:
        with kept_in_place():
            yield
    finally:
        with _claiming:
            _claims.remove(claim)
