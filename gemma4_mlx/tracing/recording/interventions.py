"""Changing what a model computes: experts, heads, the residual stream.

    with model.intervene(Ablate(layer=3, experts=[5]), Steer(layer=8, vector=v)):
        chat.send("...")

An intervention is a small immutable object. ``observer(model)`` checks it against the model and
returns the function that carries it out; ``key`` identifies it to caches and traces. It ends with
the ``with`` block, also after an exception. ``tokens`` limits it to a span of positions: a slice or
(start, stop), with stop None for no end; None means all positions, generated ones too.

Several together: first those on the router's scores (Boost, Swap, Ablate's "route_around"), then
those on the choice (Force), then those on the weights (Force's ``share``, and last Ablate's
"contribution"), since that is how the router computes; otherwise in the order given, an outer
``with`` before an inner one. So an expert that is both forced and ablated ("contribution") is
selected, with weight 0, whichever is named first; one that is forced and routed around is selected.
Of two Forces on one layer only the later counts (name all experts in one). Observers of the taps
see the experts and weights that the model uses in the end.
"""

from dataclasses import dataclass
from hashlib import sha256
from numbers import Real
from operator import index
from typing import ClassVar

import mlx.core as mx
import numpy as np

from ...arguments import say_arguments
from ...errors import InterventionError
from .choices import store_indices

#: Added to a router score, this makes it lower than all others, boosted ones included.
NEVER = -1e30
#: Larger boosts are cut to this. It already gives all weight to the boosted experts, and with much
#: larger ones, rounding to float32 would erase the differences between their scores.
MOST = 1e4


class Intervention:
    """Base class: calls :meth:`change` at the taps of its layer, and limits that to its positions.

    Subclasses raise InterventionError when they are made, for values that no model allows, and in
    ``model.intervene``, for layers, heads, experts, shapes and spans that this model lacks.
    """

    TAPS: ClassVar[tuple[str, ...]]
    #: Whether it is applied after all others at its taps.
    late: ClassVar[bool] = False
    layer: int | None
    tokens: slice | tuple | None

    @property
    def key(self) -> str:
        """A text that is equal for two interventions exactly if they do the same."""
        parts = (f"{name}={_short(value)}" for name, value in vars(self).items())
        return f"{type(self).__name__}({', '.join(parts)})"

    def __repr__(self):
        return self.key

    def check_layer(self, layers: int) -> None:
        """Raise InterventionError if a model of so many layers lacks this one."""
        if not isinstance(self.layer, int | np.integer) or not 0 <= self.layer < layers:
            raise InterventionError(
                f"layer {self.layer!r} does not exist: this model has layers 0 to {layers - 1}"
            )

    def check(self, model) -> None:
        """Raise InterventionError if this model lacks what is named."""

    def taps(self) -> tuple[str, ...]:
        """The taps at which :meth:`change` is called."""
        return self.TAPS

    def change(self, name: str, value: mx.array, seen: dict, start: int) -> mx.array | None:
        """The changed value of tap ``name``, at all positions; None leaves it as it is.

        ``seen``: this call's values of the earlier :meth:`taps`, as all interventions together
        left them; ``start``: position of the call's first token.
        """
        raise NotImplementedError

    def observer(self, model):
        """A function for ``model.intervene``, which also calls its ``looks`` with the values that
        all interventions together made. Raises InterventionError."""
        self.check_layer(model.config.text.num_hidden_layers)
        span = span_of(self.tokens)
        self.check(model)
        taps, seen, start = self.taps(), {}, [0]

        def observe(name, layer, value, geometry):
            if geometry is not None:
                start[0] = geometry.query_start
            if layer != self.layer or name not in taps:
                return None
            changed = self.change(name, value, seen, start[0])
            if changed is None or span is None:
                return changed
            axis = 2 if name == "head_outputs" else 1
            positions = np.arange(start[0], start[0] + value.shape[axis])
            inside = (positions >= span[0]) & (positions < span[1])
            if inside.all() or not inside.any():
                return changed if inside.all() else None
            shape = [1] * value.ndim
            shape[axis] = len(inside)
            return mx.where(mx.array(inside).reshape(shape), changed, value)

        def look(name, layer, value, geometry):
            if layer == self.layer and name in taps:
                seen[name] = value
                if name == taps[-1]:
                    seen.clear()

        observe.looks, observe.late = look, self.late
        return observe


