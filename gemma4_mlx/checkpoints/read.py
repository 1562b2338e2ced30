"""Tensors from file to MLX, in the type the backend computes in, quantized on the way if asked.

Files are opened by ``mx.load``, which reads a tensor only when it is evaluated. A matrix to be
quantized, or one that must be computed from what is stored, is read in blocks of rows instead, so
that its 16-bit form is never in memory as a whole: the peak is what is done so far and one block.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import mlx.core as mx

from ..errors import CheckpointError
from .derived import Derived, rows
from .layout import Source
from .packing import Packing

#: What MLX computes in for the element types of files.
DTYPES = {
    "BF16": mx.bfloat16,
    "F16": mx.float16,
    "F32": mx.float32,
    "U32": mx.uint32,
    "U8": mx.uint8,
}
#: Bytes of 16-bit weights in memory while a matrix is quantized.
BLOCK_BYTES = 64 * 2**20
#: Bytes of tensors evaluated together.
_BATCH_BYTES = 256 * 2**20


def read_all(
    sources: dict[str, Source],
    new: dict[str, Packing],
    dtype_of: Callable[[str, Source], mx.Dtype | None],
    loss: "Loss",
) -> Iterator[tuple[str, mx.array]]:
    """Every tensor by its name in the model, evaluated, one after the other.

    ``new``: path of a module -> how its matrix is quantized on the way. ``dtype_of`` as below;
    ``loss`` counts what is quantized for the second time.

    Raises CheckpointError for a file that cannot be read, or ends too early.
    """
    as_stored = {n: s for n, s in sources.items() if n.removesuffix(".weight") not in new}
    yield from read_as_stored(as_stored, dtype_of)
    for path, packing in new.items():
        if (source := sources.get(path + ".weight")) is None:
            continue
        dtype = dtype_of(path + ".scales", source)
        for part, array in read_quantized(source, packing, dtype, loss).items():
            yield f"{path}.{part}", array


def read_as_stored(
    sources: dict[str, Source], dtype_of: Callable[[str, Source], mx.Dtype | None]
) -> Iterator[tuple[str, mx.array]]:
    """Name and evaluated array of every source; floats become ``dtype_of(name, source)`` (None:
    as stored).

    Raises CheckpointError for a file that cannot be read, or ends too early.
    """
    files: dict[Path, dict[str, mx.array]] = {}
    batch: list[tuple[str, mx.array]] = []
    size = 0
    for name, source in sources.items():
        stored, dtype = source.stored, dtype_of(name, source)
        if isinstance(stored, Derived):
            yield name, _computed(source, dtype)
            continue
        if stored.file not in files:
            files[stored.file] = _open(stored.file)
        arrays = files[stored.file]
        # Two tensors come from one that is stored as a whole. It is let go with the second, or it
        # would stay in memory.
        array = arrays[stored.name] if source.half == 0 else arrays.pop(stored.name)
        array = _arranged(array, source)
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


def _computed(source: Source, dtype: mx.Dtype | None) -> mx.array:
    """A derived tensor, block by block; floats in ``dtype`` (None: what a file would hold)."""
    own = DTYPES[source.stored.dtype]
    wanted = dtype if dtype is not None and mx.issubdtype(own, mx.floating) else own
    (whole,) = _in_blocks(source, lambda block: [block.astype(wanted)])
    return whole.reshape(source.shape)


class Loss:
    """How far weights that were quantized before move when they are quantized once more."""

    def __init__(self):
        self._squares: dict[str, list[float]] = {}

    def add(self, origin: str, block: mx.array, parts: list[mx.array], packing: Packing) -> None:
        """Count a block of weights and its packed form."""
        how = dict(group_size=packing.group_size, bits=packing.bits, mode=packing.mode)
        moved = mx.dequantize(*parts, dtype=mx.float32, **how) - block
        sums = self._squares.setdefault(origin, [0.0, 0.0])
        sums[0] += mx.sum(moved * moved).item()
        sums[1] += mx.sum(block * block).item()

    def by_origin(self) -> dict[str, float]:
        """What the weights were stored as -> root mean square of the change, as a share of the
        weights' own."""
        return {origin: (a / b) ** 0.5 if b else 0.0 for origin, (a, b) in self._squares.items()}


def read_quantized(
    source: Source, packing: Packing, dtype: mx.Dtype | None, loss: Loss
) -> dict[str, mx.array]:
    """Read a matrix in blocks of rows and quantize each: ``weight``, ``scales``, ``biases``.

    Scales and biases of the affine mode get ``dtype`` (None: the matrix's own). ``loss`` counts
    what is quantized for the second time.

    Raises CheckpointError for a file that ends too early.
    """
    if dtype is None and isinstance(source.stored, Derived):
        dtype = DTYPES[source.stored.dtype]

    def quantized(block: mx.array) -> list[mx.array]:
        parts = mx.quantize(
            block, group_size=packing.group_size, bits=packing.bits, mode=packing.mode
        )
        if isinstance(source.stored, Derived) and source.stored.origin:
            loss.add(source.stored.origin, block, parts, packing)
        if packing.mode == "affine" and dtype is not None:
            return [parts[0], *(part.astype(dtype) for part in parts[1:])]
        return parts

    names = ("weight", "scales", "biases")
    whole = zip(names, _in_blocks(source, quantized))
    return {name: array.reshape(*source.shape[:-1], array.shape[-1]) for name, array in whole}


def _in_blocks(source: Source, convert: Callable[[mx.array], list[mx.array]]) -> list[mx.array]:
    """``convert`` on blocks of a matrix's rows; each of its results joined, evaluated."""
    shape = source.shape
    number, width = math.prod(shape[:-1]), shape[-1] if shape else 1
    step = max(1, BLOCK_BYTES // (width * 4))
    if number <= step:
        whole = convert(_rows(source, 0, number))
        mx.eval(whole)
        return whole
    whole = []
    for start in range(0, number, step):
        stop = min(start + step, number)
        parts = convert(_rows(source, start, stop))
        if not whole:
            whole = [mx.zeros((number, *part.shape[1:]), dtype=part.dtype) for part in parts]
        for i, part in enumerate(parts):
            whole[i][start:stop] = part
        del parts, part
        mx.eval(whole)  # writes the block in place: nothing else refers to the arrays
    return whole


def _rows(source: Source, start: int, stop: int) -> mx.array:
    """Rows ``start`` to ``stop`` of a matrix (or stack of matrices, flattened), as an array."""
    pieces = [
        rows(source.stored, first, first + count) for first, count in _runs(source, start, stop)
    ]
    return pieces[0] if len(pieces) == 1 else mx.concatenate(pieces)


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
