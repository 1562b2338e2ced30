"""8-bit floats with one scale for each tensor, row, or block of rows and columns.

As compressed-tensors (``float-quantized``), NVIDIA's modelopt and DeepSeek's exporters
(``weight_scale_inv``) store them: a weight is code * scale. MLX has no packing with such scales,
so the weights are decoded; ``bits=8`` packs them again while they are read.
"""

from collections.abc import Iterator
from math import prod

import numpy as np

from ...errors import CheckpointError
from ..derived import Derived, floats
from ..files import Stored


def read(
    modules: dict[str, dict[str, Stored]], dtype: str, block: tuple[int, int]
) -> Iterator[tuple[str, Derived]]:
    """Name and decoded weights of modules. ``block``: rows and columns that share a scale."""
    for path, parts in modules.items():
        weight = parts["weight"]
        scale = parts.get("weight_scale") or parts["weight_scale_inv"]
        make = _decoder(path, weight, scale, block)
        yield (
            path + ".weight",
            Derived(weight.name, weight.file, dtype, weight.shape, make, True, "FP8"),
        )


def _decoder(path: str, weight: Stored, scale: Stored, block: tuple[int, int]):
    *experts, height, width = weight.shape
    number = prod(experts)
    shared, columns = _sharing(path, weight.shape, scale, block)

    def make(start: int, stop: int) -> np.ndarray:
        scales = floats(scale).reshape(number, -1, -(-width // columns))
        row = np.arange(start, stop)
        factors = scales[row // height, row % height // shared]  # (rows, blocks)
        return floats(weight, start, stop) * np.repeat(factors, columns, axis=-1)[:, :width]

    return make


def _sharing(path: str, shape: tuple, scale: Stored, block: tuple[int, int]) -> tuple[int, int]:
    """How many rows and columns share one scale."""
    *experts, height, width = shape
    count, last = prod(scale.shape), scale.shape[-1] if scale.shape else 1
    number = prod(experts)
    if count == number:
        return height, width
    if count == number * height:
        return 1, width
    down, across = block
    if count == number * -(-height // down) * -(-width // across) and last == -(-width // across):
        return down, across
    if count == number * height * last and width % last == 0:
        return 1, width // last
    raise CheckpointError(
        f"{path}: scales of shape {scale.shape} for weights {shape} are neither one a tensor, one "
        f"a row, one a group of columns, nor one a block of {down} x {across}"
    )
