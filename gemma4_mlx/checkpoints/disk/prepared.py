"""Experts written once as they are computed with, for checkpoints that store them otherwise:
16-bit weights that are to be quantized, another ecosystem's quantization, llama.cpp's files.
"""

import logging
import os
import secrets
import shutil
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import mlx.core as mx
import platformdirs

from ...errors import CheckpointError
from ..files import read_header
from ..layout import Source
from ..packing import Packing
from ..read import Loss, read_all

log = logging.getLogger(__name__)

_SCALES = 2  # bytes; a float32 scale of a foreign format makes the estimate a little too small


def prepared(
    key: str,
    sources: dict[str, Source],
    new: dict[str, Packing],
    dtype_of: Callable[[str, Source], mx.Dtype | None],
    layer_of: Callable[[str], int],
    write: bool,
) -> dict[str, Source]:
    """The experts' tensors in files that hold them as they are computed with.

    Args:
        key: what tells these weights from others, fit for a folder's name.
        sources: where the tensors are now.
        new: how matrices are to be quantized; dtype_of: the type of what is not.
        write: write the files if they are not there.

    Raises CheckpointError if they are not there and shall not be written, or cannot be.
    """
    folder = platformdirs.user_cache_path("gemma4-mlx", appauthor=False) / "experts" / key
    if not folder.is_dir():
        size = _size(sources, new)
        file = next(iter(sources.values())).stored.file
        if not write:
            raise CheckpointError(
                f"{file}: its experts cannot be read one by one, as they have to be converted "
                f"first. load(..., prepare=True) writes them once to {folder} "
                f"({size / 1e9:.1f} GB)"
            )
        _write(folder, size, sources, new, dtype_of, layer_of)
    found = [stored for file in sorted(folder.iterdir()) for stored in read_header(file)]
    return {stored.name: Source(stored) for stored in found}


def _size(sources: dict[str, Source], new: dict[str, Packing]) -> int:
    total = 0
    for name, source in sources.items():
        packing = new.get(name.removesuffix(".weight"))
        halves = 1 if source.half is None else 2
        total += (
            packing.nbytes(source.shape, _SCALES) if packing else source.stored.nbytes // halves
        )
    return total


def _write(folder: Path, size: int, sources, new, dtype_of, layer_of) -> None:
    """One file a layer, in a folder that has its name once it is complete."""
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    try:
        part.mkdir(parents=True)
        free = shutil.disk_usage(part).free
        if free < size:
            raise CheckpointError(
                f"{folder.parent} has {free / 1e9:.1f} GB free; the experts take {size / 1e9:.1f}"
            )
        log.warning("writing %.1f GB of experts to %s", size / 1e9, folder)
        for layer, names in groupby(sorted(sources, key=layer_of), key=layer_of):
            of = {name: sources[name] for name in names}
            arrays = dict(read_all(of, new, dtype_of, Loss()))
            mx.save_safetensors(str(part / f"layer-{layer:03}.safetensors"), arrays)
            del arrays
            mx.clear_cache()
        os.replace(part, folder)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{folder} cannot be written: {error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
