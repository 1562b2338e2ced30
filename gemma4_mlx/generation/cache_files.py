"""A prompt cache on disk: one safetensors file with a checksum.

The file holds each layer's keys and values, the tokens, and as metadata the fingerprint of the
model that computed them. A damaged file, or one of another model, is refused: its keys and values
would lead to wrong answers without any error.
"""

import hashlib
import json
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from .. import safetensors
from ..atomic import replacing
from ..errors import CheckpointError
from .entries import CachedMedia, Snapshot, arrays_of, fill_entry

if TYPE_CHECKING:
    from .caches import PromptCache

_FORMAT = "gemma4-mlx prompt cache 2"
#: Placeholder for the SHA-256 of the whole file, which is computed with this in its place: the
#: checksum stands in the metadata and so cannot include itself.
_NO_SUM = "0" * 64


def save(cache: "PromptCache", path: str | Path, *, snapshots: bool = True) -> None:
    """Write a cache. ``snapshots=False`` makes the file smaller; a loaded cache can then step
    back only as far as its sliding windows reach.

    Raises:
        CheckpointError: the file cannot be written (disk full, no permission); an earlier file of
            that name is untouched. Or its parts are on several machines.
    """
    _refuse_divided(cache.model)
    cache.settle()
    path = Path(path)
    kept = cache.snapshots if snapshots else []
    arrays = {"tokens": mx.array(cache.tokens, dtype=mx.int32)}
    for i, entry in enumerate(cache.entries):
        arrays |= {f"entry.{i}.{k}": part for k, part in enumerate(arrays_of(entry))}
    for s, snapshot in enumerate(kept):
        for i, layer in enumerate(snapshot.layers):
            parts = layer["state"] if layer is not None else ()
            arrays |= {f"snapshot.{s}.{i}.{k}": part for k, part in enumerate(parts)}
    about = {
        "format": _FORMAT,
        "fingerprint": cache.fingerprint,
        "source": str(cache.model.source),
        "kv_bits": cache.kv_bits,
        "kv_group_size": cache.kv_group_size,
        "interventions": [repr(key) for key in cache.interventions],
        "media": [[m.start, m.stop, m.key] for m in cache.media],
        "entries": len(cache.entries),
        "snapshots": [s.position for s in kept],
    }
    try:
        with replacing(path) as file:
            metadata = {"gemma4_mlx": json.dumps(about), "sha256": _NO_SUM}
            half = frozenset(name for name, x in arrays.items() if x.dtype == mx.bfloat16)
            bits = {name: x.view(mx.uint16) if name in half else x for name, x in arrays.items()}
            views = {name: np.array(x, copy=False) for name, x in bits.items()}
            summed = _Summed(file)
            head = safetensors.write(summed, views, metadata, half)
            file.seek(head.rindex(_NO_SUM.encode()))
            file.write(summed.sum.hexdigest().encode())
    except OSError as error:
        raise CheckpointError(
            f"The cache could not be saved to {path}: {error.strerror or error}. "
            "What was there before is unchanged."
        ) from error


def _refuse_divided(model) -> None:
    if model.divided:
        raise CheckpointError(
            "the cache of a model on several machines has a part on each of them: it is neither "
            "saved nor loaded"
        )


class _Summed:
    """Passes everything on to a file and keeps the SHA-256 of it."""

    def __init__(self, file) -> None:
        self._file, self.sum = file, hashlib.sha256()

    def write(self, data) -> None:
        self.sum.update(data)
        self._file.write(data)


def _check_sum(path: Path, length: int, written: str) -> None:
    """Raise CheckpointError if the file is not the one that was written."""
    with open(path, "rb") as file:
        head = file.read(8 + length)
        checksum = hashlib.sha256(head.replace(written.encode(), _NO_SUM.encode()))
        while piece := file.read(1 << 24):
            checksum.update(piece)
    if checksum.hexdigest() != written:
        raise CheckpointError(f"{path} was altered or is damaged: its checksum does not fit.")


def load(path: str | Path, model, make: "type[PromptCache]") -> "PromptCache":
    """Read a cache for this model into a new one, made by ``make`` (the class).

    Anybody can write a file with a valid checksum, so the arrays are checked as well: they must
    have the shapes and types that this model would have written, and finite values.

    Raises:
        CheckpointError: the file is missing, damaged, altered, cut short, or of another model, or
            this one is on several machines.
    """
    _refuse_divided(model)
    path = Path(path)
    about = _read_header(path)
    if about.get("fingerprint") != model.fingerprint:
        raise CheckpointError(
            f"{path} was computed by another model ({about.get('source') or 'unknown'}), not by "
            f"{model.source or 'this one'}, or under another adapter: keys and values do not "
            "carry over."
        )
    then = about.get("interventions")
    if then != [repr(key) for key in model.interventions]:
        raise CheckpointError(
            f"{path} was computed under the interventions {then or 'none'}, in force now "
            f"are {[repr(key) for key in model.interventions] or 'none'}."
        )
    try:
        cache = make(model, kv_bits=about["kv_bits"], kv_group_size=about["kv_group_size"])
        arrays = mx.load(str(path), format="safetensors")
        mx.eval(arrays)
        cache.tokens = _checked_tokens(arrays["tokens"], model)

        def parts(prefix):
            found = []
            while (name := f"{prefix}.{len(found)}") in arrays:
                found.append(arrays[name])
            return found

        if about["entries"] != len(cache.entries):
            raise ValueError(f"{about['entries']} layers")
        shapes = [_Shapes(model, layer, cache) for layer in _owners(model)]
        for i, (entry, expected) in enumerate(zip(cache.entries, shapes, strict=True)):
            fill_entry(entry, expected.checked(parts(f"entry.{i}")), len(cache.tokens))
        window = model.config.text.sliding_window
        for s, position in enumerate(about["snapshots"]):
            layers = [
                expected.checked_window(parts(f"snapshot.{s}.{i}"), position)
                for i, expected in enumerate(shapes)
            ]
            kept = next(layer["state"][0].shape[2] for layer in layers if layer)
            first = 0 if kept == position else position - kept + window - 1
            cache.snapshots.append(Snapshot(position, layers, first))
        cache.media = [_checked_medium(m, len(cache.tokens)) for m in about["media"]]
    except (
        KeyError, ValueError, TypeError, RuntimeError, IndexError, StopIteration, OverflowError
    ) as error:  # fmt: skip
        raise CheckpointError(f"{path} is damaged: {error}") from error
    return cache


