"""The safetensors layout, written by numpy (https://huggingface.co/docs/safetensors).

Eight bytes of header length, a JSON header, then the arrays one after another. They are written
through Python's own file, so that every write that fails is an error.
"""

import json
import struct
from collections.abc import Iterator, Mapping

import numpy as np

TYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "U16": np.uint16,
    "U32": np.uint32,
    "U64": np.uint64,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
}
_NAMES = {np.dtype(v): k for k, v in TYPES.items()}
PIECE = 1 << 26  # bytes written at once


def write(
    file,
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    bfloat16: frozenset = frozenset(),
) -> bytes:
    """Write arrays of any shape into an open binary file.

    Args:
        metadata: texts that stand in the header under ``__metadata__``
        bfloat16: names of uint16 arrays that hold the bits of bfloat16 numbers

    Returns:
        What stands before the arrays: length and header.

    Raises:
        OSError: it cannot be written.
    """
    header, at = {"__metadata__": dict(metadata)}, 0
    # Widest types first keeps every array aligned.
    arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))
    for name, array in arrays.items():
        header[name] = {
            "dtype": "BF16" if name in bfloat16 else _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    head = struct.pack("<Q", len(text)) + text
    file.write(head)
    for array in arrays.values():
        for piece in _pieces(array):
            file.write(piece)
    return head


def _pieces(array: np.ndarray) -> Iterator[memoryview]:
    """The array's bytes, at most :data:`PIECE` (and one row of the first axis) at a time."""
    array = array.reshape(1) if array.ndim == 0 else array
    rows = max(1, PIECE // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        yield np.ascontiguousarray(array[start : start + rows]).data
