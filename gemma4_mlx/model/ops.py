"""The seam: the operations whose implementation depends on the device.

What stands here inline is what a Mac's GPU computes; :mod:`.cpu` holds what MLX's CPU backend is
better served by. The model's files call these functions and never ask where they are.

Adding an implementation, for another device or for weights that are elsewhere:

- One for a device is a module like those of :mod:`.cpu`, with functions of the same arguments and
  results. The operation here asks one question about the device or the arrays, and calls it.
- One for some layers alone (experts read from disk, or computed by a neighbour machine; a low-rank
  update) is a module with the call of the layer whose place it takes by ``model.update_modules``:
  ``nn.Linear`` and ``nn.Embedding`` have MLX's, experts that of :class:`.moe.SwitchLinear`. Packed
  layers and adapters are put in so (:mod:`..checkpoints.loading`, :mod:`.adapter`).

Either computes the same numbers to a rounding; tests compare it with what is inline.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps

import mlx.core as mx
import mlx.nn as nn

from .cpu import activations, blocks, quantized, small
from .cpu import attention as numpy_attention
from .cpu import attention_vjp as attention_derivative
from .sizes import block_rows
from .values import evaluated

#: Rows that a tower's layers take at once: enough work for a GPU, and wide intermediates of a
#: 10,080-patch picture that need a few megabytes in place of hundreds.
ROWS = 4096
#: Head size up to which MLX has fused attention on a GPU.
FUSED = 256


def on_cpu() -> bool:
    """Whether MLX's CPU backend computes."""
    return mx.default_device() == mx.cpu


def in_numpy(x: mx.array) -> bool:
    """Whether NumPy computes what takes exponentials of x: for float32 on MLX's CPU backend."""
    return x.dtype == mx.float32 and on_cpu()


def attention(
    q: mx.array, k: mx.array, v: mx.array, mask: mx.array | str | None = None
) -> mx.array:
    """softmax(q k^T) v with scale 1, the softmax in float32: (B, heads, n, D).

    Args:
        q: (B, heads, n, D). k, v: (B, kv heads, m, D); head h uses kv head h // (heads / kv heads).
        mask: bool (1 or B, 1, n, m), which keys a query sees, or "causal": query i sees all but
            the last n - 1 - i keys. None: it sees all. Every query must see some key.
    """
    if in_numpy(q):
        return numpy_attention.attention(q, k, v, mask)
    if q.shape[2] == 1 and isinstance(mask, str):
        mask = None
    if q.shape[3] > FUSED and q.shape[1] > k.shape[1]:
        return _folded(q, k, v, mask)
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=1.0, mask=mask)


def _folded(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | str | None) -> mx.array:
    """:func:`attention` for head sizes without a fused kernel, whose products MLX makes for each
    query head: here one KV head's query heads are rows of one product, which reads its keys and
    values once."""
    return (_weights(q, k, mask) @ v).reshape(q.shape)


def _weights(q: mx.array, k: mx.array, mask: mx.array | str | None) -> mx.array:
    """softmax(q k^T), one KV head's query heads as rows of one product: (B, kv heads, r * n, m)."""
    B, _, n, D = q.shape
    groups, m = k.shape[1:3]
    scores = q.reshape(B, groups, -1, D) @ k.swapaxes(-1, -2)
    if isinstance(mask, str):
        mask = (mx.arange(m) <= mx.arange(m - n, m)[:, None])[None, None]
    if mask is not None:
        scores = mx.where(mask[:, :, None], scores.reshape(B, groups, -1, n, m), -mx.inf)
        scores = scores.reshape(B, groups, -1, m)
    return mx.softmax(scores, axis=-1, precise=True)


