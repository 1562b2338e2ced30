"""Plans: what to record, what that costs, and which smaller plan would fit.

A plan is checked and its cost computed before anything runs: ``plan.cost(model, n_tokens)`` gives
bytes by part and the extra floating-point work, from the configuration alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from operator import index

from ...arguments import say_arguments
from ...errors import Gemma4Error, TraceError
from ..data.offsets import offset_edges, records_offsets
from ..data.ranges import ranges
from .room import room


@dataclass(frozen=True)
class PlanCost:
    """Price of a plan. ``parts``: bytes in memory by part; ``disk``: bytes in a mapped file;
    ``flops``: floating-point operations beyond the plain forward pass."""

    parts: dict[str, int] = field(default_factory=dict)
    disk: int = 0
    flops: int = 0

    @property
    def memory(self) -> int:
        """Bytes in memory when the trace is complete."""
        return sum(self.parts.values())

    def __add__(self, other: "PlanCost") -> "PlanCost":
        parts = dict(self.parts)
        for name, size in other.parts.items():
            parts[name] = parts.get(name, 0) + size
        return PlanCost(parts, self.disk + other.disk, self.flops + other.flops)

    def __str__(self):
        parts = ", ".join(f"{name} {in_bytes(size)}" for name, size in self.parts.items() if size)
        disk = f", {in_bytes(self.disk)} on disk" if self.disk else ""
        return f"{in_bytes(self.memory)} in memory ({parts}){disk}, {self.flops / 1e9:.3g} Gflop"


def in_bytes(size: float) -> str:
    """12345678 -> "11.8 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024


def text_config(model):
    """The text configuration of a model, or of a ``Gemma4Config`` or ``TextConfig``."""
    config = getattr(model, "config", model)
    return getattr(config, "text", config)


def store_indices(frozen, *names: str, error: type[Gemma4Error]) -> None:
    """Make fields that hold an index or several, numpy's as well, tuples of int.

    Raises ``error`` for anything else.
    """
    for name in names:
        given = getattr(frozen, name)
        several = given if isinstance(given, Iterable) else (given,)
        try:
            object.__setattr__(frozen, name, tuple(map(index, several)))
        except TypeError:
            raise error(
                f"{name}={given!r}: give an index or several, such as {name}=(0, 3)"
            ) from None


def _store_indices(plan, *names: str) -> None:
    """:func:`store_indices` for a plan's fields, in which None stays and means all."""
    given = [name for name in names if getattr(plan, name) is not None]
    store_indices(plan, *given, error=TraceError)


def checked_indices(
    wanted: tuple[int, ...] | None, count: int, what: str, whose: str = "this model"
) -> tuple[int, ...]:
    """None (all) or some indices, checked against ``count``; sorted, without repeats.

    Raises TraceError for one that is not there, and for an empty choice.
    """
    if wanted is None:
        return tuple(range(count))
    wrong = [i for i in wanted if not 0 <= i < count]
    if wrong or not wanted:
        shown = ", ".join(map(str, wrong)) or "an empty choice"
        raise TraceError(f"{what} {shown}: {whose} has {what}s 0 to {count - 1}")
    return tuple(sorted(set(wanted)))


def _check_length(n_tokens: int) -> None:
    if n_tokens < 1:
        raise TraceError(f"a prompt of {n_tokens} tokens has nothing to trace")


def itemsize(model) -> int:
    """Bytes of an activation: 2 for 16-bit models, else 4; 4 if only a configuration is given."""
    return getattr(getattr(model, "dtype", None), "size", 4)


@say_arguments(TraceError)
@dataclass(frozen=True)
class RoutingPlan:
    """Which experts each token went to. ``layers`` None: all; ``probabilities``: keep all E;
    ``norms``: keep the norm of each chosen expert's output.

    Raises TraceError for layers that are no indices; a model without experts, or without these
    layers, is one when tracing begins.
    """

    layers: tuple[int, ...] | None = None
    probabilities: bool = False
    norms: bool = False

    def __post_init__(self):
        _store_indices(self, "layers")

    def chosen_layers(self, model) -> tuple[int, ...]:
        """The traced layers.

        Raises TraceError for layers that the model lacks, and for a model without experts.
        """
        text = text_config(model)
        if not text.enable_moe_block:
            raise TraceError(
                "this model has no experts, so there is no routing to trace; leave routing out"
            )
        return checked_indices(self.layers, text.num_hidden_layers, "layer")

    def cost(self, model, n_tokens: int) -> PlanCost:
        """Bytes that this plan keeps for ``n_tokens``.

        Raises TraceError for no tokens, for layers that the model lacks, and for a model without
        experts.
        """
        _check_length(n_tokens)
        text, layers = text_config(model), self.chosen_layers(model)
        id_bytes = 1 if text.num_experts <= 256 else 2
        size = len(layers) * n_tokens * text.top_k_experts * (id_bytes + 4)
        parts = {"routing": size}
        if self.norms:
            parts["norms of experts"] = len(layers) * n_tokens * text.top_k_experts * 4
        if self.probabilities:
            parts["router probabilities"] = len(layers) * n_tokens * text.num_experts * 4
        return PlanCost(parts)


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
        _store_indices(self, "layers", "heads")
        if not isinstance(self.retain, str):
            _store_indices(self, "retain")

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
        _check_length(n_tokens)
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


