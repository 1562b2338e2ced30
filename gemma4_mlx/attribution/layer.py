"""One layer of a run, taken apart at its attention, as the gradient needs it."""

from collections.abc import Callable

import mlx.core as mx

from ..errors import AttributionError
from ..model.attention import AttentionGeometry, attend_vjp
from ..model.scores import attend_changed
from .run import Run, Span


class LayerOfRun:
    """Computes a layer's parts again from what entered it, under the interventions in force.

    Methods take ``x``, the stream (1, n, H) that entered the layer in a span, and ``at``, the span.
    """

    def __init__(self, run: Run, number: int):
        self.run, self.number = run, number
        self.layer = run.model.layers[number]
        self.attention = self.layer.self_attn
        self.tap = run.model.changes(number)

    def geometry(self, at: Span) -> AttentionGeometry:
        """Where the span's queries and keys stood."""
        return self.run.geometry(self.number, at)

    def _attention_input(self, x: mx.array, geometry: AttentionGeometry) -> mx.array:
        x = self.tap("layer_input", x, geometry)
        return self.tap("attention_input", self.layer.input_layernorm(x), geometry)

    def queries(self, x: mx.array, geometry: AttentionGeometry) -> mx.array:
        """(1, heads, n, D). An intervention may put changes of scores into the geometry."""
        h = self._attention_input(x, geometry)
        return self.tap("queries", self.attention.queries(h, geometry), geometry)

    def keys_values(self, x: mx.array, at: Span) -> tuple[mx.array, mx.array]:
        """Of the span's own positions: each (1, kv heads, n, D)."""
        geometry = self.geometry(at)
        return self.attention.keys_values(self._attention_input(x, geometry), geometry)

    def all_keys_values(self) -> list[mx.array]:
        """Of all positions: [keys, values], each (1, kv heads, n, D)."""
        inputs = self.run.layer_inputs[self.number].items()
        by_span = [self.keys_values(x, at) for at, x in inputs]
        return [mx.concatenate(parts, axis=2) for parts in zip(*by_span)]

    def attend(self, x: mx.array, kv: list[mx.array], at: Span) -> tuple[mx.array, Callable, slice]:
        """The heads' outputs (1, heads, n, D); a function that makes of a derivative by them those
        by the queries, keys and values; and the slice of the positions whose keys these are.

        ``kv``: of all positions, the layer's own or those that it shares.

        Raises AttributionError where an intervention replaces keys or values.
        """
        geometry = self.geometry(at)
        seen = slice(geometry.key_start, geometry.key_start + geometry.m)
        q, (k, v) = self.queries(x, geometry), (part[:, :, seen] for part in kv)
        for name, part in (("keys", k), ("values", v)):
            if self.tap(name, part, geometry) is not part:
                raise AttributionError(
                    f"an intervention replaces the {name} of layer {self.number}, and no gradient "
                    "passes through that: explain the run without it"
                )
        out, derivatives = attend_vjp(q, k, v, geometry)
        if geometry.changes:
            out, derivatives = _changed(out, derivatives, q, k, v, geometry)
        return out, derivatives, seen

    def rest(self, x: mx.array, heads: mx.array, at: Span, per_layer_input, tap=None) -> mx.array:
        """What leaves the layer, (1, n, H), of its input and the heads' outputs.

        ``tap``: in place of the layer's own.
        """
        tap, geometry = tap or self.tap, self.geometry(at)
        x = tap("layer_input", x, geometry)
        heads = tap("head_outputs", heads, geometry)
        return self.layer.after_attention(x, self.attention.output(heads), per_layer_input, tap)


def _changed(out, derivatives: Callable, q, k, v, geometry: AttentionGeometry):
    """Output and derivatives of attention whose scores interventions change for some queries."""

    def changed(out, q, k, v):
        return attend_changed(out, q, k, v, geometry)

    def both(d_out: mx.array) -> list[mx.array]:
        d_out, *changes = mx.vjp(changed, [out, q, k, v], [d_out.astype(out.dtype)])[1]
        return [d + change for d, change in zip(derivatives(d_out), changes)]

    return changed(out, q, k, v), both