def attention_vjp(
    q: mx.array, k: mx.array, v: mx.array, mask: mx.array | str | None = None
) -> tuple[mx.array, Callable]:
    """:func:`attention`, and a function that makes of a derivative by its output (B, heads, n, D)
    those by q, k and v, in float32. No weights are kept in between: it computes them again."""
    if in_numpy(q):
        return attention_derivative.attention_vjp(q, k, v, mask)
    out = attention(q, k, v, mask)

    def derivatives(d_out: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        B, groups, _, D = k.shape
        wide = [x.astype(mx.float32) for x in (q, k, v, d_out)]
        folded = [x.reshape(B, groups, -1, D) for x in (wide[0], wide[3])]
        w = _weights(*wide[:2], mask)
        ds = w * (folded[1] @ wide[2].swapaxes(-1, -2))
        ds = ds - w * ds.sum(axis=-1, keepdims=True)  # derivative by the scores
        dq = (ds @ wide[1]).reshape(q.shape)
        return dq, ds.swapaxes(-1, -2) @ folded[0], w.swapaxes(-1, -2) @ folded[1]

    return out, derivatives


def rows_at_once(q: mx.array, m: int, masked: bool = True) -> int:
    """How many of the queries q (B, heads, n, D) attend at once to m keys, so that neither scores
    nor a mask, if there is one, take much memory."""
    if in_numpy(q) and not masked:
        return q.shape[2]
    return block_rows(m, q.shape[0] * q.shape[1] * m * q.itemsize, in_numpy(q))


def packed_attention(
    q: mx.array, k: mx.array, v: mx.array, packed: tuple, cache, mask: mx.array | str | None
) -> mx.array:
    """:func:`attention` of a few queries to a quantized cache's ``packed`` (keys, values).

    On a GPU that saves unpacking the whole cache for every decoded token; ``k`` and ``v``, the
    same unpacked, are then never computed.
    """
    if on_cpu():  # its quantized product is slower than unpacking
        return attention(q, k, v, mask)
    return packed_product(q, packed, cache, mask)


def packed_product(
    q: mx.array, packed: tuple, cache, mask: mx.array | str | None = None
) -> mx.array:
    """:func:`packed_attention` with the packed keys and values on any device."""
    from mlx_lm.models.base import quantized_scaled_dot_product_attention

    return quantized_scaled_dot_product_attention(
        q, *packed, scale=1.0, mask=mask, group_size=cache.group_size, bits=cache.bits
    )


def rms_norm(x: mx.array, eps: float, weight: mx.array | None = None) -> mx.array:
    """Root-mean-square norm, computed in float32, times ``weight`` if there is one."""
    return small.rms_norm(x, eps, weight) if on_cpu() else mx.fast.rms_norm(x, weight, eps)


def rope(x: mx.array, rotary, offset: int | mx.array, shared: dict) -> mx.array:
    """Rotate x (B, heads, n, D) at positions offset, offset + 1, ...

    Args:
        rotary: the :class:`.layers.RotaryEmbedding` whose angles these are.
        offset: one number, or one per row (B,).
        shared: what the layers of one call work out once.
    """
    if on_cpu() and small.few(x):
        return small.rope(x, rotary, offset, shared)
    return mx.fast.rope(
        x,
        rotary.head_dim,
        traditional=False,
        base=None,
        scale=1.0,
        offset=offset,
        freqs=rotary.periods,
    )


def _or_in_numpy(function: Callable) -> Callable:
    """Decorate an operation: where :func:`in_numpy` says so, ``function``, of NumPy arrays,
    computes it, unless there are so few numbers that waiting for them takes longer."""

    def decorate(operation: Callable) -> Callable:
        by_numpy = activations.worked_out_in_numpy(operation)(function)

        @wraps(operation)
        def either(*arrays: mx.array) -> mx.array:
            many = arrays[0].size > small.FEW and in_numpy(arrays[0])
            return by_numpy(*arrays) if many else operation(*arrays)

        return either

    return decorate


@_or_in_numpy(activations.geglu)
@partial(mx.compile, shapeless=True)
def geglu(gate: mx.array, up: mx.array) -> mx.array:
    """GELU (tanh form) of the gate times ``up``, in float32 and rounded once.

    g/2 (1 + tanh(u)) with u = sqrt(2 / pi) (g + 0.044715 g^3) is g sigmoid(2u). So written it is
    short enough for MLX to make one kernel of it.
    """
    g = gate.astype(mx.float32)
    twice_u = (g * g + 1 / 0.044715) * (0.044715 * math.sqrt(8 / math.pi) * g)
    return (g * up.astype(mx.float32) * mx.sigmoid(twice_u)).astype(gate.dtype)


@_or_in_numpy(activations.glu)
def glu(x: mx.array, gate: mx.array) -> mx.array:
    """x / (1 + exp(-gate))."""
    return x * mx.sigmoid(gate)


def silu(x: mx.array) -> mx.array:
    """x / (1 + exp(-x))."""
    return glu(x, x) if in_numpy(x) else nn.silu(x)


def capped_softmax(x: mx.array, cap: float, seen: mx.array) -> mx.array:
    """Softmax over the last axis of cap tanh(x / cap), where ``seen``; 0 elsewhere. Every row must
    see something."""
    if in_numpy(x) and cap <= activations.SAFE:
        return activations.capped_softmax(x, cap, seen)
    return mx.softmax(mx.where(seen, cap * mx.tanh(x / cap), -mx.inf), axis=-1)


def gather_mm(x: mx.array, weight: mx.array, experts: mx.array, sorted_indices: bool) -> mx.array:
    """x (..., 1, I) times the transposed matrices (E, O, I) of its experts (...): (..., 1, O).
    ``sorted_indices``: rows of one expert adjoin."""
    if on_cpu():
        return small.gather_mm(x, weight, experts, sorted_indices)
    weight = weight.swapaxes(-1, -2)
    return mx.gather_mm(x, weight, rhs_indices=experts, sorted_indices=sorted_indices)


def gather_qmm(x: mx.array, layer: nn.Module, experts: mx.array, sorted_indices: bool) -> mx.array:
    """The same with the packed matrices of ``layer``."""
    if on_cpu():
        return quantized.gather_qmm(x, layer, experts, sorted_indices)
    return mx.gather_qmm(
        x,
        layer.weight,
        layer.scales,
        layer.get("biases"),
        rhs_indices=experts,
        transpose=True,
        group_size=layer.group_size,
        bits=layer.bits,
        mode=layer.mode,
        sorted_indices=sorted_indices,
    )


def packed_layers() -> tuple[type[nn.QuantizedLinear], type[nn.QuantizedEmbedding]]:
    """The classes of packed linear layers and packed embeddings."""
    if on_cpu():
        return quantized.QuantizedLinear, quantized.QuantizedEmbedding
    return nn.QuantizedLinear, nn.QuantizedEmbedding


def by_rows(
    function: Callable, *arrays: mx.array, axis: int = 0
) -> mx.array | tuple[mx.array, ...]:
    """``function(*arrays)``, computed in blocks of rows and joined.

    ``arrays`` have the same number of rows (axis 0), as have the results of ``function``, one
    array or a tuple, along ``axis``; each row (a patch) is treated by itself.
    """
    n = arrays[0].shape[0]
    count = round(n / (blocks.ROWS if on_cpu() else ROWS))
    if count <= 1:
        return function(*arrays)
    # All of nearly one size: a last block of a few rows would read every weight for little.
    rows = -(-n // count)
    parts = [settled(function(*(a[i : i + rows] for a in arrays))) for i in range(0, n, rows)]
    if isinstance(parts[0], mx.array):
        return mx.concatenate(parts, axis)
    return tuple(mx.concatenate(part, axis) for part in zip(*parts))


def begin(block: mx.array, after: mx.array) -> None:
    """Start computing a block of attention, and return when the one before it, ``after``, is done.

    So at most two blocks' scores are held, and while Python builds the next the device has this one
    to compute.
    """
    # MLX's CPU backend claims the memory of all that was started, and within mx.grad async_eval is
    # refused: there this block itself is waited for.
    if on_cpu() or not evaluated(block, by=mx.async_eval):
        evaluated(block)
    else:
        mx.eval(after)


def begun(x: mx.array) -> None:
    """Start computing ``x``, so that what it alone needs is freed early."""
    evaluated(x, by=mx.eval if on_cpu() else mx.async_eval)


def settled(x):
    """``x``, an array or a tuple, computed now on MLX's CPU backend, which claims the memory of
    everything that it is asked for before it begins. A GPU works in steps of bounded memory."""
    if on_cpu():
        evaluated(x)
    return x


@contextmanager
def few_spare_buffers() -> Iterator[None]:
    """Have MLX's CPU backend keep few freed buffers while a tower works: more would take memory
    and save no time. Also usable as a decorator."""
    if not on_cpu():
        yield
        return
    with blocks.few_spare_buffers():
        yield
