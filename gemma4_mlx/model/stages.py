"""Which layers a machine has, where several compute a model's layers one stage after the other.

Pipeline parallelism: the residual stream goes from machine to machine, so that little is sent, and
one machine computes at a time. What Gemma 4 asks for beside the stream:

- Layers that share the keys and values of an earlier one (E2B, E4B) need them at their own stage:
  they are sent on as they are made, and each such stage keeps them as well.
- The per-layer embeddings of a stage's layers are columns of the table and rows of the projection.
  The projection reads the embeddings, which rank 0 sends to all.

Rank 0 has the embedding table, the head and the towers besides. Needs no MLX.
"""

import re
from collections.abc import Callable, Sequence

from ..config import TextConfig
from ..errors import ClusterError
from .shares import Part

_LAYER = re.compile(r"language_model\.model\.layers\.(\d+)\.")
_SOME = ("language_model.model.norm.", "language_model.model.per_layer_projection_norm.")
_PER_LAYER = {
    "language_model.model.embed_tokens_per_layer": -1,
    "language_model.model.per_layer_model_projection": 0,
}


def layer_ranges(sizes: Sequence[int], first: int, room: Sequence[int]) -> list[range]:
    """Consecutive layers for each machine, so that none is fuller than it must be.

    Args:
        sizes: bytes of each layer.
        first: bytes that rank 0 has besides.
        room: bytes that each machine has.

    >>> layer_ranges([1] * 6, 2, [4, 4])
    [range(0, 2), range(2, 6)]

    Raises ClusterError for more machines than layers.
    """
    if len(room) > len(sizes):
        raise ClusterError(
            f"{len(room)} machines for {len(sizes)} layers: each computes one or more"
        )

    def filled(share: float) -> list[range] | None:
        found, start = [], 0
        for rank, has in enumerate(room):
            others = len(room) - rank - 1
            stop, used = start + 1, (0 if rank else first) + sizes[start]
            while stop < len(sizes) - others and used + sizes[stop] <= share * has:
                used += sizes[stop]
                stop += 1
            if used > share * has:
                return None
            found.append(range(start, stop))
            start = stop
        return found if start == len(sizes) else None

    low, high = 0.0, (first + sum(sizes)) / min(room)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if filled(middle) else (middle, high)
    return filled(high)


class Stages:
    """The layers of rank ``rank`` among ``ranges``, those of all ranks.

    Args:
        group_size: of a module's path, how many weights of a row share a scale; 1 if none do.
    """

    def __init__(
        self,
        config: TextConfig,
        rank: int,
        ranges: Sequence[range],
        group_size: Callable[[str], int],
    ):
        self.config, self.rank, self.ranges = config, rank, list(ranges)
        self.size, self.own = len(ranges), ranges[rank]
        P = config.hidden_size_per_layer_input
        unit = max(map(group_size, _PER_LAYER))
        self.divides_per_layer = bool(P) and all(own.start * P % unit == 0 for own in ranges)

    def owner(self, layer: int) -> int:
        """The rank that computes a layer."""
        return next(rank for rank, own in enumerate(self.ranges) if layer in own)

    def sends_on(self, layer: int, rank: int | None = None) -> bool:
        """Whether the keys and values of a layer go from a rank to the next."""
        config, rank = self.config, self.rank if rank is None else rank
        later = range(self.ranges[rank].stop, config.num_hidden_layers)
        here = self.owner(layer) <= rank
        return here and any(config.kv_donor(i) == layer for i in later if i != layer)

    def receives(self, layer: int) -> bool:
        """Whether the keys and values of a layer come to this rank from the one before."""
        return self.rank > 0 and self.sends_on(layer, self.rank - 1)

    def has(self, name: str) -> bool:
        """Whether this rank reads a tensor, or a part of it."""
        if layer := _LAYER.match(name):
            # Rank 0 has every layer's scale of the experts' weights: a trace tells them apart.
            known = self.rank == 0 and name.endswith(".router.per_expert_scale")
            return known or int(layer[1]) in self.own
        return self.rank == 0 or name.startswith((*_SOME, *_PER_LAYER))

    def part(self, path: str) -> Part | None:
        """The part of a module's matrix that this rank reads; None for all of it."""
        if path not in _PER_LAYER or not self.divides_per_layer:
            return None
        P, L = self.config.hidden_size_per_layer_input, self.config.num_hidden_layers
        return Part(_PER_LAYER[path], self.own.start * P, self.own.stop * P, L * P)