@say_arguments(TraceError)
@dataclass(frozen=True)
class LensPlan:
    """Logit lens: each layer's guess for the next token, through the final norm and the head.

    ``layers`` None: all; ``top``: guesses kept; ``positions``: token positions, None for all.

    Raises TraceError if no guess is kept, and for layers or positions that are no indices; layers
    that the model and positions that the prompt lacks are one when tracing begins.
    """

    layers: tuple[int, ...] | None = None
    top: int = 5
    positions: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.top < 1:
            raise TraceError(f"a logit lens that keeps {self.top} guesses keeps nothing")
        _store_indices(self, "layers", "positions")

    def chosen_layers(self, model) -> tuple[int, ...]:
        """The layers looked at. Raises TraceError for layers that the model lacks."""
        return checked_indices(self.layers, text_config(model).num_hidden_layers, "layer")

    def cost(self, model, n_tokens: int) -> PlanCost:
        """Bytes kept, and additional operations, for ``n_tokens``.

        Raises TraceError for no tokens, for layers that the model lacks, and for positions that
        the prompt lacks.
        """
        _check_length(n_tokens)
        text, layers = text_config(model), len(self.chosen_layers(model))
        n = len(checked_indices(self.positions, n_tokens, "position", "the prompt"))
        flops = layers * n * text.vocab_size * (2 * text.hidden_size + 6)
        return PlanCost({"logit lens": layers * n * (8 * self.top + 8)}, flops=flops)


#: The tap of shape (B, heads, n, D).
HEAD_OUTPUTS = "head_outputs"
#: Taps whose activations can be kept: the others have the shape (B, n, H).
KEEPABLE = (
    "layer_input",
    "attention_input",
    HEAD_OUTPUTS,
    "attention_output",
    "attention_residual",
    "mlp_output",
    "moe_output",
    "feedforward_output",
    "per_layer_output",
    "layer_output",
)


@say_arguments(TraceError)
@dataclass(frozen=True)
class ActivationPlan:
    """Keep whole activations of named taps, to patch into another run.

    ``taps``: some of :data:`KEEPABLE`; ``layers`` None: all.

    Raises TraceError for other taps, and for layers that are no indices; layers that the model
    lacks are one when tracing begins.
    """

    taps: tuple[str, ...] = ("layer_output",)
    layers: tuple[int, ...] | None = None

    def __post_init__(self):
        if wrong := [t for t in self.taps if t not in KEEPABLE]:
            raise TraceError(f"activations {wrong}; those that can be kept: {', '.join(KEEPABLE)}")
        _store_indices(self, "layers")

    def chosen_layers(self, model) -> tuple[int, ...]:
        """The layers whose values are kept. Raises TraceError for layers that the model lacks."""
        return checked_indices(self.layers, text_config(model).num_hidden_layers, "layer")

    def cost(self, model, n_tokens: int) -> PlanCost:
        """Bytes that this plan keeps for ``n_tokens``.

        Raises TraceError for no tokens, and for layers that the model lacks.
        """
        _check_length(n_tokens)
        text, layers = text_config(model), self.chosen_layers(model)
        of_heads = HEAD_OUTPUTS in self.taps
        numbers = (len(self.taps) - of_heads) * len(layers) * text.hidden_size
        if of_heads:
            numbers += text.num_attention_heads * sum(text.head_dim_of(i) for i in layers)
        return PlanCost({"activations": numbers * n_tokens * itemsize(model)})