@say_arguments(InterventionError)
@dataclass(frozen=True, eq=False, repr=False)
class Ablate(Intervention):
    """Take experts out of a layer.

    ``mode`` "contribution": the router chooses as before, and these experts get weight 0.
    "route_around": the router cannot choose them; others take their place and the weights are
    renormalised.

    Raises InterventionError for another mode, for experts that are no indices or that the model
    lacks, and for routing around so many that too few are left.
    """

    layer: int
    experts: tuple[int, ...]
    mode: str = "contribution"
    tokens: slice | tuple | None = None

    @property
    def late(self) -> bool:
        return self.mode == "contribution"  # so that nothing after it changes the zero weights

    def __post_init__(self):
        store_indices(self, "experts", error=InterventionError)
        if self.mode not in ("contribution", "route_around"):
            raise InterventionError(
                f"mode {self.mode!r}; there are 'contribution' and 'route_around'"
            )

    def check(self, model):
        text = _check_experts(self, model)
        left = text.num_experts - len(self.experts)
        if self.mode == "route_around" and left < text.top_k_experts:
            raise InterventionError(
                f"only {left} experts would be left in layer {self.layer} for a router that "
                f"chooses {text.top_k_experts}: take out at most "
                f"{text.num_experts - text.top_k_experts}"
            )

    def taps(self):
        if self.mode == "contribution":
            return ("expert_indices", "expert_weights")
        return ("router_logits",)

    def change(self, name, value, seen, start):
        if name == "router_logits":
            return value + _vector(value.shape[-1], self.experts, NEVER)
        if name == "expert_weights":
            out = _any_of(seen["expert_indices"], self.experts)
            return mx.where(out, mx.array(0, value.dtype), value)
        return None


@say_arguments(InterventionError)
@dataclass(frozen=True, eq=False, repr=False)
class Force(Intervention):
    """Make the router choose some experts, in place of the lowest-scored of the others.

    ``share``: each forced expert's part of the token's total weight; the others share the rest in
    their old proportions. None leaves the weight that follows from the router's score, which is
    small for an expert that it would not have chosen. If all k are forced and routed around, they
    get equal weights.

    Raises InterventionError for experts that are no indices or that the model lacks, for more
    experts than a token goes to, and for shares that are negative or sum to more than 1.
    """

    layer: int
    experts: tuple[int, ...]
    share: float | None = None
    tokens: slice | tuple | None = None

    TAPS = ("router_logits", "expert_indices", "expert_weights")

    def __post_init__(self):
        store_indices(self, "experts", error=InterventionError)
        if self.share is None:
            return
        if not is_finite(self.share) or not 0 <= self.share * len(self.experts) <= 1:
            raise InterventionError(
                f"share {self.share!r} of each of {len(self.experts)} experts: together they have "
                "0 to 1 of the weight"
            )

    def check(self, model):
        text = _check_experts(self, model)
        if len(self.experts) > text.top_k_experts:
            raise InterventionError(
                f"{len(self.experts)} experts are forced, a token goes to {text.top_k_experts}"
            )

    def change(self, name, value, seen, start):
        if name == "expert_indices":
            k, scores = value.shape[-1], seen["router_logits"]
            forced = _vector(scores.shape[-1], self.experts, 1.0) > 0
            scores = mx.stop_gradient(mx.where(forced, mx.inf, scores))
            return mx.argpartition(scores, kth=-k, axis=-1)[..., -k:].astype(value.dtype)
        if name == "expert_weights" and self.share is not None:
            forced = _any_of(seen["expert_indices"], self.experts)
            total = value.sum(axis=-1, keepdims=True)
            # Others whose weight underflowed to 0 in float32 must still share the rest.
            rest = mx.where(forced, 0, mx.where(value == 0, _TINY, value))
            left = 1 - self.share * len(self.experts)
            scale = total * left / mx.maximum(rest.sum(axis=-1, keepdims=True), _TINY)
            return mx.where(forced, total * self.share, rest * scale).astype(value.dtype)
        return None


@say_arguments(InterventionError)
@dataclass(frozen=True, eq=False, repr=False)
class Boost(Intervention):
    """Add ``amount``, limited to +-10,000, to the router's scores of some experts.

    Raises InterventionError for an amount that is not finite, and for experts that are no indices
    or that the model lacks.
    """

    layer: int
    experts: tuple[int, ...]
    amount: float = 1.0
    tokens: slice | tuple | None = None

    TAPS = ("router_logits",)

    def __post_init__(self):
        store_indices(self, "experts", error=InterventionError)
        if not is_finite(self.amount):
            raise InterventionError(f"a boost of {self.amount!r} is no number to add")

    def check(self, model):
        _check_experts(self, model)

    def change(self, name, value, seen, start):
        amount = min(max(self.amount, -MOST), MOST)
        return value + _vector(value.shape[-1], self.experts, amount)


@say_arguments(InterventionError)
@dataclass(frozen=True, eq=False, repr=False)
class Swap(Intervention):
    """Exchange two experts: where the router would choose one, it chooses the other.

    Raises InterventionError for experts that the model lacks.
    """

    layer: int
    a: int
    b: int
    tokens: slice | tuple | None = None

    TAPS = ("router_logits",)

    @property
    def experts(self) -> tuple[int, int]:
        return (self.a, self.b)

    def check(self, model):
        _check_experts(self, model)

    def change(self, name, value, seen, start):
        order = np.arange(value.shape[-1])
        order[[self.a, self.b]] = order[[self.b, self.a]]
        return value[..., mx.array(order)]


