"""Which part of which matrix a machine owns, where several compute one model together.

Tensor parallelism (Shoeybi et al., "Megatron-LM", 2019): a layer's heads and the columns of its MLP
are divided, so that two matrices in a row need one sum between the machines. Gemma 4's own:

- Query heads are divided so that those of a machine share keys and values evenly. A KV head whose
  query heads are on several machines is on each of them (full layers of 26B-A4B have two, of the
  12B one).
- Experts are divided by expert, never by width: 704 columns are eleven groups of 64.
- The embedding tables, the per-layer ones included, and with them the head, by token.
- Norms, the router, the per-layer projections and the scalars are everywhere: they are small, and
  each machine has the whole residual stream.

A packed matrix is cut between groups of its scales. What does not come out even is divided as
evenly as whole groups, heads and experts allow; what is less than one for each machine is
everywhere. Needs no MLX: the planner counts with it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from ..config import TextConfig
from ..errors import ClusterError

#: What rank 0 alone has: pictures and sounds reach the others as soft tokens.
TOWERS = ("vision_tower", "vision_embedder", "embed_vision", "audio_tower", "embed_audio")
_LAYER = re.compile(r"language_model\.model\.layers\.(\d+)\.(.+)")
_TABLES = re.compile(r"language_model\.(model\.embed_tokens(_per_layer)?|lm_head)")


@dataclass(frozen=True)
class Part:
    """Rows (``axis`` 0; of experts' matrices: whole experts) or columns (``axis`` -1) ``start`` to
    ``stop`` of a matrix that has ``whole`` of them."""

    axis: int
    start: int
    stop: int
    whole: int

    def within(self, length: int) -> tuple[int, int]:
        """Start and stop in a tensor that has ``length`` for ``whole``: packed words, scales."""
        return self.start * length // self.whole, self.stop * length // self.whole


def evenly(count: int, rank: int, size: int, unit: int = 1) -> range:
    """The ``rank``-th of ``size`` stretches of 0 ... count - 1, cut at multiples of ``unit``, the
    first ones at most one unit longer.

    >>> [evenly(2112, rank, 2, 64) for rank in range(2)]
    [range(0, 1088), range(1088, 2112)]
    """
    each, more = divmod(-(-count // unit), size)
    first = rank * each + min(rank, more)
    last = first + each + (rank < more)
    return range(min(first * unit, count), min(last * unit, count))


def heads_of(heads: int, kv_heads: int, rank: int, size: int) -> tuple[range, range]:
    """Query heads and KV heads of a machine: each KV head has as many of the query heads.

    >>> heads_of(16, 2, 3, 4)  # two machines to a KV head
    (range(12, 16), range(1, 2))
    """
    group = heads // kv_heads
    if size <= kv_heads:
        own = evenly(kv_heads, rank, size)
        return range(own.start * group, own.stop * group), own
    for kv in range(kv_heads):
        ranks = evenly(size, kv, kv_heads)
        if rank in ranks:
            of_group = evenly(group, rank - ranks.start, len(ranks))
            start = kv * group
            return range(start + of_group.start, start + of_group.stop), range(kv, kv + 1)
    raise IndexError(rank)


class Shares:
    """What rank ``rank`` of ``size`` owns of a model.

    Args:
        group_size: of a module's path, how many weights of a row share a scale; 1 if none do.

    Raises ClusterError for more machines than the model can be divided among.
    """

    def __init__(self, config: TextConfig, rank: int, size: int, group_size: Callable[[str], int]):
        self.config, self.rank, self.size = config, rank, size
        self._group_size = group_size
        if size > config.num_attention_heads:
            raise ClusterError(
                f"{size} machines for {config.num_attention_heads} attention heads: a model is "
                "divided among as many machines as it has heads, or fewer"
            )

    def heads(self, layer: int) -> tuple[range, range]:
        """Query heads and KV heads of a layer, all of them where it is not divided."""
        config = self.config
        of = config.num_attention_heads, config.kv_heads_of(layer)
        if config.layer_types[layer] in self._whole_kinds:
            return range(of[0]), range(of[1])
        return heads_of(*of, self.rank, self.size)

    @cached_property
    def _whole_kinds(self) -> set[str]:
        """Kinds of layers whose heads cannot be divided: o_proj would be cut within a group. Keys
        and values are shared between layers of a kind, so that one decides for all."""
        found, config = set(), self.config
        for layer, kind in enumerate(config.layer_types):
            D, path = config.head_dim_of(layer), f"language_model.model.layers.{layer}."
            unit = self._group_size(path + "self_attn.o_proj")
            bounds = [
                heads_of(config.num_attention_heads, config.kv_heads_of(layer), rank, self.size)[0]
                for rank in range(self.size)
            ]
            if any(not own or own.start * D % unit for own in bounds):
                found.add(kind)
        return found

    def divides_heads(self, layer: int) -> bool:
        return self.config.layer_types[layer] not in self._whole_kinds

    def experts(self) -> range:
        """The experts of every layer that this rank has."""
        return evenly(self.config.num_experts, self.rank, self.size)

    @property
    def divides_experts(self) -> bool:
        return self.config.num_experts >= self.size

    def mlp(self, layer: int) -> range:
        """Columns of a layer's dense MLP, all of them where they are fewer groups than machines."""
        width = self.config.mlp_width(layer)
        unit = self._group_size(f"language_model.model.layers.{layer}.mlp.down_proj")
        if width < unit * self.size:
            return range(width)
        return evenly(width, self.rank, self.size, unit)

    def divides_mlp(self, layer: int) -> bool:
        return len(self.mlp(layer)) < self.config.mlp_width(layer)

    def tokens(self, count: int, rank: int | None = None) -> range:
        """Rows of a table for ``count`` tokens, of this rank or another."""
        return evenly(count, self.rank if rank is None else rank, self.size)

    def has(self, name: str) -> bool:
        """Whether this rank reads a tensor, or a part of it."""
        return self.rank == 0 or not name.startswith(TOWERS)

    def part(self, path: str) -> Part | None:
        """The part of a module's matrix that this rank owns; None if it owns all of it."""
        config = self.config
        if table := _TABLES.fullmatch(path):
            count = config.vocab_size_per_layer_input if table[2] else config.vocab_size
            own = self.tokens(count)
            return Part(0, own.start, own.stop, count)
        found = _LAYER.fullmatch(path)
        if found is None:
            return None
        layer, tail = int(found[1]), found[2]
        if not tail.endswith("_proj"):
            return None
        room, _, name = tail.partition(".")
        if room == "self_attn" and self.divides_heads(layer):
            D, of_kv = config.head_dim_of(layer), name in ("k_proj", "v_proj")
            own = self.heads(layer)[of_kv]
            whole = config.kv_heads_of(layer) if of_kv else config.num_attention_heads
            axis = -1 if name == "o_proj" else 0
            return Part(axis, own.start * D, own.stop * D, whole * D)
        if room == "mlp" and self.divides_mlp(layer):
            own = self.mlp(layer)
            axis = -1 if name == "down_proj" else 0
            return Part(axis, own.start, own.stop, config.mlp_width(layer))
        if room == "experts" and self.divides_experts:
            own = self.experts()
            return Part(0, own.start, own.stop, config.num_experts)
        return None
