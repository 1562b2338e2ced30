"""Small parts that several files share: norms, the gated MLP, rotary embeddings, the soft cap, the
towers' linear layers."""

from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..config import Rope
from . import ops


class RMSNorm(nn.RMSNorm):
    """RMS norm times a weight: the plain weight, not 1 + weight as in Gemma 1 to 3."""

    def __call__(self, x: mx.array) -> mx.array:
        return ops.rms_norm(x, self.eps, self["weight"])


@partial(mx.compile, shapeless=True)
def scaled(x: mx.array, factor: mx.array) -> mx.array:
    """x times a float32 factor, rounded once to x's type.

    A Python number would be rounded to x's type before the product.
    """
    return (x.astype(mx.float32) * factor).astype(x.dtype)


@partial(mx.compile, shapeless=True)
def soft_cap(logits: mx.array, cap: mx.array) -> mx.array:
    """cap * tanh(logits / cap): logits stay within (-cap, cap), order unchanged."""
    return mx.tanh(logits / cap) * cap


@partial(mx.compile, shapeless=True)
def clip(x: mx.array, low: mx.array, high: mx.array) -> mx.array:
    """``x`` within [``low``, ``high``], in one pass where ``mx.clip`` makes two."""
    return mx.minimum(mx.maximum(x, low), high)


class GatedMLP(nn.Module):
    """down(gelu(gate(x)) * up(x))."""

    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(ops.geglu(self.gate_proj(x), self.up_proj(x)))


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
        self.head_dim, self.rope = head_dim, rope
        half = head_dim // 2
        turning = int(rope.partial_rotary_factor * half)
        periods = np.full(half, np.inf)
        periods[:turning] = rope.factor * rope.theta ** (2 * np.arange(turning) / head_dim)
        self.periods = mx.array(periods, dtype=mx.float32)  # (D/2,)
        mx.eval(self.periods)  # used from any thread

    def __call__(self, x: mx.array, offset: int | mx.array, shared: dict | None = None) -> mx.array:
        """Rotate x (B, heads, n, D) at positions offset, offset + 1, ...

        ``offset`` is one number, or one per row (B,). ``shared``: what the layers of one call, all
        at this offset, work out once.
        """
        return ops.rope(x, self, offset, {} if shared is None else shared)


class ClippedLinear(nn.Module):
    """The linear layer of the vision and audio towers: its input and output are held in range,
    ``clip(linear(clip(x, input_min, input_max)), output_min, output_max)``, without bias.

    E2B's and E4B's towers were trained with clipped activations, and their checkpoints store four
    scalars beside each weight; without them the results change. The large models' towers keep the
    same ``.linear`` level in their tensor names but clip nothing (transformers,
    ``Gemma4ClippableLinear`` in ``modeling_gemma4.py``).

    Tensors: ``linear.weight`` (outputs, inputs) and, only if ``clipped``, the scalars
    ``input_min``, ``input_max``, ``output_min``, ``output_max``.
    """

    def __init__(self, inputs: int, outputs: int, clipped: bool):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        if clipped:
            self.input_min = mx.array(-mx.inf)
            self.input_max = mx.array(mx.inf)
            self.output_min = mx.array(-mx.inf)
            self.output_max = mx.array(mx.inf)

    def __call__(self, x: mx.array) -> mx.array:
        if "input_min" not in self:
            return self.linear(x)
        dtype = x.dtype
        x = clip(x, self.input_min.astype(dtype), self.input_max.astype(dtype))
        x = self.linear(x)
        return clip(x, self.output_min.astype(dtype), self.output_max.astype(dtype))