@say_arguments(InterventionError)
@dataclass(frozen=True, eq=False, repr=False)
class ScaleHeads(Intervention):
    """Multiply the outputs of some attention heads by ``factor``; 0 removes them.

    Raises InterventionError for a factor that is not finite, and for heads that are no indices or
    that the model lacks.
    """

    layer: int
    heads: tuple[int, ...]
    factor: float = 0.0
    tokens: slice | tuple | None = None

    TAPS = ("head_outputs",)

    def __post_init__(self):
        store_indices(self, "heads", error=InterventionError)
        check_factor(self.factor)

    def check(self, model):
        count = model.config.text.num_attention_heads
        check_indices(self.heads, count, "head", f" of layer {self.layer}")

    def change(self, name, value, seen, start):
        factors = np.ones((value.shape[1], 1, 1), np.float32)
        factors[list(self.heads)] = self.factor
        return value * mx.array(factors).astype(value.dtype)


@say_arguments(InterventionError)
@dataclass(frozen=True, eq=False, repr=False)
class Steer(Intervention):
    """Add ``scale`` times a vector (H,) to the residual stream that leaves a layer.

    See :func:`.steering.steering_vector` for one made of two sets of prompts.

    Raises InterventionError for a vector that is not finite or of another size than the model's
    stream, and for a scale that is not finite.
    """

    layer: int
    vector: np.ndarray
    scale: float = 1.0
    tokens: slice | tuple | None = None

    TAPS = ("layer_output",)

    def __post_init__(self):
        if not is_finite(self.scale):
            raise InterventionError(f"a scale of {self.scale!r} steers nowhere")
        object.__setattr__(self, "vector", floats(self.vector, "a steering vector"))

    def check(self, model):
        H = model.config.text.hidden_size
        with np.errstate(over="ignore"):
            finite = np.isfinite(self.vector * np.float32(self.scale)).all()
        if self.vector.shape != (H,) or not finite:
            raise InterventionError(
                f"a steering vector for this model has {H} finite numbers, also when scaled; this "
                f"one has the shape {self.vector.shape}"
            )

    def change(self, name, value, seen, start):
        return value + (mx.array(self.vector) * self.scale).astype(value.dtype)


_TINY = 1e-30
OPEN = 1 << 60  # stands for the end of an open span


def span_of(tokens, name: str = "tokens") -> tuple[int, int] | None:
    """(start, stop) of a token span, None for all positions.

    Raises InterventionError for anything else.
    """
    if tokens is None:
        return None
    if isinstance(tokens, slice | range):
        if tokens.step not in (None, 1):
            raise InterventionError(f"{name}: a span has no step")
        tokens = (tokens.start, tokens.stop)
    try:
        start, stop = tokens
        start = 0 if start is None else index(start)
        stop = OPEN if stop is None else index(stop)
    except (TypeError, ValueError):
        raise InterventionError(f"{name} {tokens!r}: give a slice or (start, stop)") from None
    if not 0 <= start < stop:
        raise InterventionError(
            f"{name} {start}:{stop} is no span; count from 0, the start below the stop"
        )
    return start, stop


def is_finite(value) -> bool:
    """Whether it is a number, neither nan nor infinite."""
    return isinstance(value, Real) and bool(np.isfinite(value))


def check_factor(factor) -> None:
    """Raises InterventionError for what is no finite float32 number."""
    if not is_finite(factor) or abs(factor) > float(np.finfo(np.float32).max):
        raise InterventionError(f"a factor of {factor!r} scales nothing")


def floats(values, what: str) -> np.ndarray:
    """A float32 copy. Raises InterventionError for what are no numbers."""
    try:
        return np.array(values, dtype=np.float32)
    except (TypeError, ValueError):
        raise InterventionError(
            f"{what} has numbers; a {type(values).__name__} was given"
        ) from None


def check_indices(
    chosen, count: int, what: str, where: str = "", whose: str = "this model"
) -> None:
    """Raises InterventionError for no indices, and for one that is not below ``count``."""
    wrong = [i for i in chosen if not 0 <= i < count]
    if wrong or not chosen:
        shown = ", ".join(map(str, wrong)) or "none at all"
        raise InterventionError(f"{what} {shown}{where}: {whose} has {what}s 0 to {count - 1}")


def _check_experts(self, model):
    text = model.config.text
    if not text.enable_moe_block:
        raise InterventionError(f"{type(self).__name__} changes experts, this model has none")
    check_indices(self.experts, text.num_experts, "expert", f" of layer {self.layer}")
    return text


def _vector(size: int, chosen, amount: float) -> mx.array:
    values = np.zeros(size, np.float32)
    values[list(chosen)] = amount
    return mx.array(values)


def _any_of(indices: mx.array, chosen) -> mx.array:
    found = indices == chosen[0]
    for expert in chosen[1:]:
        found = found | (indices == expert)
    return found


def _short(value) -> str:
    """A field as text; arrays by their digest."""
    if isinstance(value, np.ndarray):
        return f"array{value.shape}:{sha256(value.tobytes()).hexdigest()[:12]}"
    return repr(value.item() if isinstance(value, np.generic) else value)
