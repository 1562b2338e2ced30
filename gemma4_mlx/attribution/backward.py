"""The way back through a run, layer by layer and span by span.

For a layer and a span of positions, with the derivative of the score by what left the layer:

1. the heads' outputs are computed again from what entered the layer, and the derivative goes
   through the rest of the layer to them and to the input (:meth:`.LayerOfRun.rest`);
2. it goes through attention, in blocks of queries, to the queries and to the keys and values of
   all positions before, where it is summed (:func:`..model.attention.attend_vjp`);
3. and from the queries to the input.

When all spans are through, the sums go from each position's keys and values to its input. Layers
that share an earlier layer's keys and values leave their sums to it. Each step is the derivative of
the model's own code; what is held besides the run is two arrays as wide as the stream, and one
layer's keys and values with their derivatives.
"""

from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from ..generation import Progress
from .gains import gains_of, recording, with_gains
from .inputs import Inputs
from .layer import LayerOfRun
from .run import Run, Span


@dataclass
class Gradient:
    """Derivatives of a score times differences.

    Attributes:
        positions: (n,) float32, of each position's input.
        embedding: of the embeddings alone, all positions together.
        parts: shares, see :mod:`.gains`: heads (L, heads), mlp (L,), experts (L, E), per_layer
            (L,), float32; empty unless asked for.
        stream: shares of what enters each layer, (L, n) float32; None unless asked for.
    """

    positions: np.ndarray
    embedding: float = 0.0
    parts: dict[str, np.ndarray] = field(default_factory=dict)
    stream: np.ndarray | None = None


