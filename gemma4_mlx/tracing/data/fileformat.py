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

from ... import safetensors
from ...atomic import replacing
from ...errors import TraceError

VERSION = 2
#: A header larger than this is taken for damage.
MAX_HEADER = 1 << 30


def write(path, arrays: dict[str, np.ndarray], description: dict) -> None:
    """Write a trace file; an existing one is replaced only once the new one is complete.

    Raises OSError if it cannot be written.
    """
    metadata = {
        "format": "g4trace",
        "version": str(VERSION),
        "description": json.dumps(description, ensure_ascii=False, allow_nan=False),
    }
    with replacing(path) as file:
        safetensors.write(file, arrays, metadata)


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
    dtype, shape = np.dtype(safetensors.TYPES[entry["dtype"]]), tuple(entry["shape"])
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
