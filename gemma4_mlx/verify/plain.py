"""One layer's mechanisms in plain NumPy, written from the configuration and nothing else.

None of this shares code with the model: it is what the model is held against. Every function
takes ``r``, which is applied wherever the model keeps a result in its own type. With the identity
the functions are the truth, in float32 (float64 where the model is in float32); with
:func:`rounding` they show what that type's rounding alone does to the same numbers.
"""

from collections.abc import Callable

import numpy as np

from ..config import Rope

Round = Callable[[np.ndarray], np.ndarray]
#: Unit roundoff: rounding to the nearest changes no number by more than this part of it. Half the
#: distance from 1 to the next larger number, 2^-p for p significant bits (24, 8 and 11).
UNIT = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}


def exactly(x: np.ndarray) -> np.ndarray:
    return x


def rounding(dtype: str) -> Round:
    """To the nearest number that ``dtype`` has, in the array's own type."""
    if dtype == "bfloat16":
        return _to_bfloat16
    narrow = np.dtype(dtype)
    return lambda x: x.astype(narrow).astype(x.dtype)


def _to_bfloat16(x: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    bits = bits + 0x7FFF + ((bits >> 16) & 1)  # to even where it lies between
    return (bits & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(x.dtype)


def norm(x: np.ndarray, weight: np.ndarray | None, eps: float, r: Round) -> np.ndarray:
    """Root-mean-square norm over the last axis."""
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    return r(x) if weight is None else r(r(x) * weight)


def linear(x: np.ndarray, weight: np.ndarray, r: Round) -> np.ndarray:
    """x (..., I) through weight (O, I)."""
    return r(x @ weight.T)


def gelu(x: np.ndarray) -> np.ndarray:
    """In its tanh form."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gated(x: np.ndarray, gate: np.ndarray, up: np.ndarray, down: np.ndarray, r: Round):
    """down(gelu(gate(x)) * up(x))."""
    return linear(r(r(gelu(linear(x, gate, r))) * linear(x, up, r)), down, r)


def rotary(x: np.ndarray, positions: np.ndarray, rope: Rope, r: Round) -> np.ndarray:
    """x (heads, n, D) turned: element j with j + D/2, the first ``partial_rotary_factor`` of the
    angles by position * theta^(-2j/D) / factor, the others not at all."""
    half = x.shape[-1] // 2
    j = np.arange(half)
    frequency = rope.theta ** (-2 * j / x.shape[-1]) / rope.factor
    frequency[int(rope.partial_rotary_factor * half) :] = 0
    angle = positions[:, None] * frequency
    if r is not exactly:
        angle = angle * (1 + 2.0**-22)  # it is a float32 whatever the model's type
    cos, sin = np.cos(angle).astype(x.dtype), np.sin(angle).astype(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return r(np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1))


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, seen: np.ndarray, r: Round):
    """softmax(q k^T) v over the keys that are ``seen`` (n, m), head by head.

    q (heads, n, D); k, v (kv heads, m, D). A score is summed in float32 before it is rounded: terms
    that cancel leave more than its own last digit, which its exponential then multiplies.
    """
    if r is not exactly:
        q, k = q.astype(np.float32), k.astype(np.float32)
    out, group = np.empty(q.shape, v.dtype), len(q) // len(k)
    for h in range(len(q)):
        scores = np.where(seen, r(q[h] @ k[h // group].T), -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out[h] = r(r(weights) @ v[h // group])
    return out


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)
