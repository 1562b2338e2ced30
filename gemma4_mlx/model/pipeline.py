"""One model on several machines, one stage of layers after the other (:mod:`.stages`).

Every machine runs through all layers. At those of others it only keeps the caches' places, with
keys and values of no heads; at its first it waits for the residual stream, and behind its last it
sends it on. Rank 0, which has the table and the head, gets it back.
"""

import mlx.core as mx
import mlx.nn as nn

from .attention import Attention
from .decoder import DecoderLayer, TextDecoder
from .gemma4 import Model
from .layers import RMSNorm
from .parallel import Together, become
from .shares import TOWERS
from .stages import Stages
from .taps import Tap, untouched


class _Sends(Attention):
    """Attention whose keys and values layers of the next stage use as well."""

    def keys_values(self, x: mx.array, geometry) -> tuple[mx.array, mx.array]:
        kv = super().keys_values(x, geometry)
        self.together.send(mx.stack(kv))
        return kv


class OwnLayer(DecoderLayer):
    """A layer of this stage, at whose ``begin`` the stream comes and at whose ``end`` it goes."""

    def __call__(self, x: mx.array, per_layer_input, shared, cache, geometry, tap: Tap) -> tuple:
        x = self.entering(x)
        x, kv = super().__call__(x, per_layer_input, shared, cache, geometry, tap)
        if self.end:
            self.together.send(x)
        if tap is not untouched and self.together.shown is not None:
            self.together.shown()
        return x, kv

    def fill(self, x: mx.array, cache, geometry) -> None:
        super().fill(self.entering(x), cache, geometry)

    def entering(self, x: mx.array) -> mx.array:
        """The stream that enters the layer; ``x`` has its shape and type."""
        return self.together.receive(x.shape, x.dtype) if self.begin else x


class LayerElsewhere(DecoderLayer):
    """A layer of another stage, ``number``. Its cache's entry keeps its place."""

    def __call__(self, x: mx.array, per_layer_input, shared, cache, geometry, tap: Tap) -> tuple:
        kv = self.keys_values(x, cache) if self.owns_kv else shared
        if tap is not untouched and self.together.watched is not None:
            for name, value, placed in self.together.watched(self.owner):
                tap(name, value, geometry) if placed else tap(name, value)
            geometry.changes.clear()  # made where the layer is
        return x, kv

    def fill(self, x: mx.array, cache, geometry) -> None:
        self.keys_values(x, cache)

    def keys_values(self, x: mx.array, cache) -> tuple:
        """Those of the stage before, if some layer here or behind uses them; else of no heads."""
        B, n, _ = x.shape
        if self.arrives:
            both = self.together.receive((2, B, self.kv_heads, n, self.head_dim), x.dtype)
            if self.goes_on:
                self.together.send(both)
        else:
            both = mx.zeros((2, B, 0, n, self.head_dim), dtype=x.dtype)
        kv = both[0], both[1]
        return kv if cache is None else cache.update_and_fetch(*kv)


class _Returned(RMSNorm):
    """Rank 0's last norm, for which the stream returns to it."""

    def __call__(self, x: mx.array) -> mx.array:
        if self.together.running_here:
            x = self.together.receive(x.shape, x.dtype)
        return super().__call__(x)


class _Unnormed(RMSNorm):
    """The last norm of a stage that does not have the head."""

    def __call__(self, x: mx.array) -> mx.array:
        return x


class StageDecoder(TextDecoder):
    """:class:`TextDecoder` of one stage."""

    def embed(self, tokens: mx.array) -> mx.array:
        """As :class:`TextDecoder`'s on rank 0, and where there are per-layer embeddings; else
        zeros of that shape."""
        if self.stages.rank == 0:
            x = super().embed(tokens)
        else:
            x = mx.zeros((*tokens.shape, self.config.hidden_size), self.norm.weight.dtype)
        if self.config.hidden_size_per_layer_input and self.together.running_here:
            x = self.together.sum(x)
        return x

    def per_layer_inputs(self, tokens: mx.array, x: mx.array) -> mx.array:
        """As :class:`TextDecoder`'s, (B, n, L, P), zeros at other stages' layers."""
        stages, L = self.stages, self.config.num_hidden_layers
        if not stages.divides_per_layer:
            return super().per_layer_inputs(tokens, x)
        before, behind = stages.own.start, L - stages.own.stop
        return mx.pad(
            super().per_layer_inputs(tokens, x), [(0, 0)] * 2 + [(before, behind), (0, 0)]
        )


def drop(model: Model, stages: Stages) -> None:
    """Take from a model without weights what other stages have."""
    config, decoder = model.config.text, model.language_model.model
    for path, module in model.named_modules():
        if part := stages.part(path):
            shape = list(module.weight.shape)
            shape[part.axis] = part.stop - part.start
            module.weight = mx.zeros(shape)
    if stages.rank:
        for tower in TOWERS:
            model.pop(tower, None)
        model.language_model.pop("lm_head", None)
        decoder.pop("embed_tokens")
    for number, layer in enumerate(model.layers):
        if number not in stages.own:
            scale = layer.router.per_expert_scale if config.enable_moe_block else None
            layer.clear()
            if scale is not None and stages.rank == 0:
                layer.router = nn.Module()
                layer.router.per_expert_scale = scale
            become(
                layer,
                LayerElsewhere,
                owns_kv=number < config.first_kv_shared_layer,
                kv_heads=config.kv_heads_of(number),
                head_dim=config.head_dim_of(number),
                arrives=stages.receives(number),
                goes_on=stages.sends_on(number),
                owner=stages.owner(number),
            )


def connect(model: Model, stages: Stages, together: Together) -> None:
    """Have a model's layers send and receive: after they are packed."""
    decoder = model.language_model.model
    become(decoder, StageDecoder, stages=stages, together=together)
    become(decoder.norm, _Unnormed if stages.rank else _Returned, together=together)
    for number, layer in enumerate(model.layers):
        if number not in stages.own:
            become(layer, LayerElsewhere, together=together)
            continue
        begin = stages.rank > 0 and number == stages.own.start
        end = number == stages.own.stop - 1
        become(layer, OwnLayer, together=together, begin=begin, end=end)
        if stages.sends_on(number):
            become(layer.self_attn, _Sends, together=together)
