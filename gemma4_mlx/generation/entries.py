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
    """What the sliding layers need to go on from ``position``, or from ``first`` on."""

    position: int
    layers: list  # one entry per cache entry: what its stretch() gave, None for full layers
    first: int  # it serves the positions from here on
    turn: bool = False  # of the last turn, the last one to go

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for layer in self.layers if layer for x in layer["state"])


def until(snapshot: Snapshot, position: int) -> Snapshot:
    """The snapshot without what stands behind a position."""
    extra = snapshot.position - position

    def cut(layer):
        state = [x[..., : x.shape[2] - extra, :] for x in layer["state"]]
        return {"offset": position, "state": state}

    layers = [layer and cut(layer) for layer in snapshot.layers]
    return replace(snapshot, position=position, layers=layers)


def held_by(entry) -> list[mx.array]:
    """The arrays of one cache entry: keys and values, or of mlx-lm's quantized cache their packed
    numbers, scales and biases; none while it is empty."""
    if entry.empty():
        return []
    if hasattr(entry, "keys_and_values"):
        keys, values = entry.keys_and_values()
        return [*keys, *values]
    return list(entry.state)


def fill(entry, arrays: list[mx.array], offset: int) -> None:
    """Put what :func:`held_by` gave into an empty entry of the same kind. Later updates write into
    these array objects."""
    if len(arrays) == 2:
        entry.state = arrays
    elif arrays:
        half = len(arrays) // 2
        entry.keys, entry.values = tuple(arrays[:half]), tuple(arrays[half:])
    entry.offset = offset
