"""Mixture of experts: a router chooses k of E small gated MLPs for every token.

Beside the experts every layer keeps its dense MLP; the decoder layer adds the two.
"""

import mlx.core as mx
import mlx.nn as nn

from ..config import TextConfig
from . import ops
from .ops import geglu
from .taps import Tap, untouched

#: From this many (token, expert) pairs on, pairs are sorted by expert, so that each expert's
#: weights are read once.
SORT_FROM = 64


class Router(nn.Module):
    """norm -> scale -> project -> top k -> softmax over these -> per-expert scale.

    The reference takes the softmax over all experts and renormalises the chosen ones', which is
    the same, but 0 / 0 for experts that an intervention chose against their probability.
    """

    def __init__(self, config: TextConfig):
        super().__init__()
        self.k = config.top_k_experts
        self.eps = config.rms_norm_eps
        self.root_size = config.hidden_size**-0.5
        self.proj = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.scale = mx.ones((config.hidden_size,))
        self.per_expert_scale = mx.ones((config.num_experts,))

    def scores(self, x: mx.array) -> mx.array:
        """x (B, n, H), the un-normed residual stream -> all experts' scores (B, n, E), float32."""
        z = ops.rms_norm(x, self.eps, self.scale)
        return self.proj(z).astype(mx.float32) * self.root_size

    def __call__(self, x: mx.array, tap: Tap) -> tuple[mx.array, mx.array]:
        """x (B, n, H), the un-normed residual stream -> expert indices and weights (B, n, k).

        ``per_expert_scale`` comes after the softmax, so weights need not sum to 1.
        """
        logits = tap("router_logits", self.scores(x))
        if tap is not untouched:
            tap("router_probabilities", mx.softmax(logits, axis=-1))
        # The choice itself has no gradient; the weights carry it.
        indices = mx.stop_gradient(mx.argpartition(logits, kth=-self.k, axis=-1)[..., -self.k :])
        indices = tap("expert_indices", indices)
        weights = mx.softmax(mx.take_along_axis(logits, indices, axis=-1), axis=-1)
        weights = tap("expert_weights", weights * self.per_expert_scale[indices])
        return indices, weights


class _Switch(nn.Module):
    """What mlx-lm's LoRA tuner asks of a layer of experts, packed or not."""

    @property
    def num_experts(self) -> int:
        return self.weight.shape[0]

    @property
    def output_dims(self) -> int:
        return self.weight.shape[1]

    def to_lora(self, r: int, scale: float, dropout: float = 0.0) -> nn.Module:
        """This layer with mlx-lm's low-rank update of rank r beside each expert."""
        from mlx_lm.tuner.lora import LoRASwitchLinear

        return LoRASwitchLinear.from_base(self, r=r, dropout=dropout, scale=scale)


class SwitchLinear(_Switch):
    """E linear maps without bias; each row goes through the one it is given."""

    def __init__(self, input_dims: int, output_dims: int, num_experts: int):
        super().__init__()
        self.weight = mx.zeros((num_experts, output_dims, input_dims))

    @property
    def input_dims(self) -> int:
        return self.weight.shape[2]

    def __call__(self, x: mx.array, experts: mx.array, sorted_indices: bool) -> mx.array:
        """x (..., 1, I), experts (...) -> (..., 1, O); ``sorted_indices``: equal experts adjoin."""
        return ops.gather_mm(x, self.weight, experts, sorted_indices)

    def to_quantized(self, group_size: int = 64, bits: int = 4, mode: str = "affine", **_):
        E, O, I = self.weight.shape
        layer = QuantizedSwitchLinear(I, O, E, group_size, bits, mode)
        layer.weight, layer.scales, *biases = mx.quantize(
            self.weight, group_size=group_size, bits=bits, mode=mode
        )
        if biases:
            layer.biases = biases[0]
        return layer


class QuantizedSwitchLinear(_Switch):
    """SwitchLinear with its weights in ``bits`` bits (modes as in ``mx.quantize``)."""

    def __init__(
        self,
        input_dims: int,
        output_dims: int,
        num_experts: int,
        group_size: int = 64,
        bits: int = 4,
        mode: str = "affine",
    ):
        super().__init__()
        self.group_size, self.bits, self.mode = group_size, bits, mode
        self.weight = mx.zeros((num_experts, output_dims, input_dims * bits // 32), dtype=mx.uint32)
        shape = (num_experts, output_dims, input_dims // group_size)
        if mode == "affine":
            self.scales, self.biases = mx.zeros(shape), mx.zeros(shape)
        else:
            self.scales = mx.zeros(shape, dtype=mx.uint8)
        self.freeze()

    @property
    def input_dims(self) -> int:
        return self.weight.shape[2] * 32 // self.bits

    def __call__(self, x: mx.array, experts: mx.array, sorted_indices: bool) -> mx.array:
        """As :class:`SwitchLinear`'s."""
        return ops.gather_qmm(x, self, experts, sorted_indices)


class SwitchGLU(nn.Module):
    """The experts: down(gelu(gate(x)) * up(x)) with E sets of weights."""

    def __init__(self, hidden_size: int, intermediate_size: int, num_experts: int):
        super().__init__()
        self.gate_proj = SwitchLinear(hidden_size, intermediate_size, num_experts)
        self.up_proj = SwitchLinear(hidden_size, intermediate_size, num_experts)
        self.down_proj = SwitchLinear(intermediate_size, hidden_size, num_experts)

    def glu(self, x: mx.array, experts: mx.array, sorted_indices: bool) -> mx.array:
        """x (..., 1, H) through one expert each."""
        gate = self.gate_proj(x, experts, sorted_indices)
        up = self.up_proj(x, experts, sorted_indices)
        return self.down_proj(geglu(gate, up), experts, sorted_indices)

    def __call__(self, x: mx.array, indices: mx.array, places: mx.array | None = None) -> mx.array:
        """x (B, n, H), indices (B, n, k) -> each chosen expert's output (B, n, k, H).

        ``places``: where among the matrices each chosen expert's stand; None: at its index.
        """
        places = indices if places is None else places
        if indices.size < SORT_FROM:
            rows = mx.expand_dims(x, (-3, -2))  # (B, n, 1, 1, H)
            return self.glu(rows, places, sorted_indices=False).squeeze(-2)
        k, H = indices.shape[-1], x.shape[-1]
        order = mx.argsort(indices.reshape(-1))  # each expert's rows stand together
        rows = x.reshape(-1, 1, H)[order // k]  # (B * n * k, 1, H)
        y = self.glu(rows, places.reshape(-1)[order], sorted_indices=True)[mx.argsort(order)]
        return y.reshape(*indices.shape, H)


class Experts(nn.Module):
    """Holder of the expert weights, named as in MLX checkpoints (``experts.switch_glu``)."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.switch_glu = SwitchGLU(
            config.hidden_size, config.moe_intermediate_size, config.num_experts
        )

    def __call__(self, x: mx.array, indices: mx.array, weights: mx.array, tap: Tap) -> mx.array:
        """Sum over the k chosen experts, weighted: (B, n, H)."""
        outputs = tap("expert_outputs", self.switch_glu(x, indices))  # (B, n, k, H)
        return (outputs * weights[..., None]).sum(axis=-2).astype(x.dtype)
