"""Linear layers whose input and output are rounded to 256 steps of a fixed size.

Google's mobile checkpoints were trained so: beside each weight lie the two step sizes ("static
range quantization", transformers, ``integrations/gemma_quant.py``), and without the rounding the
results change. A step of 0 stands for a layer that was not calibrated and rounds nothing.
"""

from functools import cache, partial

import mlx.core as mx
import mlx.nn as nn

from .sizes import STEPS


@partial(mx.compile, shapeless=True)
def _rounded(x: mx.array, step: mx.array) -> mx.array:
    step = step.astype(x.dtype)
    safe = mx.where(step == 0, 1, step)
    steps = mx.minimum(mx.maximum(mx.round(x / safe), -128), 127)
    return mx.where(step == 0, x, (steps * safe).astype(x.dtype))


@mx.custom_function
def rounded(x: mx.array, step: mx.array) -> mx.array:
    """x to the nearest of -128, ..., 127 steps, in x's type.

    Its derivative by x is taken to be 1 within these and 0 outside (Bengio et al., "Estimating or
    Propagating Gradients Through Stochastic Neurons", 2013): a staircase has none of its own.
    """
    return _rounded(x, step)


@rounded.vjp
def _(primals, cotangent, _) -> tuple[mx.array, mx.array]:
    x, step = primals
    inside = (step == 0) | ((x >= -128 * step) & (x <= 127 * step))
    return mx.where(inside, cotangent, 0), mx.zeros_like(step)


@cache
def ranged(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of a linear layer with this rounding, for layers that hold :data:`STEPS`."""

    class Ranged(kind):
        def __call__(self, x: mx.array) -> mx.array:
            first, last = STEPS
            x = super().__call__(rounded(x, self[first]) if first in self else x)
            return rounded(x, self[last]) if last in self else x

    Ranged.__name__ = Ranged.__qualname__ = f"Ranged{kind.__name__}"
    return Ranged
