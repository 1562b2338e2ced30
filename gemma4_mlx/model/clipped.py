"""The linear layer of the vision and audio towers: its input and output are held in range.

E2B's and E4B's towers were trained with clipped activations, and their checkpoints store four
scalars beside each weight; without them the results change. The large models' towers keep the
same ``.linear`` level in their tensor names but clip nothing (transformers,
``Gemma4ClippableLinear`` in ``modeling_gemma4.py``).
"""

from functools import partial

import mlx.core as mx
import mlx.nn as nn


@partial(mx.compile, shapeless=True)
def clip(x: mx.array, low: mx.array, high: mx.array) -> mx.array:
    """``x`` within [``low``, ``high``], in one pass where ``mx.clip`` makes two."""
    return mx.minimum(mx.maximum(x, low), high)


class ClippedLinear(nn.Module):
    """``clip(linear(clip(x, input_min, input_max)), output_min, output_max)``, without bias.

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
