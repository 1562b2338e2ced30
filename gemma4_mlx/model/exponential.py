"""What the exponential is needed for, on MLX's CPU backend: activations and attention.

On x86 that backend computes exp, tanh and their kin one element at a time, about 15 ns each: in a
picture's attention the softmax took twice as long as both matrix products, and GELU as long as
the product before it. NumPy's take 0.5 ns and work in place, so that a few rows stay in the
processor's cache: the towers' activations and attention, a picture's and a prompt's, are left to
it. Where the work stays in MLX, a polynomial written as plain arithmetic, which ``mx.compile``
fuses, takes a quarter of MLX's own, at a relative error of 1e-7. Metal needs none of this and
keeps its own functions.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial

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
#: Score of a hidden key. Finite, so that 0 times it is 0, and that a row whose first block is all
#: hidden may subtract it from itself: what it then sums is wiped out by the first key it sees.
HIDDEN = -1e30
#: A score this far below its row's largest weighs nothing in float32, as does all of a long
#: context together. Left smaller, the exponentials are subnormal, and products with those take
#: thirty times as long.
_FADED = -60.0
#: Queries and keys of a block of scores: a megabyte.
_ROWS, _COLUMNS = 512, 512
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


def attention(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None = None) -> mx.array:
    """softmax(q k^T) v with scale 1 for grouped queries, float32 on the CPU.

    Args:
        q: (B, heads, n, D). k, v: (B, kv heads, m, D).
        mask: bool (1 or B, 1, n, c) for the *last* c keys; the m - c before are seen by all
            queries, so a causal mask is only n wide. None: every key is seen.

    NumPy computes it, block by block in place: a block's scores stay in the processor's cache,
    and its exponential, maximum and sum cost a third of MLX's. A single query, which MLX is
    faster at, is left to it. Every query must see some key.
    """
    plain = partial(_mlx_attention, mask=mask)
    if q.shape[2] == 1:
        return plain(q, k, v)
    return _in_numpy(plain)(partial(_numpy_attention, mask=mask))(q, k, v)


def _numpy_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: mx.array | None
) -> np.ndarray:
    B, heads, n, D = q.shape
    groups = k.shape[1]
    hidden = None if mask is None else ~np.asarray(mask)[:, 0]
    rows = q.reshape(B, groups, heads // groups * n, D)
    out = np.empty(rows.shape, np.float32)
    for b in range(B):
        hides = None if hidden is None else hidden[min(b, len(hidden) - 1)]
        for g in range(groups):
            _one_head(rows[b, g], k[b, g], v[b, g], hides, out[b, g])
    return out.reshape(q.shape)


def _one_head(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, hidden: np.ndarray | None, out: np.ndarray
) -> None:
    """Attention of q (r * n, D), the query heads of one kv head, to k and v (m, D) into ``out``.
    ``hidden`` (n, c) tells which of the last c keys each of the n queries does not see."""
    m = len(k)
    first = m if hidden is None else m - hidden.shape[1]  # key from which ``hidden`` counts
    # No score is larger than |q| |k|, which norms keep small.
    safe = longest(q) * longest(k) <= _SAFE
    rows, columns = (
        -(-count // -(-count // most)) for count, most in ((len(q), _ROWS), (m, _COLUMNS))
    )
    scores = np.empty(rows * columns, np.float32)
    for i in range(0, len(q), rows):
        some = q[i : i + rows]
        peak = np.full((len(some), 1), HIDDEN, np.float32)
        total, y = np.zeros_like(peak), np.zeros_like(some)
        for j in range(0, m, columns):
            end = min(j + columns, m)
            if end > first:
                queries = np.arange(i, i + len(some)) % len(hidden)
                hides = hidden[queries, max(j - first, 0) : end - first]
                if j >= first and hides.all():
                    continue
            w = scores[: len(some) * (end - j)].reshape(len(some), -1)
            np.matmul(some, k[j:end].T, out=w)
            if end > first:
                np.copyto(w[:, max(first - j, 0) :], HIDDEN, where=hides)
            if not safe:  # against the largest score so far
                before, peak = peak, np.maximum(peak, w.max(axis=-1, keepdims=True))
                w -= peak
                np.maximum(w, _FADED, out=w)
                shrink = np.exp(before - peak)
                total *= shrink
                y *= shrink
            np.exp(w, out=w)
            total += w.sum(axis=-1, keepdims=True)
            y += w @ v[j:end]
        np.divide(y, total, out=out[i : i + rows])


def longest(x: np.ndarray) -> float:
    """Length of the longest of the vectors (..., D)."""
    return math.sqrt(np.einsum("...d,...d->...", x, x).max())


def _mlx_attention(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None) -> mx.array:
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
