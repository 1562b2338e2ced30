"""The ``.g4trace`` file: named arrays and a JSON description, in the safetensors layout.

Eight bytes of header length, a JSON header, then the arrays one after another; any safetensors
reader opens it. The header's ``__metadata__`` says ``format: g4trace``, a version and, as JSON
text, what is not an array. Reading maps the file: an array's bytes are read when they are looked
at. Written and read with numpy alone, never by unpickling. Other results have files of another
:class:`Kind`, laid out alike.

Version 2 added, for each layer of attention, the heads whose queries it holds (``kept``) and the
mass by offset of sliding layers (``offset_mass``); files of version 1 open as before.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ... import safetensors
from ...atomic import replacing
from ...errors import Gemma4Error, TraceError


@dataclass(frozen=True)
class Kind:
    """A kind of file: what it says it is, how a reader calls it, the newest version that this
    package reads and writes, and the error of one that cannot be read."""

    name: str
    noun: str
    version: int
    error: type[Gemma4Error]


TRACE = Kind("g4trace", "a trace file", 2, TraceError)
#: A header larger than this is taken for damage.
MAX_HEADER = 1 << 30


def write(path, arrays: dict[str, np.ndarray], description: dict, kind: Kind = TRACE) -> None:
    """Write a file of a kind; an existing one is replaced only once the new one is complete.

    Raises OSError if it cannot be written.
    """
    metadata = {
        "format": kind.name,
        "version": str(kind.version),
        "description": json.dumps(description, ensure_ascii=False, allow_nan=False),
    }
    with replacing(path) as file:
        safetensors.write(file, arrays, metadata)


def save(path, arrays: dict[str, np.ndarray], description: dict, kind: Kind = TRACE) -> Path:
    """:func:`write`, and the path. Raises the kind's error if it cannot be written."""
    try:
        write(path, arrays, description, kind)
    except OSError as error:
        raise kind.error(f"{path} cannot be written: {error.strerror}") from None
    return Path(path)


def opened(path, make: Callable[[dict, dict], object], kind: Kind = TRACE):
    """What ``make(arrays, description)`` makes of a file of a kind.

    Raises the kind's error as :func:`read`, and where ``make`` finds that something is missing or
    is not what it should be.
    """
    arrays, description = read(path, kind)
    try:
        return make(arrays, description)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, kind.error):
            raise
        raise kind.error(f"{path} is damaged: {type(error).__name__}: {error}") from None


def read(path, kind: Kind = TRACE) -> tuple[dict[str, np.ndarray], dict]:
    """Map a file of a kind: read-only arrays by name, and the description.

    Raises the kind's error if the file is missing, is something else, was cut short, or was
    written by a newer version.
    """
    try:
        # One mapping for all arrays: each mapping would hold a file descriptor.
        whole = np.memmap(path, np.uint8, "r")
    except OSError as error:
        raise kind.error(f"{path} cannot be opened: {error.strerror}") from None
    except ValueError:  # an empty file cannot be mapped
        whole = np.zeros(0, np.uint8)
    return parsed(path, whole, kind)


def parsed(path, whole: np.ndarray, kind: Kind = TRACE) -> tuple[dict[str, np.ndarray], dict]:
    """:func:`read` of a file's bytes (uint8); ``path`` names it in errors."""
    wrong, size = kind.error, len(whole)
    length = struct.unpack("<Q", bytes(whole[:8]))[0] if size >= 8 else 0
    if not 2 <= length <= min(MAX_HEADER, size - 8):
        raise wrong(f"{path} is not {kind.noun}, or was cut short")
    try:
        header = json.loads(bytes(whole[8 : 8 + length]))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise wrong(f"{path} is not {kind.noun}: its header is not JSON") from None
    meta = header.pop("__metadata__", None) if isinstance(header, dict) else None
    if not isinstance(meta, dict) or meta.get("format") != kind.name:
        raise wrong(f"{path} is not {kind.noun}: nothing in it says {kind.name}")
    version = str(meta.get("version"))
    if not version.isdigit() or int(version) > kind.version:
        raise wrong(
            f"{path} was written in version {version} of the {kind.name} format; this package "
            f"reads up to {kind.version}: update gemma4-mlx to open it"
        )
    try:
        description = json.loads(meta["description"])
        arrays = {name: _view(path, whole, 8 + length, e, wrong) for name, e in header.items()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, wrong):
            raise
        raise wrong(f"{path} is damaged: {type(error).__name__}: {error}") from None
    return arrays, description


def _view(path, whole: np.ndarray, base: int, entry: dict, wrong: type[Gemma4Error]) -> np.ndarray:
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
        raise wrong(f"{path} was cut short: it has {len(whole)} bytes and should have {base + end}")
    return whole[base + begin : base + end].view(dtype).reshape(shape)
