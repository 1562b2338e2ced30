"""A prompt cache on disk: one safetensors file that can be trusted or is refused.

The file holds each layer's keys and values, the tokens, and as metadata which model they belong
to.
"""

import json
import struct
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..atomic import replacing
from ..errors import CheckpointError
from .caches import CachedMedia, PromptCache, Snapshot, fill, held_by

_FORMAT = "gemma4-mlx prompt cache 1"
_NAMES = {
    mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16", mx.uint32: "U32", mx.int32: "I32",
}  # fmt: skip


def save(cache: PromptCache, path: str | Path, *, snapshots: bool = True) -> None:
    """Write a cache. ``snapshots=False`` makes the file smaller; a loaded cache can then step
    back only as far as its sliding windows reach.

    Raises:
        CheckpointError: the file cannot be written (disk full, no permission); an earlier file of
            that name is untouched.
    """
    cache.settle()
    path = Path(path)
    kept = cache.snapshots if snapshots else []
    arrays = {"tokens": mx.array(cache.tokens, dtype=mx.int32)}
    for i, entry in enumerate(cache.entries):
        arrays |= {f"entry.{i}.{k}": part for k, part in enumerate(held_by(entry))}
    for s, snapshot in enumerate(kept):
        for i, layer in enumerate(snapshot.layers):
            parts = layer["state"] if layer is not None else ()
            arrays |= {f"snapshot.{s}.{i}.{k}": part for k, part in enumerate(parts)}
    about = {
        "format": _FORMAT,
        "fingerprint": cache.model.fingerprint,
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
            _write_safetensors(file, arrays, {"gemma4_mlx": json.dumps(about)})
    except OSError as error:
        raise CheckpointError(
            f"The cache could not be saved to {path}: {error.strerror or error}. "
            "What was there before is unchanged."
        ) from error


def _write_safetensors(file, arrays: dict[str, mx.array], metadata: dict[str, str]) -> None:
    """The safetensors format (https://huggingface.co/docs/safetensors), through Python's file so
    that every failed write is an error. One array at a time is held as bytes."""
    header, at = {"__metadata__": metadata}, 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for array in arrays.values():
        raw = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
        file.write(np.ascontiguousarray(np.array(raw, copy=False)).data)


def load(path: str | Path, model) -> PromptCache:
    """Read a cache for this model.

    Raises:
        CheckpointError: the file is missing, damaged, cut short, or of another model.
    """
    path = Path(path)
    about = _read_header(path)
    if about.get("fingerprint") != model.fingerprint:
        raise CheckpointError(
            f"{path} was computed by another model ({about.get('source') or 'unknown'}), not by "
            f"{model.source or 'this one'}: keys and values do not carry over."
        )
    then = about.get("interventions")
    if then != [repr(key) for key in model.interventions]:
        raise CheckpointError(
            f"{path} was computed under the interventions {then or 'none'}, in force now "
            f"are {[repr(key) for key in model.interventions] or 'none'}."
        )
    try:
        cache = PromptCache(model, kv_bits=about["kv_bits"], kv_group_size=about["kv_group_size"])
        arrays = mx.load(str(path), format="safetensors")
        mx.eval(arrays)
        cache.tokens = arrays["tokens"].tolist()

        def parts(prefix):
            found = []
            while (name := f"{prefix}.{len(found)}") in arrays:
                found.append(arrays[name])
            return found

        if about["entries"] != len(cache.entries):
            raise ValueError(f"{about['entries']} layers")
        for i, entry in enumerate(cache.entries):
            fill(entry, parts(f"entry.{i}"), len(cache.tokens))
        window = model.config.text.sliding_window
        for s, position in enumerate(about["snapshots"]):
            layers = [
                {"offset": position, "state": state}
                if (state := parts(f"snapshot.{s}.{i}"))
                else None
                for i in range(len(cache.entries))
            ]
            kept = next(layer["state"][0].shape[2] for layer in layers if layer)
            first = 0 if kept == position else position - kept + window - 1
            cache.snapshots.append(Snapshot(position, layers, first))
        cache.media = [CachedMedia(*m) for m in about["media"]]
    except (KeyError, ValueError, TypeError, RuntimeError, IndexError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    return cache


def _read_header(path: Path) -> dict:
    """The metadata, once the file is known to be whole."""
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
        about = json.loads(header.pop("__metadata__")["gemma4_mlx"])
        if about["format"] != _FORMAT:
            raise KeyError
        ends = [int(entry["data_offsets"][1]) for entry in header.values()]
    except (
        AttributeError, LookupError, ValueError, TypeError, OverflowError, RecursionError
    ):  # fmt: skip
        raise CheckpointError(f"{path} is not a prompt cache that this version reads.") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise CheckpointError(
            f"{path} is cut short: {size:,} bytes, {expected:,} expected. Compute it again."
        )
    return about
