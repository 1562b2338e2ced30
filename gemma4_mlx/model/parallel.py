"""One model on several machines: its layers with the parts that one of them owns.

Each machine runs the same forward pass on its own parts (:mod:`.shares`) and the whole residual
stream. Where a product of parts is only a summand, the machines' outputs are summed: after a
layer's ``o_proj``, its ``down_proj`` and its experts. Tokens are looked up where their rows are,
and the logits of all rows joined. Everything travels through MLX's own ``mx.distributed``.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..errors import ClusterError
from .attention import Attention
from .decoder import DecoderLayer
from .gemma4 import Model
from .moe import SORT_FROM, Experts, SwitchGLU
from .shares import TOWERS, Shares, heads_of
from .taps import Tap, untouched
from .values import evaluated


class Together:
    """The machines of one model: what they send one another, and how much of it.

    Attributes:
        rank, size: this machine's number, and how many there are.
        messages, nbytes: sums, joins, sends and receipts that this machine took part in so far,
            and the bytes of what it gave into them.
        call_all: where one machine leads (:mod:`gemma4_mlx.machines`), how it has all of them make
            a call that is no part of a run of the model; else None: every machine makes it.
        watched: on rank 0, ``watched(rank)`` gives what another rank's layer shows: (name, value,
            whether with a geometry); None where nobody leads.
        shown: on the others, tells rank 0 that a layer has shown all; None on rank 0.

    One message is under way at a time. MLX's ring tells of a lost machine by failing what is under
    way; what is begun after that waits without end, and could not be interrupted.
    """

    def __init__(self, group: mx.distributed.Group):
        self._group = group
        self.rank, self.size = group.rank(), group.size()
        self.messages = self.nbytes = 0
        self.call_all: Callable | None = None
        self.watched: Callable | None = None
        self.shown: Callable | None = None
        self._running: int | None = None  # the thread in which all machines compute
        self._under_way: mx.array | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """What this thread computes meanwhile, all machines do. Raises ClusterError if one was
        lost."""
        self._running = threading.get_ident()
        try:
            yield
            self.finish()
        finally:
            self._running = self._under_way = None

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What this thread computes meanwhile, the others do not, in the middle of a run."""
        running, self._running = self._running, None
        try:
            yield
        finally:
            self._running = running

    @property
    def alone(self) -> bool:
        """Whether the other machines do not know of what is computed here now."""
        return self.call_all is not None and self._running != threading.get_ident()

    @property
    def running_here(self) -> bool:
        """Whether the other machines compute what is computed here now."""
        return not self.alone

    def everywhere(self, what: str, x: mx.array, function: Callable) -> mx.array:
        """``function(x)`` by all machines; ``what`` names it (:func:`named_call`)."""
        return self.call_all(what, x, function) if self.alone else function(x)

    def sum(self, x: mx.array) -> mx.array:
        """The sum of all machines' x, in x's type."""
        return self._send(x, mx.distributed.all_sum)

    def join(self, x: mx.array, lengths: list[int], axis: int = -1) -> mx.array:
        """All machines' x side by side along an axis, of which rank r has ``lengths[r]``."""
        x = x.swapaxes(axis, -1)
        missing = max(lengths) - x.shape[-1]
        if missing:
            x = mx.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
        y = self._send(x[None], mx.distributed.all_gather)
        y = mx.concatenate([y[r, ..., :length] for r, length in enumerate(lengths)], axis=-1)
        return y.swapaxes(axis, -1)

    def send(self, x: mx.array) -> None:
        """Give x to the next machine, which receives it; the last one's next is rank 0."""
        self._send(x, partial(mx.distributed.send, dst=(self.rank + 1) % self.size))

    def receive(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        """What the machine before sends."""
        source = (self.rank - 1) % self.size

        def operation(_, group):
            return mx.distributed.recv(shape, dtype, source, group=group)

        return self._send(mx.zeros(0), operation)

    def _send(self, x: mx.array, operation: Callable) -> mx.array:
        if self.alone:
            raise ClusterError(
                "this needs whole layers in one memory: load the model without cluster="
            )
        self.finish()
        y = operation(x, group=self._group)
        refuse_tracing(y)
        self.messages += 1
        self.nbytes += x.nbytes
        self._under_way = y
        return y

    def finish(self) -> None:
        """Wait for what is under way. Raises ClusterError if a machine was lost meanwhile."""
        under_way, self._under_way = self._under_way, None
        try:
            if under_way is not None:
                mx.eval(under_way)
        except RuntimeError as error:
            raise ClusterError(f"the machines lost one another: {error}") from None


def refuse_tracing(*arrays: mx.array) -> None:
    """Begin to compute arrays. Raises ClusterError in ``mx.compile``, ``mx.vmap`` and ``mx.grad``:
    machines know of what they send one another, and not how it came about."""
    if not evaluated(*arrays, by=mx.async_eval):
        raise ClusterError("a model on several machines can neither be compiled nor differentiated")


@cache
def _summed(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of a linear layer with some of the columns: the machines' outputs are summed."""

    class Summed(kind):
        def __call__(self, x: mx.array) -> mx.array:
            return self.together.sum(super().__call__(x))

    return _named(Summed, kind)


@cache
def _by_token(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of an embedding table, or a head, that has the rows ``own`` of ``counts``, those of
    every machine; its path in the model is ``path``."""

    class ByToken(kind):
        def __call__(self, x: mx.array) -> mx.array:
            look_up = self.logits_of if issubclass(kind, nn.Linear) else self.rows_of
            return self.together.everywhere(f"{self.path}.{look_up.__name__}", x, look_up)

        def as_linear(self, x: mx.array) -> mx.array:
            return self.together.everywhere(f"{self.path}.logits_of", x, self.logits_of)

        def rows_of(self, ids: mx.array) -> mx.array:
            row = ids.astype(mx.int32) - self.own.start
            here = (row >= 0) & (row < len(self.own))
            found = super().__call__(mx.where(here, row, 0))
            return self.together.sum(mx.where(here[..., None], found, 0))

        def logits_of(self, x: mx.array) -> mx.array:
            linear = super().__call__ if issubclass(kind, nn.Linear) else super().as_linear
            return self.together.join(linear(x), self.counts)

    return _named(ByToken, kind)


def named_call(model: Model, what: str) -> Callable[[mx.array], mx.array]:
    """What ``Together.everywhere`` names: a table's rows or logits. Raises ClusterError."""
    path, _, name = what.rpartition(".")
    module = dict(model.named_modules()).get(path)
    if name not in ("rows_of", "logits_of") or not hasattr(module, name):
        raise ClusterError(f"a call of {what!r:.80}, which no machine makes for another")
    return getattr(module, name)


def _named(made: type, kind: type) -> type:
    made.__name__ = made.__qualname__ = f"{made.__name__}{kind.__name__}"
    return made


class DividedAttention(Attention):
    """:class:`Attention` with some of the heads; observers see, and replace, those of all machines.

    ``ranges``: each machine's query heads and KV heads.
    """

    def __call__(self, x: mx.array, shared: tuple, cache, geometry, tap: Tap):
        if tap is not untouched:
            tap = partial(self._whole, tap)
        return super().__call__(x, shared, cache, geometry, tap)

    def _whole(self, tap: Tap, name: str, value: mx.array, geometry) -> mx.array:
        ranges = [of[name in ("keys", "values")] for of in self.ranges]
        whole = self.together.join(value, [len(own) for own in ranges], axis=1)
        numbers = [head for own in ranges for head in own]  # a KV head may be on several machines
        if len(numbers) > len(set(numbers)):
            whole = whole[:, mx.array([numbers.index(i) for i in range(max(numbers) + 1)])]
        seen = tap(name, whole, geometry)
        own = ranges[self.together.rank]
        if name == "queries":
            geometry.changes[:] = [
                replace(change, heads=tuple(h - own.start for h in change.heads if h in own))
                for change in geometry.changes
            ]
        return value if seen is whole else seen[:, own.start : own.stop]


class OwnGLU(SwitchGLU):
    """:class:`SwitchGLU` with the experts ``own``; what goes to others gives 0."""

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        """As :class:`SwitchGLU`'s; many indices are evaluated."""
        own = self.own
        if indices.size >= SORT_FROM:
            return self._many(x, indices)
        place = indices.astype(mx.int32) - own.start
        here = (place >= 0) & (place < len(own))
        # What is another's goes through an expert that this token reads anyway, for nothing.
        place = mx.where(here, place, 0)
        place = mx.where(here, place, place.max(axis=-1, keepdims=True))
        return mx.where(here[..., None], super().__call__(x, indices, place), 0)

    def _many(self, x: mx.array, indices: mx.array) -> mx.array:
        refuse_tracing(indices)
        k, H, own = indices.shape[-1], x.shape[-1], self.own
        chosen = np.array(indices).reshape(-1).astype(np.int64) - own.start
        pairs = np.flatnonzero((chosen >= 0) & (chosen < len(own)))
        pairs = pairs[np.argsort(chosen[pairs], kind="stable")]  # each expert's rows adjoin
        if not len(pairs):
            return mx.zeros((*indices.shape, H), dtype=x.dtype)
        rows = x.reshape(-1, 1, H)[mx.array(pairs // k)]
        y = self.glu(rows, mx.array(chosen[pairs]), sorted_indices=True).reshape(-1, H)
        at = np.full(indices.size, len(pairs))  # others' pairs: the row of zeros
        at[pairs] = np.arange(len(pairs))
        y = mx.concatenate([y, mx.zeros((1, H), dtype=y.dtype)])[mx.array(at)]
        return y.reshape(*indices.shape, H)


class DividedExperts(Experts):
    """:class:`Experts` with some of them; ``sums``: their weighted sum goes over all machines'."""

    def __call__(self, x: mx.array, indices: mx.array, weights: mx.array, tap: Tap) -> mx.array:
        if tap is not untouched:
            tap = partial(self._whole, tap, indices)
        y = super().__call__(x, indices, weights, tap)
        return self.together.sum(y) if self.sums else y

    def _whole(self, tap: Tap, indices: mx.array, name: str, value: mx.array) -> mx.array:
        whole = self.together.sum(value)
        seen = tap(name, whole)
        if seen is whole:
            return value
        own = self.switch_glu.own
        here = (indices >= own.start) & (indices < own.stop)
        return mx.where(here[..., None], seen, 0)


class DividedLayer(DecoderLayer):
    """A layer whose MLP and experts are both divided: one message sums the two."""

    def branches(self, x: mx.array, tap: Tap) -> tuple[mx.array, mx.array]:
        both = self.together.sum(mx.stack(super().branches(x, tap)))
        return both[0], both[1]


def become(module: nn.Module, kind: type[nn.Module], **attributes) -> None:
    """Make a module one of another class, with attributes that are no parameters."""
    module.__class__ = kind
    for name, value in attributes.items():
        object.__setattr__(module, name, value)


def shrink(model: Model, shares: Shares) -> None:
    """Give a model without weights the shapes of one rank's part: before its layers are packed.
    Towers are rank 0's."""
    for path, module in model.named_modules():
        if part := shares.part(path):
            shape = list(module.weight.shape)
            shape[part.axis] = part.stop - part.start
            module.weight = mx.zeros(shape)
    for number, layer in enumerate(model.layers):
        attention = layer.self_attn
        heads, kv_heads = shares.heads(number)
        attention.heads, attention.kv_heads = len(heads), len(kv_heads)
    for tower in TOWERS if shares.rank else ():
        model.pop(tower, None)


def connect(model: Model, shares: Shares, together: Together) -> None:
    """Have a model's layers sum and join: after they are packed."""
    config, size = model.config.text, shares.size
    experts = config.enable_moe_block and shares.divides_experts
    for path, module in model.named_modules():
        part = shares.part(path)
        name = path.rpartition(".")[2]
        if part is None or ".experts." in path:
            continue
        if name == "o_proj" or (name == "down_proj" and not experts):
            become(module, _summed(type(module)), together=together)
        elif name.startswith("embed_tokens") or name == "lm_head":
            counts = [len(shares.tokens(part.whole, rank)) for rank in range(size)]
            place = dict(own=shares.tokens(part.whole), counts=counts, path=path)
            become(module, _by_token(type(module)), together=together, **place)
    for number, layer in enumerate(model.layers):
        if shares.divides_heads(number):
            of = config.num_attention_heads, config.kv_heads_of(number)
            ranges = [heads_of(*of, rank, size) for rank in range(size)]
            become(layer.self_attn, DividedAttention, together=together, ranges=ranges)
        if experts:
            both = shares.divides_mlp(number)
            become(layer, DividedLayer if both else type(layer), together=together)
            become(layer.experts, DividedExperts, together=together, sums=not both)
            become(layer.experts.switch_glu, OwnGLU, own=shares.experts())
