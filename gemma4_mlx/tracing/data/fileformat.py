"""The ``.g4trace`` file: named arrays and a JSON description, in the safetensors layout.

Eight bytes of header length, a JSON header, then the arrays one after another; any safetensors
reader opens it. The header's ``__metadata__`` says ``format: g4trace``, a version and, as JSON
text, what is not an array. Reading maps the file: an array's bytes are read when they are looked
at. Written and read with numpy alone, never by unpickling.

Version 2 added, for each layer of attention, the heads whose queries it holds (``kept``) and the
mass by offset of sliding layers (``offset_mass``); files of version 1 open as before.
"""

import json
import struct
from pathlib import Path

import numpy as np

from ...atomic import replacing
from ...errors import TraceError

VERSION = 2
#: A header larger than this is taken for damage.
MAX_HEADER = 1 << 30
_TYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "U16": np.uint16,
    "U32": np.uint32,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
}
_NAMES = {np.dtype(v): k for k, v in _TYPES.items()}


def write(path, arrays: dict[str, np.ndarray], description: dict) -> None:
    """Write a trace file; an existing one is replaced only once the new one is complete.

    Raises OSError if it cannot be written.
    """
    path = Path(path)
    header = {
        "__metadata__": {
            "format": "g4trace",
            "version": str(VERSION),
            "description": json.dumps(description, ensure_ascii=False, allow_nan=False),
        }
    }
    # Widest types first keeps every array aligned.
    arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))
    at = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    head = json.dumps(header, ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    with replacing(path) as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for array in arrays.values():
            for piece in _pieces(array):
                file.write(piece)


def _pieces(array: np.ndarray, size: int = 1 << 26):
    """The array's bytes, at most ``size`` (and one row of the first axis) at a time."""
    array = array.reshape(1) if array.ndim == 0 else array
    rows = max(1, size // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        yield np.ascontiguousarray(array[start : start + rows]).data


def read(path) -> tuple[dict[str, np.ndarray], dict]:
    """Map a trace file: read-only arrays by name, and the description.

    Raises TraceError if the file is missing, is something else, was cut short, or was written by
    a newer version.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(MAX_HEADER, size - 8):
                raise TraceError(f"{path} is not a trace file, or was cut short")
            header = json.loads(file.read(length))
    except OSError as error:
        raise TraceError(f"{path} cannot be opened: {error.strerror}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise TraceError(f"{path} is not a trace file: its header is not JSON") from None
    meta = header.pop("__metadata__", None) if isinstance(header, dict) else None
    if not isinstance(meta, dict) or meta.get("format") != "g4trace":
        raise TraceError(f"{path} is not a trace file: nothing in it says g4trace")
    version = str(meta.get("version"))
    if not version.isdigit() or int(version) > VERSION:
        raise TraceError(
            f"{path} was written in version {version} of the trace format; this package reads up "
            f"to {VERSION}: update gemma4-mlx to open it"
        )
    try:
        description = json.loads(meta["description"])
        # One mapping for all arrays: each mapping would hold a file descriptor.
        whole = np.memmap(path, np.uint8, "r")
        arrays = {name: _view(path, whole, 8 + length, e) for name, e in header.items()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(f"{path} is damaged: {type(error).__name__}: {error}") from None
    return arrays, description


def _view(path: Path, whole: np.ndarray, base: int, entry: dict) -> np.ndarray:
    dtype, shape = np.dtype(_TYPES[entry["dtype"]]), tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    count = 1
    for side in shape:
        if not isinstance(side, int) or side < 0:
            raise ValueError(f"an array of shape {shape}")
        count *= side
    if begin < 0 or end - begin != count * dtype.itemsize:
        raise ValueError(f"{end - begin} bytes for an array of shape {shape} and type {dtype}")
    if base + end > len(whole):
        raise TraceError(
            f"{path} was cut short: it has {len(whole)} bytes and should have {base + end}"
        )
    return whole[base + begin : base + end].view(dtype).reshape(shape)
