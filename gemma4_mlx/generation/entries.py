"""What a prompt cache consists of: its entries' arrays, snapshots of them, and media."""

from dataclasses import dataclass, replace

import mlx.core as mx


@dataclass(frozen=True)
class CachedMedia:
    """Soft tokens of one picture, clip or film in the cache: positions and content key."""

    start: int
    stop: int
    key: str


def cached_media(inputs) -> list[CachedMedia]:
    """The media of a ``ModelInputs`` as a cache records them; none for a list of ids."""
    return [CachedMedia(m.start, m.stop, m.key) for m in getattr(inputs, "media", ())]


@dataclass(eq=False)
class Snapshot:
    """Keys and values of the sliding layers from which any position from ``first`` to ``position``
    can be restored.

    Attributes:
        position: the last position it serves.
        layers: one state per cache entry, as its ``stretch()`` gives it; None for full layers.
        first: the first position it serves.
        turn: whether it is of the last turn; these are dropped last.
    """

    position: int
    layers: list
    first: int
    turn: bool = False

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for layer in self.layers if layer for x in layer["state"])


def shortened(snapshot: Snapshot, position: int) -> Snapshot:
    """The snapshot shortened to end at a position."""
    layers = [layer and shortened_layer(layer, position) for layer in snapshot.layers]
    return replace(snapshot, position=position, layers=layers)


def shortened_layer(layer: dict, position: int) -> dict:
    """The same of one layer's state, as its ``stretch()`` gave it."""
    extra = layer["offset"] - position
    state = [x[..., : x.shape[2] - extra, :] for x in layer["state"]]
    return {**layer, "offset": position, "state": state}


def arrays_of(entry) -> list[mx.array]:
    """The arrays of one cache entry: keys and values, or for mlx-lm's quantized cache the packed
    values, scales and biases of each; none if it is empty."""
    if entry.empty():
        return []
    if hasattr(entry, "keys_and_values"):
        keys, values = entry.keys_and_values()
        return [*keys, *values]
    return list(entry.state)


def copy_entry(entry, other) -> None:
    """Make an empty entry an independent copy of another of its kind; both share memory until one
    of them writes."""
    fill_entry(entry, [mx.array(part) for part in arrays_of(other)], other.offset)
    if hasattr(entry, "copies"):  # its parts on other machines
        entry.copies(other)


def fill_entry(entry, arrays: list[mx.array], offset: int) -> None:
    """Put the arrays of :func:`arrays_of` into an empty entry of the same kind. Later updates write
    into these array objects, so copy them first if another entry holds them."""
    if len(arrays) == 2:
        entry.state = arrays
    elif arrays:
        half = len(arrays) // 2
        entry.keys, entry.values = tuple(arrays[:half]), tuple(arrays[half:])
    entry.offset = offset
