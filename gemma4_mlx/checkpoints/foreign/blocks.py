"""GGUF's blocks of weights as groups of MLX's affine mode, bit by bit the same.

A block of 32 holds codes of 4, 5 or 8 bits with a 16-bit scale d, and stands for d * (q - middle)
(Q4_0, Q5_0, Q8_0) or d * q + m (Q4_1, Q5_1). A block of 256 (Q4_K, Q5_K) holds eight such groups,
whose scales and offsets are whole numbers of 6 bits times two 16-bit ones: exact in float32.
Source: llama.cpp, ``ggml/src/ggml-quants.c``, as in ``gguf.quants``.
"""

from dataclasses import replace
from math import prod

import numpy as np

from ..derived import Derived
from ..files import Stored

#: type -> bits, weights a block, bytes a block
KEPT = {
    "Q4_0": (4, 32, 18),
    "Q4_1": (4, 32, 20),
    "Q5_0": (5, 32, 22),
    "Q5_1": (5, 32, 24),
    "Q8_0": (8, 32, 34),
    "Q4_K": (4, 256, 144),
    "Q5_K": (5, 256, 176),
}


def packed(tensor: Stored) -> dict[str, Derived]:
    """``weight``, ``scales`` and ``biases`` of a matrix in one of the types of :data:`KEPT`."""
    kind, (*leading, width) = tensor.dtype, tensor.shape
    bits, block, size = KEPT[kind]
    number = prod(tensor.shape) // block
    raw = replace(tensor, dtype="U8", shape=(number, size))
    each = width // block  # blocks a row

    def derived(dtype: str, columns: int, of) -> Derived:
        def make(start: int, stop: int) -> np.ndarray:
            values = of(raw.rows(start * each, stop * each))
            return values.reshape(stop - start, columns)

        return Derived(tensor.name, tensor.file, dtype, (*leading, columns), make)

    scale_type = "F32" if kind.endswith("_K") else "F16"
    return {
        "weight": derived("U32", width * bits // 32, lambda b: _pack(_codes(kind, b), bits)),
        "scales": derived(scale_type, width // 32, lambda b: _parameters(kind, b)[0]),
        "biases": derived(scale_type, width // 32, lambda b: _parameters(kind, b)[1]),
    }


def _half(blocks: np.ndarray, at: int) -> np.ndarray:
    """The float16 at a byte of every block, as float32: (blocks, 1)."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def _parameters(kind: str, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale and bias of every group: (blocks, groups of a block) each, float32."""
    d = _half(blocks, 0)
    if kind.endswith("_K"):
        scale, least = _six_bits(blocks[:, 4:16])
        return d * scale, -(_half(blocks, 2) * least)
    if kind.endswith("_1"):
        return d, _half(blocks, 2)
    return d, -(1 << (KEPT[kind][0] - 1)) * d


def _six_bits(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The eight scales and eight offsets of 6 bits that 12 bytes hold, as float32."""
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scale = np.concatenate([first & 63, (third & 15) | ((first >> 2) & 48)], axis=1)
    least = np.concatenate([second & 63, (third >> 4) | ((second >> 2) & 48)], axis=1)
    return scale.astype(np.float32), least.astype(np.float32)


def _codes(kind: str, blocks: np.ndarray) -> np.ndarray:
    """The codes in the order of the weights: (blocks, weights of a block) uint8."""
    if kind == "Q8_0":
        return blocks[:, 2:] ^ 0x80  # two's complement -> from zero upwards
    if kind.endswith("_K"):
        low = blocks[:, -128:].reshape(-1, 4, 1, 32)  # 32 bytes: two groups, low and high halves
        codes = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 8, 32)
        if kind == "Q5_K":
            fifth = blocks[:, 16:48].reshape(-1, 1, 32)
            shifts = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
            codes = codes | (((fifth >> shifts) & 1) << 4)
        return codes.reshape(-1, 256)
    low = blocks[:, -16:]
    codes = np.concatenate([low & 15, low >> 4], axis=1)
    if kind.startswith("Q5"):
        fifth = np.unpackbits(blocks[:, -20:-16], axis=1, bitorder="little")
        codes = codes | (fifth << 4)
    return codes


def _pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes as MLX packs them, the lowest bits first: uint32 words."""
    codes = np.ascontiguousarray(codes).reshape(-1, 32)
    if bits == 4:
        codes = codes[:, ::2] | (codes[:, 1::2] << 4)
    elif bits != 8:
        digits = np.unpackbits(codes[..., None], axis=-1, bitorder="little", count=bits)
        codes = np.packbits(digits.reshape(len(codes), -1), axis=-1, bitorder="little")
    return np.ascontiguousarray(codes).view(np.uint32)
