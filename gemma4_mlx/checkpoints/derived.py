"""Tensors that a checkpoint does not hold as such, but that follow from ones it holds.

Foreign quantizations, experts stored one by one and GGUF files become tensors under the names
and in the packings of MLX this way. Nothing is read before it is asked for, and then in blocks of
rows, so that a matrix and its decoded form are never in memory as a whole at the same time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import mlx.core as mx
import numpy as np

from .files import ITEM_SIZES, Stored

#: What MLX computes in for the element types of files.
DTYPES = {
    "BF16": mx.bfloat16,
    "F16": mx.float16,
    "F32": mx.float32,
    "U32": mx.uint32,
    "U8": mx.uint8,
}


@dataclass(frozen=True)
class Derived:
    """A tensor with a recipe.

    Attributes:
        name, file: of the stored tensor it comes from, for messages.
        dtype: what a file of MLX's would hold it in.
        shape: its shape.
        make: ``make(start, stop)``: rows ``start`` to ``stop`` (leading axes flattened).
        rounded: ``dtype`` cannot hold every value exactly; float32 does.
        origin: what the weights were quantized as where this is their decoded form, else "".
    """

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    make: Callable[[int, int], mx.array]
    rounded: bool = False
    origin: str = ""

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEM_SIZES[self.dtype]


def rows(tensor: Stored | Derived, start: int = 0, stop: int | None = None) -> mx.array:
    """Rows ``start`` to ``stop`` of a tensor, leading axes flattened: (rows, width).

    8-bit floats come as their uint8 codes.
    """
    if stop is None:
        stop = prod(tensor.shape[:-1])
    if isinstance(tensor, Derived):
        return tensor.make(start, stop)
    array = mx.array(tensor.rows(start, stop))
    return array.view(mx.bfloat16) if tensor.dtype == "BF16" else array


def floats(tensor: Stored, start: int = 0, stop: int | None = None) -> np.ndarray:
    """The same of a tensor of floats, in float32 and in NumPy."""
    array = rows(tensor, start, stop)
    if tensor.dtype.startswith("F8"):
        return np.array(eight_bit_floats(array, tensor.dtype))
    return np.array(array.astype(mx.float32))


def eight_bit_floats(codes: mx.array, dtype: str) -> mx.array:
    """uint8 codes of a file's 8-bit float type -> float32."""
    if dtype == "F8_E8M0":
        return mx.power(2.0, codes.astype(mx.float32) - 127)
    if dtype == "F8_E5M2":  # the upper half of a float16
        return (codes.astype(mx.uint16) << 8).view(mx.float16).astype(mx.float32)
    return mx.from_fp8(codes, dtype=mx.float32)


def stacked(tensors: Sequence[Stored | Derived]) -> Derived:
    """Matrices of one shape (O, I), one an expert, as one tensor (E, O, I)."""
    first = tensors[0]
    height = first.shape[-2]

    def make(start: int, stop: int) -> mx.array:
        pieces = []
        while start < stop:
            expert, row = divmod(start, height)
            count = min(height - row, stop - start)
            pieces.append(rows(tensors[expert], row, row + count))
            start += count
        return pieces[0] if len(pieces) == 1 else mx.concatenate(pieces)

    return Derived(
        first.name,
        first.file,
        first.dtype,
        (len(tensors), *first.shape),
        make,
        rounded=any(isinstance(t, Derived) and t.rounded for t in tensors),
        origin=first.origin if isinstance(first, Derived) else "",
    )
