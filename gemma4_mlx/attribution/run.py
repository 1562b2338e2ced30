"""A prompt's run from which the way back can start: what entered each layer, and nothing else.

Everything inside a layer is computed again when the gradient passes it, so memory grows with the
number of tokens times layers times the width of the stream.
"""

from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx
import numpy as np

from ..generation import Progress
from ..generation.prefill import Prompt, SoftTokens
from ..model.attention import AttentionGeometry
from ..model.cache import expect

Span = tuple[int, int]


class Run:
    """Reads a prompt up to ``stop``; of what lies behind ``first`` the outcome is needed.

    Args:
        model, prompt, chunk, media_features: as :func:`.attribute` has them.
        first, stop: the positions whose outputs are looked at, as far as a picture around them.
        inputs: ``inputs(name, layer, value, span)`` may give other embeddings, per-layer inputs or
            experts ("embeddings", "per_layer_inputs", "expert_indices") than the model's.

    Attributes, once :meth:`read` has run:
        spans: the (start, stop) in which the prompt was read, pictures uncut.
        tail: those of them whose outcome was computed. Of the others what nothing later reads is
            left out: the last layer but its keys and values, and the layers that share others'.
        layer_inputs: for each layer, by span, the stream that enters it, (1, n, H).
        per_layer_inputs: by span, (1, n, L, P); empty without per-layer embeddings.
        embeddings: by span, (1, n, H).
        experts, expert_weights: for each layer, by span, the chosen experts and their weights,
            (1, n, k).
        outcome: by span of the tail, what leaves the last layer, (1, n, H).
    """

    def __init__(
        self,
        model,
        prompt: Prompt,
        first: int,
        stop: int,
        chunk: int,
        media_features=None,
        inputs: Callable | None = None,
    ):
        self.model, self.prompt = model, prompt
        first = (prompt.picture(first) or (first,))[0]
        last = (prompt.picture(stop - 1) or (stop - 1, stop))[1]
        self.spans: list[Span] = [
            span
            for begin, end in ((0, first), (first, last))
            for span in _chunks(prompt, begin, end, chunk)
        ]
        self.tail = [span for span in self.spans if span[0] >= first]
        layers = model.config.text.num_hidden_layers
        self.layer_inputs: list[dict[Span, mx.array]] = [{} for _ in range(layers)]
        self.experts: list[dict[Span, mx.array]] = [{} for _ in range(layers)]
        self.expert_weights: list[dict[Span, mx.array]] = [{} for _ in range(layers)]
        self.per_layer_inputs: dict[Span, mx.array] = {}
        self.embeddings: dict[Span, mx.array] = {}
        self.outcome: dict[Span, mx.array] = {}
        self._geometries: list[dict[Span, AttentionGeometry]] = [{} for _ in range(layers)]
        self._chunk, self._media_features, self._inputs = chunk, media_features, inputs
        self._span: Span = (0, 0)

    @property
    def stop(self) -> int:
        return self.spans[-1][1]

    def geometry(self, layer: int, span: Span) -> AttentionGeometry:
        """Where a span's queries and keys stood. A new one: what it shares lives as long as it."""
        return replace(self._geometries[layer][span])

    def tokens(self, span: Span) -> mx.array:
        """Ids (1, n)."""
        return mx.array(self.prompt.tokens[slice(*span)])[None]

    def weight_of_experts(self, layer: int) -> np.ndarray:
        """Each expert's weights in a layer, summed over positions: (E,) float32."""
        sums = np.zeros(self.model.config.text.num_experts, np.float32)
        for span, experts in self.experts[layer].items():
            weights = self.expert_weights[layer][span].astype(mx.float32)
            np.add.at(sums, np.array(experts), np.array(weights))
        return sums

    def drop_layers(self) -> None:
        """Forget what entered the layers: embeddings and experts are kept."""
        for inputs in self.layer_inputs:
            inputs.clear()

    def read(self):
        """Generator for the engine: yields a Progress after each chunk."""
        cache = self.model.make_cache()
        expect(cache, self.stop)
        soft = SoftTokens(self.model, self.prompt, 0, self._media_features)
        with self.model.observe(self._see):
            for span in self.spans:
                self._span = span
                try:
                    self.model.hidden(self.tokens(span), cache, soft.between(*span))
                except _Enough:
                    mx.eval([entry.state for entry in cache])
                mx.clear_cache()
                yield Progress(span[1], self.stop, 0.0)

    def _see(self, name, layer, value, geometry) -> mx.array | None:
        span, given = self._span, None
        if self._inputs is not None and name in (
            "embeddings",
            "per_layer_inputs",
            "expert_indices",
        ):
            given = self._inputs(name, layer, value, span)
            value = value if given is None else given
        if name == "embeddings":
            self.embeddings[span] = value
        elif name == "per_layer_inputs":
            self.per_layer_inputs[span] = value
        elif name == "expert_indices":
            self.experts[layer][span] = value
        elif name == "expert_weights":
            self.expert_weights[layer][span] = value
        elif name == "layer_input":
            mx.eval(value)  # one layer's intermediates at a time
            self.layer_inputs[layer][span] = value
            self._geometries[layer][span] = geometry
        elif name == "keys" and span not in self.tail:
            if layer == self.model.config.text.first_kv_shared_layer - 1:
                raise _Enough
        elif name == "layer_output" and layer == len(self.layer_inputs) - 1:
            mx.eval(value)
            self.outcome[span] = value
        return given


class _Enough(Exception):
    """Ends a call of the model once all keys and values are cached."""


def _chunks(prompt: Prompt, start: int, stop: int, size: int):
    """(start, stop) of chunks of about ``size`` tokens that cut no picture."""
    for first, last in prompt.inputs.chunks(size, start):
        if first >= stop:
            return
        yield first, min(last, stop)
