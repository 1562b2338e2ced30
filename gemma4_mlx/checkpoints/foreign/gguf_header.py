"""The header of a GGUF file: settings, and where which tensor lies.

llama.cpp's own reader trusts the counts and lengths it finds, and takes seconds for a vocabulary;
here every one of them is held against the file's size first.
Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CheckpointError
from ..files import Stored

#: Type number -> name, weights a block, bytes a block.
TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}
_NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
#: The longest header read; Gemma's vocabulary makes one of 16 MB.
LARGEST_HEADER = 1 << 28


def read_header(file: Path) -> tuple[dict[str, Any], dict[str, Stored]]:
    """Settings by key, and tensors by llama.cpp's names.

    Raises CheckpointError for a file that is none of version 2 or 3, is cut short, or says
    impossible things.
    """
    try:
        with file.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Header(file, data).read()
    except (OSError, ValueError, struct.error) as error:
        raise CheckpointError(f"{file} is no whole GGUF file: {error}") from None


class _Header:
    def __init__(self, file: Path, data: mmap.mmap):
        self.file, self.data, self.at = file, data, 0

    def take(self, count: int) -> int:
        """Step over ``count`` bytes; gives where they begin."""
        start = self.at
        if count > min(len(self.data), LARGEST_HEADER) - start:
            raise ValueError(f"its header does not end within its {len(self.data)} bytes")
        self.at = start + count
        return start

    def number(self, kind: str) -> Any:
        return struct.unpack_from("<" + kind, self.data, self.take(struct.calcsize(kind)))[0]

    def text(self) -> str:
        length = self.number("Q")
        start = self.take(length)
        return self.data[start : start + length].decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise ValueError(f"a value of type {kind}, which does not exist")
        kind, length = self.number("I"), self.number("Q")
        if kind in _NUMBERS:
            item = np.dtype(_NUMBERS[kind]).newbyteorder("<")
            start = self.take(length * item.itemsize)
            return np.frombuffer(self.data, item, length, start).tolist()
        if kind != _STRING:
            raise ValueError(f"a list of type {kind}")
        if length * 8 > len(self.data):
            raise ValueError(f"a list of {length} texts")
        return [self.text() for _ in range(length)]

    def read(self) -> tuple[dict[str, Any], dict[str, Stored]]:
        start = self.take(4)
        if self.data[start : start + 4] != b"GGUF" or self.number("I") not in (2, 3):
            raise ValueError("it does not begin as one of version 2 or 3 does")
        tensors, settings = self.number("Q"), self.number("Q")
        found = {}
        for _ in range(settings):
            key = self.text()
            found[key] = self.value(self.number("I"))
        entries = [self.entry() for _ in range(tensors)]
        alignment = found.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 16:
            raise ValueError(f"alignment {alignment!r}")
        base = -(-self.at // alignment) * alignment
        stored: dict[str, Stored] = {}
        for name, shape, kind, offset in entries:
            if name in stored:
                raise ValueError(f"{name} is there twice")
            stored[name] = self.place(name, shape, kind, base + offset)
        return found, stored

    def entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name, axes = self.text(), self.number("I")
        if not 1 <= axes <= 4:
            raise ValueError(f"{name} has {axes} axes")
        shape = tuple(self.number("Q") for _ in range(axes))[::-1]  # the innermost comes first
        return name, shape, self.number("I"), self.number("Q")

    def place(self, name: str, shape: tuple[int, ...], kind: int, start: int) -> Stored:
        if kind not in TYPES:
            raise ValueError(f"{name} is stored as type {kind}, which is not known here")
        own, block, size = TYPES[kind]
        if not all(shape) or shape[-1] % block:
            raise ValueError(f"{name} of shape {shape} does not divide into blocks of {own}")
        stop = start + prod(shape) // block * size
        if stop > len(self.data):
            raise ValueError(f"{name} ends at byte {stop}, the file at byte {len(self.data)}")
        return Stored(name, self.file, own, shape, start, stop)
