"""Where one expert's bytes lie in a checkpoint's files."""

from pathlib import Path
from typing import NamedTuple

from ..derived import Derived
from ..files import Stored
from ..layout import Source


class Extent(NamedTuple):
    """Consecutive bytes of a file."""

    file: Path
    start: int
    nbytes: int


def extents(source: Source) -> list[Extent] | None:
    """The bytes of each expert of a stack (E, ...), in the order and type in which they are stored.

    None where no bytes of the file are an expert as it is computed with: it was quantized by
    another ecosystem, or its axes are in another order.
    """
    if source.axes is not None:
        return None
    stored, experts = source.stored, source.shape[0]
    if isinstance(stored, Stored):
        size = stored.nbytes // experts
        whole = [Extent(stored.file, stored.start + e * size, size) for e in range(experts)]
    elif isinstance(stored, Derived) and stored.parts and _all_stored(stored.parts):
        whole = [Extent(part.file, part.start, part.nbytes) for part in stored.parts]
    else:
        return None
    if source.half is None:
        return whole
    # Gate and up projection in one matrix, one after the other: its halves are consecutive.
    return [
        Extent(file, start + source.half * (nbytes // 2), nbytes // 2)
        for file, start, nbytes in whole
    ]


def _all_stored(parts: tuple) -> bool:
    return all(isinstance(part, Stored) for part in parts)
