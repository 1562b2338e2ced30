"""Which files a checkpoint folder holds, and what their headers say, before anything is read.

A safetensors file is eight bytes of header length, a JSON header and raw tensor data
(https://github.com/huggingface/safetensors, "Format"). Every number of a header is checked
against the file's size here, so that what reads the data can trust it. Nothing is unpickled.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path, PurePosixPath

import numpy as np

from ..errors import CheckpointError

#: Bytes per element of every dtype that the format knows.
ITEM_SIZES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
}
#: What holds such elements in NumPy, which has no bfloat16 and no 8-bit floats.
NUMPY = {
    **{"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16},
    **{f"I{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
}
#: The safetensors library refuses longer headers too; the largest Gemma 4 header is below 1 MB.
LARGEST_HEADER = 100_000_000
_INDEX = "model.safetensors.index.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True)
class Stored:
    """One tensor as a file holds it: dtype and shape, and where its bytes are."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start

    def rows(
        self, start: int = 0, stop: int | None = None, columns: range | None = None
    ) -> np.ndarray:
        """Rows ``start`` to ``stop`` of the tensor, leading axes flattened: (rows, width).

        bfloat16 comes as uint16 and 8-bit floats as uint8, bit by bit. A vector is one row. Of
        ``columns`` alone nothing else is read.

        Raises CheckpointError for a file that ends too early.
        """
        width = self.shape[-1] if self.shape else 1
        columns = range(width) if columns is None else columns
        item = np.dtype(NUMPY.get(self.dtype, np.uint8))
        stop = prod(self.shape[:-1]) if stop is None else stop
        out = np.empty((stop - start, len(columns)), dtype=item)
        view = memoryview(out.reshape(-1).view(np.uint8))
        # Whole rows are one piece of the file.
        pieces = 1 if len(columns) == width else len(out)
        size = len(view) // max(1, pieces)
        with self.file.open("rb", buffering=0) as f:
            for i in range(pieces):
                f.seek(self.start + ((start + i) * width + columns.start) * item.itemsize)
                self._fill(f, view[i * size : (i + 1) * size])
        return out

    def _fill(self, f, view: memoryview) -> None:
        done = 0
        while done < len(view):
            got = f.readinto(view[done:])
            if not got:
                raise CheckpointError(f"{self.file} ended while {self.name} was read")
            done += got

    def vector(self) -> np.ndarray:
        """All elements in one row, read as :meth:`rows` does."""
        return self.rows().reshape(-1)


def read_folder(folder: Path) -> dict[str, Stored]:
    """All tensors of the checkpoint in ``folder``, by the names the files use.

    Raises:
        CheckpointError: nothing readable there, a shard missing or cut short, an index that
            points out of the folder or disagrees with its shards, a tensor stored twice.
    """
    index = folder / _INDEX
    return _read_sharded(folder, index) if index.is_file() else _read_unsharded(folder)


def _read_unsharded(folder: Path) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    for file in _single_files(folder):
        confine(folder, file)
        for stored in read_header(file):
            if stored.name in found:
                raise CheckpointError(
                    f"{folder}: tensor {stored.name} is in both {found[stored.name].file.name} "
                    f"and {file.name}"
                )
            found[stored.name] = stored
    return found


def _single_files(folder: Path) -> list[Path]:
    """The weight files of a folder without an index."""
    files = sorted(folder.glob("*.safetensors"))
    numbered = [f for f in files if "-of-" in f.stem]
    if numbered:
        total = int(numbered[0].stem.rsplit("-of-", 1)[1]) if _counts(numbered[0]) else 0
        if len(numbered) != total:
            raise CheckpointError(
                f"{folder}: {len(numbered)} of {total} shards are here and {_INDEX}, which would "
                "name the rest, is missing"
            )
        return numbered
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if files:
        return files
    ggufs = sorted(folder.glob("*.gguf"))
    if ggufs:
        raise CheckpointError(
            f"{folder} holds no .safetensors file; to read its GGUF, load {ggufs[0]}"
        )
    others = sorted(f.name for f in folder.iterdir() if f.suffix in _PICKLED)
    if others:
        raise CheckpointError(
            f"{folder} holds {others[0]} but no .safetensors file; pickled weights are never "
            "opened here: use the model's safetensors release"
        )
    raise CheckpointError(
        f"{folder} holds no weights: expected model.safetensors, or shards named by {_INDEX}"
    )


def _counts(file: Path) -> bool:
    return file.stem.rsplit("-of-", 1)[1].isdigit()


