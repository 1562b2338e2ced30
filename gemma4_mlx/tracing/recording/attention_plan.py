"""The plan for attention: what to record of it, and which queries and keys to keep where."""

from dataclasses import dataclass

from ...arguments import say_arguments
from ...errors import TraceError
from ..data.offsets import offset_edges, records_offsets
from ..data.ranges import ranges
from .choices import check_length, checked_indices, itemsize, store_choices, text_config
from .cost import PlanCost
from .room import room


@dataclass(frozen=True)
class Retention:
    """Which queries and keys a plan keeps.

    The queries and keys of ``layers`` take ``bytes`` in ``storage``, "memory" or "disk". If
    ``limit`` is set, not all heads fit into so many bytes: once it is reached, the heads are kept
    that put the most and the sharpest mass on tokens other than the first and the previous one.
    """

    layers: tuple[int, ...]
    bytes: int
    storage: str
    limit: int | None = None


@say_arguments(TraceError)
@dataclass(frozen=True)
class AttentionPlan:
    """Which attention to record and what to keep for later.

    Args:
        layers, heads: indices, None for all
        bins: cells of an overview along each side, at most; a bin is ceil(n / bins) tokens
        overview: the mean and the maximum of every bin
        columns: how much each token is looked at
        summaries: entropy, distance, mass on the first, previous and equal tokens, on media
        links: how many of the strongest weights to keep for each head; 0 for none
        retain: whose queries and keys to keep, for tiles, rows and ``find``: "full" (the
            full-attention layers), "all", "none", layer indices, or "auto": what :meth:`retention`
            finds room for
        storage: where retained queries and keys go: "memory"; "disk", a file in ``folder`` that is
            mapped, not read, and gone with the trace; or "auto", memory while there is room
        folder: None is the user's cache folder
        budget: bytes that ``retain="auto"`` keeps at most; None takes :func:`.room.room`, an eighth
            of the free memory (4 GiB at most) and a quarter of the free disk (16 GiB at most)

    Queries and keys are kept as the model computed them (16-bit models: the same 16 bits), after
    norm and rotation. That is exact whatever the weights' quantization, which recomputing them
    from hidden states outside the model would not be. What finds no room is pooled, or computed
    by running the model again, rather than kept in fewer bits. Where the disk becomes full
    meanwhile, a warning says so and nothing is kept.

    Raises TraceError for numbers, a storage or a choice of layers or heads that make no sense;
    layers and heads that the model does not have are one when tracing begins.
    """

    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    bins: int = 256
    overview: bool = True
    columns: bool = True
    summaries: bool = True
    links: int = 16
    retain: str | tuple[int, ...] = "auto"
    storage: str = "auto"
    folder: str | None = None
    budget: int | None = None

    def __post_init__(self):
        if self.bins < 1 or self.links < 0:
            raise TraceError(f"a plan of {self.bins} bins and {self.links} links is impossible")
        if self.storage not in ("auto", "memory", "disk"):
            raise TraceError(f"storage {self.storage!r}; there are 'auto', 'memory' and 'disk'")
        if isinstance(self.retain, str) and self.retain not in ("auto", "full", "all", "none"):
            raise TraceError(
                f"retain {self.retain!r}; there are 'auto', 'full', 'all', 'none', or layers"
            )
        if self.budget is not None and self.budget < 0:
            raise TraceError(f"a budget of {self.budget} bytes; give a number from 0 on, or None")
        store_choices(self, "layers", "heads")
        if not isinstance(self.retain, str):
            store_choices(self, "retain")

    def chosen_layers(self, model) -> tuple[int, ...]:
        """The traced layers. Raises TraceError for layers that the model lacks."""
        return checked_indices(self.layers, text_config(model).num_hidden_layers, "layer")

    def chosen_heads(self, model) -> tuple[int, ...]:
        """The traced heads of each layer. Raises TraceError for heads that the model lacks."""
        return checked_indices(self.heads, text_config(model).num_attention_heads, "head")

    def retained_layers(self, model, n_tokens: int) -> tuple[int, ...]:
        """The layers whose queries and keys are kept: see :meth:`retention`."""
        return self.retention(model, n_tokens).layers

    def retention(self, model, n_tokens: int) -> "Retention":
        """What is kept of a prompt of ``n_tokens``, and where.

        With ``retain="auto"``: all layers if they fit into memory; else the full-attention ones,
        in memory or in a mapped file. Where not even they fit, recording begins with all of their
        heads and goes on with the most interesting ones, see :class:`Retention`. Sliding layers
        are given up first, for they are known best without: :meth:`.AttentionData.offsets`.

        Raises TraceError for layers that the model lacks or the plan does not trace.
        """
        text, layers = text_config(model), self.chosen_layers(model)
        full = tuple(i for i in layers if text.is_full(i)) or layers
        there = room(self.folder)
        places = {"memory": there.memory, "disk": there.disk}
        if self.storage != "auto":
            places = {self.storage: places[self.storage]}
        if self.retain != "auto":
            chosen = {"all": layers, "full": full, "none": ()}.get(self.retain)
            if not isinstance(self.retain, str):
                chosen = checked_indices(self.retain, text.num_hidden_layers, "layer")
                if missing := set(chosen) - set(layers):
                    raise TraceError(f"retain names layers {ranges(missing)}, which are not traced")
            size = self._retained_bytes(model, chosen, n_tokens)
            fits = [place for place, free in places.items() if size <= free]
            return Retention(chosen, size, (fits or list(places))[0])
        if self.budget is not None:
            places = {place: min(free, self.budget) for place, free in places.items()}
        choices = [(layers, next(iter(places))), *((full, place) for place in places)]
        for chosen, place in choices:
            size = self._retained_bytes(model, chosen, n_tokens)
            if size <= places[place]:
                return Retention(chosen, size, place)
        place = max(places, key=places.get)
        return Retention(full, places[place], place, places[place])

    def _retained_bytes(self, model, layers, n_tokens: int) -> int:
        text, heads = text_config(model), len(self.chosen_heads(model))
        numbers, holders = 0, set()
        for i in layers:
            donor = text.kv_donor(i)
            numbers += heads * text.head_dim_of(i)
            if donor not in holders:
                numbers += text.kv_heads_of(i) * text.head_dim_of(i)
                holders |= {donor} if donor in layers else set()
        return numbers * n_tokens * itemsize(model)

    def cost(self, model, n_tokens: int) -> PlanCost:
        """Bytes by part, and additional operations, of tracing ``n_tokens``.

        Raises TraceError for no tokens, and for layers or heads that the model lacks.
        """
        check_length(n_tokens)
        text, heads = text_config(model), len(self.chosen_heads(model))
        bins = min(self.bins, n_tokens)
        width = -(-n_tokens // bins)
        cells = offsets = flops = 0
        for i in self.chosen_layers(model):
            window = n_tokens if text.is_full(i) else min(text.sliding_window, n_tokens)
            band = bins if text.is_full(i) else min(bins, -(-(window - 1) // width) + 1)
            cells += bins * band
            if not text.is_full(i) and records_offsets(text.sliding_window, width):
                offsets += -(-n_tokens // width) * (len(offset_edges(text.sliding_window)) - 1)
            pairs = n_tokens * window - window * (window - 1) // 2
            flops += pairs * heads * (2 * text.head_dim_of(i) + 12)
        layers = len(self.chosen_layers(model))
        retention = self.retention(model, n_tokens)
        parts = {
            "normalisers": layers * heads * n_tokens * 4,
            "overviews": 8 * heads * cells * self.overview,
            "offsets": 2 * heads * offsets * self.overview,
            "column sums": layers * heads * n_tokens * 4 * self.columns,
            "summaries": layers * heads * bins * 4 * 9 * self.summaries,
            "links": layers * heads * self.links * 12,
        }
        on_disk = retention.storage == "disk"
        if not on_disk:
            parts["queries and keys"] = retention.bytes
        return PlanCost(parts, disk=retention.bytes if on_disk else 0, flops=flops)
