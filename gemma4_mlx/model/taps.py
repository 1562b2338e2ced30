"""Named points in the forward pass where a quantity can be observed or replaced.

The model's code reads ``x = tap("layer_output", x)``. While nothing observes, ``tap`` is the
identity and adds nothing to the graph. While something does, every observer is called as
``observer(name, layer, value, geometry)`` and may return an array to take the value's place, or
None to leave it. An observer that only looks builds its own graph beside the model's, so the
numbers of the forward pass stay what they were, to the bit.
"""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

Observer = Callable[[str, int | None, mx.array, object], mx.array | None]
Tap = Callable[..., mx.array]

#: Every tap with the shape of its value. B batch, n tokens of this call, m keys seen by this call
#: (cached ones included), H hidden size, D head size, E experts, k experts per token, P size of
#: a per-layer input, L layers, V vocabulary.
NAMES = {
    "tokens": "(B, n) token ids of this call",
    "embeddings": "(B, n, H) scaled token embeddings, soft tokens of images and sound in place",
    "per_layer_inputs": "(B, n, L, P) per-layer embeddings of all layers; models that have them",
    "layer_input": "(B, n, H) residual stream entering the layer",
    "attention_input": "(B, n, H) after input_layernorm",
    "queries": "(B, heads, n, D) after q_norm and rotary embedding",
    "keys": "(B, kv heads, m, D) after k_norm and rotary embedding; the donor's in shared layers",
    "values": "(B, kv heads, m, D) after the weightless norm; the donor's in shared layers",
    "head_outputs": "(B, heads, n, D) each head's weighted sum of values, before o_proj",
    "attention_output": "(B, n, H) after post_attention_layernorm, what attention adds",
    "attention_residual": "(B, n, H) residual stream between attention and feed-forward",
    "mlp_output": "(B, n, H) dense MLP; normed by post_feedforward_layernorm(_1 beside experts)",
    "router_logits": "(B, n, E) float32 scores before the softmax",
    "router_probabilities": "(B, n, E) float32 softmax over all experts; only to be looked at",
    "expert_indices": "(B, n, k) uint32 chosen experts, in no particular order",
    "expert_weights": "(B, n, k) renormalised probabilities times per_expert_scale",
    "expert_outputs": "(B, n, k, H) each chosen expert's output before weighting",
    "moe_output": "(B, n, H) weighted sum of experts after post_feedforward_layernorm_2",
    "feedforward_output": "(B, n, H) what the feed-forward part adds to the stream",
    "per_layer_input": "(B, n, P) this layer's per-layer embedding",
    "per_layer_output": "(B, n, H) what the per-layer embedding adds to the stream",
    "layer_output": "(B, n, H) residual stream leaving the layer, after layer_scalar",
    "final_hidden": "(B, n, H) after the final norm",
    "logits": "(B, n, V) float32, soft-capped",
}


def untouched(name: str, value: mx.array, geometry: object = None) -> mx.array:
    """The tap of a model that nobody observes."""
    return value


#: What the job that runs now began with and added, by Taps; None where no job runs.
_of_this_job: ContextVar[dict | None] = ContextVar("of_this_job", default=None)


def begin_job() -> None:
    """What this context computes from here on is a job of its own, beside others on one thread.

    It keeps to the interventions that are in force when it first uses a model, and what it adds
    itself holds for it alone. Observers that others add only watch, and see every job.
    """
    _of_this_job.set({})


@dataclass(frozen=True)
class _Changes:
    """Interventions in force: what replaces values, what looks at the outcome, and their keys."""

    replacing: tuple[Observer, ...] = ()
    looking: tuple[Observer, ...] = ()
    keys: tuple = ()

    def __add__(self, other: "_Changes") -> "_Changes":
        return _Changes(
            self.replacing + other.replacing,
            self.looking + other.looking,
            self.keys + other.keys,
        )

    def observers(self) -> tuple[Observer, ...]:
        late = [observer for observer in self.replacing if getattr(observer, "late", False)]
        early = [observer for observer in self.replacing if observer not in late]
        return (*early, *late, *self.looking)


@dataclass
class _Observers:
    changes: _Changes = _Changes()
    watching: tuple[Observer, ...] = ()


class Taps:
    """The observers of one model, in the order in which they see (and replace) values.

    Interventions come before those that only watch, so that a watcher sees what the model really
    computes with, whichever ``with`` block was entered first. Among interventions those with a
    true attribute ``late`` come last.
    """

    def __init__(self):
        self._shared = _Observers()

    def _here(self) -> _Observers:
        """The caller's observers: of its job, or outside jobs of everyone."""
        job = _of_this_job.get()
        if job is None:
            return self._shared
        if self not in job:
            job[self] = _Observers(self._shared.changes)
        return job[self]

    @property
    def _observers(self) -> tuple[Observer, ...]:
        here = self._here()
        watching = here.watching
        if here is not self._shared:
            watching = self._shared.watching + watching
        return here.changes.observers() + watching

    @property
    def active(self) -> bool:
        return bool(self._observers)

    @property
    def interventions(self) -> tuple:
        """Keys of the interventions in force, innermost last."""
        return self._here().changes.keys

    def at(self, layer: int | None = None, watched: bool = True) -> Tap:
        """The tap function for one layer, or with None for the model as a whole.

        ``watched`` False: of a computation that those who only watch are not to see.
        """
        observers = self._observers if watched else self._here().changes.observers()
        return partial(_show, observers, layer) if observers else untouched

    @contextmanager
    def observing(self, *observers: Observer):
        """Add observers for the duration of a ``with`` block, exceptions included."""
        here = self._here()
        here.watching += observers
        try:
            yield
        finally:
            kept = list(here.watching)
            for observer in observers:
                kept.remove(observer)
            here.watching = tuple(kept)

    @contextmanager
    def changing(self, replacing: Sequence[Observer], looking: Sequence[Observer], keys: Sequence):
        """Put interventions in force for the duration of a ``with`` block, exceptions included:
        observers that replace values, others that look at the outcome, and the keys of them."""
        here = self._here()
        before = here.changes
        here.changes = before + _Changes(tuple(replacing), tuple(looking), tuple(keys))
        try:
            yield
        finally:
            here.changes = before


def _show(observers, layer, name, value, geometry=None):
    for observer in observers:
        replaced = observer(name, layer, value, geometry)
        if replaced is not None:
            value = replaced
    return value
