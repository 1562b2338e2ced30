"""The memory guard: will a generation fit? Asked before it starts, so that the machine never swaps.

The estimate is the planner's (:mod:`gemma4_mlx.checkpoints.planner`), rather too high than too
low: keys and values of the whole sequence, snapshots, and the activations of one prefill chunk,
less what is in memory already. It is compared with the free memory, less what other running
generations still need. An answer of open length (``max_tokens=None``) ends where the memory would.
Switch it off with ``memory_guard=False`` or ``GEMMA4_MLX_MEMORY_GUARD=0``.
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
from .prefill import CHUNK
from .wired import kept_in_place

#: Bytes of the free memory that are left to other programs.
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
    """Bytes that can be used without swapping: what the system reports as available (a container's
    limit or the GPU's working set may leave less), plus freed arrays that MLX keeps for reuse."""
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
    """What extending this cache to ``tokens`` tokens will need; see the module."""
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


def chunk_for(model, tokens: int, chunk: int | None) -> int:
    """How many of a prompt's tokens to compute at once: ``chunk``, if one is given.

    With layers on disk, which are read anew for every chunk, as many as a quarter of the free
    memory holds the activations of; else :data:`.prefill.CHUNK`.
    """
    if chunk is not None or model.on_disk is None or not model.on_disk.whole_layers:
        return chunk or CHUNK
    text, itemsize, chunk = model.config.text, model.dtype.size, CHUNK
    room = free_memory() // 4
    while chunk < tokens and (
        activation_bytes(text, tokens, itemsize, None, 2 * chunk, on_cpu()) <= room
    ):
        chunk *= 2
    return chunk


def check_memory(
    model, cache, least: int, most: int, chunk: int, *, enabled: bool | None = None
) -> int:
    """How many tokens fit in the free memory, ``most`` or fewer.

    Args:
        least: tokens that must fit, the prompt and what was asked for after it.
        most: tokens wanted where there is room for them.
        enabled: False skips the check and returns ``most``; None: as ``GEMMA4_MLX_MEMORY_GUARD``
            says.

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
    """A running generation, and the number of tokens that its cache may grow to."""

    model: object
    cache: object
    tokens: int
    chunk: int

    def left(self) -> int:
        """Bytes of keys and values that it may still allocate."""
        return _needed(self.model, self.cache, self.tokens, self.chunk, 0).cache


_claims: list[_Claim] = []
_claiming = threading.Lock()


@contextmanager
def under_way(model, cache, tokens: int, chunk: int):
    """Registers a running generation of up to ``tokens`` tokens.

    Meanwhile :func:`check_memory` leaves it the memory that it may still need, and the model's
    memory stays wired. MLX's peak memory is reset when the first of several begins."""
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
