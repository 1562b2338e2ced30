"""Plans: what to record, what that costs, and which smaller plan would fit.

A plan is checked and its cost computed before anything runs: ``plan.cost(model, n_tokens)`` gives
bytes by part and the extra floating-point work, from the configuration alone.
"""

from dataclasses import dataclass, replace

from ...arguments import say_arguments
from ...errors import TraceError
from .attention_plan import AttentionPlan
from .choices import check_length, checked_indices, itemsize, store_choices, text_config
from .cost import PlanCost, in_bytes


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
        store_choices(self, "layers")

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
        check_length(n_tokens)
        text, layers = text_config(model), self.chosen_layers(model)
        id_bytes = 1 if text.num_experts <= 256 else 2
        size = len(layers) * n_tokens * text.top_k_experts * (id_bytes + 4)
        parts = {"routing": size}
        if self.norms:
            parts["norms of experts"] = len(layers) * n_tokens * text.top_k_experts * 4
        if self.probabilities:
            parts["router probabilities"] = len(layers) * n_tokens * text.num_experts * 4
        return PlanCost(parts)


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
        store_choices(self, "layers", "positions")

    def chosen_layers(self, model) -> tuple[int, ...]:
        """The layers looked at. Raises TraceError for layers that the model lacks."""
        return checked_indices(self.layers, text_config(model).num_hidden_layers, "layer")

    def cost(self, model, n_tokens: int) -> PlanCost:
        """Bytes kept, and additional operations, for ``n_tokens``.

        Raises TraceError for no tokens, for layers that the model lacks, and for positions that
        the prompt lacks.
        """
        check_length(n_tokens)
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
        store_choices(self, "layers")

    def chosen_layers(self, model) -> tuple[int, ...]:
        """The layers whose values are kept. Raises TraceError for layers that the model lacks."""
        return checked_indices(self.layers, text_config(model).num_hidden_layers, "layer")

    def cost(self, model, n_tokens: int) -> PlanCost:
        """Bytes that this plan keeps for ``n_tokens``.

        Raises TraceError for no tokens, and for layers that the model lacks.
        """
        check_length(n_tokens)
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
        check_length(n_tokens)
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
