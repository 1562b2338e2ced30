"""Small parts that several files share: norms, the gated MLP, rotary embeddings, the soft cap."""

from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..config import Rope

#: MLX's CPU backend composes norms and rotary embeddings of a dozen small operations each, and up
#: to about so many elements (a decoded token's) scheduling them takes longer than computing them.
FEW = 2**14


def few(x: mx.array) -> bool:
    """Whether x is float32 on the CPU backend and so small that fewer operations save time."""
    return x.size <= FEW and x.dtype == mx.float32 and mx.default_device() == mx.cpu


def _norm(x: mx.array, size: int, eps: float) -> mx.array:
    return x * mx.rsqrt((x * x).sum(-1, keepdims=True) * (1 / size) + eps)


_fused_norm = mx.compile(_norm, shapeless=True)


@partial(mx.compile, shapeless=True)
def _fused_weighted_norm(x: mx.array, weight: mx.array, size: int, eps: float) -> mx.array:
    return _norm(x, size, eps) * weight


def rms_norm(x: mx.array, eps: float) -> mx.array:
    """Root-mean-square norm without a weight, computed in float32."""
    if few(x):
        return _fused_norm(x, x.shape[-1], eps)
    return mx.fast.rms_norm(x, None, eps)


class RMSNorm(nn.RMSNorm):
    """RMS norm times a weight: the plain weight, not 1 + weight as in Gemma 1 to 3.

    The reference multiplies in float32 and rounds once. MLX's fused kernel rounds before the
    product as well; in 16 bits the CPU backend, where nothing is gained by fusing, therefore
    computes in float32.
    """

    def __call__(self, x: mx.array) -> mx.array:
        if few(x):
            return _fused_weighted_norm(x, self["weight"], x.shape[-1], self.eps)
        if x.dtype == mx.float32 or mx.default_device() != mx.cpu:
            return mx.fast.rms_norm(x, self["weight"], self.eps)
        wide = mx.fast.rms_norm(x.astype(mx.float32), self["weight"].astype(mx.float32), self.eps)
        return wide.astype(x.dtype)


@partial(mx.compile, shapeless=True)
def scaled(x: mx.array, factor: mx.array) -> mx.array:
    """x times a float32 factor, rounded once to x's type.

    A Python number would be rounded to x's type before the product.
    """
    return (x.astype(mx.float32) * factor).astype(x.dtype)


@partial(mx.compile, shapeless=True)
def geglu(gate: mx.array, up: mx.array) -> mx.array:
    """GELU (tanh form) of the gate, computed in float32, times the up projection."""
    return nn.gelu_approx(gate.astype(mx.float32)).astype(gate.dtype) * up


@partial(mx.compile, shapeless=True)
def soft_cap(logits: mx.array, cap: mx.array) -> mx.array:
    """cap * tanh(logits / cap): logits stay within (-cap, cap), order unchanged."""
    return mx.tanh(logits / cap) * cap


class GatedMLP(nn.Module):
    """down(gelu(gate(x)) * up(x))."""

    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(geglu(self.gate_proj(x), self.up_proj(x)))


@partial(mx.compile, shapeless=True)
def _turn(x: mx.array, partner: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    return x * cos + partner * sin


class RotaryEmbedding:
    """Rotary position embedding, element j paired with j + D/2.

    With ``partial_rotary_factor`` p only the first p * D/2 angles turn, at theta^(-2j/D) with the
    *whole* head size D as denominator; the others have frequency zero. So for D = 512 and
    p = 0.25 the dimensions 0-63 and 256-319 rotate ("proportional" in transformers,
    ``modeling_rope_utils.py``).

    An angle is a position times 1 / period, both of them float32, here, in MLX's kernel and in
    transformers: rounded elsewhere it would come out up to 1e-2 away at position 100,000.
    """

    def __init__(self, head_dim: int, rope: Rope):
        self.head_dim = head_dim
        half = head_dim // 2
        turning = int(rope.partial_rotary_factor * half)
        periods = np.full(half, np.inf)
        periods[:turning] = rope.factor * rope.theta ** (2 * np.arange(turning) / head_dim)
        self._periods = mx.array(periods, dtype=mx.float32)
        mx.eval(self._periods)  # used from any thread

    def turns(self, offset: int | mx.array, n: int) -> tuple[mx.array, mx.array]:
        """Cosines and signed sines for :meth:`__call__`: (n, D), or with an offset for each row
        (B, 1, n, D)."""
        start = offset.reshape(-1, 1, 1, 1) if isinstance(offset, mx.array) else offset
        angle = (mx.arange(n, dtype=mx.float32)[:, None] + start) * (1 / self._periods)
        cos, sin = mx.cos(angle), mx.sin(angle)
        return mx.concatenate([cos, cos], -1), mx.concatenate([-sin, sin], -1)

    def __call__(
        self,
        x: mx.array,
        offset: int | mx.array,
        turns: tuple[mx.array, mx.array] | None = None,
    ) -> mx.array:
        """Rotate x (B, heads, n, D) at positions offset, offset + 1, ...

        ``offset`` is one number, or one per row (B,). ``turns``: :meth:`turns` of these positions,
        worked out once for all layers of a kind where that saves time.
        """
        if turns is not None:
            return _turn(x, mx.roll(x, self.head_dim // 2, -1), *turns)
        return mx.fast.rope(
            x,
            self.head_dim,
            traditional=False,
            base=None,
            scale=1.0,
            offset=offset,
            freqs=self._periods,
        )