@say_arguments(TraceError)
@dataclass(frozen=True)
class TracePlan:
    """All parts of a trace; None leaves a part out.

    Raises TraceError for a part that is another thing than its plan.
    """

    routing: RoutingPlan | None = None
    attention: AttentionPlan | None = None
    lens: LensPlan | None = None
    activations: ActivationPlan | None = None

    def __post_init__(self):
        kinds = (RoutingPlan, AttentionPlan, LensPlan, ActivationPlan)
        for (name, part), kind in zip(vars(self).items(), kinds):
            if not isinstance(part, kind | None):
                raise TraceError(
                    f"{name}={part!r}: give {kind.__name__}(), or None to leave it out"
                )

    @property
    def parts(self):
        every = (self.routing, self.attention, self.lens, self.activations)
        return [part for part in every if part is not None]

    def cost(self, model, n_tokens: int) -> PlanCost:
        """Bytes and extra work for a prompt of ``n_tokens``, before anything runs.

        Raises TraceError for no tokens, and for what the model does not have.
        """
        _check_length(n_tokens)
        return sum((part.cost(model, n_tokens) for part in self.parts), PlanCost())

    def within(self, model, n_tokens: int, memory: int) -> "TracePlan":
        """The plan with ``retain="auto"`` brought down to ``memory`` bytes for all of the trace: on
        disk or in memory, wherever more is kept.

        Raises TraceError for no tokens, and for what the model does not have.
        """
        cost, plan = self.cost(model, n_tokens), self.attention
        if plan is None or plan.retain != "auto" or cost.memory <= memory:
            return self
        left = memory - cost.memory + cost.parts.get("queries and keys", 0)
        smaller = []
        if plan.storage != "disk":
            budget = max(0, left if plan.budget is None else min(left, plan.budget))
            smaller.append(replace(plan, storage="memory", budget=budget))
        if plan.storage != "memory":
            smaller.append(replace(plan, storage="disk"))
        most = max(smaller, key=lambda each: each.retention(model, n_tokens).bytes)
        return replace(self, attention=most)

    def fitting(self, model, n_tokens: int, memory: int, disk: int = 0) -> "TracePlan":
        """The first of ever smaller plans that fits into ``memory`` (and ``disk``) bytes.

        Gives up, in this order: retained vectors in memory (they go to disk if that has room),
        then to full layers only, then altogether; router probabilities; overview resolution;
        column sums; the logit lens; kept activations.

        Raises TraceError for no tokens, and for what the model does not have.
        """
        plan = self

        def fits():
            cost = plan.cost(model, n_tokens)
            return cost.memory <= memory and cost.disk <= disk

        steps = []
        if self.attention is not None:
            for change in (
                {"storage": "disk"},
                {"storage": "disk", "retain": "full"},
                {"storage": "auto", "retain": "none"},
            ):
                steps.append(("attention", change))
        if self.routing is not None:
            steps.append(("routing", {"probabilities": False}))
        if self.attention is not None:
            bins = self.attention.bins
            steps += [("attention", {"bins": b}) for b in (bins // 2, bins // 4) if b > 0]
            steps.append(("attention", {"columns": False}))
        steps += [("lens", None), ("activations", None)]
        for part, change in steps:
            if fits():
                break
            now = getattr(plan, part)
            if now is not None:
                plan = replace(plan, **{part: None if change is None else replace(now, **change)})
        return plan

    def check(self, model, n_tokens: int, memory: int, disk: int) -> PlanCost:
        """The cost, or TraceError with the numbers and a plan that would fit."""
        cost = self.cost(model, n_tokens)
        if cost.memory <= memory and cost.disk <= disk:
            return cost
        smaller = self.fitting(model, n_tokens, memory, disk)
        less = smaller.cost(model, n_tokens)
        advice = (
            f"{smaller} would: {less}"
            if less.memory <= memory and less.disk <= disk
            else f"even {smaller} would not: {less}; trace fewer layers, heads or tokens"
        )
        raise TraceError(
            f"a trace of {n_tokens} tokens with {self} needs {cost}; there are "
            f"{in_bytes(memory)} of memory and {in_bytes(disk)} of disk for it. {advice}"
        )

    def __str__(self):
        return f"TracePlan({', '.join(_changed(part) for part in self.parts)})"


def check_plan(plan) -> None:
    """Raises TraceError for what is no TracePlan, such as a part of one."""
    if not isinstance(plan, TracePlan):
        raise TraceError(
            f"plan={plan!r}: give a TracePlan, such as TracePlan(attention=AttentionPlan())"
        )


def _changed(part) -> str:
    """A plan as code, defaults left out."""
    default = type(part)()
    values = (
        f"{name}={value!r}" for name, value in vars(part).items() if value != getattr(default, name)
    )
    return f"{type(part).__name__}({', '.join(values)})"
