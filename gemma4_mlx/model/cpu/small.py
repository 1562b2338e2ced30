"""Small operations: MLX's CPU backend composes norms and rotary embeddings of a dozen operations
each, and for a decoded token scheduling them takes longer than computing them. Here they are fewer.
"""

import logging
from functools import partial

import mlx.core as mx

log = logging.getLogger(__name__)

#: Up to about so many elements fewer operations save time.
FEW = 2**14


def few(x: mx.array) -> bool:
    """Whether x is so small that fewer operations save time, and float32."""
    return x.size <= FEW and x.dtype == mx.float32


def _norm(x: mx.array, size: int, eps: float) -> mx.array:
    return x * mx.rsqrt((x * x).sum(-1, keepdims=True) * (1 / size) + eps)


_fused_norm = mx.compile(_norm, shapeless=True)


@partial(mx.compile, shapeless=True)
def _fused_weighted_norm(x: mx.array, weight: mx.array, size: int, eps: float) -> mx.array:
    return _norm(x, size, eps) * weight


def rms_norm(x: mx.array, eps: float, weight: mx.array | None) -> mx.array:
    """Root-mean-square norm, times ``weight`` if there is one."""
    if not few(x):
        return mx.fast.rms_norm(x, weight, eps)
    if weight is None:
        return _fused_norm(x, x.shape[-1], eps)
    return _fused_weighted_norm(x, weight, x.shape[-1], eps)


@partial(mx.compile, shapeless=True)
def _turn(x: mx.array, partner: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    return x * cos + partner * sin


def rope(x: mx.array, rotary, offset: int | mx.array, shared: dict) -> mx.array:
    """Rotate x (B, heads, n, D), element j paired with j + D/2, at offset, offset + 1, ...

    ``shared`` keeps the cosines and sines for the other layers of the call, whose offset is this.
    """
    key = "turns", rotary.head_dim, rotary.rope, x.shape[2]
    if key not in shared:
        shared[key] = _turns(rotary.periods, offset, x.shape[2])
    return _turn(x, mx.roll(x, rotary.head_dim // 2, -1), *shared[key])


def _turns(periods: mx.array, offset: int | mx.array, n: int) -> tuple[mx.array, mx.array]:
    """Cosines and signed sines (n, D), or with an offset for each row (B, 1, n, D)."""
    start = offset.reshape(-1, 1, 1, 1) if isinstance(offset, mx.array) else offset
    angle = (mx.arange(n, dtype=mx.float32)[:, None] + start) * (1 / periods)
    cos, sin = mx.cos(angle), mx.sin(angle)
    return mx.concatenate([cos, cos], -1), mx.concatenate([-sin, sin], -1)


def gather_mm(x: mx.array, weight: mx.array, experts: mx.array, sorted_indices: bool) -> mx.array:
    """Each row of x (..., 1, I) times the transposed (O, I) matrix of its expert, (..., 1, O)."""
    dtype = x.dtype
    if dtype != mx.float32:  # MLX's CPU backend gathers float32 matrices only
        log.info("expert weights in %s are computed in float32 on the CPU backend", dtype)
        x, weight = x.astype(mx.float32), weight.astype(mx.float32)
    out = mx.gather_mm(
        x, weight.swapaxes(-1, -2), rhs_indices=experts, sorted_indices=sorted_indices
    )
    return out.astype(dtype)