def _owners(model) -> list[int]:
    """The layers that own keys and values, in the order of a cache's entries."""
    text = model.config.text
    return [i for i in range(text.num_hidden_layers) if text.kv_donor(i) == i]


def _checked_tokens(tokens: mx.array, model) -> list[int]:
    if tokens.ndim != 1 or tokens.dtype != mx.int32:
        raise ValueError(f"tokens {tokens.shape} of {tokens.dtype}")
    found = tokens.tolist()
    if found and not 0 <= min(found) <= max(found) < model.config.text.vocab_size:
        raise ValueError("tokens that the model does not have")
    return found


def _checked_medium(entry, n: int) -> CachedMedia:
    start, stop, key = entry
    if not (isinstance(start, int) and isinstance(stop, int) and isinstance(key, str)):
        raise ValueError(f"a medium {entry!r:.60}")
    if not 0 <= start < stop <= n:
        raise ValueError(f"a medium at {start} to {stop} of {n} tokens")
    return CachedMedia(start, stop, key)


class _Shapes:
    """Checks one layer's arrays: (1, kv heads, tokens, head dim) in the model's dtype, or packed as
    in mlx-lm's quantized cache."""

    def __init__(self, model, layer: int, cache: "PromptCache") -> None:
        text = model.config.text
        self.layer, self.dtype, self.n = layer, model.dtype, len(cache.tokens)
        self.heads, self.dim = text.kv_heads_of(layer), text.head_dim_of(layer)
        self.window = None if text.is_full(layer) else text.sliding_window
        self.bits = cache.kv_bits if self.window is None else None
        self.group = cache.kv_group_size

    def checked(self, arrays: list[mx.array]) -> list[mx.array]:
        """The arrays of an entry. Raises ValueError."""
        if not self.n and not arrays:
            return arrays
        if self.bits is None:
            least = self.n if self.window is None else min(self.n, self.window - 1)
            return self._plain(arrays, least, self.n)
        packed = [(self.dim * self.bits // 32, mx.uint32), *[(self.dim // self.group, None)] * 2]
        self._compare(arrays, 2 * packed, self.n, self.n)
        return arrays

    def checked_window(self, arrays: list[mx.array], position: int) -> dict | None:
        """A snapshot's state of this layer at ``position``; None for a full-attention layer, which
        keeps all keys and needs no snapshot. Raises ValueError."""
        if not isinstance(position, int) or not 0 < position <= self.n:
            raise ValueError(f"a snapshot at {position!r} of {self.n} tokens")
        if self.window is None:
            self._compare(arrays, [], 0, 0)
            return None
        state = self._plain(arrays, min(position, self.window - 1), position)
        return {"offset": position, "state": state}

    def _plain(self, arrays: list[mx.array], least: int, most: int) -> list[mx.array]:
        self._compare(arrays, [(self.dim, None)] * 2, least, most)
        return arrays

    def _compare(self, arrays, expected, least: int, most: int) -> None:
        where = f"layer {self.layer}"
        if len(arrays) != len(expected):
            raise ValueError(f"{where} has {len(arrays)} arrays, not {len(expected)}")
        for array, (last, dtype) in zip(arrays, expected):
            fits = array.ndim == 4 and array.shape[:2] == (1, self.heads)
            fits = fits and array.shape[3] == last and least <= array.shape[2] <= most
            if not fits or array.shape[2] != arrays[0].shape[2]:
                raise ValueError(f"{where} has an array of shape {array.shape}")
            if array.dtype != (dtype or self.dtype):
                raise ValueError(f"{where} has an array of {array.dtype}")
            if dtype is None and not mx.isfinite(array).all():
                raise ValueError(f"{where} holds NaN or infinite values")


def _read_header(path: Path) -> dict:
    """The metadata; its length and checksum are verified first. Raises CheckpointError."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(length) if length < size else b"")
    except FileNotFoundError:
        raise CheckpointError(f"There is no cache file {path}.") from None
    except (OSError, ValueError, struct.error, RecursionError) as error:
        raise CheckpointError(f"{path} is not a cache file, or cut short: {error}") from error
    try:
        metadata = header.pop("__metadata__")
        about, checksum = json.loads(metadata["gemma4_mlx"]), metadata["sha256"]
        if about["format"] != _FORMAT or not re.fullmatch("[0-9a-f]{64}", checksum):
            raise KeyError
        ends = [int(entry["data_offsets"][1]) for entry in header.values()]
    except (
        AttributeError, LookupError, ValueError, TypeError, OverflowError, RecursionError
    ):  # fmt: skip
        raise CheckpointError(f"{path} is not a prompt cache that this version reads.") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        wrong = "is cut short" if size < expected else "has something after its end"
        raise CheckpointError(
            f"{path} {wrong}: {size:,} bytes, {expected:,} expected. Compute it again."
        )
    _check_sum(path, length, checksum)
    return about
