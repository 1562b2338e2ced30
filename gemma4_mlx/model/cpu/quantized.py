"""Quantized products on MLX's CPU backend.

There ``mx.quantized_matmul`` is a plain loop (about 2 GFLOP/s on two cores), while the BLAS behind
``@`` is some fifty times faster. From a few rows on it pays to turn a block of weights back into
float32 and multiply that: 512 rows through a (6144, 1536) matrix of 4 bits take 0.24 CPU-seconds
instead of 4.8.
"""

from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..values import evaluated

#: From this many rows on, unpacking the weights is cheaper than the quantized product.
ROWS = 5
#: Bytes of unpacked weights at a time: small enough for the cache, and for the allocator to reuse.
BLOCK_BYTES = 4 * 2**20


def matmul(x: mx.array, layer: nn.Module, packed: tuple | None = None) -> mx.array:
    """x (..., I) times the transposed packed (O, I) weights of ``layer``: (..., O).

    Args:
        packed: ``(weight, scales, biases or None)`` to use in place of the layer's own.
    """
    weight, scales, biases = packed or (layer.weight, layer.scales, layer.get("biases"))
    how = dict(group_size=layer.group_size, bits=layer.bits, mode=layer.mode)
    dtype, width = x.dtype, x.shape[-1]
    x, scales, biases = map(_float32, (x, scales, biases))
    if x.size // width < ROWS:
        y = mx.quantized_matmul(x, weight, scales, biases, transpose=True, **how)
        return y.astype(dtype)
    step = max(1, BLOCK_BYTES // (4 * width))
    outputs = []
    for start in range(0, weight.shape[0], step):
        part = [None if a is None else a[start : start + step] for a in (weight, scales, biases)]
        if outputs:  # one unpacked block at a time
            part[0] = mx.depends([part[0]], [outputs[-1]])[0]
        outputs.append(x @ mx.dequantize(*part, dtype=mx.float32, **how).T)
    y = outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=-1)
    return y.astype(dtype)


def _float32(x: mx.array | None) -> mx.array | None:
    """Floats in the one type that is fast on the CPU; whole numbers (packed weights, one-byte
    scales) as they are."""
    return x.astype(mx.float32) if x is not None and mx.issubdtype(x.dtype, mx.floating) else x


class QuantizedLinear(nn.QuantizedLinear):
    """``nn.QuantizedLinear`` that unpacks for many rows."""

    def __call__(self, x: mx.array) -> mx.array:
        x = matmul(x, self)
        return x + self.bias if "bias" in self else x


class QuantizedEmbedding(nn.QuantizedEmbedding):
    """``nn.QuantizedEmbedding`` that looks up float32 in every mode and whose head unpacks for
    many rows."""

    def __call__(self, x: mx.array) -> mx.array:
        biases = self.get("biases")
        return mx.dequantize(
            self.weight[x],
            self.scales[x],
            None if biases is None else biases[x],
            group_size=self.group_size,
            bits=self.bits,
            mode=self.mode,
            dtype=mx.float32 if biases is None else biases.dtype,
        )

    def as_linear(self, x: mx.array) -> mx.array:
        return matmul(x, self)


def gather_qmm(x: mx.array, layer: nn.Module, experts: mx.array, sorted_indices: bool) -> mx.array:
    """x (R, 1, I) times the packed (O, I) matrices of its ``experts`` (R,): (R, 1, O).

    An expert is unpacked for the rows that go through it. Which expert has how many rows must be
    known for that, so the routing is evaluated here, and inside mx.compile, where it has no
    values, MLX's own slower product takes its place. The experts' scales stay in 16 bits (in
    float32 those of 26B-A4B would take 1.4 GB more) and are widened for the chosen experts alone.
    """
    many = sorted_indices and experts.size >= ROWS
    if many and evaluated(experts):
        return _by_expert(x, layer, experts)
    how = dict(transpose=True, group_size=layer.group_size, bits=layer.bits, mode=layer.mode)
    packed, wide = [layer.weight, layer.scales, layer.get("biases")], x.astype(mx.float32)
    if many or (x.dtype == mx.float32 and layer.scales.dtype in (mx.float32, mx.uint8)):
        packed, how["sorted_indices"] = map(_float32, packed), sorted_indices
        y = mx.gather_qmm(wide, *packed, rhs_indices=experts, **how)
    else:
        packed = [None if part is None else _float32(part[experts]) for part in packed]
        y = mx.quantized_matmul(wide, *packed, **how)
    return y.astype(x.dtype)


def _by_expert(x: mx.array, layer: nn.Module, experts: mx.array) -> mx.array:
    experts, biases = np.array(experts), layer.get("biases")
    bounds = [0, *(np.flatnonzero(np.diff(experts)) + 1).tolist(), len(experts)]
    outputs = []
    for start, stop in pairwise(bounds):
        expert = int(experts[start])
        bias = None if biases is None else biases[expert]
        packed = layer.weight[expert], layer.scales[expert], bias
        outputs.append(matmul(x[start:stop], layer, packed))
    return mx.concatenate(outputs)
