"""Tensors from file to MLX, in the type the backend computes in, quantized on the way if asked.

Files are opened by ``mx.load``, which reads a tensor only when it is evaluated. A matrix to be
quantized is read in blocks of rows instead, so that its 16-bit form is never in memory as a whole:
the peak is what has been quantized so far and one block.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..errors import CheckpointError
from .layout import Source
from .packing import Packing

#: Bytes of 16-bit weights in memory while a matrix is quantized.
BLOCK_BYTES = 64 * 2**20
#: Bytes of tensors evaluated together.
_BATCH_BYTES = 256 * 2**20
_NUMPY = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}


def read_as_stored(
    sources: dict[str, Source], dtype_of: Callable[[str], mx.Dtype | None]
) -> Iterator[tuple[str, mx.array]]:
    """Name and evaluated array of every source; floats become ``dtype_of(name)`` (None: as
    stored).

    Raises CheckpointError for a file that cannot be read, or ends too early.
    """
    files: dict[Path, dict[str, mx.array]] = {}
    batch: list[tuple[str, mx.array]] = []
    size = 0
    for name, source in sources.items():
        stored = source.stored
        if stored.file not in files:
            files[stored.file] = _open(stored.file)
        arrays = files[stored.file]
        # The second half is asked for last; keeping the whole would keep it in memory.
        array = arrays[stored.name] if source.half == 0 else arrays.pop(stored.name)
        array = _arranged(array, source)
        dtype = dtype_of(name)
        if dtype is not None and mx.issubdtype(array.dtype, mx.floating):
            array = array.astype(dtype)
        batch.append((name, array))
        size += stored.nbytes
        if size > _BATCH_BYTES:
            yield from _evaluated(batch)
            batch, size = [], 0
    yield from _evaluated(batch)


def _open(file: Path) -> dict[str, mx.array]:
    try:
        return mx.load(str(file), format="safetensors")
    except (RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from None


def _arranged(array: mx.array, source: Source) -> mx.array:
    if source.axes is not None:
        return mx.contiguous(array.transpose(source.axes))
    if source.half is not None:
        middle = array.shape[-2] // 2
        part = slice(middle) if source.half == 0 else slice(middle, None)
        return mx.contiguous(array[..., part, :])
    return array


def _evaluated(batch: list[tuple[str, mx.array]]) -> list[tuple[str, mx.array]]:
    try:
        mx.eval([array for _, array in batch])
    except RuntimeError as error:
        names = f"{batch[0][0]} ... {batch[-1][0]}"
        raise CheckpointError(f"reading {names} failed: {error}") from None
    return batch


def read_quantized(source: Source, packing: Packing, dtype: mx.Dtype | None) -> dict[str, mx.array]:
    """Read a matrix in blocks of rows and quantize each: ``weight``, ``scales``, ``biases``.

    Scales and biases of the affine mode get ``dtype`` (None: the matrix's own).

    Raises CheckpointError for a file that ends too early.
    """
    shape = source.shape
    rows, width = math.prod(shape[:-1]), shape[-1]
    step = max(1, BLOCK_BYTES // (width * 4))
    whole: list[mx.array] = []
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        block = _rows(source, start, stop)
        parts = mx.quantize(
            block, group_size=packing.group_size, bits=packing.bits, mode=packing.mode
        )
        if packing.mode == "affine" and dtype is not None:
            parts = [parts[0], *(part.astype(dtype) for part in parts[1:])]
        if not whole:
            whole = [mx.zeros((rows, *part.shape[1:]), dtype=part.dtype) for part in parts]
        for i, part in enumerate(parts):
            whole[i][start:stop] = part
        del parts, part, block
        mx.eval(whole)  # writes the block in place: nothing else refers to the arrays
    names = ("weight", "scales", "biases")
    return {n: a.reshape(*shape[:-1], a.shape[-1]) for n, a in zip(names, whole)}


def _rows(source: Source, start: int, stop: int) -> mx.array:
    """Rows ``start`` to ``stop`` of a matrix (or stack of matrices, flattened), as an array."""
    stored = source.stored
    width = source.shape[-1]
    item = np.dtype(_NUMPY[stored.dtype])
    out = np.empty((stop - start, width), dtype=item)
    view = memoryview(out).cast("B")
    done = 0
    with stored.file.open("rb", buffering=0) as f:
        for first, count in _runs(source, start, stop):
            f.seek(stored.start + first * width * item.itemsize)
            end = done + count * width * item.itemsize
            while done < end:
                got = f.readinto(view[done:end])
                if not got:
                    raise CheckpointError(f"{stored.file} ended while {stored.name} was read")
                done += got
    array = mx.array(out)
    return array.view(mx.bfloat16) if stored.dtype == "BF16" else array


def _runs(source: Source, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Stretches (first stored row, number of rows) that rows ``start`` to ``stop`` lie in."""
    if source.half is None:
        yield start, stop - start
        return
    height = source.shape[-2]  # rows of one half; the stored matrices have twice as many
    while start < stop:
        matrix, row = divmod(start, height)
        count = min(height - row, stop - start)
        yield (2 * matrix + source.half) * height + row, count
        start += count
