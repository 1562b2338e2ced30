"""Whole numbers with a scale for a group of them, as compressed-tensors and Google pack them.

A weight is (q - z) * s with q in two's complement and, if symmetric, z = 0. MLX stores
u = q + 2^(bits-1) from zero upwards and computes u * scale + bias. So the packed words, which hold
u as well, stay as they are, and bias = -(2^(bits-1) + z) * s: nothing is rounded but that product,
and it only where z is not 0 and the scales' own type is to hold it.
Sources: compressed_tensors, ``compressors/pack_quantized/helpers.py``; transformers,
``integrations/gemma_quant.py``, for bytes of 2, 4 and 8 bits.
"""

from collections.abc import Iterator
from math import prod

import numpy as np

from ...errors import CheckpointError
from ..derived import Derived, floats
from ..files import Stored

_GROUPS = (128, 64, 32)  # of MLX


def read(
    modules: dict[str, dict[str, Stored]], dtype: str, width: int
) -> Iterator[tuple[str, Derived]]:
    """Name and tensor of what MLX stores for modules of whole numbers.

    Args:
        modules: module path -> part (``"weight_packed"``, ``"weight_scale"``, ...) -> tensor.
        dtype: of the weights where MLX has no packing for them and they are decoded.
        width: weights in a row, for those packed into bytes.
    """
    for path, parts in modules.items():
        matrix = _Matrix(path, parts, width)
        if matrix.group is None:
            yield path + ".weight", matrix.decoded(dtype)
        else:
            yield path + ".weight", matrix.packed()
            yield path + ".scales", matrix.scales()
            yield path + ".biases", matrix.biases()


class _Matrix:
    """One matrix (..., O, I) of whole numbers."""

    def __init__(self, path: str, parts: dict[str, Stored], width: int):
        self.weight = parts.get("weight_packed") or parts["weight"]
        self.scale, self.zero = parts["weight_scale"], parts.get("weight_zero_point")
        self.order = parts.get("weight_g_idx")
        *self.leading, words = self.weight.shape
        self.bits, self.width = 8, words
        if self.weight.dtype == "I32":
            self.width = _width(path, parts, words)
            self.bits = words * 32 // self.width
        elif self.weight.dtype == "U8":
            self.width, self.bits = width, words * 8 // width
            if words * 8 % width or words % 4 or self.bits not in (2, 4, 8):
                raise CheckpointError(f"{path}: rows of {words} bytes cannot hold {width} weights")
        self.groups = self.scale.shape[-1] if len(self.scale.shape) > 1 else 1
        rows = prod(self.leading)
        if len(self.weight.shape) < 2 or self.width % self.groups:
            raise CheckpointError(
                f"{path}: weights {self.weight.shape} and scales "
                f"{self.scale.shape} do not belong together"
            )
        self.whole = prod(self.scale.shape) != rows * self.groups  # one scale for all rows
        if self.whole and prod(self.scale.shape) != 1:
            raise CheckpointError(f"{path}: {self.scale.shape} scales for {rows} rows")
        own = self.width // self.groups
        fits = [g for g in _GROUPS if own % g == 0 and self.order is None]
        #: the group size in MLX: the file's own, or the largest that divides it
        self.group = fits[0] if fits and self.bits in (2, 3, 4, 5, 6, 8) else None

    def _derived(self, dtype: str, width: int, make, **more) -> Derived:
        shape = (*self.leading, width)
        return Derived(self.weight.name, self.weight.file, dtype, shape, make, **more)

    def packed(self) -> Derived:
        def make(start: int, stop: int) -> np.ndarray:
            words = self.weight.rows(start, stop)
            if self.weight.dtype == "I8":
                words = words.view(np.uint8) ^ 0x80  # q + 128
            return words.view(np.uint32)

        return self._derived("U32", self.width * self.bits // 32, make)

    def scales(self) -> Derived:
        return self._parameters(lambda scale, zero: scale, rounded=False)

    def biases(self) -> Derived:
        middle = 1 << (self.bits - 1)
        return self._parameters(
            lambda scale, zero: -(middle + zero) * scale, rounded=self.zero is not None
        )

    def _parameters(self, of, rounded: bool) -> Derived:
        """One number a group of MLX's, computed from scale and zero point of the file's."""
        repeats = self.width // self.group // self.groups

        def make(start: int, stop: int) -> np.ndarray:
            values = of(self._scales(start, stop), self._zeros(start, stop))
            return np.repeat(values, repeats, axis=-1).astype(np.float32)

        return self._derived(self.scale.dtype, self.width // self.group, make, rounded=rounded)

    def _scales(self, start: int, stop: int) -> np.ndarray:
        if self.whole:
            return np.full((stop - start, 1), floats(self.scale).item(), np.float32)
        if self.groups == 1:
            return floats(self.scale).reshape(-1, 1)[start:stop]
        return floats(self.scale, start, stop)

    def _zeros(self, start: int, stop: int) -> np.ndarray | float:
        """Zero points, (rows, groups); packed ones lie along the outputs."""
        zero = self.zero
        if zero is None:
            return np.float32(0)
        if zero.dtype != "I32":
            return zero.rows().reshape(-1, self.groups)[start:stop].astype(np.float32)
        height = self.leading[-1]
        words = zero.rows().view(np.uint32).reshape(-1, *zero.shape[-2:])
        codes = unpack(words.swapaxes(-1, -2), self.bits)[..., :height].swapaxes(-1, -2)
        codes = codes.reshape(-1, codes.shape[-1])[start:stop]
        return codes.astype(np.float32) - (1 << (self.bits - 1))

    def decoded(self, dtype: str) -> Derived:
        """Group sizes or an order of columns that MLX does not have."""

        def make(start: int, stop: int) -> np.ndarray:
            words = self.weight.rows(start, stop)
            codes = words
            if self.weight.dtype != "I8":
                codes = unpack(words.view(np.uint32), self.bits)[:, : self.width]
                codes = codes.astype(np.float32) - (1 << (self.bits - 1))
            column = np.arange(self.width) // (self.width // self.groups)
            if self.order is not None:
                column = self.order.vector()
            scale, zero = self._scales(start, stop), self._zeros(start, stop)
            zero = zero if np.ndim(zero) == 0 else zero[:, column]
            return (codes.astype(np.float32) - zero) * scale[:, column]

        origin = f"int{self.bits}"
        return self._derived(dtype, self.width, make, rounded=True, origin=origin)


def _width(path: str, parts: dict[str, Stored], words: int) -> int:
    """The unpacked width, which ``weight_shape`` tells."""
    shape = parts.get("weight_shape")
    width = int(shape.vector()[-1]) if shape is not None and shape.nbytes else words * 8
    if width < 1 or not words or words * 32 % width or words * 32 // width > 8:
        raise CheckpointError(f"{path}: rows of {words} words cannot hold {width} weights")
    return width


def unpack(words: np.ndarray, bits: int) -> np.ndarray:
    """(..., W) words of 32 bits -> (..., W * 32 / bits) codes, the lowest bits first."""
    digits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=-1, bitorder="little")
    count = digits.shape[-1] // bits
    digits = digits[..., : count * bits].reshape(*digits.shape[:-1], count, bits)
    return (digits << np.arange(bits, dtype=np.uint8)).sum(-1, dtype=np.uint8)