def _read_sharded(folder: Path, index: Path) -> dict[str, Stored]:
    """The tensors of the shards that an index names. The shards' own headers say what they hold;
    the index decides where a tensor lies that two of them have."""
    weight_map = index_map(index)
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing == shards and any(folder.glob("*.safetensors")):
        # An index left over from before the weights were converted and saved anew.
        return _read_unsharded(folder)
    if missing:
        raise CheckpointError(f"{folder}: shard {', '.join(missing)} is missing; {_INDEX} names it")
    found: dict[str, Stored] = {}
    for shard in shards:
        confine(folder, folder / shard)
        for stored in read_header(folder / shard):
            if stored.name not in found or weight_map.get(stored.name) == shard:
                found[stored.name] = stored
    return found


def index_map(index: Path) -> dict[str, str]:
    """``weight_map`` of an index file: tensor name -> path of a file from the index's folder.

    Raises CheckpointError if the file is no such index, or names a file outside its folder.
    """
    data = read_json(index)
    weight_map = data.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: weight_map is missing, empty or not a JSON object")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not _plain(shard):
            raise CheckpointError(
                f"{index}: {name} points to {shard!r}; expected the name of a .safetensors file "
                "in the index's folder"
            )
    return weight_map


def _plain(shard: str) -> bool:
    """Whether a path of an index goes down from the index's folder, and to a safetensors file."""
    parts = shard.split("/")
    return (
        shard.endswith(".safetensors")
        and not any(part in ("", ".", "..") for part in parts)
        and not set(shard) & set("\\:\0*?[]")
        and not PurePosixPath(shard).is_absolute()
    )


def confine(folder: Path, file: Path) -> None:
    """Refuse a file of a checkpoint that is a link out of the checkpoint's folder.

    The hub's cache keeps the files it links to in ``blobs`` beside ``snapshots``. Raises
    CheckpointError.
    """
    home, target = folder.resolve(), file.resolve()
    allowed = [home]
    if home.parent.name == "snapshots" and home.parent.parent.name.startswith("models--"):
        allowed.append(home.parent.parent / "blobs")
    if not any(target.is_relative_to(place) for place in allowed):
        raise CheckpointError(f"{file} is a link to {target}, outside the model's folder")


def check_regular(path: Path) -> None:
    """Refuse a pipe or device, which opening may wait for without end. Raises CheckpointError."""
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is no regular file")


def read_json(path: Path) -> dict:
    """A JSON object from a file. Raises CheckpointError naming the file."""
    check_regular(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(data).__name__}")
    return data


def read_header(file: Path) -> Iterator[Stored]:
    """The tensors of one safetensors file. Raises CheckpointError naming the file."""
    check_regular(file)
    try:
        size = file.stat().st_size
        with file.open("rb") as f:
            prefix = f.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or not 2 <= length <= min(size - 8, LARGEST_HEADER):
                raise CheckpointError(
                    f"{file} is not a whole safetensors file: {size} bytes, and its header claims "
                    f"to be {length} bytes long"
                )
            text = f.read(length)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from None
    try:
        items = json.loads(text, object_pairs_hook=_without_repeats).items()
    except _RepeatedName as error:
        raise CheckpointError(f"{file}: {error} stands in the header twice") from None
    except (ValueError, AttributeError, RecursionError):
        raise CheckpointError(f"{file}: its header is not a JSON object") from None
    found = [
        _stored(file, name, entry, data=8 + length, size=size)
        for name, entry in items
        if name != "__metadata__"
    ]
    placed = sorted((stored for stored in found if stored.nbytes), key=lambda s: s.start)
    for before, after in pairwise(placed):
        if after.start < before.stop:
            raise CheckpointError(f"{file}: {before.name} and {after.name} share bytes")
    yield from found


class _RepeatedName(Exception):
    """Readers disagree on which of two entries of one name counts, so neither is trusted."""


def _without_repeats(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedName(next(name for name in names if names.count(name) > 1))
    return found


def _stored(file: Path, name: str, entry: dict, data: int, size: int) -> Stored:
    """One checked header entry. ``data`` is where the tensor bytes begin in a file of ``size``."""
    try:
        dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = [*shape, start, stop]
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"{file}: the header entry of {name} lacks dtype, shape or data_offsets"
        ) from None
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        raise CheckpointError(
            f"{file}: {name} has dtype {dtype!r}; expected one of {', '.join(ITEM_SIZES)}"
        )
    if not all(type(n) is int and n >= 0 for n in whole) or len(shape) > 8:
        raise CheckpointError(
            f"{file}: {name} has shape {shape} and offsets {[start, stop]}; "
            "expected whole numbers from 0"
        )
    if stop - start != prod(shape) * ITEM_SIZES[dtype]:
        raise CheckpointError(
            f"{file}: {name} has {stop - start} bytes; {dtype} of shape {shape} takes "
            f"{prod(shape) * ITEM_SIZES[dtype]}"
        )
    if data + stop > size:
        raise CheckpointError(
            f"{file} is cut short: {name} ends at byte {data + stop}, the file at byte {size}"
        )
    return Stored(name, file, dtype, tuple(shape), data + start, data + stop)
