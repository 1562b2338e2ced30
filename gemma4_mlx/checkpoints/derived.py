"""Tensors that a checkpoint does not hold as such, but that follow from ones it holds.

Foreign quantizations, experts stored one by one and GGUF files become tensors under the names
and in the packings of MLX this way. Nothing is read before it is asked for, and then in blocks of
rows, so that a matrix and its decoded form are never in memory as a whole at the same time. MLX
is imported where rows become its arrays: what fits is planned on machines without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .files import ITEM_SIZES, Stored

if TYPE_CHECKING:
    import mlx.core as mx


@dataclass(frozen=True)
class Derived:
    """A tensor with a recipe.

    Attributes:
        name, file: of the stored tensor it comes from, for messages.
        dtype: what a file of MLX's would hold it in.
        shape: its shape.
        make: ``make(start, stop)``: rows ``start`` to ``stop`` (leading axes flattened), of NumPy
            or of MLX.
        rounded: ``dtype`` cannot hold every value exactly; float32 does.
        origin: what the weights were quantized as where this is their decoded form, else "".
        parts: the tensors that it stacks, if it does.
    """

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    make: Callable[[int, int], np.ndarray | mx.array]
    rounded: bool = False
    origin: str = ""
    parts: tuple[Stored | Derived, ...] = ()

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEM_SIZES[self.dtype]


def rows(
    tensor: Stored | Derived,
    start: int = 0,
    stop: int | None = None,
    columns: range | None = None,
) -> mx.array:
    """Rows ``start`` to ``stop`` of a tensor, leading axes flattened: (rows, width), or of these
    some ``columns``.

    8-bit floats come as their uint8 codes.
    """
    import mlx.core as mx

    if stop is None:
        stop = prod(tensor.shape[:-1])
    if isinstance(tensor, Derived):
        made = tensor.make(start, stop)
        made = mx.array(made) if isinstance(made, np.ndarray) else made
        return made if columns is None else made[:, columns.start : columns.stop]
    array = mx.array(tensor.rows(start, stop, columns))
    return array.view(mx.bfloat16) if tensor.dtype == "BF16" else array


def floats(tensor: Stored, start: int = 0, stop: int | None = None) -> np.ndarray:
    """The same of a tensor of floats, in float32 and in NumPy."""
    values = tensor.rows(start, prod(tensor.shape[:-1]) if stop is None else stop)
    return widened(values, tensor.dtype)


def widened(values: np.ndarray, dtype: str) -> np.ndarray:
    """Floats of a file, in what NumPy holds them in, as float32."""
    if dtype.startswith("F8"):
        return EIGHT_BIT_FLOATS[dtype][values]
    if dtype == "BF16":  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def _e4m3() -> np.ndarray:
    """Sign, four bits of exponent and three of mantissa, no infinity: up to 448."""
    code = np.arange(128)
    exponent, mantissa = code >> 3, code & 7
    value = np.where(exponent, np.ldexp(8 + mantissa, exponent - 10), np.ldexp(mantissa, -9))
    value[127] = np.nan
    return np.concatenate([value, -value]).astype(np.float32)


#: The float32 of each code of a file's 8-bit float types.
EIGHT_BIT_FLOATS = {
    "F8_E4M3": _e4m3(),
    "F8_E5M2": (np.arange(256, dtype=np.uint16) << 8).view(np.float16).astype(np.float32),
    "F8_E8M0": np.append(np.ldexp(np.float32(1), np.arange(-127, 128)), np.float32(np.nan)),
}


def stacked(tensors: Sequence[Stored | Derived]) -> Derived:
    """Matrices of one shape (O, I), one an expert, as one tensor (E, O, I)."""
    first = tensors[0]
    height = first.shape[-2]

    def make(start: int, stop: int) -> mx.array:
        import mlx.core as mx

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
        parts=tuple(tensors),
    )
