"""What the exponential is needed for, on MLX's CPU backend: activations and attention.

On x86 that backend computes exp, tanh and their kin one element at a time, about 15 ns each: in a
picture's attention the softmax took twice as long as both matrix products, and GELU as long as
the product before it. NumPy's take 0.5 ns and work in place, so that a few rows stay in the
processor's cache: the towers' activations and a picture's attention are left to it. Where the
work stays in MLX, a polynomial written as plain arithmetic, which ``mx.compile`` fuses, takes a
quarter of MLX's own, at a relative error of 1e-7. Metal needs none of this and keeps its own
functions.
"""

import math
from collections.abc import Callable, Iterator

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .rows import evaluated

#: 1.5 * 2^23: adding it rounds a float32 to a whole number, left in the low bits of the sum.
_ROUNDER = 12_582_912.0
_LOG2_E = 1.4426950408889634
#: 2^f for |f| <= 1/2, highest power first: the polynomial of degree 5 whose largest relative
#: error is smallest, 1e-7.
_POLYNOMIAL = (
    0.001327647129073739, 0.009675540961325169, 0.05550713092088699, 0.24022120237350464,
    0.6931469440460205, 1.0000001192092896,
)  # fmt: skip
#: 2 to the power of anything further out is no normal float32, and its exponent bits would spill.
_LOWEST, _HIGHEST = -126.0, 127.0
#: While no score is further from 0, thousands of exponentials times a value can be summed in
#: float32 as they are: a softmax then needs no row's maximum.
_SAFE = 69.0
#: Queries and keys of a block of scores: half a megabyte.
_ROWS, _COLUMNS = 256, 512
#: Elements that an activation treats at once: a megabyte.
_PIECE = 1 << 18


def _exp2(x: mx.array) -> mx.array:
    """2^x for float32 x within [-126, 127]."""
    rounded = x + _ROUNDER
    f = x - (rounded - _ROUNDER)
    p = _POLYNOMIAL[0]
    for coefficient in _POLYNOMIAL[1:]:
        p = p * f + coefficient
    # The low bits of `rounded` are the whole number to add to p's exponent, 23 bits up.
    return mx.view(mx.view(p, mx.int32) + (mx.view(rounded, mx.int32) << 23), mx.float32)


_compiled_exp2 = mx.compile(_exp2)


@mx.custom_function
def exp2(x: mx.array) -> mx.array:
    """2^x for float32 x up to 127; what lies below -126 counts as -126."""
    return _compiled_exp2(mx.maximum(x, _LOWEST))


@exp2.vjp
def _exp2_vjp(x, cotangent, y):
    return cotangent * y * math.log(2)  # bits have no derivative, so it is given here


@mx.compile
def _capped(x: mx.array, cap: mx.array) -> mx.array:
    doubled = mx.clip(x * (2 * _LOG2_E / cap), _LOWEST, _HIGHEST)
    return cap - 2 * cap / (1.0 + _exp2(doubled))


def slow_exponential(x: mx.array) -> bool:
    """Whether ``x`` is better served by this file."""
    return x.dtype == mx.float32 and mx.default_device() == mx.cpu


def geglu(gate: mx.array, up: mx.array) -> mx.array:
    """GELU in its tanh form of the gate, times ``up``: g/2 (1 + tanh(u)) with
    u = sqrt(2 / pi) (g + 0.044715 g^3)."""
    return _numpy_geglu(gate, up) if slow_exponential(gate) else _mlx_geglu(gate, up)


def silu(x: mx.array) -> mx.array:
    """x / (1 + exp(-x))."""
    return _numpy_glu(x, x) if slow_exponential(x) else nn.silu(x)


def glu(x: mx.array, gate: mx.array) -> mx.array:
    """x / (1 + exp(-gate)) = x/2 (1 + tanh(gate / 2))."""
    return _numpy_glu(x, gate) if slow_exponential(gate) else _mlx_glu(x, gate)


def _mlx_geglu(gate: mx.array, up: mx.array) -> mx.array:
    return nn.gelu_approx(gate) * up


def _mlx_glu(x: mx.array, gate: mx.array) -> mx.array:
    return x * mx.sigmoid(gate)


def _in_numpy(plain: Callable) -> Callable:
    """Decorate a function of numpy arrays that does the work of ``plain``, to be called with MLX's.

    Within transformations without values (mx.compile, mx.vmap) ``plain`` computes the result, and
    its derivatives always.
    """

    def decorate(function: Callable) -> Callable:
        @mx.custom_function
        def with_values(*arrays):
            if not evaluated(*arrays):
                return plain(*arrays)
            return mx.array(function(*map(np.asarray, arrays)))

        @with_values.vjp
        def _(primals, cotangent, _):
            return tuple(mx.vjp(plain, list(primals), [cotangent])[1])

        return with_values

    return decorate


