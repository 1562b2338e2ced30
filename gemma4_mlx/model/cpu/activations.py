"""Activations on MLX's CPU backend.

On x86 that backend computes exp, tanh and their kin one element at a time, about 15 ns each: GELU
took as long as the product before it. NumPy's take 0.5 ns and work in place, so that a few rows
stay in the processor's cache: the towers' activations are left to it. Where the work stays in MLX,
a polynomial written as plain arithmetic, which ``mx.compile`` fuses, takes a quarter of MLX's own,
at a relative error of 1e-7.
"""

import math
from collections.abc import Callable, Iterator

import mlx.core as mx
import numpy as np

from ..values import evaluated

#: 1.5 * 2^23: adding it rounds a float32 to a whole number, left in the low bits of the sum.
_ROUNDER = 12_582_912.0
#: log2(e): e^x is 2^(x * LOG2_E).
LOG2_E = 1.4426950408889634
#: 2^f for |f| <= 1/2, highest power first: the polynomial of degree 5 whose largest relative
#: error is smallest, 1e-7.
_POLYNOMIAL = (
    0.001327647129073739, 0.009675540961325169, 0.05550713092088699, 0.24022120237350464,
    0.6931469440460205, 1.0000001192092896,
)  # fmt: skip
#: 2 to the power of anything further out is no normal float32, and its exponent bits would spill.
_LOWEST, _HIGHEST = -126.0, 127.0
#: Where |score| is at most this, thousands of exponentials times a value can be summed in float32
#: as they are: a softmax then needs no row's maximum.
SAFE = 69.0
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
    doubled = mx.clip(x * (2 * LOG2_E / cap), _LOWEST, _HIGHEST)
    return cap - 2 * cap / (1.0 + _exp2(doubled))


def worked_out_in_numpy(plain: Callable) -> Callable:
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


def geglu(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """g/2 (1 + tanh(u)) ``up`` with u = sqrt(2 / pi) (g + 0.044715 g^3), for gates g."""
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
    return out.reshape(gate.shape)


def glu(x: np.ndarray, gate: np.ndarray) -> np.ndarray:
    """x / (1 + exp(-gate)) = x/2 (1 + tanh(gate / 2))."""
    out, pieces = _pieces(gate, x)
    for y, g, v in pieces:
        np.multiply(g, 0.5, out=y)
        np.tanh(y, out=y)
        y += 1
        y *= v
        y *= 0.5
    return out.reshape(gate.shape)


def _pieces(*arrays: np.ndarray) -> tuple[np.ndarray, Iterator[list[np.ndarray]]]:
    """A result (rows, last axis) to fill, and it and the arrays a few rows at a time, for work in
    place."""
    flat = [x.reshape(-1, x.shape[-1]) for x in arrays]
    out = np.empty(flat[0].shape, np.float32)
    rows = max(1, _PIECE // max(1, out.shape[1]))
    starts = range(0, len(out), rows)
    return out, ([x[i : i + rows] for x in (out, *flat)] for i in starts)


def capped_softmax(x: mx.array, cap: float, seen: mx.array) -> mx.array:
    """Softmax over the last axis of cap tanh(x / cap), where ``seen``; 0 elsewhere.

    tanh(u) = 1 - 2 / (1 + exp(2u)). Every row must see something, and ``cap`` be at most
    :data:`SAFE`.
    """
    weights = mx.where(seen, exp2(LOG2_E * _capped(x, mx.array(cap))), 0.0)
    return weights / weights.sum(axis=-1, keepdims=True)
