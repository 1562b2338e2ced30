"""Changing what attention weighs: keys hidden from queries, or weighted more or less.

    with model.intervene(Knockout(layer=(4, 5), queries=last, keys=subject)):
        chat.send("...")

A head's weights are a softmax over the keys that a query sees: exp(score) by the sum of them all.
:class:`Attend` multiplies some of the exponentials by a factor, and :class:`Knockout` by 0, before
they are divided by their sum. So the weights of a query still sum to 1, and what one key loses the
others gain in proportion. In transformers' eager attention that is log(factor), or -inf, added to
the mask. After Geva et al., "Dissecting Recall of Factual Associations in Auto-Regressive Language
Models" (2023), who call it attention knockout.

Positions count from the first token of the context, as in the other interventions, and hold
whether a prompt is read at once, in chunks, behind a cache, or token by token; keys outside a
sliding layer's window are hidden anyway. In a layer that shares another's keys and values, what is
changed are its own scores of them; the other layer's stay. Several changes of one layer multiply.
Heads, queries and layers that are not named keep their outputs to the bit.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from operator import index
from typing import ClassVar

import numpy as np

from ...arguments import say_arguments
from ...errors import InterventionError
from ...model.scores import ScoreChange
from .choices import store_indices
from .interventions import OPEN, Intervention, check_indices, is_finite, span_of


class _Weighting(Intervention):
    """What Attend and Knockout share. Subclasses have the fields of :class:`Attend`."""

    TAPS = ("queries",)
    layer: int | tuple[int, ...] | None
    heads: tuple[int, ...] | None
    queries: slice | tuple | int | list | np.ndarray | None
    keys: slice | tuple | int | list | np.ndarray | None
    factor: float

    def __post_init__(self):
        for name in ("layer", "heads"):
            if getattr(self, name) is not None:
                store_indices(self, name, error=InterventionError)
        for name in ("queries", "keys"):
            object.__setattr__(self, name, _positions(getattr(self, name), name))

    def observer(self, model):
        """A function that announces the change at the tap "queries" of each layer named.

        Raises InterventionError for layers, heads and positions that this model lacks.
        """
        text = model.config.text
        layers, heads = range(text.num_hidden_layers), range(text.num_attention_heads)
        if self.layer is not None:
            check_indices(self.layer, len(layers), "layer")
            layers = self.layer
        if self.heads is not None:
            check_indices(self.heads, len(heads), "head")
            heads = self.heads
        for name in ("queries", "keys"):
            last = _last(getattr(self, name))
            if last >= text.max_position_embeddings:
                raise InterventionError(
                    f"{name} up to position {last}: this model's context has "
                    f"{text.max_position_embeddings:,} positions, from 0 on"
                )
        with np.errstate(divide="ignore"):
            amount = float(np.log(self.factor))
        change = ScoreChange(tuple(heads), _chooser(self.queries), _chooser(self.keys), amount)

        def observe(name, layer, value, geometry):
            if name == "queries" and layer in layers:
                geometry.changes.append(change)

        return observe


@say_arguments(InterventionError)
@dataclass(frozen=True, eq=False, repr=False)
class Attend(_Weighting):
    """Let some queries weigh some keys ``factor`` times as much before the softmax's division.

    A key with the weight w of a query then has ``factor * w / (1 + (factor - 1) * w)``, if it is
    the only one that is changed. 1 changes nothing, 0 is :class:`Knockout`.

    Args:
        layer: one layer or several; None: all.
        heads: query heads; None: all.
        queries, keys: positions. A span, as a slice or (start, stop); or one position, or single
            ones as a list or array; None: all.
        factor: not negative.

    Raises InterventionError for a factor that is negative or not finite, for layers and heads that
    are no indices or that the model lacks, and for positions that are none or beyond its context.
    """

    layer: int | tuple[int, ...] | None
    heads: tuple[int, ...] | None = None
    queries: slice | tuple | int | list | np.ndarray | None = None
    keys: slice | tuple | int | list | np.ndarray | None = None
    factor: float = 1.0

    def __post_init__(self):
        if not is_finite(self.factor) or self.factor < 0:
            raise InterventionError(
                f"a factor of {self.factor!r}: weights are multiplied by a number from 0 on"
            )
        super().__post_init__()


@say_arguments(InterventionError)
@dataclass(frozen=True, eq=False, repr=False)
class Knockout(_Weighting):
    """Hide some keys from some queries: their weight is 0, and the others' still sum to 1.

    A query to which every key is hidden that it would see reads nothing: these heads output zero
    for it, as :class:`.ScaleHeads` with factor 0 has them.

    Args:
        layer: one layer or several; None: all.
        heads: query heads; None: all.
        queries, keys: positions. A span, as a slice or (start, stop); or one position, or single
            ones as a list or array; None: all.

    Raises InterventionError for layers and heads that are no indices or that the model lacks, and
    for positions that are none or beyond its context.
    """

    layer: int | tuple[int, ...] | None
    heads: tuple[int, ...] | None = None
    queries: slice | tuple | int | list | np.ndarray | None = None
    keys: slice | tuple | int | list | np.ndarray | None = None

    factor: ClassVar[float] = 0.0


_Positions = tuple[int, int | None] | np.ndarray | None


def _positions(given, name: str) -> _Positions:
    """A span (start, stop), stop None where it is open; or single positions in order, int64 without
    repeats; None for all.

    Raises InterventionError for anything else.
    """
    if given is None:
        return None
    if isinstance(given, slice | range | tuple):
        start, stop = span_of(given, name)
        return start, None if stop == OPEN else stop
    try:
        several = given if isinstance(given, Iterable) else [given]
        found = np.unique(np.array([index(i) for i in several], np.int64))
    except (TypeError, OverflowError):
        raise InterventionError(
            f"{name}={given!r:.80}: give a span as a slice or (start, stop), one position, or "
            "single ones as a list"
        ) from None
    if not len(found) or found[0] < 0:
        shown = f"position {found[0]}" if len(found) else "no position at all"
        raise InterventionError(f"{name}: {shown}; positions count from 0")
    return found


def _last(positions: _Positions) -> int:
    """The last position that is named; of an open span its first."""
    if isinstance(positions, np.ndarray):
        return int(positions[-1])
    start, stop = positions or (0, None)
    return start if stop is None else stop - 1


def _chooser(positions: _Positions):
    """Which of some consecutive positions are meant, as a :class:`.ScoreChange` asks it."""

    def within(start: int, stop: int) -> np.ndarray:
        chosen = np.zeros(stop - start, bool)
        if isinstance(positions, np.ndarray):
            here = positions[(positions >= start) & (positions < stop)]
            chosen[here - start] = True
        else:
            first, last = positions or (0, None)
            last = stop if last is None else last
            chosen[max(first - start, 0) : max(last - start, 0)] = True
        return chosen

    return within
