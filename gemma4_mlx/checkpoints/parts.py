"""The parts of a checkpoint's tensors that one of several machines owns, and no byte more."""

from dataclasses import replace
from math import prod

from ..model.shares import Shares
from ..model.stages import Stages
from .derived import Derived, rows
from .layout import Source


def own_parts(sources: dict[str, Source], division: Shares | Stages) -> dict[str, Source]:
    """Name -> source of what rank ``division.rank`` reads: whole tensors, rows or columns of them.

    Columns of what another ecosystem quantized are cut from whole rows; everything else is read at
    its place.
    """
    found = {}
    for name, source in sources.items():
        if not division.has(name):
            continue
        path, _, kind = name.rpartition(".")
        part = division.part(path) if kind in ("weight", "scales", "biases") else None
        if part is not None:
            source = cut(source, part.axis, *part.within(source.shape[part.axis]))
        found[name] = source
    return found


def cut(source: Source, axis: int, start: int, stop: int) -> Source:
    """Rows (``axis`` 0; of a stack of matrices: whole ones) or columns (-1) of a tensor."""
    whole = source.stored
    shape = list(whole.shape)
    shape[axis] = stop - start
    first = start * prod(shape[1:-1]) if axis == 0 else 0
    columns = None if axis == 0 else range(start, stop)
    derived = isinstance(whole, Derived)
    part = Derived(
        whole.name,
        whole.file,
        whole.dtype,
        tuple(shape),
        lambda a, b: rows(whole, first + a, first + b, columns),
        rounded=derived and whole.rounded,
        origin=whole.origin if derived else "",
    )
    return replace(source, stored=part)