class Backward:
    """Goes back through ``run``.

    Args:
        way: the difference of inputs that the derivative is multiplied by.
        parts: whether parts and the stream get shares.
        other: the run that these are compared with, of the same spans; None: silence.
    """

    def __init__(self, run: Run, way: Inputs, *, parts: bool = True, other: Run | None = None):
        self.run, self.way, self.other = run, way, other
        self._text = run.model.config.text
        self._gains = gains_of(run.model) if parts else {}
        self._kv: dict[int, list[mx.array]] = {}  # owner -> keys and values
        self._other_kv: dict[int, list[mx.array]] = {}
        self._d_kv: dict[int, list[mx.array]] = {}  # owner -> derivatives by its keys and values
        self._shares: list[dict[str, mx.array]] = []
        self._d_per_layer: dict[Span, list] = {}  # by per-layer inputs, last layer first

    def __call__(self, direction: dict[Span, mx.array]):
        """Generator for the engine: yields a Progress after each layer, returns a Gradient.

        ``direction``: the derivative by what leaves the last layer, by span, float32.
        """
        layers, n = len(self.run.layer_inputs), self.run.stop
        found = Gradient(np.zeros(n, np.float32))
        if self._gains:
            found.stream = np.zeros((layers, n), np.float32)
        for number in reversed(range(layers)):
            direction = self._through(number, direction)
            if self._gains:
                self._share_stream(number, direction, found.stream[number])
            yield Progress(n, n, 0.0)
        for name in self._gains:
            found.parts[name] = np.array(mx.stack([s[name] for s in reversed(self._shares)]))
        for span, d in direction.items():
            self._share_inputs(span, d, found)
        return found

    def _through(self, number: int, direction: dict) -> dict:
        """The derivative by what entered a layer, of that by what left it."""
        layer, owner = LayerOfRun(self.run, number), self._text.kv_donor(number)
        kv = self._keys_values(self.run, self._kv, owner)
        d_kv = self._d_kv.setdefault(owner, [mx.zeros(part.shape) for part in kv])
        shares = {name: mx.zeros(gain.shape) for name, gain in self._gains.items()}
        direction = {
            span: self._span(layer, kv, d_kv, shares, span, d) for span, d in direction.items()
        }
        if owner == number:
            for span, x in self.run.layer_inputs[number].items():
                own = [part[:, :, slice(*span)].astype(y.dtype) for part, y in zip(d_kv, kv)]
                d = _vjp(lambda x, at=span: layer.keys_values(x, at), [x], own)[0]
                direction[span] = direction.get(span, 0) + d.astype(mx.float32)
                mx.eval(direction[span])
            for held in (self._kv, self._other_kv, self._d_kv):
                held.pop(owner, None)
        self._shares.append(shares)
        mx.clear_cache()
        return direction

    def _span(self, layer: LayerOfRun, kv, d_kv, shares: dict, span: Span, direction: mx.array):
        """The same for one span but for its keys and values; adds to their derivatives and to the
        shares."""
        x, per_layer = self._inputs(self.run, layer.number, span)
        heads, through_attention, seen = layer.attend(x, kv, span)
        given = [x, heads] if per_layer is None else [x, heads, per_layer]
        other = self._other_values(layer.number, span) if self.other and self._gains else None
        experts = self.run.experts[layer.number].get(span)

        def rest(x, heads, *values):
            gains = dict(zip(self._gains, values[len(given) - 2 :]))
            tap = with_gains(layer.tap, gains, experts, other)
            return layer.rest(x, heads, span, None if per_layer is None else values[0], tap)

        d_x, d_heads, *ds = _vjp(rest, [*given, *self._gains.values()], [direction.astype(x.dtype)])
        if per_layer is not None:
            self._d_per_layer.setdefault(span, []).append(ds.pop(0))
        for name, d in zip(self._gains, ds):
            shares[name] = shares[name] + d
        mx.eval(d_x, d_heads, shares, self._d_per_layer.get(span))
        d_queries, *by_kv = through_attention(d_heads)
        for i, d in enumerate(by_kv):
            d_kv[i][:, :, seen] += d

        def queries(x):
            return layer.queries(x, layer.geometry(span))

        d = _vjp(queries, [x], [d_queries.astype(heads.dtype)])[0]
        d = d_x.astype(mx.float32) + d.astype(mx.float32)
        mx.eval(d, d_kv)
        return d

    def _inputs(self, run: Run, number: int, span: Span):
        per_layer = run.per_layer_inputs.get(span)
        per_layer = None if per_layer is None else per_layer[:, :, number]
        return run.layer_inputs[number][span], per_layer

    def _keys_values(self, run: Run, known: dict, owner: int) -> list[mx.array]:
        if owner not in known:
            known[owner] = LayerOfRun(run, owner).all_keys_values()
            mx.eval(known[owner])
        return known[owner]

    def _other_values(self, number: int, span: Span) -> dict:
        """What the other run's parts wrote in a layer and a span."""
        layer, kept = LayerOfRun(self.other, number), {}
        kv = self._keys_values(self.other, self._other_kv, self._text.kv_donor(number))
        x, per_layer = self._inputs(self.other, number, span)
        heads = layer.attend(x, kv, span)[0]
        tap = recording(layer.tap, self.other.experts[number].get(span), kept)
        mx.eval(layer.rest(x, heads, span, per_layer, tap), kept)
        return kept

    def _share_stream(self, number: int, direction: dict, row: np.ndarray) -> None:
        for span, d in direction.items():
            x = self.run.layer_inputs[number][span]
            if self.other is not None:
                x = x - self.other.layer_inputs[number][span]
            row[slice(*span)] = np.array((d * x).sum(axis=-1)[0])

    def _share_inputs(self, span: Span, direction: mx.array, found: Gradient) -> None:
        """The last step, from the first layer's input and all layers' per-layer inputs to what a
        position puts in."""
        x, lookups = self.way(span)
        more = 0
        if lookups is not None:
            by = self._by_per_layer_inputs(span)
            more = (by.astype(mx.float32) * lookups).sum(axis=(2, 3))[0]
            direction = direction + self._through_projection(span, by)
        own = (direction * x).sum(axis=-1)[0]
        found.positions[slice(*span)] = np.array(own + more)
        found.embedding += own.sum().item()

    def _by_per_layer_inputs(self, span: Span) -> mx.array:
        """The derivative by per-layer inputs (1, n, L, P), zero in layers that were left out."""
        ds = self._d_per_layer.pop(span, [])[::-1]
        nothing = mx.zeros_like(self.run.per_layer_inputs[span][:, :, 0])
        ds += [nothing] * (self._text.num_hidden_layers - len(ds))
        return mx.stack(ds, axis=2)

    def _through_projection(self, span: Span, by: mx.array) -> mx.array:
        """From per-layer inputs to the embeddings that they are projected from."""
        model, tap = self.run.model, self.run.model.changes()
        tokens = model.per_layer_tokens(self.run.tokens(span))

        def projected(x):
            return tap("per_layer_inputs", model.language_model.model.per_layer_inputs(tokens, x))

        return _vjp(projected, [self.run.embeddings[span]], [by])[0].astype(mx.float32)


def _vjp(function, primals: list, cotangents: list) -> list[mx.array]:
    return mx.vjp(function, primals, cotangents)[1]