@_in_numpy(_mlx_geglu)
def _numpy_geglu(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    out, pieces = _pieces(gate, up)
    for y, g, u in pieces:
        np.multiply(g, g, out=y)
        y *= 0.044715
        y += 1
        y *= g
        y *= math.sqrt(2 / math.pi)
        np.tanh(y, out=y)
        y += 1
        y *= g
        y *= u
        y *= 0.5
    return out


@_in_numpy(_mlx_glu)
def _numpy_glu(x: np.ndarray, gate: np.ndarray) -> np.ndarray:
    out, pieces = _pieces(gate, x)
    for y, g, v in pieces:
        np.multiply(g, 0.5, out=y)
        np.tanh(y, out=y)
        y += 1
        y *= v
        y *= 0.5
    return out


def _pieces(*arrays: np.ndarray) -> tuple[np.ndarray, Iterator[list[np.ndarray]]]:
    """A result to fill, and it and the arrays a few rows at a time, for work in place."""
    out = np.empty(arrays[0].shape, np.float32)
    rows = max(1, _PIECE // max(1, out[0].size))
    starts = range(0, len(out), rows)
    return out, ([x[i : i + rows] for x in (out, *arrays)] for i in starts)


def capped_softmax(x: mx.array, cap: float, seen: mx.array) -> mx.array:
    """Softmax over the last axis of cap tanh(x / cap), where ``seen``; 0 elsewhere.

    tanh(u) = 1 - 2 / (1 + exp(2u)). Every row must see something.
    """
    if not slow_exponential(x) or cap > _SAFE:
        return mx.softmax(mx.where(seen, cap * mx.tanh(x / cap), -mx.inf), axis=-1)
    weights = mx.where(seen, exp2(_LOG2_E * _capped(x, mx.array(cap))), 0.0)
    return weights / weights.sum(axis=-1, keepdims=True)


def _whole_attention(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
    repeats = queries.shape[0] // keys.shape[0]
    keys, values = (mx.repeat(x, repeats, axis=0) for x in (keys, values))
    x = _LOG2_E * (queries @ keys.swapaxes(-1, -2))
    weights = exp2(x - mx.stop_gradient(x.max(axis=-1, keepdims=True)))
    y = (weights @ values) / weights.sum(axis=-1, keepdims=True)
    return y.swapaxes(0, 1)


@_in_numpy(_whole_attention)
def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """softmax(q k^T) v with scale 1, every query seeing every key, float32 on the CPU.

    Args:
        q, k, v: (H, n, d) and twice (kv heads, m, d).

    Returns:
        (n, H, d).

    NumPy computes it, block by block in place: a block's scores stay in the processor's cache,
    and a row's maximum and sum cost a third of what they do as MLX's reductions.
    """
    H, n, d = q.shape
    m = k.shape[1]
    repeats = H // k.shape[0]
    # No score is larger than |q| |k|, which norms keep small.
    largest = _longest(q) * _longest(k).repeat(repeats)
    rows, columns = (-(-count // -(-count // most)) for count, most in ((n, _ROWS), (m, _COLUMNS)))
    scores = np.empty(rows * columns, np.float32)
    out = np.empty((n, H, d), np.float32)
    for h in range(H):
        keys_of, values_of = k[h // repeats], v[h // repeats]
        for i in range(0, n, rows):
            some = q[h, i : i + rows]
            peak = np.full((len(some), 1), -np.inf, np.float32)
            total, y = np.zeros_like(peak), np.zeros_like(some)
            for j in range(0, m, columns):
                block = keys_of[j : j + columns]
                w = scores[: len(some) * len(block)].reshape(len(some), -1)
                np.matmul(some, block.T, out=w)
                if largest[h] > _SAFE:  # against the largest score so far
                    before, peak = peak, np.maximum(peak, w.max(axis=-1, keepdims=True))
                    w -= peak
                    shrink = np.exp(before - peak)
                    total *= shrink
                    y *= shrink
                np.exp(w, out=w)
                total += w.sum(axis=-1, keepdims=True)
                y += w @ values_of[j : j + columns]
            np.divide(y, total, out=out[i : i + rows, h])
    return out


def _longest(x: np.ndarray) -> np.ndarray:
    """(H, n, d) -> (H,): the length of each head's longest vector."""
    return np.sqrt(np.einsum("hnd,hnd->hn", x, x).max(axis=-1))


def masked_attention(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None) -> mx.array:
    """softmax(q k^T) v with scale 1 for grouped queries.

    Args:
        q: (B, heads, n, D). k, v: (B, kv heads, m, D).
        mask: bool (1 or B, 1, n, c) for the *last* c keys; the m - c before are seen by all
            queries, so a causal mask is only n wide. None: every key is seen.

    The query heads that share keys are rows of one product. Every query must see some key.
    """
    B, heads, n, D = q.shape
    groups, m = k.shape[1:3]
    q = (q * _LOG2_E).reshape(B, groups, heads // groups * n, D)
    k = k.swapaxes(-1, -2)
    first = m if mask is None else m - mask.shape[-1]  # key from which the mask counts
    parts = []
    if first:
        parts.append((q @ k[..., :first], v[:, :, :first]))
    if first < m:
        x = (q @ k[..., first:]).reshape(B, groups, heads // groups, n, m - first)
        x = mx.where(mask[:, :, None], x, -mx.inf)
        parts.append((x.reshape(*q.shape[:3], m - first), v[:, :, first:]))
    peak = parts[0][0].max(axis=-1, keepdims=True)
    if len(parts) > 1:
        peak = mx.maximum(peak, parts[1][0].max(axis=-1, keepdims=True))
    peak = mx.stop_gradient(peak)  # a softmax does not change with it
    weights = [exp2(x - peak) for x, _ in parts]
    total = sum(w.sum(axis=-1, keepdims=True) for w in weights)
    y = sum(w @ values for w, (_, values) in zip(weights, parts))
    return (y / total).reshape(B, heads, n, D)
