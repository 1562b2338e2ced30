"""Block floating point: NVFP4 of compressed-tensors and of modelopt, MXFP4 and MXFP8.

MXFP4 and MXFP8 are MLX's own. NVFP4 has an 8-bit float scale for every 16 weights, and one float32
for the whole tensor besides, which MLX has no place for: where that is a power of two and all
scales take it in, the weights stay packed, bit by bit the same; else they are decoded.
Source: compressed_tensors, ``compressors/nvfp4``, and the headers of published files.
"""

from collections.abc import Iterator
from math import frexp, prod

import numpy as np

from ...errors import CheckpointError
from ..derived import EIGHT_BIT_FLOATS, Derived, floats, rows
from ..files import Stored


def read_nvfp4(modules: dict[str, dict[str, Stored]], dtype: str) -> Iterator[tuple[str, Derived]]:
    """Name and tensor of what MLX stores for modules (of one stack: all packed, or none)."""
    matrices = {path: _NVFP4(path, parts) for path, parts in modules.items()}
    packed = all(matrix.exact() for matrix in matrices.values())
    for path, matrix in matrices.items():
        if packed:
            yield path + ".weight", words(matrix.weight)
            yield path + ".scales", matrix.scales()
        else:
            yield path + ".weight", matrix.decoded(dtype)


def read_mx(modules: dict[str, dict[str, Stored]]) -> Iterator[tuple[str, Derived]]:
    """The same for MXFP4 and MXFP8, whose scales are powers of two for every 32 weights."""
    for path, parts in modules.items():
        weight, scale = parts.get("weight_packed") or parts["weight"], parts["weight_scale"]
        yield path + ".weight", words(weight)
        yield (
            path + ".scales",
            Derived(scale.name, scale.file, "U8", scale.shape, lambda *r, s=scale: rows(s, *r)),
        )


def words(weight: Stored) -> Derived:
    """Bytes as MLX's 32-bit words."""
    *leading, width = weight.shape
    if not leading or width % 4:
        raise CheckpointError(f"{weight.name}: shape {weight.shape} does not make whole words")
    return Derived(
        weight.name,
        weight.file,
        "U32",
        (*leading, width // 4),
        lambda *r: weight.rows(*r).view(np.uint32),
    )


class _NVFP4:
    """One matrix, or a stack of them."""

    def __init__(self, path: str, parts: dict[str, Stored]):
        self.weight = parts.get("weight_packed") or parts["weight"]
        self.scale = parts["weight_scale"]
        self.divides = "weight_global_scale" in parts
        self.whole = parts["weight_global_scale" if self.divides else "weight_scale_2"]
        *leading, width = self.weight.shape
        number = prod(leading[:-1])
        if self.scale.shape != (*leading, width // 8) or prod(self.whole.shape) not in (1, number):
            raise CheckpointError(
                f"{path}: weights {self.weight.shape}, scales {self.scale.shape} and tensor scale "
                f"{self.whole.shape} do not belong together"
            )
        self.height = leading[-1]

    def _factors(self, start: int, stop: int) -> np.ndarray:
        """The tensor's scale, for each row: (rows, 1)."""
        whole = floats(self.whole).reshape(-1)
        whole = np.float32(1) / whole if self.divides else whole
        if len(whole) == 1:
            return np.full((stop - start, 1), whole[0])
        return whole[np.arange(start, stop) // self.height][:, None]

    def exact(self) -> bool:
        """Whether an 8-bit float holds every scale times the tensor's."""
        factors = floats(self.whole).reshape(-1)
        if not all(frexp(factor)[0] == 0.5 for factor in factors.tolist()):
            return False
        stop = prod(self.scale.shape[:-1])
        product = floats(self.scale) * self._factors(0, stop)
        return bool(np.isin(product, EIGHT_BIT_FLOATS["F8_E4M3"]).all())

    def scales(self) -> Derived:
        def make(start: int, stop: int):
            import mlx.core as mx

            return mx.to_fp8(mx.array(floats(self.scale, start, stop) * self._factors(start, stop)))

        return Derived(self.scale.name, self.scale.file, "U8", self.scale.shape, make)

    def decoded(self, dtype: str) -> Derived:
        packed = words(self.weight)

        def make(start: int, stop: int):
            import mlx.core as mx

            values = mx.dequantize(
                rows(packed, start, stop),
                rows(self.scale, start, stop),
                group_size=16,
                bits=4,
                mode="nvfp4",
                dtype=mx.float32,
            )
            return values * mx.array(self._factors(start, stop))

        shape = (*self.weight.shape[:-1], self.weight.shape[-1] * 2)
        return Derived(self.weight.name, self.weight.file, dtype, shape, make, True, "NVFP4")
